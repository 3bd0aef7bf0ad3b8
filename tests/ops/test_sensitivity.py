"""Sensitivity against its definition in plain loops."""

import pytest
import torch
from torch import nn

from paraknow_core.errors import NumericError
from paraknow_core.ops.sensitivity import accumulate_sensitivity


class Tied(nn.Module):
    """A tiny network that uses one weight twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Parameter(torch.randn(4, 4))
        self.bias = nn.Parameter(torch.randn(4))
        self.unused = nn.Parameter(torch.randn(2))

    def forward(self, x):
        return ((x @ self.shared).tanh() @ self.shared.T + self.bias).square().mean()


def test_equals_the_definition_sample_by_sample():
    model, samples = Tied(), torch.randn(5, 3, 4)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for sample in samples:
        for name, parameter in model.named_parameters():
            (gradient,) = torch.autograd.grad(model(sample), parameter, allow_unused=True)
            for index in range(parameter.numel()):
                g = 0.0 if gradient is None else gradient.flatten()[index]
                expected[name].flatten()[index] += abs(parameter.detach().flatten()[index] * g)
    sums, losses = accumulate_sensitivity(dict(model.named_parameters()), samples, model)
    for name in expected:
        torch.testing.assert_close(sums[name], expected[name], rtol=1e-5, atol=1e-7)
    assert losses == pytest.approx([model(s).item() for s in samples])
    assert sums["unused"].eq(0).all()


def test_hand_computed_and_not_the_gradient_of_a_batch():
    # L = theta * x for x = +1 and x = -1: a batch's gradients cancel, the sum of absolute values does not.
    theta = nn.Parameter(torch.tensor([3.0]))
    sums, _ = accumulate_sensitivity({"theta": theta}, [1.0, -1.0], lambda x: (theta * x).sum())
    assert sums["theta"].tolist() == [6.0]


def test_leaves_the_model_as_it_was():
    model = Tied()
    model.bias.requires_grad_(False)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    sums, _ = accumulate_sensitivity(dict(model.named_parameters()), torch.randn(2, 3, 4), model)
    assert sums["bias"].sum() > 0  # frozen parameters are measured too
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == (name != "bias")
        assert torch.equal(parameter, before[name])
        assert not parameter._post_accumulate_grad_hooks


def test_half_precision_is_summed_in_float32():
    theta = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    sums, _ = accumulate_sensitivity({"theta": theta}, [1.0] * 1000, lambda x: (theta * x).sum())
    assert sums["theta"].dtype == torch.float32
    assert sums["theta"].item() == 1000.0  # bfloat16 would have stopped at 256


def test_refuses_what_is_not_finite_or_empty():
    theta = nn.Parameter(torch.ones(1))
    with pytest.raises(NumericError, match="seed sample 1: its loss is nan"):
        accumulate_sensitivity({"t": theta}, [1.0, float("nan")], lambda x: (theta * x).sum())
    with pytest.raises(NumericError, match="none given"):
        accumulate_sensitivity({"t": theta}, [], lambda x: (theta * x).sum())
    assert theta.grad is None
