"""Gradients folded inside a batch against one sample after the other through autograd."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from paraknow_core.ops import folding as folding_module
from paraknow_core.ops.folding import batchable, fold_outer_, folding, weigh_, zeros_like


class RootMeanSquare(nn.Module):
    """A norm as a language model's: one vector, here 1 + weight as Gemma has it."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(size))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class Block(nn.Module):
    """Every kind of layer a decoder layer has; the second half sees samples and tokens flattened, as OPT's does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.before, self.heads = RootMeanSquare(6), RootMeanSquare(3)
        self.inner, self.conv = nn.Linear(6, 10), Conv1D(6, 10)
        self.norm, self.out = nn.LayerNorm(6), nn.Linear(6, 6, bias=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))

    def forward(self, x):
        shape = x.shape
        x = self.conv(torch.relu(self.inner(self.before(x))))
        x = self.heads(x.view(*shape[:2], 2, 3).transpose(1, 2)).transpose(1, 2).reshape(shape)
        return self.out(self.norm(x.reshape(-1, 6))).view(shape)


def reference(block, x, upstream):
    sums = {name: torch.zeros_like(p) for name, p in block.named_parameters()}
    gradients = []
    for sample, above in zip(x, upstream, strict=True):
        leaf = sample[None].clone().requires_grad_(True)
        found = torch.autograd.grad(block(leaf), [leaf, *block.parameters()], above[None])
        gradients.append(found[0][0])
        for (name, _), gradient in zip(block.named_parameters(), found[1:], strict=True):
            sums[name] += gradient.abs()
    return sums, torch.stack(gradients)


@pytest.mark.parametrize("samples", [1, 2, 4])
@pytest.mark.parametrize("strip", [8, 1 << 22])
def test_a_batch_gives_the_sums_of_its_samples(samples, strip, monkeypatch):
    monkeypatch.setattr(folding_module, "_STRIP", strip)
    monkeypatch.setattr(folding_module, "_CACHED", 4)
    block, x, upstream = Block(), torch.randn(4, 5, 6), torch.randn(4, 5, 6)
    assert batchable(block)
    expected, gradients = reference(block, x, upstream)
    parameters, found = dict(block.named_parameters()), []
    sums = zeros_like(parameters)
    for start in range(0, 4, samples):
        leaf = x[start : start + samples].clone().requires_grad_(True)
        with folding(parameters, block, samples, sums):
            block(leaf).backward(upstream[start : start + samples])
        found.append(leaf.grad)
    torch.testing.assert_close(torch.cat(found), gradients, rtol=1e-4, atol=1e-6)
    for name, total in sums.items():
        torch.testing.assert_close(total, expected[name], rtol=1e-4, atol=1e-6, msg=name)
        weigh_(total, parameters[name])
        weighed = expected[name] * parameters[name].detach().abs()
        torch.testing.assert_close(total, weighed, rtol=1e-4, atol=1e-6, msg=name)


def test_the_module_is_as_it_was_afterwards():
    block = Block()
    x = torch.randn(2, 5, 6)
    before = block(x)
    with folding(dict(block.named_parameters()), block, 2), pytest.raises(RuntimeError, match="stop here"):
        raise RuntimeError("stop here")
    assert torch.equal(block(x), before)
    for module in block.modules():
        assert "forward" not in vars(module)
        assert "weight" not in vars(module)
    for parameter in block.parameters():
        assert parameter.grad is None
        assert not parameter._post_accumulate_grad_hooks


def test_unknown_layers_and_shared_weights_are_not_put_into_batches():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    shared = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    shared[1].weight = shared[0].weight
    assert not batchable(nn.Sequential(nn.Linear(3, 3), Scale()))
    assert not batchable(shared)


def test_a_weight_with_two_uses_is_left_to_autograd():
    shared = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    shared[1].weight = shared[0].weight
    x = torch.randn(1, 4, 3)
    (expected,) = torch.autograd.grad(shared(x).square().sum(), [shared[0].weight])
    with folding({"w": shared[0].weight}, shared) as sums:
        shared(x).square().sum().backward()
    torch.testing.assert_close(sums["w"], expected.abs())  # both gradients added before the absolute value


def test_the_outer_product_in_strips():
    outer, inner, total = torch.randn(2, 7, 9), torch.randn(2, 7, 4), torch.ones(9, 4)
    fold_outer_(total, outer, inner)
    torch.testing.assert_close(total, 1 + (outer.transpose(1, 2) @ inner).abs().sum(0))
