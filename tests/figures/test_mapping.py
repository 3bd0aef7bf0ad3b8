"""Figures of Mapping & extraction: what they show follows from the data."""

import numpy
import pytest

from paraknow_core.figures import mapping as charts
from paraknow_core.figures.style import BLUE, HIGHLIGHT

FACTS = {
    "kind": "window",
    "top_left": [4, 2],
    "shape": [8, 6],
    "teacher_shape": [20, 10],
    "captured_mass": 0.6,
    "area_fraction": 0.24,
    "offsets": {"lowest": 0.1, "highest": 0.6, "at_most": 1.0},
}


def lines(figure):
    return [t for t in figure.data if t.type == "scatter" and t.mode == "lines"]


def test_links_go_from_teacher_to_student_with_the_width_of_the_score():
    figure = charts.layer_links([0, None, 2], 4, [9.0, 1.0, 3.0, 2.0], "Mapping")
    first, second = lines(figure)
    assert first.line.width > second.line.width
    assert "teacher layer 2 → student layer 2" in second.hovertemplate
    assert "S 3.000, rank 2 of 4, 20.0 % of all layers" in second.hovertemplate
    assert first.y[0] == 0
    assert first.y[-1] == pytest.approx(0.5)  # three student layers stand in the middle of four


def test_every_layer_can_be_clicked_and_the_chosen_one_is_lit():
    figure = charts.layer_links([1, 1], 3, [1.0, 2.0, 3.0], picked=("teacher", 1))
    targets = figure.data[-1]
    assert [tuple(row[:2]) for row in targets.customdata] == [
        ("teacher", 0),
        ("teacher", 1),
        ("teacher", 2),
        ("student", 0),
        ("student", 1),
    ]
    assert [line.line.color for line in lines(figure)] == [HIGHLIGHT, HIGHLIGHT]
    nodes = figure.data[-3]
    assert list(nodes.marker.color)[1] == HIGHLIGHT
    assert BLUE not in list(nodes.marker.color)


def test_links_without_scores_and_of_eighty_layers():
    figure = charts.layer_links([0, 1], 2, None)
    assert not [t for t in figure.data if t.type == "bar"]
    large = charts.layer_links(list(range(40)), 80, [float(i) for i in range(80)], dark=True)
    assert large.layout.height <= 900
    assert len(lines(large)) == 40


def test_a_window_is_framed_and_a_grid_shows_its_kept_sums():
    arrays = {"map": numpy.ones((20, 10)), "rows": numpy.ones(20), "cols": numpy.ones(10)}
    frame = charts.selection_map(FACTS, arrays).layout.shapes[0]
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (1.5, 7.5, 3.5, 11.5)
    kept = {"kept_rows": numpy.r_[numpy.ones(8), numpy.zeros(12)], "kept_cols": numpy.r_[numpy.ones(6), numpy.zeros(4)]}
    grid = charts.selection_map({**FACTS, "kind": "grid", "top_left": None}, {**arrays, **kept})
    assert not grid.layout.shapes
    assert grid.data[-2].x.sum() == 8
    assert grid.data[-1].y.sum() == 6


def test_single_weights_are_a_density_in_percent():
    figure = charts.selection_map(
        {**FACTS, "kind": "weights", "top_left": None}, {"density": numpy.full((10, 5), 0.25)}
    )
    assert figure.data[0].z.max() == 25
    assert figure.data[0].dx == 2


def test_the_histogram_marks_block_and_area():
    figure = charts.mass_histogram(FACTS, numpy.array([1, 3, 0, 0]))
    assert list(figure.data[0].y) == [25, 75, 0, 0]
    assert sorted(shape.x0 for shape in figure.layout.shapes) == pytest.approx([24, 60])
    assert {note.text for note in figure.layout.annotations} == {"this block 60.0 %", "area 24.0 %"}


def test_the_spectrum_is_cut_at_the_rank():
    figure = charts.spectrum_cut(numpy.array([3.0, 2.0, 1.0]), 2, 13 / 14)
    kept, left = figure.data
    assert (list(kept.y), list(left.y)) == ([3.0, 2.0], [1.0])
    assert figure.layout.shapes[0].x0 == 2.5
    assert "92.9 % of the energy" in figure.layout.annotations[0].text


@pytest.mark.parametrize("others", [numpy.array([]), numpy.linspace(-0.1, 0.2, 50)])
def test_cosines_are_centred_on_zero(others):
    figure = charts.cosine_strip(0.5, others)
    low, high = figure.layout.xaxis.range
    assert low == -high
    assert high > 0.5
    assert sum(t.y.sum() for t in figure.data) == len(others)


@pytest.mark.parametrize("layers", [[0, None, 2], [None, 1, 3]])
def test_pairs_of_the_mapping_are_framed_among_all(layers):
    table = [[0.9, 0.2, 0.1, 0.0], [0.3, 0.8, 0.2, 0.1], [0.1, 0.2, 0.7, -0.6]]
    figure = charts.layer_similarity(table, layers, "CKA", "Alike")
    cells = next(trace for trace in figure.data if trace.type == "heatmap")
    assert numpy.array_equal(cells.z, table)
    texts = next(trace for trace in figure.data if trace.type == "scatter")
    assert dict(zip(zip(texts.y, texts.x, strict=True), texts.text, strict=True))[2, 3] == "-0.60"
    framed = {(shape.y0 + 0.5, shape.x0 + 0.5) for shape in figure.layout.shapes}
    assert framed == {(s, t) for s, t in enumerate(layers) if t is not None}
    many = charts.layer_similarity(numpy.zeros((2, 40)), [1, 39], "R²")
    assert not [trace for trace in many.data if trace.type == "scatter"]
