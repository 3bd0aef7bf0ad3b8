"""The loss in slices of the vocabulary against torch's own on whole logits."""

import pytest
import torch

from paraknow_core.errors import NumericError
from paraknow_core.ops import vocabulary_loss
from paraknow_core.ops.vocabulary_loss import OutputLayer, sliced_cross_entropy

VOCABULARY, WIDTH = 37, 8


@pytest.fixture(autouse=True, params=[3, 1024])
def slices(request, monkeypatch):
    """Three rows and the logits of three tokens at a time, or all together."""
    monkeypatch.setattr(vocabulary_loss, "_ROWS", request.param)
    monkeypatch.setattr(vocabulary_loss, "_LOGITS", request.param * VOCABULARY)


def samples(count=3):
    generator = torch.Generator().manual_seed(0)
    hidden = [torch.randn(n, WIDTH, generator=generator) for n in (5, 9, 4)[:count]]
    labels = [torch.randint(0, VOCABULARY, (len(h),), generator=generator).tolist() for h in hidden]
    labels[0][:3] = [-100] * 3
    return hidden, labels, torch.randn(VOCABULARY, WIDTH, generator=generator), torch.randn(VOCABULARY)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_losses_and_gradients_are_those_of_the_whole_layer(softcap, with_bias):
    hidden, labels, weights, bias = samples()
    bias = bias if with_bias else None
    found_weight = [torch.zeros_like(weights) for _ in hidden]
    found_bias = [torch.zeros(VOCABULARY) for _ in hidden]

    def fold(rows, errors, states):
        for j, (error, state) in enumerate(zip(errors, states, strict=True)):
            found_weight[j][rows] += error.T @ state
            found_bias[j][rows] += error.sum(dim=0)
            error.fill_(float("nan"))  # it may do that

    found = sliced_cross_entropy(hidden, labels, OutputLayer(lambda r: weights[r], VOCABULARY, bias, softcap), fold)
    for j, (h, own) in enumerate(zip(hidden, labels, strict=True)):
        leaf, w = h.clone().requires_grad_(True), weights.clone().requires_grad_(True)
        b = None if bias is None else bias.clone().requires_grad_(True)
        logits = torch.nn.functional.linear(leaf, w, b)
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        shifted = torch.tensor([*own[1:], -100])
        loss = torch.nn.functional.cross_entropy(logits, shifted, ignore_index=-100)
        loss.backward()
        assert found.losses[j] == pytest.approx(loss.item(), rel=1e-6)
        torch.testing.assert_close(found.gradients[j], leaf.grad, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(found_weight[j], w.grad, rtol=1e-5, atol=1e-7)
        if b is not None:
            torch.testing.assert_close(found_bias[j], b.grad, rtol=1e-5, atol=1e-7)


def test_a_certain_model_keeps_its_small_gradients():
    # One minus a probability close to one: an error of the normaliser's rounding would be larger than the gradient.
    weights = torch.zeros(VOCABULARY, WIDTH)
    weights[4, 0] = 1.0
    hidden = torch.zeros(2, WIDTH)
    hidden[0, 0] = 15.0
    found = sliced_cross_entropy([hidden], [[0, 4]], OutputLayer(lambda r: weights[r], VOCABULARY), lambda *_: None)
    leaf = hidden.clone().requires_grad_(True)
    torch.nn.functional.cross_entropy(leaf[:1] @ weights.T, torch.tensor([4])).backward()
    assert 0 < found.gradients[0].abs().sum() < 1e-4
    torch.testing.assert_close(found.gradients[0], leaf.grad, rtol=1e-5, atol=0)


def test_a_sample_without_supervised_tokens_is_named():
    hidden, labels, weights, _ = samples()
    labels[1] = [-100] * len(labels[1])
    with pytest.raises(NumericError, match="seed sample 1: no token"):
        sliced_cross_entropy(hidden, labels, OutputLayer(lambda r: weights[r], VOCABULARY), lambda *_: None)
