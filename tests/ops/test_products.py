"""Products some columns at a time against the whole product in float64."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from paraknow_core.ops import products
from paraknow_core.ops.folding import sliced
from paraknow_core.ops.products import multiply


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(products, "_LARGE", 1)
    monkeypatch.setattr(products, "_COLUMNS", 8)


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 16, 17, 40])
@pytest.mark.parametrize("stored_transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
def test_it_is_the_product(columns, stored_transposed, dtype, with_bias):
    generator = torch.Generator().manual_seed(columns)
    left = torch.randn(2, 3, 5, generator=generator).to(dtype)
    right = torch.randn(5, columns, generator=generator).to(dtype)
    right = right.T.contiguous().T if stored_transposed else right
    bias = torch.randn(columns, generator=generator).to(dtype) if with_bias else None
    found = multiply(left, right, bias)
    assert found.dtype == dtype
    wanted = left.double() @ right.double() + (bias.double() if with_bias else 0)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


def test_no_part_of_it_is_larger_than_asked_for(monkeypatch):
    widths = []
    whole = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out: widths.append(b.shape[1]) or whole(a, b, out=out))
    multiply(torch.ones(2, 3), torch.ones(3, 17))
    assert widths == [6, 6, 5]


@pytest.mark.parametrize("bias", [False, True])
def test_layers_give_what_they_gave_and_are_left_as_they_were(bias):
    model = nn.Sequential(nn.Linear(6, 20, bias=bias), nn.Tanh(), Conv1D(9, 20))
    nn.init.normal_(model[2].bias)
    x = torch.randn(2, 4, 6)
    with torch.no_grad():
        wanted = model(x)
        with sliced(model):
            torch.testing.assert_close(model(x), wanted)
            assert "forward" in model[0].__dict__
    assert all("forward" not in layer.__dict__ for layer in model)
