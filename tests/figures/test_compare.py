"""Pictures of Compare: what is drawn where, and that nothing in a name becomes layout."""

from dataclasses import replace

import numpy
import pandas
import pytest

from paraknow_core.display import ARMS
from paraknow_core.figures import compare as charts
from paraknow_core.ops.statistics import PairedResult
from paraknow_core.spec import RunSpec
from paraknow_core.studies.arms import Arm
from paraknow_core.studies.differences import Contrast


def arm(label="default LoRA", method="default_lora", value=0.4, **more):
    return {
        "label": label,
        "method": method,
        "variant": 0,
        "value": value,
        "low": value - 0.05,
        "high": value + 0.05,
        "n": 300,
        "unit": "share",
        "seeds": 1,
        "points": [value],
        **more,
    }


def texts(figure):
    return " | ".join(str(a.text) for a in figure.layout.annotations)


def test_arms_keep_their_colour_and_variants_differ_in_more_than_colour():
    for dark in (False, True):
        assert charts.look_of("pissa", 0, dark).colour.lower() == ARMS["pissa"].shade(dark).lower()
    looks = [charts.look_of("seeking", n, False) for n in range(4)]
    assert len({look.symbol for look in looks}) == len({look.dash for look in looks}) == 4
    assert len({look.colour for look in looks}) > 2


def test_scores_show_intervals_seeds_and_untouched_models_only_where_they_fit():
    rows = [
        arm("a", seeds=2, points=[0.38, 0.42]),
        arm("b", "pissa"),
        arm("student, untouched", "student", 0.41),
        arm("teacher, untouched", "teacher", 0.99),
    ]
    figure = charts.score_forest(rows, "T", "s")
    assert "(2 seeds)" in texts(figure)
    assert "student, untouched" in texts(figure) and "teacher" not in texts(figure)
    assert list(figure.data[0].x) == [38.0, 42.0]
    assert figure.data[1].error_x.array[0] == pytest.approx(5)
    assert list(figure.layout.yaxis.ticktext) == ["a", "b"]


def test_differences_stand_around_zero_with_published_values_apart():
    base = Arm("b", "default LoRA", "default_lora", 0, RunSpec(), (), ())
    own, other = (replace(base, key=key, label=key, method="seeking") for key in ("m", "z"))
    found = Contrast(own, "share", 60, 1, PairedResult(0.02, -0.01, 0.05, 60, 0.2, "x"))
    lost = Contrast(other, "share", 60, 1, None)
    figure = charts.difference_forest([found, base, lost], "T", "s", published=[("m", "GSM8K", 1.47)])
    assert "+2.0 (-1.0 to +5.0)" in texts(figure)
    assert "compared with this" in texts(figure) and "not paired" in texts(figure)
    assert "paper (LLaMA-1)" in texts(figure)
    assert figure.data[-1].marker.symbol == "diamond-open"
    low, high = figure.layout.xaxis.range
    assert low < 0 < 5 < high


def test_names_are_escaped_and_broken():
    long = "<b>bold</b> " + "word " * 30
    figure = charts.score_forest([arm(long)], "T", "s")
    assert "<b>" not in figure.layout.yaxis.ticktext[0]
    assert figure.layout.yaxis.ticktext[0].count("<br>") == 1


def test_curves_share_a_colour_and_a_legend_entry_within_an_arm():
    table = pandas.DataFrame({"step": range(50), "loss": numpy.linspace(3, 1, 50)})
    curves = [charts.RunCurve("m", "seeking", 0, seed, table) for seed in (0, 1)]
    figure = charts.overlaid([*curves, charts.RunCurve("d", "default_lora", 0, 0, table)], "loss", smoothing=0.5)
    assert [t.name for t in figure.data if t.showlegend] == ["m", "d"]
    assert len(figure.data) == 6  # each raw curve stays under its smoothed one
    assert len(charts.overlaid(curves, "validation_loss").data) == 0


def cell(role, layer, value):
    return {"module": f"layers.{layer}.{role}", "role": role, "layer": layer, "v": value}


@pytest.mark.parametrize("kind", ["size", "share", "change"])
def test_module_maps_place_every_cell_and_leave_gaps_empty(kind):
    records = [cell("q", 0, 0.1), cell("down", 1, 0.4), cell("q", 1, None), {**cell("embed", None, 9.0)}]
    figure = charts.module_map(records, "v", "T", "s", kind=kind)
    heat = figure.data[0]
    assert list(figure.layout.xaxis.ticktext) == ["q", "down"]
    assert numpy.isnan(heat.z[1][0]) and numpy.isnan(heat.z[0][1])
    assert heat.text[1][0] == "–"
    if kind == "change":
        assert (heat.zmid, heat.zmin, heat.zmax) == (0, -0.4, 0.4)
        assert heat.colorscale[1][1] == "#F7F7F5"
    if kind == "share":
        assert (heat.zmin, heat.zmax) == (0, 1)


def test_two_maps_share_their_colours_and_nothing_is_no_error():
    figure = charts.module_map([cell("q", 0, 0.1)], "v", kind="size", limits=(0.01, 1.0))
    assert (figure.data[0].zmin, figure.data[0].zmax) == (-2, 0)
    for kind in ("size", "share", "change"):
        charts.module_map([], "v", kind=kind)
        charts.module_map([cell("q", 0, None)], "v", kind=kind)
