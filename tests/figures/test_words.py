"""Words of the charts stay inside of them: long titles and names, narrow windows, values at an edge."""

from dataclasses import replace

import numpy
import pandas
import pytest

from paraknow_core.figures import compare, lessons, mapping, models, sensitivity, train
from paraknow_core.figures import maps as figures
from paraknow_core.figures.style import SUBTITLE_CELLS, TITLE_CELLS, anchor_at, blank, wrapped
from paraknow_core.ops.statistics import PairedResult
from paraknow_core.sensitivity.agreement import Agreement, Correlation
from paraknow_core.spec import GROUP_OF_ROLE, RunSpec
from paraknow_core.studies.arms import Arm
from paraknow_core.studies.differences import Contrast
from paraknow_core.studies.lessons import Panel, Row

LONG = "a rather long name that somebody gave to a model, 7B → another one of the same kind, 1B; 95 % intervals"
TEXTS = [LONG, "模型" * 40, "Größe-моделей-" + "x" * 90, "<b>&amp; " * 12, ""]


def cells(text: str) -> int:
    return sum(2 if "\u2e80" <= letter <= "\uffdc" else 1 for letter in text)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("width", [7, 50])
def test_no_line_is_wider_than_asked_and_no_letter_is_lost(text, width):
    lines = wrapped(text, width)
    assert all(0 < cells(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    if " " in text and max(map(cells, text.split())) <= width:
        assert " ".join(lines) == " ".join(text.split())


@pytest.mark.parametrize("text", TEXTS)
def test_long_titles_take_lines_and_the_picture_grows_by_them(text):
    short, figure = blank("T", "s", False, 300), blank(text or "T", text or "s", False, 300)
    title, subtitle = figure.layout.title.text.split("<br>"), figure.layout.title.subtitle.text.split("<br>")
    assert (len(title), len(subtitle)) == (
        len(wrapped(text or "T", TITLE_CELLS)),
        len(wrapped(text or "s", SUBTITLE_CELLS)),
    )
    taller = figure.layout.height - 300
    assert taller == figure.layout.margin.t - short.layout.margin.t
    assert taller >= 16 * (len(title) + len(subtitle) - 2)
    assert "<b>" not in figure.layout.title.text


def test_words_at_an_edge_point_inwards():
    assert [anchor_at(x, (0, 10)) for x in (0, 3, 5, 7, 10)] == ["left", "left", "center", "right", "right"]
    assert anchor_at(3, (3, 3)) == "left"


@pytest.mark.parametrize(
    ("cosine", "anchor"), [(0.98, "right"), (-0.98, "left"), (0.0, "center"), (0.5, "right"), (1.0, "right")]
)
def test_the_cosine_of_a_block_is_read_whole(cosine, anchor):
    [note] = mapping.cosine_strip(cosine, numpy.linspace(-0.1, 0.1, 30)).layout.annotations
    assert note.xanchor == anchor
    assert note.text.startswith("this block")


@pytest.mark.parametrize(("mass", "area"), [(0.99, 0.98), (0.02, 0.01), (0.9, 0.1)])
def test_both_marks_of_a_histogram_are_read_whole(mass, area):
    facts = {"captured_mass": mass, "area_fraction": area, "offsets": {"lowest": 0.0, "highest": 1.0, "at_most": 1.0}}
    figure = mapping.mass_histogram(facts, numpy.array([1, 3, 2]))
    own, other = figure.layout.annotations
    ends = figure.layout.xaxis.range
    assert own.xanchor == anchor_at(100 * mass, ends)
    assert other.xanchor == anchor_at(100 * area, ends)
    assert own.y != other.y


@pytest.mark.parametrize(("rank", "anchor"), [(1, "left"), (50, "center"), (100, "right")])
def test_the_rank_of_a_spectrum_is_read_whole(rank, anchor):
    [note] = mapping.spectrum_cut(numpy.linspace(2, 1, 100), rank, 0.9).layout.annotations
    assert note.xanchor == anchor


BASE = Arm("b", "default LoRA", "default_lora", 0, RunSpec(), (), ())


def difference(label, low, high):
    arm = replace(BASE, key=label, label=label, method="seeking")
    return Contrast(arm, "share", 60, 1, PairedResult((low + high) / 2, low, high, 60, 0.2, "p"))


@pytest.mark.parametrize(("low", "high", "anchor"), [(0.3, 0.5, "left"), (-0.5, -0.3, "right"), (-0.4, 0.4, "center")])
def test_the_arm_to_compare_with_does_not_run_into_its_name(low, high, anchor):
    figure = compare.difference_forest([difference("m", low, high), BASE])
    base = next(note for note in figure.layout.annotations if note.text == "compared with this")
    assert base.xanchor == anchor
    own = next(note for note in figure.layout.annotations if "to" in note.text)
    assert own.xanchor == anchor_at(50 * (low + high), figure.layout.xaxis.range)


def test_untouched_models_that_score_alike_stand_under_one_another():
    rows = [
        {"label": f"{method}, untouched", "method": method, "value": 0.4, "low": 0.3, "high": 0.5, "unit": "share"}
        for method in ("student", "teacher")
    ]
    arm = {"label": "m", "method": "seeking", "value": 0.41, "low": 0.2, "high": 0.6, "unit": "share", "seeds": 1}
    notes = [note for note in compare.score_forest([*rows, arm]).layout.annotations if "untouched" in note.text]
    assert len({note.yshift for note in notes}) == 2


NAMES = (LONG[:60], "模型" * 14 + ", word problems")
FOUND = Agreement(
    ("q", "up"),
    (2, 2),
    (numpy.full((2, 2), 0.2), numpy.full((2, 2), 0.3)),
    (numpy.array([0.3, 0.4]), numpy.array([0.2, 0.8])),
    Correlation(None, None, 2),
    Correlation(None, None, 2),
)
CURVE = (numpy.arange(9.0), numpy.linspace(3, 1, 9))


def with_legends():
    part = {"role": "q", "group": "attention", "parameters": 300, "modules": 6}
    table = pandas.DataFrame({"step": range(9), "loss": CURVE[1]})
    many = [train.Line(f"run {n}", "pissa", CURVE) for n in range(6)]
    runs = [compare.RunCurve(f"{LONG[:60]} {n}", "pissa", n, 0, table) for n in (0, 1)]
    return {
        "layers of two": sensitivity.layer_lines(FOUND, NAMES, "T", "s"),
        "modules of two": sensitivity.share_scatter(FOUND, NAMES, "T", "s", groups=GROUP_OF_ROLE),
        "one model": models.parameter_bars({"a": [part]}, "T", "s"),
        "two models": models.parameter_bars({"a": [part], "b": [part]}, "T", "s"),
        "many curves": train.loss(many, "step", "T", "s", dark=False),
        "long names": train.loss([train.Line(f"{LONG[:30]} {n}", "olora", CURVE) for n in (1, 2)], dark=False),
        "overlaid": compare.overlaid(runs, "loss"),
    }


def test_a_legend_stands_under_the_axis_in_room_of_its_own():
    for name, figure in with_legends().items():
        legend, layout = figure.layout.legend, figure.layout
        assert (legend.yref, legend.y, legend.yanchor) == ("container", 0, "bottom"), name
        shown = [trace for trace in figure.data if trace.showlegend is not False and trace.name]
        assert layout.showlegend, name
        assert layout.margin.b >= 30, name
        assert layout.height - layout.margin.t - layout.margin.b >= 80, name  # what is left for the lines themselves
        assert all(cells(line) <= 60 for trace in shown for line in trace.name.split("<br>")), name


def test_names_beside_an_axis_are_broken_and_not_cut():
    figure = sensitivity.share_scatter(FOUND, NAMES, groups=GROUP_OF_ROLE)
    for axis, name in ((figure.layout.yaxis, NAMES[0]), (figure.layout.xaxis, NAMES[1])):
        assert axis.title.text.replace("<br>", "").replace(" ", "") == f"share in {name}".replace(" ", "")
        assert max(map(cells, axis.title.text.split("<br>"))) <= sensitivity.AXIS_CELLS


def test_scores_stand_over_their_bars_where_the_longest_leaves_room_too():
    row = {"arm": "pissa", "low": 0.9, "high": 1.0, "n": 300, "unit": "share", "value": 0.95}
    figure = figures.score_bars(pandas.DataFrame([{**row, "label": LONG[:44]}, {**row, "label": "b"}]))
    bars, texts = figure.data
    assert list(texts.x) == [0, 0]
    assert texts.y[0] < bars.y[0] - bars.width / 2
    assert len(figure.layout.yaxis.ticktext[0].split("<br>")) == 2
    assert figure.layout.xaxis.range[1] < 110


def test_a_lesson_has_room_for_its_title_and_subtitle():
    panel = Panel(LONG, LONG, "score [%]", (Row("a", "seeking", 1.0),))
    figure = lessons.panel_figure(panel)
    assert figure.layout.height > lessons.panel_figure(Panel("T", "s", "score [%]", panel.rows)).layout.height
    assert "<br>" in figure.layout.title.subtitle.text
