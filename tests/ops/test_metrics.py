"""Metrics against plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops import metrics
from paraknow_core.ops.metrics import col_sums, cosine, profile, retained_energy, row_sums, sum_of_squares, total
from tests.ops.matrices import FLOATS, exact_sum, matrices


@given(matrices())
def test_sums_equal_the_loop(matrix):
    allowed = pytest.approx
    assert row_sums(matrix).tolist() == allowed([float(exact_sum(r)) for r in matrix], rel=1e-12, abs=1e-9)
    assert col_sums(matrix).tolist() == allowed([float(exact_sum(c)) for c in matrix.T], rel=1e-12, abs=1e-9)
    assert sum_of_squares(matrix) == allowed(math.fsum(v * v for v in matrix.flatten().tolist()), rel=1e-12)


@given(matrices(), st.integers(0, 1000))
def test_cosine_equals_the_loop(a, seed):
    b = torch.randn(a.shape, generator=torch.Generator().manual_seed(seed)).to(a.dtype)
    x, y = a.flatten().tolist(), b.flatten().tolist()
    norms = [math.sqrt(math.fsum(v * v for v in values)) for values in (x, y)]
    expected = math.fsum(p * q for p, q in zip(x, y, strict=True)) / (norms[0] * norms[1]) if norms[0] else 0.0
    assert cosine(a, b) == pytest.approx(expected, abs=1e-12)


def test_by_hand():
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    assert cosine(a, b) == pytest.approx(24 / 25)
    assert cosine(a, -2 * a) == pytest.approx(-1)
    assert retained_energy(torch.tensor([3.0]), 25.0) == pytest.approx(9 / 25)
    assert cosine(torch.zeros(2), torch.ones(2)) == 0
    assert cosine(torch.zeros(0), torch.zeros(0)) == 0
    assert retained_energy(torch.zeros(1), 0.0) == 1


@pytest.mark.parametrize("dtype", FLOATS)
def test_inputs_are_left_as_they_were(dtype):
    a, b = torch.randn(5, 4).to(dtype), torch.randn(5, 4).to(dtype)
    before = a.clone(), b.clone()
    cosine(a, b)
    for measure in (row_sums, col_sums, sum_of_squares, profile):
        measure(a)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


@pytest.mark.parametrize("strip", [1, 20, 1 << 18])
@given(matrix=matrices(most=9), most=st.integers(1, 10))
def test_the_profile_equals_the_loop(matrix, most, strip):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_STRIP", strip)
        of_rows, of_cols, means = profile(matrix, most)
    assert of_rows.tolist() == pytest.approx([float(exact_sum(row)) for row in matrix], rel=1e-12, abs=1e-9)
    assert of_cols.tolist() == pytest.approx([float(exact_sum(col)) for col in matrix.T], rel=1e-12, abs=1e-9)
    rows, cols = (min(size, most) for size in matrix.shape)
    assert means.shape == (rows, cols)
    seen = 0
    for i in range(rows):
        for j in range(cols):
            block = matrix[
                i * matrix.shape[0] // rows : (i + 1) * matrix.shape[0] // rows,
                j * matrix.shape[1] // cols : (j + 1) * matrix.shape[1] // cols,
            ]
            seen += block.numel()
            assert means[i, j].item() == pytest.approx(float(exact_sum(block)) / block.numel(), rel=1e-12, abs=1e-9)
    assert seen == matrix.numel()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="compare a block with the student weight"):
        cosine(torch.rand(2, 3), torch.rand(3, 2))
    with pytest.raises(NumericError):
        cosine(torch.rand(2, 3), torch.full((2, 3), math.nan))


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (700, 300), (7,), (2, 3, 4)])
def test_the_total_is_the_sum(shape):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).square()
    assert total(tensor) == pytest.approx(tensor.double().sum().item())
