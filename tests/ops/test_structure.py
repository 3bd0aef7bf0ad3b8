"""Picking rows, columns and single weights against sorting in plain Python."""

import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops import structure
from paraknow_core.ops.structure import (
    GridSelection,
    index_ranges,
    least_sensitive,
    neuron,
    random_offset,
    random_weights,
    row_column,
    submatrix,
    unpack,
)
from paraknow_core.ops.window import Window, best_window
from tests.ops.matrices import FLOATS, exact_sum, matrices, with_size

PICKS = [submatrix, row_column, neuron]


def highest(totals, count) -> list[int]:
    return sorted(sorted(range(len(totals)), key=lambda i: (-totals[i], i))[:count])


@given(with_size(matrices() | matrices(tied=True)), st.booleans())
def test_neuron_equals_sorting(case, transposed):
    score, height, width = case
    score, height, width = (score.T, width, height) if transposed else case
    expected = highest(score.flatten().tolist(), height * width)
    selection = neuron(score, height, width)
    assert selection.flat.tolist() == expected
    assert selection.take(score).flatten().tolist() == [score.flatten()[i].item() for i in expected]
    assert selection.take(score).shape == selection.shape == (height, width)


@given(with_size(matrices() | matrices(tied=True)))
def test_least_sensitive_equals_every_window_summed(case):
    score, height, width = case
    sums = {
        (row, col): exact_sum(score[row : row + height, col : col + width].flatten())
        for row in range(score.shape[0] - height + 1)
        for col in range(score.shape[1] - width + 1)
    }
    least = min(sums, key=lambda place: (sums[place], place))
    selection = least_sensitive(score, height, width)
    assert selection.window == Window(*least, height, width)
    packed = unpack(selection.pack()[0], {**selection.pack()[1], "shape": list(selection.shape)})
    assert packed == selection


@given(with_size(matrices() | matrices(tied=True)))
def test_the_lowest_taken_score_is_the_same_in_both_ways(case):
    score, height, width = case
    assert structure._by_sorting(score, height * width) == structure._by_partition(score, height * width)


def test_neuron_counts_both_zeros_as_equal():
    score = torch.tensor([[-0.0, 0.0, -1.0, 0.0]])
    assert neuron(score, 1, 2).flat.tolist() == [0, 1]


@given(with_size(matrices(tied=True)))
def test_row_column_equals_sorting(case):
    # Values with few bits, so that the float64 sums are exact and the order of ties is decided by position alone.
    score, height, width = case
    score = (score * 8).round()
    selection = row_column(score, height, width)
    assert selection.rows.tolist() == highest([exact_sum(row) for row in score], height)
    assert selection.cols.tolist() == highest([exact_sum(col) for col in score.T], width)
    expected = [[score[i, j].item() for j in selection.cols] for i in selection.rows]
    assert selection.take(score).tolist() == expected


def test_by_hand():
    score = torch.tensor([[1.0, 0.0, 4.0], [7.0, 0.0, 0.0], [2.0, 3.0, 1.0]])
    weight = torch.arange(9.0).reshape(3, 3)
    assert row_column(score, 2, 2).take(weight).tolist() == [[3.0, 5.0], [6.0, 8.0]]
    assert neuron(score, 2, 2).take(weight).tolist() == [[2.0, 3.0], [6.0, 7.0]]
    assert neuron(score, 2, 2).sum(score) == 16.0
    assert submatrix(score, 2, 2).take(weight).tolist() == [[3.0, 4.0], [6.0, 7.0]]
    assert row_column(score, 2, 2).sum(score) == 7.0 + 0.0 + 2.0 + 1.0


@given(with_size(matrices()))
def test_submatrix_is_the_best_window(case):
    score, height, width = case
    window = best_window(score, height, width)
    selection = submatrix(score, height, width)
    assert selection.window == window
    assert torch.equal(selection.take(score), score[window.slices])


@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_selection_takes_sums_and_describes(pick, dtype):
    score = torch.rand(9, 8).to(dtype)
    before = score.clone()
    selection = pick(score, 4, 5)
    block = selection.take(torch.randn(9, 8).to(dtype))
    assert (block.shape, block.dtype) == ((4, 5), dtype)
    assert selection.sum(score) == pytest.approx(float(selection.take(score).double().sum()))
    assert torch.equal(score, before)
    described = json.loads(json.dumps(selection.describe()))
    assert described["shape"] == [4, 5] == list(selection.shape)


