"""Metrics against plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.metrics import (
    block_reduce,
    col_sums,
    cosine,
    profile,
    relative_error,
    retained_energy,
    row_sums,
    subspace_overlap,
    sum_of_squares,
    total,
)
from tests.ops.matrices import FLOATS, exact_sum, matrices


@given(matrices())
def test_sums_equal_the_loop(matrix):
    allowed = pytest.approx
    assert row_sums(matrix).tolist() == allowed([float(exact_sum(r)) for r in matrix], rel=1e-12, abs=1e-9)
    assert col_sums(matrix).tolist() == allowed([float(exact_sum(c)) for c in matrix.T], rel=1e-12, abs=1e-9)
    assert sum_of_squares(matrix) == allowed(math.fsum(v * v for v in matrix.flatten().tolist()), rel=1e-12)


@given(matrices(), st.integers(0, 1000))
def test_cosine_and_error_equal_the_loop(a, seed):
    b = torch.randn(a.shape, generator=torch.Generator().manual_seed(seed)).to(a.dtype)
    x, y = a.flatten().tolist(), b.flatten().tolist()
    norms = [math.sqrt(math.fsum(v * v for v in values)) for values in (x, y)]
    expected = math.fsum(p * q for p, q in zip(x, y, strict=True)) / (norms[0] * norms[1]) if norms[0] else 0.0
    assert cosine(a, b) == pytest.approx(expected, abs=1e-12)
    distance = math.sqrt(math.fsum((p - q) ** 2 for p, q in zip(x, y, strict=True)))
    assert relative_error(a, b) == pytest.approx(distance / norms[1], rel=1e-9)


def test_by_hand():
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert cosine(a, b) == pytest.approx(24 / 25)
    assert cosine(a, -2 * a) == pytest.approx(-1)
    assert relative_error(a, b) == pytest.approx(math.sqrt(2) / 5)
    assert retained_energy(torch.tensor([3.0]), 25.0) == pytest.approx(9 / 25)
    assert cosine(torch.zeros(2), torch.ones(2)) == 0
    assert cosine(torch.zeros(0), torch.zeros(0)) == 0
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_error(torch.ones(2), torch.zeros(2)) == math.inf
    assert retained_energy(torch.zeros(1), 0.0) == 1


@pytest.mark.parametrize("dtype", FLOATS)
def test_inputs_are_left_as_they_were(dtype):
    a, b = torch.randn(5, 4).to(dtype), torch.randn(5, 4).to(dtype)
    before = a.clone(), b.clone()
    for measure in (cosine, relative_error, subspace_overlap):
        measure(a, b)
    for measure in (row_sums, col_sums, sum_of_squares, block_reduce):
        measure(a)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


def test_subspace_overlap():
    e = torch.eye(4)
    assert subspace_overlap(e[:2], e[:2]) == pytest.approx(1)
    assert subspace_overlap(e[:2], e[2:]) == 0
    assert subspace_overlap(e[:2], e[1:3]) == pytest.approx(0.5)
    assert subspace_overlap(e[:1], e[:3]) == pytest.approx(1)
    angle = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[math.cos(0.4), math.sin(0.4), 0, 0]])
    assert subspace_overlap(*angle) == pytest.approx(math.cos(0.4) ** 2)
    assert subspace_overlap(torch.zeros(1, 4), e) == 0


@given(st.integers(0, 100))
def test_subspace_overlap_does_not_depend_on_the_basis(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b, mix = (torch.randn(n, m, generator=generator) for n, m in [(3, 8), (4, 8), (3, 3)])
    mixed = (mix + 3 * torch.eye(3)) @ a
    assert subspace_overlap(mixed, b) == pytest.approx(subspace_overlap(a, b), abs=1e-3)
    assert subspace_overlap(torch.cat([a, a]), b) == pytest.approx(subspace_overlap(a, b), abs=1e-5)


@pytest.mark.parametrize("how", ["mean", "sum", "max"])
@given(matrix=matrices(most=9), most=st.tuples(st.integers(1, 10), st.integers(1, 10)))
def test_block_reduce_equals_the_loop(matrix, most, how):
    reduced = block_reduce(matrix, *most, how=how)
    rows, cols = (min(size, limit) for size, limit in zip(matrix.shape, most, strict=True))
    assert reduced.shape == (rows, cols)
    seen = 0
    for i in range(rows):
        for j in range(cols):
            block = matrix[
                i * matrix.shape[0] // rows : (i + 1) * matrix.shape[0] // rows,
                j * matrix.shape[1] // cols : (j + 1) * matrix.shape[1] // cols,
            ]
            seen += block.numel()
            total = float(exact_sum(block))
            expected = {"mean": total / block.numel(), "sum": total, "max": block.max().item()}[how]
            assert reduced[i, j].item() == pytest.approx(expected, rel=1e-12, abs=1e-9)
    assert seen == matrix.numel()


def test_what_does_not_fit_is_refused():
    a, b = torch.rand(2, 3), torch.rand(3, 2)
    for measure in (cosine, relative_error, subspace_overlap):
        with pytest.raises(ShapeError):
            measure(a, b)
    with pytest.raises(ShapeError, match="median"):
        block_reduce(a, how="median")
    with pytest.raises(ShapeError):
        block_reduce(a, 0, 4)
    bad = torch.full((2, 3), math.nan)
    for measure in (cosine, relative_error, subspace_overlap):
        with pytest.raises(NumericError):
            measure(a, bad)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (256, 256), (700, 300), (1024, 512), (257, 1000)])
def test_the_profile_is_row_sums_column_sums_and_block_means(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)).square()
    rows, cols, means = profile(matrix, 64)
    torch.testing.assert_close(rows, matrix.double().sum(1))
    torch.testing.assert_close(cols, matrix.double().sum(0))
    torch.testing.assert_close(means, block_reduce(matrix, 64, 64))
    assert total(matrix) == pytest.approx(matrix.double().sum().item())
