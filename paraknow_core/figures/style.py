"""What every figure shares: ink and paper in both themes, colours that can be read, log colour scales, thinning."""

from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

import numpy
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from paraknow_core.display import compact, significant

if TYPE_CHECKING:
    import pandas

MAX_POINTS = 2000  # on screen, of one curve
MAX_BINS = 512  # of one profile
TITLE_CELLS, SUBTITLE_CELLS = 50, 58  # of a line: what a window of 420 pixels has room for, or half of a wide one
LEGEND_CELLS = 26  # longer names have a line each
READABLE = 4.5  # contrast that text needs
HIGHLIGHT = "#D55E00"
BLUE = "#0072B2"


def ink(dark: bool) -> str:
    """Return the colour of text and error bars."""
    return "#E6E9E8" if dark else "#1F2427"


def paper(dark: bool) -> str:
    """Return the colour of the page."""
    return "#14181B" if dark else "#FCFCFB"


def neutral(dark: bool) -> str:
    """Return a grey for what is not in focus."""
    return "#8C9498" if dark else "#A7AEB1"


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, 1 to 21; text needs 4.5.

    Args:
        one, other: as `#RRGGBB`.

    Source:
        WCAG 2.2, relative luminance and contrast ratio.
    """
    high, low = sorted((_luminance(_parts(one)), _luminance(_parts(other))), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _parts(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _luminance(parts: Sequence[float]) -> float:
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in (part / 255 for part in parts)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def mixed(colour: str, other: str, part: float) -> str:
    """Return a colour with a part of another mixed into it."""
    return "#" + "".join(f"{round(a + part * (b - a)):02X}" for a, b in zip(_parts(colour), _parts(other), strict=True))


@lru_cache(maxsize=512)
def readable(colour: str, dark: bool) -> str:
    """Return the colour for text on the page: mixed with as little ink as can be read."""
    steps = (mixed(colour, ink(dark), part / 20) for part in range(21))
    return next(step for step in steps if contrast(step, paper(dark)) >= READABLE)


@lru_cache(maxsize=4096)
def text_on(colour: str) -> str:
    """Return the colour for text on a coloured ground: white or black, one of which can be read on any."""
    return max(("#FFFFFF", "#000000"), key=lambda text: contrast(text, colour))


def texts_on_scale(values: Sequence[float], low: float, high: float, scale: object = "Cividis") -> list[str]:
    """Return the colours for texts on the cells of a heatmap.

    Args:
        values: of the cells; those outside of the scale are drawn like its ends.
        low, high: ends of the scale.
        scale: name of a colour scale of Plotly, or its stops.
    """
    width = (high - low) or 1.0
    places = [min(1.0, max(0.0, (value - low) / width)) for value in values]
    colours = sample_colorscale(scale, places, colortype="tuple") if places else []
    return [text_on("#" + "".join(f"{round(255 * part):02X}" for part in colour)) for colour in colours]


def blank(title: str, subtitle: str, dark: bool, height: int) -> go.Figure:
    """Return an empty figure in the common style."""
    # A copy takes a tenth of the time of styling: plotly checks every value, and a page draws several figures.
    figure = go.Figure(_styled(bool(title), bool(subtitle), dark))
    figure.layout.height = height
    _head(figure, title, subtitle)
    return figure


def _head(figure: go.Figure, title: str, subtitle: str) -> None:
    """Write title and subtitle, on several lines where they are long: Plotly would cut them off at the edge."""
    titles, subtitles = wrapped(title, TITLE_CELLS), wrapped(subtitle, SUBTITLE_CELLS)
    figure.layout.title.text = "<br>".join(escape(line, quote=False) for line in titles)
    figure.layout.title.subtitle.text = "<br>".join(escape(line, quote=False) for line in subtitles)
    taller = 21 * max(0, len(titles) - 1) + 17 * max(0, len(subtitles) - 1)
    if len(titles) > 1:
        figure.layout.title.pad.t, taller = 12, taller + 6  # Plotly sets the first of several lines higher
    if taller:
        figure.layout.margin.t += taller
        figure.layout.height += taller


def wrapped(text: str, width: int) -> list[str]:
    """Break a text into lines at its spaces, and inside of words that are longer than a line.

    Args:
        text: as people read it, without markup.
        width: cells of a line; letters of East Asian scripts take two.
    """
    lines: list[str] = []
    for word in text.split():
        while True:
            line = f"{lines[-1]} {word}" if lines else word
            if _cells(line) <= width:
                lines[-1:] = [line]
                break
            if _cells(word) <= width:
                lines.append(word)
                break
            fits = next(n for n in range(len(word), 0, -1) if n == 1 or _cells(word[:n]) <= width)
            lines.append(word[:fits])
            word = word[fits:]  # its rest
    return lines


def _cells(text: str) -> int:
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def anchor_at(x: float, ends: Sequence[float]) -> str:
    """Return how words at a place of an axis are anchored so that they stay inside: left, center or right.

    Args:
        x: the place.
        ends: of the axis.
    """
    share = (x - ends[0]) / ((ends[1] - ends[0]) or 1.0)
    return "left" if share < 0.4 else "right" if share > 0.6 else "center"


def legend_below(figure: go.Figure, names: Sequence[str]) -> None:
    """Show the legend under the axis, and make the room that its names take: over the plot it would lie on the title.

    Args:
        names: what stands in it.
    """
    rows = (
        len(names)
        if any(_cells(name) > LEGEND_CELLS for name in names)
        else -(-sum(_cells(name) + 8 for name in names) // SUBTITLE_CELLS)
    )
    room = 14 + 21 * max(1, rows)
    figure.update_layout(
        showlegend=True,
        height=figure.layout.height + room,
        margin={"b": figure.layout.margin.b + room},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"},
    )


@lru_cache(maxsize=8)
def _styled(title: bool, subtitle: bool, dark: bool) -> go.Figure:
    return style(go.Figure(), "t" * title, "s" * subtitle, dark, 300)


def style(figure: go.Figure, title: str, subtitle: str, dark: bool, height: int) -> go.Figure:
    """Give a figure the common style: transparent, calm axes, title and subtitle at the left. Returns it."""
    grid = "rgba(140,148,152,0.25)"
    figure.update_layout(
        template="none",
        height=height,
        showlegend=False,
        bargap=0.25,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 12, "r": 16, "t": 64 if subtitle else 44 if title else 12, "b": 12},
        font={"family": '"Source Sans", "Source Sans 3", system-ui, sans-serif', "size": 13, "color": ink(dark)},
        title={
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 0.99,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": 16},
            "pad": {"t": 6},
            "subtitle": {"font": {"size": 12.5, "color": "#9AA2A6" if dark else "#5F676B"}},
        },
        hoverlabel={
            "bgcolor": "#252C31" if dark else "#FFFFFF",
            "bordercolor": neutral(dark),
            "font": {"color": ink(dark), "size": 13},
        },
        # Few buttons: a long bar would lie over the title. Dragging zooms, a double click goes back.
        modebar={
            "bgcolor": "rgba(0,0,0,0)",
            "color": neutral(dark),
            "activecolor": ink(dark),
            "remove": ["zoom", "pan", "select", "lasso", "zoomin", "zoomout", "autoscale"],
        },
    )
    axis = {
        "gridcolor": grid,
        "zeroline": False,
        "linecolor": grid,
        "automargin": True,
        "title": {"standoff": 8, "font": {"size": 13}},
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    _head(figure, title, subtitle)
    return figure


def log_scale(values: numpy.ndarray, floor: float = 0.0) -> tuple[numpy.ndarray, dict]:
    """Return log10 of the values and the ticks that name the true values.

    Args:
        values: any shape, non-negative; NaN stays NaN.
        floor: everything smaller (zeros, too) is drawn like this value; by default like the smallest positive one.
    """
    values = numpy.asarray(values, dtype=numpy.float64)
    positive = values[numpy.isfinite(values) & (values > 0)]
    if not positive.size:
        return numpy.where(numpy.isnan(values), numpy.nan, 0.0), {"tickvals": [0], "ticktext": ["0"]}
    floor = max(floor, float(positive.min()))
    low, high = numpy.log10(floor), numpy.log10(max(floor, float(positive.max())))
    logs = numpy.log10(numpy.where(numpy.isnan(values), numpy.nan, numpy.maximum(values, floor)))
    if high - low < 1.2:
        ticks = numpy.unique(numpy.linspace(low, high, 3))
    else:
        step = max(1, int(numpy.ceil((high - low) / 5)))
        ticks = numpy.arange(numpy.ceil(low), numpy.floor(high) + 1, step)
    return logs, {"tickvals": ticks.tolist(), "ticktext": [_tick_text(t) for t in ticks]}


def _tick_text(exponent: float) -> str:
    if exponent == round(exponent):
        return significant(10.0**exponent, 1).removeprefix("1 × ")
    return compact(10**exponent)


def thin(x: numpy.ndarray, y: numpy.ndarray, limit: int = MAX_POINTS) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Keep at most `limit` points of a curve: the lowest and the highest of each stretch, so that spikes stay."""
    if len(x) <= limit:
        return x, y
    edges = numpy.linspace(0, len(x), limit // 2 + 1).astype(int)
    keep = {0, len(x) - 1}
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        keep.update((start + int(numpy.argmin(y[start:end])), start + int(numpy.argmax(y[start:end]))))
    # The two ends may be two points more than the stretches give: leave two inner ones out for them.
    chosen = sorted(keep)
    chosen = chosen if len(chosen) <= limit else [chosen[0], *chosen[2:-2], chosen[-1]]
    return x[chosen], y[chosen]


def smoothed(values: numpy.ndarray, beta: float) -> numpy.ndarray:
    """Return the exponential moving average, with its start put right.

    Args:
        values: finite numbers, one a step.
        beta: 0 (nothing is smoothed) to below 1; m_t = beta m_(t-1) + (1 - beta) x_t, and what is returned is
            m_t / (1 - beta^t), so that the first values are not drawn towards 0.
    """
    import pandas

    if beta <= 0 or not len(values):
        return numpy.asarray(values, dtype=numpy.float64)
    return pandas.Series(values).ewm(alpha=1 - beta, adjust=True).mean().to_numpy()


def binned(profile: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return positions and means of at most MAX_BINS neighbouring stretches."""
    profile = numpy.asarray(profile, dtype=numpy.float64)
    edges = numpy.unique(numpy.linspace(0, len(profile), min(len(profile), MAX_BINS) + 1).astype(int))
    sizes = numpy.diff(edges)
    return (edges[:-1] + edges[1:] - 1) / 2, numpy.add.reduceat(profile, edges[:-1]) / sizes


def points(table: "pandas.DataFrame", column: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return steps and values of one metric, rows without it left out."""
    if column not in table.columns:
        return numpy.empty(0), numpy.empty(0)
    rows = table[["step", column]].dropna()
    return rows["step"].to_numpy(), rows[column].to_numpy(dtype=numpy.float64)
