"""Curves of training: smoothing equals plain loops, labels do not overlap, raw stays visible."""

import numpy
import pytest

from paraknow_core.figures import train as charts
from paraknow_core.figures.train import Line


def line(label="seeking", arm="seeking", n=50, shift=0.0, **more) -> Line:
    x = numpy.arange(1.0, n + 1)
    return Line(label, arm, (x, 3 / x + shift), **more)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9, 0.99])
def test_smoothing_is_the_corrected_moving_average(beta):
    values = numpy.random.default_rng(0).normal(size=200)
    moving, expected = 0.0, []
    for number, value in enumerate(values, 1):
        moving = beta * moving + (1 - beta) * value
        expected.append(moving / (1 - beta**number))
    numpy.testing.assert_allclose(charts.smoothed(values, beta), expected, rtol=1e-9)


def test_smoothing_by_hand_and_of_nothing():
    numpy.testing.assert_allclose(charts.smoothed(numpy.array([1.0, 3.0]), 0.5), [1.0, (0.5 * 0.5 + 1.5) / 0.75])
    assert len(charts.smoothed(numpy.empty(0), 0.9)) == 0


def test_labels_are_moved_apart_and_only_as_far_as_needed():
    assert charts.spread([0.0, 100.0, 50.0], 16) == [0.0, 100.0, 50.0]
    assert charts.spread([5.0, 0.0, 1.0], 16) == [32.0, 0.0, 16.0]
    assert charts.spread([], 16) == []


def test_one_run_shows_raw_smooth_and_validation():
    x = numpy.arange(3.0)
    figure = charts.loss([line(raw=(x, x), validation=(x, x))], "step", "Loss", "for what", dark=False)
    assert [trace.name for trace in figure.data] == ["training, raw", "training", "validation"]
    assert figure.data[0].opacity < 0.5 < figure.data[1].opacity
    assert {note.text for note in figure.layout.annotations} == {"training", "validation"}
    assert figure.layout.yaxis.title.text == "loss [nats per token]"


def test_several_runs_keep_their_arms_colours_and_seeds_their_dashes():
    lines = [line("PiSSA", "pissa"), line("a", n=40, number=1, focus=False), line("b <script>")]
    figure = charts.loss(lines, "step", dark=True)
    assert [trace.line.color for trace in figure.data] == ["#E69F00", "#0072B2", "#0072B2"]
    assert [trace.line.dash for trace in figure.data] == ["solid", "dot", "solid"]
    assert figure.layout.annotations[2].text == "b &lt;script&gt;"
    shifts = sorted(
        3 / n * charts.INNER / 2.94 + note.yshift
        for n, note in zip((50, 40, 50), figure.layout.annotations, strict=True)
    )
    assert min(numpy.diff(shifts)) >= 15.9


def test_many_runs_get_a_legend_and_time_gets_readable_ticks():
    figure = charts.loss([line(str(i), shift=i) for i in range(8)], "elapsed", dark=False)
    assert figure.layout.showlegend
    assert not figure.layout.annotations
    assert figure.layout.xaxis.ticktext[-1] == "50 s"
    assert figure.layout.uirevision == "elapsed"


@pytest.mark.parametrize("column", charts.SMALL)
@pytest.mark.parametrize("axis", charts.AXES)
def test_small_metrics_are_drawn_over_every_axis_even_when_empty(column, axis):
    figure = charts.metric([line(n=1), line("default LoRA", "default_lora", n=0)], column, axis, dark=False)
    assert figure.layout.title.text == charts.SMALL[column][0]
    assert figure.layout.xaxis.title.text == charts.AXES[axis]
    assert charts.metric([], column, axis, dark=True).data == ()
