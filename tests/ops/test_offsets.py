"""The distribution over all offsets against loops, and its refusals."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.offsets import offset_distribution


def brute_force(score, height, width):
    rows, cols = score.shape
    return numpy.array(
        [
            score[i : i + height, j : j + width].double().sum().item()
            for i in range(rows - height + 1)
            for j in range(cols - width + 1)
        ]
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_every_offset_counts_once(rows, cols, height, width, seed):
    height, width = min(height, rows), min(width, cols)
    score = torch.rand(rows, cols, generator=torch.Generator().manual_seed(seed))
    sums = brute_force(score, height, width)
    against = float(numpy.median(sums))
    found = offset_distribution(score, height, width, against, bins=8)
    assert found.positions == len(sums) == int(found.counts.sum())
    assert found.lowest == pytest.approx(sums.min())
    assert found.highest == pytest.approx(sums.max())
    assert found.mean == pytest.approx(sums.mean())
    lower, upper = (numpy.quantile(sums, 0.5, method=how) for how in ("lower", "higher"))
    slack = 1e-9 + (sums.max() - sums.min()) / 2000
    assert lower - slack <= found.median <= upper + slack
    assert found.at_most == pytest.approx((sums <= against + 1e-9 * sums.max()).mean())
    if sums.max() - sums.min() > 1e-6:
        want = numpy.histogram(sums, bins=8, range=(sums.min(), sums.max()))[0]
        assert numpy.abs(found.counts.numpy() - want).sum() <= 2  # a total on an edge may fall to either side


def test_by_hand():
    score = torch.tensor([[1.0, 0.0, 0.0, 3.0]])
    found = offset_distribution(score, 1, 2, against=1.0, bins=2)
    assert (found.positions, found.lowest, found.highest) == (3, 0.0, 3.0)
    assert found.at_most == pytest.approx(2 / 3)
    assert found.counts.tolist() == [2, 1]
    assert found.median == pytest.approx(1.0, abs=0.01)


def test_one_place_and_a_constant_score():
    score = torch.full((3, 4), 2.0)
    whole = offset_distribution(score, 3, 4, against=24.0)
    assert (whole.positions, whole.median, whole.at_most, int(whole.counts.sum())) == (1, 24.0, 1.0, 1)
    flat = offset_distribution(score, 2, 2, against=8.0)
    assert (flat.lowest, flat.highest, flat.at_most) == (8.0, 8.0, 1.0)


def test_the_best_window_is_never_below_any_other_by_rounding():
    score = torch.rand(200, 150, generator=torch.Generator().manual_seed(1)) * 1e-3
    from paraknow_core.ops.structure import submatrix

    selection = submatrix(score, 128, 96)
    assert offset_distribution(score, 128, 96, selection.sum(score)).at_most == 1.0


def test_refusals():
    with pytest.raises(ShapeError, match="does not fit"):
        offset_distribution(torch.ones(2, 2), 3, 1, 0.0)
    with pytest.raises(ShapeError, match="divisor of 4096"):
        offset_distribution(torch.ones(2, 2), 1, 1, 0.0, bins=60)
    with pytest.raises(NumericError):
        offset_distribution(torch.tensor([[float("nan"), 1.0]]), 1, 1, 0.0)
