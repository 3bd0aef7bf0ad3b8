"""The Sensitivity page's pictures hold the numbers they were given."""

import numpy
import pytest

from paraknow_core.figures import maps as figures
from paraknow_core.figures import sensitivity as charts
from paraknow_core.sensitivity.agreement import Agreement, Correlation
from paraknow_core.spec import GROUP_OF_ROLE

NONE = Correlation(None, None, 2)
NAMES = ("%{x} <b>one</b>", "two")


def found(depths=(2, 2)) -> Agreement:
    shares = (numpy.array([[0.2, 0.1], [0.4, numpy.nan]]), numpy.array([[0.1, 0.1], [0.8, 0.3]]))
    return Agreement(("q", "up"), depths, shares, (numpy.array([0.3, 0.4]), numpy.array([0.2, 0.8])), NONE, NONE)


def test_difference_map_is_centred_and_names_factors():
    figure = charts.difference_map(found(), "ratio", NAMES, modules={(1, "q"): "layers.1.q"})
    heat, labels, targets = figure.data
    assert (heat.zmin, heat.zmax) == (-1, 1)
    numpy.testing.assert_allclose(heat.z, [[1, 0], [-1, numpy.nan]])
    assert list(labels.text) == ["×2.00", "1", "÷2.00"]
    assert [data[0] for data in targets.customdata] == ["", "", "layers.1.q"]
    assert list(heat.colorbar.ticktext) == ["÷2", "1", "×2"]


def test_difference_map_in_points_by_relative_depth():
    figure = charts.difference_map(found((2, 4)), "points", NAMES)
    assert list(figure.data[1].text) == ["+10.00", "0", "−40.00"]
    assert list(figure.layout.yaxis.ticktext) == ["0–50 %", "50–100 %"]
    assert figure.layout.yaxis.title.text == "relative depth"


def test_scatter_puts_the_second_across_and_leaves_out_what_is_missing():
    _, attention, ffn = charts.share_scatter(found(), NAMES, groups=GROUP_OF_ROLE).data
    assert list(attention.x) == pytest.approx([10, 80])
    assert list(attention.y) == pytest.approx([20, 40])
    assert len(ffn.x) == 1
    assert "%{x}" not in attention.hovertemplate
    assert "<b>one</b>" not in attention.hovertemplate


def test_lines_and_overlap_hold_shares_of_all():
    first, second = charts.layer_lines(found(), NAMES).data
    assert list(first.y) == pytest.approx([30, 40])
    assert list(second.y) == pytest.approx([20, 80])
    figure = charts.top_overlap_curve([0, 2], kept=1)
    chance, common, kept = figure.data
    assert list(chance.y) == [50, 100]
    assert list(common.y) == [0, 100]
    assert list(kept.x) == [1]
    assert len(charts.top_overlap_curve([0, 2], kept=None).data) == 2


def test_stability_runs_to_one_and_survives_what_is_unknown():
    figure = charts.stability_curve([(4, 0.9, None), (8, 1.0, 1.0)])
    assert list(figure.data[0].y) == [0.9, 1.0]
    assert figure.data[1].y[0] is None
    assert list(figure.layout.xaxis.ticktext) == ["4", "8"]
    assert [note.text for note in figure.layout.annotations] == ["modules"]


def test_stability_labels_do_not_lie_on_one_another():
    figure = charts.stability_curve([(8, 0.95, 0.951), (31, 0.99, 0.99), (32, 1.0, 1.0)])
    assert {note.text: note.yshift for note in figure.layout.annotations} == {"modules": -8, "layers": 8}
    assert list(figure.layout.xaxis.ticktext) == ["8", "32"]


def test_picked_rows_and_box_targets_lie_in_the_module():
    figure = figures.matrix_map(numpy.ones((4, 4)), numpy.ones(40), numpy.ones(80), origin=(100, 200))
    assert tuple(figure.layout.yaxis.range) == (139.5, 99.5)
    assert tuple(figure.layout.xaxis.range) == (199.5, 279.5)
    charts.mark_picked(figure, [[100, 109]], [[200, 201], [210, 210]])
    assert list(figure.data[3].y) == [99.5, 109.5, None]
    assert list(figure.data[4].x) == [199.5, 201.5, None, 209.5, 210.5, None]
    charts.box_targets(figure, (100, 200), (40, 80))
    targets = figure.data[5]
    assert 99.5 < min(targets.y) < max(targets.y) < 139.5
    assert 199.5 < min(targets.x) < max(targets.x) < 279.5
    assert figure.layout.dragmode == "select"


def test_heatmaps_can_share_a_scale_and_leave_the_logarithm():
    import pandas

    table = pandas.DataFrame(
        [{"module": "a", "role": "q", "layer": 0, "rows": 2, "cols": 2, "sum": 3.0, "mean": 0.75, "share": 0.1}]
    )
    heat = figures.sensitivity_heatmap(table, "share", limits=(0.01, 1.0)).data[0]
    assert (heat.zmin, heat.zmax) == (-2, 0)
    plain = figures.sensitivity_heatmap(table, "share", log=False).data[0]
    assert plain.z[0][0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("x", "y", "region"),
    [
        ([9.7, 49.3], [-0.4, 29.6], (0, 10, 30, 40)),
        ([49.3, 9.7], [29.6, -0.4], (0, 10, 30, 40)),  # drawn from the lower right
        ([-50, 900], [-9, 900], (0, 0, 100, 60)),  # over the edges
        ([19.8, 20.4], [99, 99.2], (92, 17, 8, 8)),  # hardly a box: eight weights each way
        ([70, 80], [10, 20], None),  # beside the module
    ],
)
def test_a_drawn_box_is_a_region_inside_the_module(x, y, region):
    assert charts.region_of_box(x, y, (100, 60)) == region
