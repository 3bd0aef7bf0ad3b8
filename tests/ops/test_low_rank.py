"""Low-rank changes against the product formed in full, and by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.low_rank import captured_share, column_basis, mean_cosine, product_cosine, product_norm
from paraknow_core.ops.metrics import cosine


def twin_norm(b, a):
    return math.sqrt(
        sum(sum(b[i][k] * a[k][j] for k in range(len(a))) ** 2 for i in range(len(b)) for j in range(len(a[0])))
    )


def twin_projector(matrix):
    """Projection onto the columns' span, by the normal equations."""
    matrix = matrix.double()
    return matrix @ torch.linalg.pinv(matrix)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 5), st.integers(0, 10_000))
def test_norm_and_share_agree_with_the_whole_product(out, wide, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    b, a = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((out, rank), (rank, wide)))
    assert product_norm(b, a) == pytest.approx(twin_norm(b.tolist(), a.tolist()), rel=1e-9)
    x = torch.randn((out, 2), generator=generator, dtype=torch.float64)
    whole = b @ a
    expected = (twin_projector(x) @ whole).square().sum() / whole.square().sum()
    assert captured_share(b, a, column_basis(x), "out") == pytest.approx(expected.item(), abs=1e-9)
    y = torch.randn((wide, 2), generator=generator, dtype=torch.float64)
    expected = (whole @ twin_projector(y)).square().sum() / whole.square().sum()
    assert captured_share(b, a, column_basis(y), "in") == pytest.approx(expected.item(), abs=1e-9)


def test_a_difference_that_nearly_cancels_keeps_its_digits():
    generator = torch.Generator().manual_seed(0)
    b0, a0 = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((40, 4), (4, 30)))
    step = 1e-7 * torch.randn((40, 4), generator=generator, dtype=torch.float64)
    found = product_norm(torch.cat([b0 + step, -b0], dim=1), torch.cat([a0, a0]))
    assert found == pytest.approx(product_norm(step, a0), rel=1e-6)


def test_by_hand():
    one = torch.tensor([[1.0], [0.0]])
    slanted = torch.tensor([[1.0], [1.0]])
    assert mean_cosine(one, slanted) == pytest.approx(math.sqrt(0.5))
    assert captured_share(slanted, torch.tensor([[2.0, 0.0]]), column_basis(one), "out") == pytest.approx(0.5)
    assert product_norm(torch.zeros(3, 2), torch.ones(2, 4)) == 0.0
    assert column_basis(torch.tensor([[1.0, 2.0], [1.0, 2.0]])).shape == (2, 1)


def test_nothing_to_compare_is_none_and_bad_factors_are_refused():
    zero = torch.zeros(3, 2)
    assert mean_cosine(zero, torch.ones(3, 1)) is None
    assert captured_share(zero, torch.ones(2, 4), column_basis(torch.ones(3, 1)), "out") is None
    assert captured_share(torch.ones(3, 2), torch.ones(2, 4), column_basis(zero), "out") is None
    with pytest.raises(ShapeError, match="check that both come from one adapter"):
        product_norm(torch.ones(3, 2), torch.ones(3, 4))
    with pytest.raises(NumericError, match="diverged"):
        product_norm(torch.full((2, 1), math.nan), torch.ones(1, 2))


def test_the_cosine_of_a_product_is_that_of_the_product_written_out():
    torch.manual_seed(3)
    b, a, weight = torch.randn(7, 2), torch.randn(2, 5), torch.randn(7, 5)
    assert product_cosine(b, a, weight) == pytest.approx(cosine(b @ a, weight), abs=1e-6)
    assert product_cosine(b, a, b @ a) == pytest.approx(1, abs=1e-6)
    assert product_cosine(0 * b, a, weight) == product_cosine(b, a, 0 * weight) == 0
    assert product_cosine(torch.zeros(0, 2), a, torch.zeros(0, 5)) == 0