@pytest.mark.parametrize("pick", PICKS)
def test_the_whole_matrix_is_itself(pick):
    score = torch.rand(5, 6)
    assert torch.equal(pick(score, 5, 6).take(score), score)


def test_descriptions_say_where():
    score = torch.zeros(4, 5)
    score[1:3, 2:4] = 1
    assert submatrix(score, 2, 2).describe()["top_left"] == [1, 2]
    assert row_column(score, 2, 2).describe() | {"kind": ""} == {
        "kind": "",
        "shape": [2, 2],
        "rows": [[1, 2]],
        "cols": [[2, 3]],
    }
    counts = neuron(score, 2, 2).describe()
    assert (counts["count"], counts["rows_touched"], counts["largest_row_count"]) == (4, 2, 2)


@given(st.sets(st.integers(0, 40)))
def test_index_ranges_name_every_index_once(indices):
    ranges = index_ranges(torch.tensor(sorted(indices), dtype=torch.int64))
    assert [i for first, last in ranges for i in range(first, last + 1)] == sorted(indices)
    assert all(following[0] > last + 1 for (_, last), following in zip(ranges, ranges[1:], strict=False))


def test_random_weights_are_uniform_subsets():
    generator = torch.Generator().manual_seed(0)
    draws = Counter(tuple(random_weights((2, 3), 1, 3, generator).flat.tolist()) for _ in range(4000))
    assert len(draws) == 20
    assert all(130 < count < 275 for count in draws.values())  # 200 expected each, 14 the standard deviation


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_random_weights_have_the_asked_number(rows, cols, data):
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(1, cols))
    picks = [random_weights((rows, cols), height, width, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert picks[0].mask.sum() == height * width
    assert torch.equal(picks[0].mask, picks[1].mask)


@pytest.mark.parametrize("pick", PICKS)
def test_what_does_not_fit_is_refused(pick):
    with pytest.raises(ShapeError, match=r"of shape \(4, 3\) does not fit a \w+ of shape \(3, 4\)"):
        pick(torch.rand(3, 4), 4, 3)
    score = torch.rand(3, 4)
    score[2, 3] = float("nan")
    with pytest.raises(NumericError, match="NaN"):
        pick(score, 2, 2)


def test_random_weights_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError):
        random_weights((3, 4), 4, 3, torch.Generator())


def test_a_grid_can_be_made_by_hand():
    grid = GridSelection(torch.tensor([0, 2]), torch.tensor([1, 3, 4]))
    weight = torch.arange(15.0).reshape(3, 5)
    assert grid.take(weight).tolist() == [[1.0, 3.0, 4.0], [11.0, 13.0, 14.0]]
    assert Window(0, 0, *grid.shape).area == 6


@pytest.mark.parametrize("structure", [submatrix, row_column, neuron, random_weights, random_offset])
def test_a_packed_selection_comes_back_and_marks_what_it_takes(structure):
    shape, block = (7, 9), (3, 4)
    generator = torch.Generator().manual_seed(2)
    score = torch.rand(shape, generator=generator)
    chance = structure in (random_weights, random_offset)
    selection = structure(shape, *block, generator) if chance else structure(score, *block)
    tensors, record = selection.pack()
    again = unpack(tensors, json.loads(json.dumps({"shape": list(selection.shape), **record})))
    taken = torch.arange(63.0).view(shape)
    assert torch.equal(again.take(taken), selection.take(taken))
    assert again.describe() == selection.describe()
    mask = torch.zeros(63).index_fill_(0, selection.take(taken).flatten().long(), 1.0).view(shape)
    marks = selection.marks(shape)
    if "density" in marks:
        assert torch.equal(marks["density"].float(), mask)
        torch.testing.assert_close(marks["kept_rows"], mask.mean(dim=1))
        assert selection.outline() is None
    elif marks:
        assert torch.equal(torch.outer(marks["kept_rows"], marks["kept_cols"]), mask)
        assert selection.outline(7) == {"rows": [[0, 6]], "cols": index_ranges(selection.cols)}
    else:
        row, col, height, width = selection.outline()["window"]
        assert torch.equal(mask[row : row + height, col : col + width], torch.ones(block))
        assert selection.outline(7)["window"] == [0, col, 7, width]
