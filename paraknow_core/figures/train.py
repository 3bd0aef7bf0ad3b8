"""Curves of runs that train: raw values behind smoothed ones, several runs over one axis. Arrays in, figures out."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy
import plotly.graph_objects as go

from paraknow_core.display import arm_of, duration, memory
from paraknow_core.figures import draw
from paraknow_core.figures.style import MAX_POINTS, blank, legend_below, readable, smoothed, thin
from paraknow_core.runs.metrics import Metrics

Points = tuple[numpy.ndarray, numpy.ndarray]
AXES = {"step": "optimiser step", "epoch": "epoch", "elapsed": "training time"}
HOVER = {"step": "step %{x:,.0f}", "epoch": "epoch %{x:.2f}", "elapsed": "%{x:,.0f} s"}
# column -> title, subtitle, how the browser writes a value
SMALL = {
    "learning_rate": ("Learning rate", "of the schedule", "%{y:.3~g}"),
    "grad_norm": ("Gradient norm", "before clipping", "%{y:.3~g}"),
    "tokens_per_s": ("Speed", "tokens per second", "%{y:,.0f} tokens/s"),
    "memory_bytes": ("Memory", "of the run's process", "%{y:.3~s}B"),
}
HEIGHT, INNER = 350, 240  # pixels of the large picture, and of the lines in it
MOST_LABELS = 5
LONGEST_LABEL = 24  # letters; what stands beside the lines is lost to them
LARGE_POINTS, SMALL_POINTS = MAX_POINTS, 500  # of one curve in the large and in a small picture
NATS = "%{y:.4f} nats"
DASHES = ("solid", "dot", "dashdot", "longdash", "longdashdot")  # for several seeds of one arm


@dataclass(frozen=True)
class Line:
    """One run's values of one metric, ready to draw.

    Attributes:
        label: what names it in the picture.
        arm: its method, for the colour.
        shown: x and y, smoothed if asked for.
        raw: x and y as measured, drawn pale behind; None where nothing was smoothed.
        validation: x and y of the validation loss, never smoothed.
        focus: the run that the page is about: drawn stronger.
        number: how many runs of this arm come before it, for the dash.
    """

    label: str
    arm: str
    shown: Points
    raw: Points | None = None
    validation: Points | None = None
    focus: bool = True
    number: int = 0


def points(metrics: Metrics, column: str, axis: str, beta: float = 0.0, limit: int = LARGE_POINTS) -> Points:
    """Return x and y of a run's metric as `to_draw` gives them; kept until the run has new steps."""
    return metrics.kept((column, axis, beta, limit), lambda known: to_draw(*known.points(column, axis), beta, limit))


def to_draw(x: numpy.ndarray, y: numpy.ndarray, beta: float, limit: int = LARGE_POINTS) -> Points:
    """Return a curve's points smoothed, then thinned to `limit`, in 32 bits: no screen is finer."""
    x, y = thin(x, smoothed(y, beta), limit)
    return x.astype(numpy.float32), y.astype(numpy.float32)


def loss(lines: Sequence[Line], axis: str = "step", title: str = "", subtitle: str = "", *, dark: bool) -> go.Figure:
    """Draw training loss (line; pale where raw) and validation loss (dashed, markers) of one or several runs."""
    figure = blank(title, subtitle, dark, height=HEIGHT)
    ends: list[tuple[Points, str, Line]] = []
    for line in lines:
        name = "" if len(lines) == 1 else f"{line.label}, "
        _add(figure, line, f"{name}training", axis, dark, NATS)
        ends.append((line.shown, line.label if name else "training", line))
        if line.validation is not None and len(line.validation[0]):
            _add_validation(figure, line, f"{name}validation", axis, dark)
            if not name:
                ends.append((line.validation, "validation", line))
    _label(figure, [end for end in ends if len(end[0][0])], dark)
    figure.update_yaxes(title_text="loss [nats per token]")
    return _finish(figure, axis, lines)


