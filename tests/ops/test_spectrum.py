"""Singular values against eigenvalues by power iteration in plain loops; the tail of large ones against the norm."""

import numpy
import pytest
import torch

from paraknow_core.errors import ShapeError
from paraknow_core.ops import spectrum as module
from paraknow_core.ops.spectrum import spectrum


def slow_values(matrix, count):
    """Largest singular values by power iteration with deflation."""
    work, found = matrix.astype(numpy.float64).copy(), []
    for _ in range(count):
        vector = numpy.ones(work.shape[1]) + numpy.arange(work.shape[1]) / 7
        for _ in range(4000):
            vector = work.T @ (work @ vector)
            vector /= numpy.linalg.norm(vector)
        value = numpy.linalg.norm(work @ vector)
        found.append(value)
        work = work - numpy.outer(work @ vector, vector)
    return found


def test_small_ones_are_whole_whatever_the_rank():
    matrix = torch.rand(9, 5, generator=torch.Generator().manual_seed(0))
    found = spectrum(matrix, 2)
    assert found.whole
    assert found.values.tolist() == pytest.approx(slow_values(matrix.numpy(), 5), rel=1e-4, abs=1e-5)
    assert found.total_squared == pytest.approx(float((matrix.double() ** 2).sum()))
    assert found.retained[-1].item() == pytest.approx(1.0)
    assert found.retained[0].item() == pytest.approx(found.values[0].item() ** 2 / found.total_squared)


def test_large_ones_give_the_leading_values_and_the_norm_of_all(monkeypatch):
    monkeypatch.setattr(module, "EXACT_SIZE", 8)
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(40, 30, generator=generator) * torch.logspace(0, -2, 30)
    found = spectrum(matrix, 6)
    assert not found.whole
    assert len(found.values) == 6
    want = numpy.linalg.svd(matrix.double().numpy(), compute_uv=False)
    assert found.values.tolist() == pytest.approx(want[:6].tolist(), rel=1e-3)
    assert found.retained[-1].item() == pytest.approx((want[:6] ** 2).sum() / (want**2).sum(), rel=1e-4)


def test_zero_and_refusal():
    assert spectrum(torch.zeros(3, 4), 2).retained.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ShapeError, match="rank 5 does not fit"):
        spectrum(torch.ones(3, 4), 5)
