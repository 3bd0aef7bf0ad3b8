"""Random directions: orthonormal, without a preference, and what they leave of a matrix."""

import math

import pytest
import torch

from paraknow_core.errors import ShapeError
from paraknow_core.ops.haar import haar_columns, rotated, shuffled


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gram_schmidt(rows, count, generator):
    """Orthonormalise Gaussian columns one after the other, in loops: Haar by construction."""
    drawn = torch.randn(rows, count, generator=generator, dtype=torch.float64).T.tolist()
    columns = []
    for column in drawn:
        for earlier in columns:
            along = sum(x * y for x, y in zip(column, earlier, strict=True))
            column = [x - along * y for x, y in zip(column, earlier, strict=True)]
        length = math.sqrt(sum(x * x for x in column))
        columns.append([x / length for x in column])
    return torch.tensor(columns, dtype=torch.float64).T


@pytest.mark.parametrize(("rows", "count"), [(6, 6), (7, 3), (40, 1), (3, 0)])
def test_columns_are_those_of_gram_schmidt(rows, count):
    columns = haar_columns(rows, count, generator(5))
    twin = gram_schmidt(rows, count, generator(5)) if count else torch.zeros(rows, 0, dtype=torch.float64)
    torch.testing.assert_close(columns, twin, atol=1e-12, rtol=0)
    torch.testing.assert_close(columns.T @ columns, torch.eye(count, dtype=torch.float64), atol=1e-12, rtol=0)


def test_no_sign_is_preferred():
    draw = generator(1)
    traces = torch.tensor([haar_columns(3, 3, draw).trace() for _ in range(2000)])
    # Of the orthogonal group the trace has mean 0 and variance 1; without the signs its mean is about -1.5.
    assert abs(traces.mean()) < 0.1
    assert traces.var() == pytest.approx(1, abs=0.1)


def test_more_columns_than_rows_are_refused():
    with pytest.raises(ShapeError, match="4 orthonormal columns do not fit 3 rows"):
        haar_columns(3, 4, generator())


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (5, 5), (1, 9)])
def test_a_rotated_matrix_has_the_same_singular_values_and_other_directions(shape):
    matrix = torch.randn(shape, generator=generator(2)).bfloat16()
    turned = rotated(matrix, generator(3))
    assert turned.shape == matrix.shape
    torch.testing.assert_close(torch.linalg.svdvals(turned), torch.linalg.svdvals(matrix.float()), rtol=1e-5, atol=1e-6)
    again, other = rotated(matrix, generator(3)), rotated(matrix, generator(4))
    assert torch.equal(turned, again) and not torch.allclose(turned, other)


def test_a_rotated_matrix_forgets_where_it_was():
    matrix = torch.zeros(4, 3)
    matrix[0, 0] = 1.0
    draw = generator(7)
    mean = sum(rotated(matrix, draw).square() for _ in range(2000)) / 2000
    torch.testing.assert_close(mean, torch.full((4, 3), 1 / 12), atol=0.015, rtol=0)


def test_a_shuffled_matrix_keeps_rows_and_columns_together():
    matrix = torch.arange(12.0).view(3, 4)
    order = generator(1)
    rows, cols = torch.randperm(3, generator=order), torch.randperm(4, generator=order)
    twin = torch.tensor([[matrix[row, col] for col in cols] for row in rows])
    mixed = shuffled(matrix, generator(1))
    assert torch.equal(mixed, twin)
    assert not torch.equal(mixed, matrix)
