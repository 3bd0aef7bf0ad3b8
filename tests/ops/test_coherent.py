"""Indices that weights share, against plain loops."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.coherent import Heads, contiguous, heads_problem, scattered, whole_heads
from paraknow_core.ops.structure import GridSelection, WindowSelection, crossing, even_slice

SCORES = st.lists(st.integers(0, 9), min_size=1, max_size=9)


@given(SCORES, st.data())
def test_picks_equal_sorting_and_trying_every_range(values, data):
    count = data.draw(st.integers(1, len(values)))
    scores = torch.tensor(values, dtype=torch.float32)
    ranges = [range(first, first + count) for first in range(len(values) - count + 1)]
    best = max(ranges, key=lambda r: (sum(values[i] for i in r), -r[0]))
    assert contiguous(scores, count).tolist() == list(best)
    highest = sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])
    assert scattered(scores, count).tolist() == highest


@pytest.mark.parametrize("pick", [contiguous, scattered])
def test_what_cannot_be_picked_is_refused(pick):
    with pytest.raises(ShapeError, match="4 of"):
        pick(torch.ones(3), 4)
    with pytest.raises(NumericError):
        pick(torch.tensor([1.0, float("nan")]), 1)


def by_loops(scores, teacher, student, pick, rotary):
    """Whole heads, one number at a time."""
    groups, queries, size = teacher.groups, teacher.queries, teacher.size
    at = {role: values.tolist() for role, values in scores.items()}

    def query_score(group, query):
        start = (group * queries + query) * size
        return sum(at["q"][start + i] + at["o"][start + i] for i in range(size))

    kept, values = {}, []
    for group in range(groups):
        every = torch.tensor([query_score(group, query) for query in range(queries)])
        kept[group] = pick(every, min(queries, student.queries)).tolist()
        own = sum(at["k"][group * size + i] + at["v"][group * size + i] for i in range(size))
        values.append(own + sum(query_score(group, query) for query in kept[group]))
    taken = {role: [] for role in "qkvo"}
    for group in pick(torch.tensor(values), min(groups, student.groups)).tolist():
        inside = {}
        for name, (many, one) in {"matched": "qk", "carried": "ov"}.items():
            sums = [at[one][group * size + i] for i in range(size)]
            for query in kept[group]:
                sums = [s + at[many][(group * queries + query) * size + i] for i, s in enumerate(sums)]
            if student.size == size:
                inside[name] = list(range(size))
            elif name == "matched" and rotary:
                pairs = torch.tensor([sums[i] + sums[i + size // 2] for i in range(size // 2)])
                first = pick(pairs, student.size // 2).tolist()
                inside[name] = first + [i + size // 2 for i in first]
            else:
                inside[name] = pick(torch.tensor(sums), student.size).tolist()
        taken["k"] += [group * size + i for i in inside["matched"]]
        taken["v"] += [group * size + i for i in inside["carried"]]
        for query in kept[group]:
            start = (group * queries + query) * size
            taken["q"] += [start + i for i in inside["matched"]]
            taken["o"] += [start + i for i in inside["carried"]]
    return taken


SHAPES = [
    (Heads(4, 2, 4), Heads(2, 1, 4)),
    (Heads(3, 2, 4), Heads(2, 2, 2)),
    (Heads(6, 1, 6), Heads(4, 1, 4)),
    (Heads(1, 8, 4), Heads(1, 3, 4)),  # one key-value head
    (Heads(2, 2, 4), Heads(5, 1, 4)),  # more groups than there are
    (Heads(4, 1, 4), Heads(1, 4, 4)),  # one group, in which there is room left
]


@pytest.mark.parametrize(("shapes", "pick", "rotary"), product(SHAPES, [contiguous, scattered], [True, False]))
def test_heads_equal_plain_loops(shapes, pick, rotary):
    teacher, student = shapes
    queries, keys = teacher.groups * teacher.queries * teacher.size, teacher.groups * teacher.size
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        sizes = {"q": queries, "k": keys, "v": keys, "o": queries}
        scores = {role: torch.randint(0, 20, (n,), generator=generator).double() for role, n in sizes.items()}
        taken = whole_heads(scores, teacher, student, pick, rotary=rotary)
        assert {role: part.tolist() for role, part in taken.items()} == by_loops(scores, teacher, student, pick, rotary)
        assert all((part.diff() > 0).all() for part in taken.values())


def test_what_cannot_be_whole_is_said():
    assert "have 4 features, the student's 8" in heads_problem(Heads(2, 1, 4), Heads(2, 1, 8), rotary=True)
    assert "rotary pairs" in heads_problem(Heads(2, 1, 7), Heads(2, 1, 4), rotary=True)
    assert not heads_problem(Heads(2, 1, 7), Heads(2, 1, 4), rotary=False)
    assert not heads_problem(Heads(2, 1, 7), Heads(2, 1, 7), rotary=True)
    assert "queries would meet keys" in heads_problem(Heads(8, 1, 4), Heads(2, 4, 4), rotary=True)
    with pytest.raises(ShapeError, match="whole heads: .*; choose a structure"):
        whole_heads({}, Heads(8, 1, 4), Heads(2, 4, 4), scattered, rotary=True)


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_an_even_slice_is_evenly_spaced(rows, cols, data):
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(1, cols))
    selection = even_slice((rows, cols), height, width)
    for indices, size in ((selection.rows, rows), (selection.cols, cols)):
        spaced = [i * (size - 1) / max(len(indices) - 1, 1) for i in range(len(indices))]
        assert (indices.diff() > 0).all()
        assert all(abs(i - at) <= 0.5 for i, at in zip(indices.tolist(), spaced, strict=True))
    assert torch.equal(selection.rows, even_slice((rows, 7), height, 3).rows)


def test_ranges_that_cross_are_a_window():
    ranges = torch.arange(2, 5), torch.arange(1, 3)
    assert isinstance(crossing(*ranges), WindowSelection)
    grid = crossing(torch.tensor([0, 2]), ranges[1])
    assert isinstance(grid, GridSelection)
    weight = torch.arange(30.0).view(5, 6)
    assert crossing(*ranges).take(weight).tolist() == weight[2:5, 1:3].tolist()
    assert grid.take(weight).tolist() == weight[[0, 2], 1:3].tolist()
