"""Similarity of hidden states against the textbook formulas, and the matching of layers against trying everything."""

from itertools import combinations

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.similarity import layer_similarities, linear_cka, ordered_assignment, stitch_r2
from tests.ops.matrices import orthonormal


def states(seed: int, tokens: int = 40, width: int = 7) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed)) + seed


def halves(tokens: int = 40) -> torch.Tensor:
    return torch.arange(tokens) % 3 == 0


@pytest.mark.parametrize("widths", [(7, 7), (3, 11), (60, 5)])  # also more channels than tokens
def test_cka_equals_the_textbook_formula(widths):
    first, second = (states(seed, width=width) for seed, width in enumerate(widths))
    x, y = (s.double().numpy() - s.double().numpy().mean(axis=0) for s in (first, second))
    norms = numpy.linalg.norm(x.T @ x) * numpy.linalg.norm(y.T @ y)
    expected = numpy.linalg.norm(y.T @ x) ** 2 / norms
    assert linear_cka(first, second) == pytest.approx(expected, rel=1e-9)


def test_cka_is_one_for_the_same_and_blind_to_rotation_scale_and_shift():
    first = states(1)
    turn = orthonormal(7, 7, torch.Generator().manual_seed(2))
    assert linear_cka(first, first) == pytest.approx(1)
    assert linear_cka(first, 3.5 * first @ turn + 9) == pytest.approx(1)
    assert linear_cka(first, states(5)) < 0.5
    assert linear_cka(first, torch.ones(40, 3)) == 0


def test_states_that_are_not_finite_are_refused():
    broken = states(1).half()
    broken[3, 2] = float("inf")
    with pytest.raises(NumericError, match="hidden state is NaN or infinite"):
        layer_similarities([states(2)], [broken], halves())


def ridge_by_lstsq(source, target, half, ridge) -> float:
    """Ridge regression as least squares over rows that pull every coefficient to zero, half by half."""
    errors = squares = 0.0
    for fitted in (half.numpy(), ~half.numpy()):
        x, y = source.double().numpy(), target.double().numpy()
        x_mean, y_mean = x[fitted].mean(axis=0), y[fitted].mean(axis=0)
        near = x[fitted] - x_mean
        strength = ridge * (near**2).sum() / fitted.sum()
        pulled = numpy.vstack([near, numpy.sqrt(strength) * numpy.eye(x.shape[1])])
        wanted = numpy.vstack([y[fitted] - y_mean, numpy.zeros((x.shape[1], y.shape[1]))])
        linear = numpy.linalg.lstsq(pulled, wanted, rcond=None)[0]
        far, seen = x[~fitted] - x_mean, y[~fitted] - y_mean
        errors += ((seen - far @ linear) ** 2).sum()
        squares += (seen**2).sum()
    return 1 - errors / squares


@pytest.mark.parametrize("widths", [(7, 4), (3, 11), (60, 5)])
@pytest.mark.parametrize("ridge", [1e-3, 0.1])
def test_stitching_equals_least_squares(widths, ridge):
    source = states(1, width=widths[0])
    target = source @ torch.randn(widths[0], widths[1], generator=torch.Generator().manual_seed(3)) + states(4, width=1)
    expected = ridge_by_lstsq(source, target, halves(), ridge)
    assert stitch_r2(source, target, halves(), ridge) == pytest.approx(expected, rel=1e-7)


def test_stitching_is_judged_on_unseen_tokens():
    wide, other = states(1, tokens=60, width=200), states(2, tokens=60)
    assert stitch_r2(wide, other, halves(60)) < 0.1  # a fit to the tokens themselves would be perfect
    linear = torch.randn(7, 5, generator=torch.Generator().manual_seed(3))
    assert stitch_r2(other, other @ linear + 2, halves(60), 1e-9) == pytest.approx(1)
    assert stitch_r2(torch.ones(60, 3), other, halves(60)) < 0.01
    assert stitch_r2(other, torch.ones(60, 3), halves(60)) == 0


def test_a_table_holds_every_pair():
    teacher, student = [states(i, width=9) for i in range(3)], [states(7 + i) for i in range(2)]
    table = layer_similarities(iter(teacher), iter(student), halves())
    for i, own in enumerate(student):
        for j, theirs in enumerate(teacher):
            assert table["cka"][i, j].item() == pytest.approx(linear_cka(theirs, own), abs=1e-6)
            assert table["stitch"][i, j].item() == pytest.approx(stitch_r2(theirs, own, halves()), abs=1e-6)


TABLES = st.tuples(st.integers(1, 5), st.integers(1, 6)).flatmap(
    lambda size: st.lists(
        st.lists(st.integers(-4, 9), min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0]
    )
)


@settings(deadline=None)
@given(TABLES)
def test_matching_equals_trying_every_choice(table):
    students, teachers = len(table), len(table[0])
    few = min(students, teachers)
    choices = [
        list(zip(own, theirs, strict=True))
        for own in combinations(range(students), few)
        for theirs in combinations(range(teachers), few)
    ]
    best = max(sum(table[i][j] for i, j in choice) for choice in choices)
    mapping = ordered_assignment(torch.tensor(table, dtype=torch.float64))
    pairs = [(i, j) for i, j in enumerate(mapping) if j is not None]
    assert len(mapping) == students
    assert pairs in choices
    assert sum(table[i][j] for i, j in pairs) == best
    if students <= teachers:
        assert [j for _, j in pairs] == min(
            [j for _, j in choice] for choice in choices if sum(table[i][j] for i, j in choice) == best
        )


def test_no_layers_cannot_be_matched():
    with pytest.raises(ShapeError, match="give one for each pair"):
        ordered_assignment(torch.empty(0, 3))


def test_what_is_made_on_the_way_is_on_the_device_of_the_states():
    source, target = states(1, width=7), states(2, width=4)
    half = torch.arange(len(source)) % 2 == 0
    expected = stitch_r2(source, target, half)
    with torch.device("meta"):  # whatever is made without a device lands there, and does not go with the states
        assert stitch_r2(source, target, half) == expected
