"""Two sensitivities on one grid agree with what plain loops say."""

import math

import numpy
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paraknow_core.errors import DataError
from paraknow_core.sensitivity.agreement import agreement, depth_weights, top_overlap

numbers = st.lists(st.floats(0, 100, width=16), min_size=3, max_size=12)


def table(cells: dict[tuple[int, str], float], outside: float = 0.0) -> pandas.DataFrame:
    total = sum(cells.values()) + outside
    rows = [
        {"module": f"{layer}.{role}", "role": role, "layer": layer, "sum": s, "share": s / total}
        for (layer, role), s in cells.items()
    ]
    rows.append({"module": "embed", "role": "embed", "layer": None, "sum": outside, "share": outside / total})
    return pandas.DataFrame(rows)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12))
def test_depth_weights_divide_every_layer_completely(layers, rows):
    weights = depth_weights(layers, rows)
    numpy.testing.assert_allclose(weights.sum(axis=0), 1)
    numpy.testing.assert_allclose(weights.sum(axis=1), layers / rows)
    if layers == rows:
        numpy.testing.assert_allclose(weights, numpy.eye(rows))
    for row in range(rows):  # by hand: in thousandths of a layer
        for layer in range(layers):
            inside = [row / rows <= (layer + (t + 0.5) / 1000) / layers < (row + 1) / rows for t in range(1000)]
            assert weights[row, layer] == pytest.approx(sum(inside) / 1000, abs=2e-3)


@settings(deadline=None, max_examples=40)
@given(numbers, st.randoms(use_true_random=False))
def test_top_overlap_counts_common_members(a, random):
    b = a[:]
    random.shuffle(b)
    found = top_overlap(a, b)
    assert found[-1] == len(a)
    for k in range(1, len(a) + 1):
        best = [{i for _, i in sorted((-v, i) for i, v in enumerate(values))[:k]} for values in (a, b)]
        assert found[k - 1] == sum(i in best[1] for i in best[0])


def test_equal_depth_compares_cell_by_cell():
    first = table({(0, "q"): 1, (0, "up"): 3, (1, "q"): 2, (1, "up"): 2}, outside=2)
    second = table({(0, "q"): 2, (0, "up"): 3, (1, "q"): 4, (1, "up"): 1})
    found = agreement(first, [4, 4], second, [5, 5])
    assert found.roles == ("q", "up")
    assert not found.by_depth
    numpy.testing.assert_allclose(found.log_ratio(), [[math.log2(0.1 / 0.2), 0], [math.log2(0.2 / 0.4), 1]])
    numpy.testing.assert_allclose(found.difference(), [[-10, 0], [-20, 10]])
    numpy.testing.assert_allclose(found.by_layer[0], [0.4, 0.4])
    assert found.modules.n == 4


def test_the_deeper_one_is_brought_to_the_shallower_one_by_depth():
    deep = table({(i, "q"): s for i, s in enumerate([1, 2, 3, 4])})
    shallow = table({(0, "q"): 1, (1, "q"): 1, (1, "gate"): 8})
    found = agreement(deep, [1, 2, 3, 4], shallow, [1, 9])
    assert found.by_depth
    assert (found.depths, found.roles) == ((4, 2), ("q",))
    numpy.testing.assert_allclose(found.shares[0], [[0.3], [0.7]])
    numpy.testing.assert_allclose(found.shares[1], [[0.1], [0.1]])
    numpy.testing.assert_allclose(found.by_layer[0], [0.3, 0.7])


def test_a_share_of_zero_has_no_ratio_but_a_difference():
    first = table({(0, "q"): 0, (0, "k"): 1, (1, "q"): 1, (1, "k"): 1})
    found = agreement(first, [1, 2], first, [1, 2])
    assert numpy.isnan(found.log_ratio()[0, 0])
    assert found.difference()[0, 0] == 0


def test_nothing_in_common_is_a_sentence():
    with pytest.raises(DataError, match="no module of one role in common"):
        agreement(table({(0, "q"): 1}), [1], table({(0, "up"): 1}), [1])
