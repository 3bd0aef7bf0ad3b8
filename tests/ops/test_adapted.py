"""One operation against its five: numbers and gradients."""

import pytest
import torch

from paraknow_core.ops.adapted import adapted_linear


@pytest.mark.parametrize("shape", [(5,), (2, 3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_layer_and_its_adapter_with_their_gradients(shape, bias):
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    x, a, b = (torch.randn(*size, **double, requires_grad=True) for size in (shape, (2, 5), (4, 2)))
    weight, constant = torch.randn(4, 5, **double), torch.randn(4, **double) if bias else None
    out = adapted_linear(x, weight, constant, a, b, 1.5)
    slow = torch.nn.functional.linear(x, weight, constant) + 1.5 * torch.nn.functional.linear(x @ a.T, b)
    torch.testing.assert_close(out, slow)
    direction = torch.randn_like(out)
    ours, twins = (torch.autograd.grad((each * direction).sum(), (x, a, b)) for each in (out, slow))
    for one, twin in zip(ours, twins, strict=True):
        torch.testing.assert_close(one, twin)
    assert torch.autograd.gradcheck(lambda *t: adapted_linear(t[0], weight, constant, *t[1:], 1.5), (x, a, b))


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient(frozen):
    tensors = [torch.ones(3, 5), torch.ones(2, 5), torch.ones(4, 2)]
    for number, tensor in enumerate(tensors):
        tensor.requires_grad_(number != frozen)
    adapted_linear(tensors[0], torch.ones(4, 5), None, *tensors[1:], 1.0).sum().backward()
    assert [tensor.grad is None for tensor in tensors] == [number == frozen for number in range(3)]
