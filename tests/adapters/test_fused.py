"""Layers that compute in one operation while they are trained: the same model, and PEFT's own again afterwards."""

import pytest
import torch

from paraknow_core.adapters.fused import fused
from paraknow_core.adapters.inject import inject


@pytest.fixture
def adapted(make_context, tiny):
    """Return `adapted(family, whole)`: a student with an adapter, its factors moved off their start."""

    def make(family, whole=False):
        context = make_context(tiny(family), {})
        student, modules = context.student, context.student_modules
        model = inject(student.load(), student.anatomy, modules, context.spec.factorisation, (), 0, whole=whole).eval()
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.01 * torch.randn_like(parameter)
        return model

    return make


def _output_and_gradients(model):
    model.zero_grad()
    logits = model(input_ids=torch.arange(3, 15).view(2, 6)).logits
    logits.logsumexp(-1).sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("family", "whole", "layers"), [("llama", False, 15), ("phi3", False, 9), ("gpt2", False, 1), ("llama", True, 0)]
)
def test_the_model_stays_the_same(adapted, family, whole, layers):
    model = adapted(family, whole)
    plain, gradients = _output_and_gradients(model)
    with fused(model):
        assert sum("forward" in vars(module) and hasattr(module, "lora_A") for module in model.modules()) == layers
        logits, found = _output_and_gradients(model)
    torch.testing.assert_close(logits, plain, atol=1e-5, rtol=1e-5)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4)
    assert torch.equal(_output_and_gradients(model)[0], plain)
    assert not any("forward" in vars(module) and hasattr(module, "lora_A") for module in model.modules())
