"""Figures: a table or an array in, a Plotly figure out. No files, no user interface, no computing beyond thinning.

Every function takes `title` (what is shown), `subtitle` (for what: pair, task, n) and `dark` (the page's theme).
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from paraknow_core.display import (
    GROUP_COLOURS,
    arm_of,
    compact,
    percent,
    scaled_score,
    score_text,
    shorten,
    significant,
)
from paraknow_core.figures.style import (
    BLUE,
    COLORBAR,
    HIGHLIGHT,
    binned,
    blank,
    ink,
    log_scale,
    neutral,
    paper,
    style,
    texts_on_scale,
    wrapped,
)

if TYPE_CHECKING:
    import pandas

COLUMN_ROLES = ("q", "k", "v", "o", "gate", "up", "down")
LABEL_CELLS = 32  # of a line beside an axis
TALL = 470  # pixels; the map of the teacher and the map of one module stand side by side
MOST_LABELLED = 16  # layers whose cells have room for their numbers
VALUES = {"sum": "total", "mean": "per parameter", "share": "share of all"}


def sensitivity_heatmap(
    table: "pandas.DataFrame",
    value: str = "sum",
    title: str = "",
    subtitle: str = "",
    *,
    chosen: str | None = None,
    dark: bool = False,
    log: bool = True,
    limits: tuple[float, float] | None = None,
    height: int = TALL,
) -> go.Figure:
    """Draw layer x module, layers upwards; cells can be clicked.

    Args:
        table: one row a module, as `SensitivityStore.modules()` gives it; rows without a layer are left out.
        value: sum, mean (per parameter) or share.
        chosen: the module whose cell is framed.
        log: colour by the logarithm.
        limits: smallest and largest value of the colour scale, so that two maps can share it; default: the table's own.
        height: in pixels, at least; many layers take more.

    Returns:
        A heatmap under a nearly transparent scatter whose `customdata` begins with the module's name: Plotly reports
        clicks on points, but not on heatmap cells, to a page.
    """
    cells = table[table["layer"].notna() & table["role"].isin(COLUMN_ROLES)]
    roles = [role for role in COLUMN_ROLES if role in set(cells["role"])]
    layers = sorted({int(layer) for layer in cells["layer"]})
    matrix = numpy.full((len(layers), len(roles)), numpy.nan)
    row_of, column_of = {layer: i for i, layer in enumerate(layers)}, {role: i for i, role in enumerate(roles)}
    places = [(row_of[int(layer)], column_of[role]) for layer, role in zip(cells["layer"], cells["role"], strict=True)]
    for (row, column), number in zip(places, cells[value], strict=True):
        matrix[row, column] = number
    height = max(height, min(900, 110 + 34 * len(layers)))
    figure = blank(title, subtitle, dark, height=height)
    colours, ticks = log_scale(matrix) if log else (matrix, {"tickformat": ".0%"} if value == "share" else {})
    span = {}
    if limits is not None:
        ends, named = log_scale(numpy.array(limits)) if log else (limits, ticks)
        ticks, span = named, {"zmin": ends[0], "zmax": ends[1]}
    if log and value == "share":
        ticks = {**ticks, "ticktext": [f"{significant(100 * 10**tick, 2)} %" for tick in ticks["tickvals"]]}
    figure.add_trace(
        go.Heatmap(
            z=colours,
            x=list(range(len(roles))),
            y=layers,
            colorscale="Cividis",
            hoverinfo="skip",
            xgap=2,
            ygap=2 if len(layers) <= 40 else 1,
            **span,
            colorbar={
                **COLORBAR,
                **ticks,
                "title": {"text": f"S, {VALUES[value]}", "side": "right", "font": {"size": 13}},
            },
        )
    )
    if len(layers) <= MOST_LABELLED:
        figure.add_trace(_cell_labels(cells[value], [colours[place] for place in places], places, layers, value, span))
    figure.add_trace(_click_targets(cells, places, layers, size=min(34, 0.95 * (height - 120) / max(1, len(layers)))))
    frame_cell(figure, chosen)
    figure.update_layout(clickmode="event+select", hoverdistance=60, dragmode=False)
    figure.update_xaxes(
        title_text="module",
        tickvals=list(range(len(roles))),
        ticktext=roles,
        tickangle=0,
        showgrid=False,
        range=[-0.5, len(roles) - 0.5],
    )
    step = max(1, len(layers) // 20)
    edges = [min(layers, default=0) - 0.5, max(layers, default=0) + 0.5]
    figure.update_yaxes(title_text="layer", tickvals=layers[::step], showgrid=False, range=edges)
    return figure


def frame_cell(figure: go.Figure, module: str | None) -> go.Figure:
    """Frame a module's cell in a map whose last trace holds click targets, if it is there. Returns the figure."""
    targets = figure.data[-1]
    for data, x, y in zip(targets.customdata or (), targets.x or (), targets.y or (), strict=True):
        if data[0] == module:
            figure.add_shape(
                type="rect", x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5, line={"color": HIGHLIGHT, "width": 3}
            )
    return figure