def metric(lines: Sequence[Line], column: str, axis: str = "step", *, dark: bool) -> go.Figure:
    """Draw one of `SMALL` of one or several runs, small."""
    title, subtitle, value = SMALL[column]
    figure = blank(title, subtitle, dark, height=225)
    for line in lines:
        _add(figure, line, line.label, axis, dark, value)
    largest = max((float(numpy.max(line.shown[1])) for line in lines if len(line.shown[1])), default=0.0)
    if column == "memory_bytes":
        top = max(largest, 1.0)
        ticks = [top * share for share in (0, 0.5, 1)]
        figure.update_yaxes(tickvals=ticks, ticktext=[memory(t) for t in ticks])
    figure.update_yaxes(rangemode="tozero", nticks=4, tickformat=".1~e" if 0 < largest < 0.01 else None)
    return _finish(figure, axis, lines)


def _add(figure: go.Figure, line: Line, name: str, axis: str, dark: bool, value: str) -> None:
    colour, dash = arm_of(line.arm).shade(dark), DASHES[line.number % len(DASHES)]
    if line.raw is not None and len(line.raw[0]):
        pale = 0.16 if not line.focus else 0.45 if dark else 0.3
        thin_line = {"color": colour, "width": 1}
        draw.scatter(figure, *line.raw, "lines", line=thin_line, opacity=pale, showlegend=False, name=f"{name}, raw")
    if len(line.shown[0]):
        mode = "lines" if len(line.shown[0]) > 1 else "markers"
        stroke = {"color": colour, "width": 2.2 if line.focus else 1.3, "dash": dash}
        _named(figure, line, line.shown, mode, name, f"{HOVER[axis]}: {value}", line=stroke)


def _add_validation(figure: go.Figure, line: Line, name: str, axis: str, dark: bool) -> None:
    stroke = {"color": arm_of(line.arm).shade(dark), "width": 1.6, "dash": "dash"}
    marker = {"size": 7, "symbol": "circle" if line.focus else "circle-open"}
    hover = f"{HOVER[axis]}: {NATS}"
    _named(figure, line, line.validation, "lines+markers", name, hover, line=stroke, marker=marker)


def _named(figure: go.Figure, of: Line, points: Points, mode: str, name: str, hover: str, **look: Any) -> None:
    opacity = 1.0 if of.focus else 0.8
    draw.scatter(figure, *points, mode, hover, extra=escape(name), name=escape(name), opacity=opacity, **look)


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Return the places moved up just so far that each is at least `gap` above the one below it."""
    moved = list(places)
    below = -numpy.inf
    for index in sorted(range(len(moved)), key=lambda index: moved[index]):
        below = moved[index] = max(moved[index], below + gap)
    return moved


def _label(figure: go.Figure, ends: list[tuple[Points, str, Line]], dark: bool) -> None:
    """Name the lines at their ends, above each other where they end close together; many or long names in a legend."""
    if len(ends) > MOST_LABELS or any(len(text) > LONGEST_LABEL for _, text, _ in ends):
        legend_below(figure, [str(trace.name) for trace in figure.data if trace.showlegend is not False])
        return
    heights = numpy.concatenate([numpy.asarray(trace.y) for trace in figure.data] or [numpy.zeros(1)])
    pixels = INNER / (float(numpy.ptp(heights)) or 1.0)  # a unit of loss, on screen
    places = spread([float(points[1][-1]) * pixels for points, _, _ in ends], 16)
    for (points, text, line), place in zip(ends, places, strict=True):
        x, y = float(points[0][-1]), float(points[1][-1])
        colour = readable(arm_of(line.arm).shade(dark), dark)
        draw.write(figure, x, y, escape(text), colour, xanchor="left", xshift=6, yshift=place - y * pixels)
    if ends:
        figure.update_layout(margin={"r": 24 + 7 * max(len(text) for _, text, _ in ends)})


def _finish(figure: go.Figure, axis: str, lines: Sequence[Line]) -> go.Figure:
    """Name the axis; a zoom stays while new points come, until another axis is chosen."""
    longest = max((float(line.shown[0][-1]) for line in lines if len(line.shown[0])), default=0.0)
    # Labels stand in the margin: left to itself, the axis would make room for them a second time.
    figure.update_xaxes(title_text=AXES[axis], range=[0, longest * 1.01] if longest > 0 else None)
    if axis == "elapsed" and longest > 0:
        ticks = numpy.linspace(0, longest, 5)
        figure.update_xaxes(tickvals=ticks, ticktext=[duration(float(tick)) for tick in ticks])
    figure.update_layout(uirevision=axis)
    return figure
