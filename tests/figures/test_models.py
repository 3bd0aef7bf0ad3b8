"""Figures of Models & task: parameters by role, lengths against the limit."""

import numpy
import pytest

from paraknow_core.display import GROUP_COLOURS
from paraknow_core.figures.models import MOST_BINS, length_histogram, parameter_bars

PARTS = [
    {"role": "embed", "group": "embedding", "parameters": 10, "modules": 1},
    {"role": "q", "group": "attention", "parameters": 300, "modules": 6},
    {"role": "k", "group": "attention", "parameters": 300, "modules": 6},
    {"role": "up", "group": "ffn", "parameters": 600, "modules": 6},
    {"role": "other", "group": "other", "parameters": 0, "modules": 13},
]


def test_each_role_is_a_part_in_its_groups_colour():
    figure = parameter_bars({"teacher": PARTS, "student": PARTS[:2]}, "Where", "a → b")
    assert [(trace.text, trace.x[0]) for trace in figure.data[:4]] == [(None, 10), ("q", 300), ("k", 300), ("up", 600)]
    assert all(trace.marker.color == GROUP_COLOURS[trace.name] for trace in figure.data)
    named = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(named) == sorted(set(named)), "a group is named once"
    assert {a.text for a in figure.layout.annotations} == {"1.2 k", "310"}
    assert not parameter_bars({}).data


@pytest.mark.parametrize("limit", [50, 64, 512])
def test_every_example_is_counted_once_and_the_cut_ones_apart(limit):
    lengths = numpy.array([10, 12, 12, 63, 64, 65, 80])
    figure = length_histogram(lengths, limit)
    counted = {trace.name: int(sum(trace.y)) for trace in figure.data}
    assert counted.get("whole", 0) == int((lengths <= limit).sum())
    assert counted.get("cut at the end", 0) == int((lengths > limit).sum())
    assert bool(figure.layout.shapes) == (limit < 512)
    assert "limit" in figure.layout.annotations[0].text


def test_few_bins_whatever_the_lengths_and_none_without_examples():
    figure = length_histogram([3, 100_000], 2048)
    assert max(len(trace.x) for trace in figure.data) <= MOST_BINS + 1
    assert length_histogram([], 2048).data == ()
    assert int(sum(length_histogram([7] * 5, 2048).data[0].y)) == 5