def layer_ranking(
    scores: Sequence[float],
    kept: Sequence[int] | None = None,
    title: str = "",
    subtitle: str = "",
    *,
    dark: bool = False,
) -> go.Figure:
    """Draw each teacher layer's score as a bar with its rank; kept layers are solid, the others hatched.

    Args:
        scores: summed sensitivity of each layer, bottom layer first.
        kept: layers that serve the student; None when no mapping is known.
    """
    order = sorted(range(len(scores)), key=lambda layer: -scores[layer])
    rank = {layer: place + 1 for place, layer in enumerate(order)}
    solid = [kept is None or layer in kept for layer in range(len(scores))]
    figure = blank(title, subtitle, dark, height=300)
    figure.add_trace(
        go.Bar(
            x=list(range(len(scores))),
            y=list(scores),
            marker={
                "color": [BLUE if s else neutral(dark) for s in solid],
                "pattern": {"shape": ["" if s else "/" for s in solid], "solidity": 0.35},
            },
            text=[f"{rank[layer]}." for layer in range(len(scores))] if len(scores) <= 40 else None,
            textposition="outside",
            cliponaxis=False,
            customdata=[
                [rank[i], significant(s, 5), "" if kept is None else ("kept" if solid[i] else "left out")]
                for i, s in enumerate(scores)
            ],
            hovertemplate="layer %{x}: %{customdata[1]}<br>rank %{customdata[0]} %{customdata[2]}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="teacher layer", dtick=max(1, len(scores) // 20), showgrid=False)
    figure.update_yaxes(title_text="S, total", rangemode="tozero")
    return figure


def group_shares(groups: Mapping[str, float], title: str = "", subtitle: str = "", *, dark: bool = False) -> go.Figure:
    """Draw how the total sensitivity divides between groups: one bar each, with its share written beside it.

    Args:
        groups: group name to summed sensitivity.
    """
    total = sum(groups.values())
    names = list(groups)[::-1]
    shares = [groups[name] / total if total else 0.0 for name in names]
    figure = blank(title, subtitle, dark, height=300)
    figure.add_trace(
        go.Bar(
            y=["other (norms, biases)" if name == "other" else name for name in names],
            x=[100 * s for s in shares],
            orientation="h",
            marker={"color": [GROUP_COLOURS.get(name, "#999999") for name in names]},
            text=[percent(share) for share in shares],
            textposition="outside",
            cliponaxis=False,
            customdata=[significant(groups[name], 5) for name in names],
            hovertemplate="%{y}: %{text}<br>S %{customdata}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="share of all [%]", range=[0, max([1.0, *(128 * s for s in shares)])])
    figure.update_yaxes(showgrid=False)
    return figure


def matrix_map(
    blocks: numpy.ndarray,
    row_profile: numpy.ndarray,
    col_profile: numpy.ndarray,
    window: tuple[int, int, int, int] | None = None,
    title: str = "",
    subtitle: str = "",
    *,
    dark: bool = False,
    origin: tuple[int, int] = (0, 0),
    log: bool = True,
) -> go.Figure:
    """Draw one module, or a region of it: block means, sums by row on the right, sums by column below.

    Args:
        blocks: (<= 256, <= 256) block means of S; a whole weight never goes to the browser.
        row_profile: (rows,) sums over columns.
        col_profile: (cols,) sums over rows.
        window: (row, col, height, width) of an extracted block, drawn as a frame, in the whole module's numbering.
        origin: row and column of the module at which the region begins.
        log: colour by the logarithm.
    """
    (top, left), rows, cols = origin, len(row_profile), len(col_profile)
    figure = make_subplots(
        rows=2,
        cols=2,
        column_widths=[0.8, 0.2],
        row_heights=[0.8, 0.2],
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.03,
    )
    style(figure, title, subtitle, dark, height=TALL)
    # One cell in a hundred may be next to zero: colour is for the rest, the hover still names the true value.
    logs, ticks = log_scale(blocks, floor=float(numpy.quantile(blocks, 0.01))) if log else (blocks, {"nticks": 4})
    high, wide = rows / blocks.shape[0], cols / blocks.shape[1]
    figure.add_trace(
        go.Heatmap(
            z=logs.astype(numpy.float32),
            x0=left + wide / 2 - 0.5,
            dx=wide,
            y0=top + high / 2 - 0.5,
            dy=high,
            colorscale="Cividis",
            customdata=blocks.astype(numpy.float32),
            colorbar={
                **ticks,
                "orientation": "h",
                "thickness": 10,
                "outlinewidth": 0,
                "len": 0.8,
                "x": 0,
                "xanchor": "left",
                "y": -0.19,
                "yanchor": "top",
                "title": {"text": "S, block mean", "side": "bottom", "font": {"size": 13}},
            },
            hovertemplate="row %{y:.0f}, column %{x:.0f}<br>mean S %{customdata:.3g}<extra></extra>",
        ),
        row=1,
        col=1,
    )
    line = {"color": BLUE, "width": 1.2}
    y, x = binned(row_profile)
    figure.add_trace(
        go.Scatter(
            x=x,
            y=top + y,
            mode="lines",
            line=line,
            fill="tozerox",
            showlegend=False,
            hovertemplate="row %{y:.0f}: %{x:.3g}<extra></extra>",
        ),
        row=1,
        col=2,
    )
    x, y = binned(col_profile)
    figure.add_trace(
        go.Scatter(
            x=left + x,
            y=y,
            mode="lines",
            line=line,
            fill="tozeroy",
            showlegend=False,
            hovertemplate="column %{x:.0f}: %{y:.3g}<extra></extra>",
        ),
        row=2,
        col=1,
    )
    if window is not None:
        row, col, height, width = window
        figure.add_shape(
            type="rect",
            x0=col - 0.5,
            x1=col + width - 0.5,
            y0=row - 0.5,
            y1=row + height - 0.5,
            line={"color": HIGHLIGHT, "width": 2.5},
            row=1,
            col=1,
        )
    down, across = [top + rows - 0.5, top - 0.5], [left - 0.5, left + cols - 0.5]
    figure.update_yaxes(range=down, title_text="row", row=1, col=1, showgrid=False)
    figure.update_yaxes(range=down, row=1, col=2)
    figure.update_xaxes(range=across, title_text="column", row=2, col=1)
    figure.update_yaxes(showticklabels=False, rangemode="tozero", row=2, col=1)
    most = float(numpy.max(row_profile, initial=0.0)) or 1.0
    figure.update_xaxes(showticklabels=False, range=[0, 1.05 * most], matches=None, row=1, col=2)
    figure.update_xaxes(range=across, showgrid=False, row=1, col=1)
    return figure


def score_bars(table: "pandas.DataFrame", title: str = "", subtitle: str = "", *, dark: bool = False) -> go.Figure:
    """Draw one scorer's values as bars with 95 % intervals, the number written beside each.

    Args:
        table: label, arm, value, low, high, n, unit; one row a bar, top to bottom. Missing low/high: no interval.
    """
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    figure = blank(title, subtitle, dark, height=124 + 50 * len(rows))
    labels = [
        "<br>".join(escape(line, quote=False) for line in wrapped(shorten(str(row["label"]), 44), LABEL_CELLS))
        for row in rows
    ]
    scaled = [scaled_score(row) for row in rows]
    ends = [value if high is None else high for value, _, high, _ in scaled]
    arms = [arm_of(row["arm"]) for row in rows]
    figure.add_trace(
        go.Bar(
            y=list(range(len(rows))),
            x=[s[0] for s in scaled],
            orientation="h",
            width=0.5,
            marker={
                "color": [arm.shade(dark) for arm in arms],
                "pattern": {
                    "shape": [arm.pattern for arm in arms],
                    "solidity": 0.2,
                    "fillmode": "overlay",
                    "fgcolor": paper(dark),
                },
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "color": ink(dark),
                "thickness": 1.4,
                "width": 5,
                "array": [0 if s[2] is None else s[2] - s[0] for s in scaled],
                "arrayminus": [0 if s[1] is None else s[0] - s[1] for s in scaled],
            },
            customdata=[
                [escape(str(row["label"])), score_text(row), _interval_text(s)]
                for row, s in zip(rows, scaled, strict=True)
            ],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
        )
    )
    # Over the bars, not at their ends: the longest one leaves no room for words there in a narrow window.
    figure.add_trace(
        go.Scatter(
            x=[0] * len(rows),
            y=[place - 0.4 for place in range(len(rows))],
            mode="text",
            textposition="middle right",
            cliponaxis=False,
            text=[score_text(row) for row in rows],
            hoverinfo="skip",
            textfont={"size": 12.5},
        )
    )
    unit = next((s[3] for s in scaled if s[3]), "")
    figure.update_xaxes(title_text=f"score [{unit}]" if unit else "score", range=[0, 1.06 * max([1e-9, *ends])])
    if unit == "%" and max(ends, default=0) > 60:
        figure.update_xaxes(tickvals=[0, 20, 40, 60, 80, 100])
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=labels, range=[len(rows) - 0.6, -0.65], showgrid=False
    )
    return figure


def _cell_labels(
    numbers: Sequence[float],
    logs: Sequence[float],
    places: list[tuple[int, int]],
    layers: list[int],
    value: str,
    span: Mapping[str, float],
) -> go.Scatter:
    """Write each cell's number on it, light on dark colours and dark on light ones; `span` is that of the colours."""
    low, high = span.get("zmin", min(logs, default=0.0)), span.get("zmax", max(logs, default=0.0))
    return go.Scatter(
        x=[column for _, column in places],
        y=[layers[row] for row, _ in places],
        mode="text",
        hoverinfo="skip",
        text=[percent(number) if value == "share" else compact(number) for number in numbers],
        textfont={"size": 11.5, "color": texts_on_scale(logs, low, high)},
    )


def _click_targets(
    cells: "pandas.DataFrame", places: list[tuple[int, int]], layers: list[int], size: float
) -> go.Scatter:
    """Return nearly transparent squares, one a cell, no larger than it: their points carry clicks and the hover."""
    columns = [cells[name] for name in ("module", "sum", "mean", "share", "rows", "cols")]
    data = [
        [module, significant(total, 5), significant(mean, 5), percent(share), f"{rows:,} x {cols:,}"]
        for module, total, mean, share, rows, cols in zip(*columns, strict=True)
    ]
    return go.Scatter(
        x=[column for _, column in places],
        y=[layers[row] for row, _ in places],
        mode="markers",
        customdata=data,
        marker={"symbol": "square", "size": size, "color": "rgba(128,128,128,0.01)"},
        selected={"marker": {"opacity": 0.02}},
        unselected={"marker": {"opacity": 0.02}},
        hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[4]}<br>S total %{customdata[1]}<br>"
        "S per parameter %{customdata[2]}<br>share of all %{customdata[3]}<br><i>click to look inside</i>"
        "<extra></extra>",
    )


def _interval_text(scaled: tuple[float, float | None, float | None, str]) -> str:
    _, low, high, unit = scaled
    return "no interval" if low is None or high is None else f"95 % interval {low:.1f} to {high:.1f} {unit}"
