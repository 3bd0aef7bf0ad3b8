"""What figures are made of: points, bars, words, maps of cells, intervals and rows, each in the common style."""

from collections.abc import Sequence
from typing import Any

import numpy
import plotly.graph_objects as go

from paraknow_core.figures.style import ink

MOST_LABELLED = 16  # layers whose cells have room for their numbers
HIDDEN = "rgba(128,128,128,0.01)"  # of targets: Plotly reports no clicks on what is not drawn at all


def scatter(
    figure: go.Figure, x: Sequence, y: Sequence, mode: str, hover: str = "", *, extra: str = "", **more: Any
) -> None:
    """Add points, lines or words.

    Args:
        figure: takes them.
        x, y: their places.
        mode: of Plotly: markers, lines, text.
        hover: template of the words beside the pointer, its names escaped; without any they do not answer to it.
        extra: words beside these, in the colour of the trace.
        more: for the trace; `row` and `col` choose a subplot.
    """
    _add(figure, go.Scatter, x, y, hover, extra, {"mode": mode, **more})


def bars(figure: go.Figure, x: Sequence, y: Sequence, hover: str, **more: Any) -> None:
    """Add bars; arguments as those of `scatter`."""
    _add(figure, go.Bar, x, y, hover, "", more)


def _add(figure: go.Figure, kind: type, x: Sequence, y: Sequence, hover: str, extra: str, more: dict[str, Any]) -> None:
    where = {key: more.pop(key) for key in ("row", "col") if key in more}
    tip = {"hovertemplate": f"{hover}<extra>{extra}</extra>"} if hover else {"hoverinfo": "skip"}
    figure.add_trace(kind(x=x, y=y, **tip, **more), **where)


def write(figure: go.Figure, x: Any, y: Any, text: str, colour: str | None = None, **more: Any) -> None:
    """Write words into a figure.

    Args:
        figure: takes them.
        x, y: their place, on the axes.
        text: with names escaped.
        colour: default: the ink.
        more: for the annotation.
    """
    font = {"font": {"color": colour}} if colour else {}
    figure.add_annotation(x=x, y=y, text=text, showarrow=False, **font, **more)


def heatmap(figure: go.Figure, z: numpy.ndarray, bar: dict[str, Any], hover: str = "", **more: Any) -> None:
    """Add a heatmap.

    Args:
        figure: takes it.
        z: (rows, columns), NaN for no cell.
        bar: the colour bar; see `upright_bar` and `flat_bar`.
        hover: as in `scatter`.
        more: for the trace; `row` and `col` choose a subplot.
    """
    where = {key: more.pop(key) for key in ("row", "col") if key in more}
    tip = {"hovertemplate": f"{hover}<extra></extra>"} if hover else {"hoverinfo": "skip"}
    figure.add_trace(go.Heatmap(z=z, colorbar=bar, **tip, **{"colorscale": "Cividis", **more}), **where)


def upright_bar(title: str, ticks: dict[str, Any]) -> dict[str, Any]:
    """Return a colour bar at the right of a map of layers and modules."""
    words = {"text": title, "side": "right", "font": {"size": 13}}
    return {"thickness": 12, "len": 0.9, "outlinewidth": 0, "x": 1.01, "xpad": 4, **ticks, "title": words}


def flat_bar(title: str, ticks: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a colour bar below the map of a matrix."""
    words = {"text": title, "side": "bottom", "font": {"size": 13}}
    place = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.19, "yanchor": "top"}
    return {**(ticks or {}), **place, "thickness": 10, "outlinewidth": 0, "len": 0.8, "title": words}


def spanned(cells: int, blocks: int, start: int = 0) -> tuple[float, float]:
    """Return where the first of equally wide blocks is centred, and how wide one is, on an axis that counts cells."""
    width = cells / blocks
    return start + width / 2 - 0.5, width


def cell_texts(figure: go.Figure, x: Sequence, y: Sequence, texts: Sequence[str], colours: Sequence[str]) -> None:
    """Write each cell's number on it, in a colour that can be read there."""
    scatter(figure, x, y, "text", text=texts, textfont={"size": 11.5, "color": colours})


def click_targets(figure: go.Figure, x: Sequence, y: Sequence, data: list, size: float, hover: str) -> None:
    """Add nearly transparent squares: Plotly reports clicks on points, but not on heatmap cells or lines, to a page.

    Args:
        figure: takes them; they have to be its last trace.
        x, y: their places.
        data: `customdata` of each.
        size: in pixels.
        hover: as in `scatter`.
    """
    faint = {"marker": {"opacity": 0.02}}
    marker = {"symbol": "square", "size": size, "color": HIDDEN}
    scatter(figure, x, y, "markers", hover, customdata=data, marker=marker, selected=faint, unselected=faint)


def module_axes(figure: go.Figure, roles: Sequence[str], layers: Sequence[int]) -> None:
    """Name the columns of a map after modules and its rows after layers, upwards."""
    figure.update_xaxes(title_text="module", tickvals=list(range(len(roles))), ticktext=list(roles), showgrid=False)
    figure.update_yaxes(title_text="layer", tickvals=layers[:: max(1, len(layers) // 20)], showgrid=False)


def error_bars(
    values: Sequence[float], lows: Sequence[float | None], highs: Sequence[float | None], dark: bool, **more: Any
) -> dict[str, Any]:
    """Return `error_x` of intervals; one without an end has no bar on that side."""
    return {
        "type": "data",
        "symmetric": False,
        "color": ink(dark),
        "thickness": 1.6,
        "width": 5,
        "array": [0 if high is None else high - value for value, high in zip(values, highs, strict=True)],
        "arrayminus": [0 if low is None else value - low for value, low in zip(values, lows, strict=True)],
        **more,
    }


def named_rows(figure: go.Figure, labels: Sequence[str], above: float, below: float) -> None:
    """Name the rows of a chart, the first one on top.

    Args:
        figure: has its rows at 0, 1, 2, ...
        labels: of the rows, escaped.
        above, below: room over the first and under the last row, in rows.
    """
    ends = [len(labels) - 1 + below, -above]
    figure.update_yaxes(tickvals=list(range(len(labels))), ticktext=labels, showgrid=False, range=ends)
