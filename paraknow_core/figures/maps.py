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
from paraknow_core.figures import draw
from paraknow_core.figures.style import (
    BLUE,
    HIGHLIGHT,
    binned,
    blank,
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
CELL_HOVER = (
    "<b>%{customdata[0]}</b><br>%{customdata[4]}<br>S total %{customdata[1]}<br>S per parameter %{customdata[2]}<br>"
    "share of all %{customdata[3]}<br><i>click to look inside</i>"
)
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
    columns, gap = list(range(len(roles))), 2 if len(layers) <= 40 else 1
    draw.heatmap(
        figure, colours, draw.upright_bar(f"S, {VALUES[value]}", ticks), x=columns, y=layers, xgap=2, ygap=gap, **span
    )
    x, y = [column for _, column in places], [layers[row] for row, _ in places]
    if len(layers) <= draw.MOST_LABELLED:
        shown = [colours[place] for place in places]
        low, high = span.get("zmin", min(shown, default=0.0)), span.get("zmax", max(shown, default=0.0))
        texts = [percent(number) if value == "share" else compact(number) for number in cells[value]]
        draw.cell_texts(figure, x, y, texts, texts_on_scale(shown, low, high))
    size = min(34, 0.95 * (height - 120) / max(1, len(layers)))
    draw.click_targets(figure, x, y, _cell_data(cells), size, CELL_HOVER)
    frame_cell(figure, chosen)
    figure.update_layout(clickmode="event+select", hoverdistance=60, dragmode=False)
    draw.module_axes(figure, roles, layers)
    figure.update_xaxes(tickangle=0, range=[-0.5, len(roles) - 0.5])
    figure.update_yaxes(range=[min(layers, default=0) - 0.5, max(layers, default=0) + 0.5])
    return figure


def _cell_data(cells: "pandas.DataFrame") -> list[list[str]]:
    """Return what `CELL_HOVER` says of each module; its name first."""
    columns = [cells[name] for name in ("module", "sum", "mean", "share", "rows", "cols")]
    return [
        [module, significant(total, 5), significant(mean, 5), percent(share), f"{rows:,} x {cols:,}"]
        for module, total, mean, share, rows, cols in zip(*columns, strict=True)
    ]


def frame_cell(figure: go.Figure, module: str | None) -> go.Figure:
    """Frame a module's cell in a map whose last trace holds click targets, if it is there. Returns the figure."""
    targets = figure.data[-1]
    for data, x, y in zip(targets.customdata or (), targets.x or (), targets.y or (), strict=True):
        if data[0] == module:
            _frame(figure, (x - 0.5, x + 0.5), (y - 0.5, y + 0.5), 3)
    return figure


def _frame(figure: go.Figure, x: tuple[float, float], y: tuple[float, float], width: float, **where: int) -> None:
    ends = {"x0": x[0], "x1": x[1], "y0": y[0], "y1": y[1]}
    figure.add_shape(type="rect", **ends, line={"color": HIGHLIGHT, "width": width}, **where)


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
    words = ["" if kept is None else "kept" if inside else "left out" for inside in solid]
    draw.bars(
        figure,
        list(range(len(scores))),
        list(scores),
        "layer %{x}: %{customdata[1]}<br>rank %{customdata[0]} %{customdata[2]}",
        marker={
            "color": [BLUE if inside else neutral(dark) for inside in solid],
            "pattern": {"shape": ["" if inside else "/" for inside in solid], "solidity": 0.35},
        },
        text=[f"{rank[layer]}." for layer in range(len(scores))] if len(scores) <= 40 else None,
        textposition="outside",
        cliponaxis=False,
        customdata=[[rank[i], significant(score, 5), words[i]] for i, score in enumerate(scores)],
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
    draw.bars(
        figure,
        [100 * share for share in shares],
        ["other (norms, biases)" if name == "other" else name for name in names],
        "%{y}: %{text}<br>S %{customdata}",
        orientation="h",
        marker={"color": [GROUP_COLOURS.get(name, "#999999") for name in names]},
        text=[percent(share) for share in shares],
        textposition="outside",
        cliponaxis=False,
        customdata=[significant(groups[name], 5) for name in names],
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
    sizes, gaps = [0.8, 0.2], {"horizontal_spacing": 0.03, "vertical_spacing": 0.03}
    shared = {"shared_xaxes": True, "shared_yaxes": True}
    figure = make_subplots(rows=2, cols=2, column_widths=sizes, row_heights=sizes, **shared, **gaps)
    style(figure, title, subtitle, dark, height=TALL)
    # One cell in a hundred may be next to zero: colour is for the rest, the hover still names the true value.
    logs, ticks = log_scale(blocks, floor=float(numpy.quantile(blocks, 0.01))) if log else (blocks, {"nticks": 4})
    (y0, dy), (x0, dx) = draw.spanned(rows, blocks.shape[0], top), draw.spanned(cols, blocks.shape[1], left)
    draw.heatmap(
        figure,
        logs.astype(numpy.float32),
        draw.flat_bar("S, block mean", ticks),
        "row %{y:.0f}, column %{x:.0f}<br>mean S %{customdata:.3g}",
        x0=x0,
        dx=dx,
        y0=y0,
        dy=dy,
        customdata=blocks.astype(numpy.float32),
        row=1,
        col=1,
    )
    look = {"line": {"color": BLUE, "width": 1.2}, "showlegend": False}
    y, x = binned(row_profile)
    draw.scatter(figure, x, top + y, "lines", "row %{y:.0f}: %{x:.3g}", fill="tozerox", row=1, col=2, **look)
    x, y = binned(col_profile)
    draw.scatter(figure, left + x, y, "lines", "column %{x:.0f}: %{y:.3g}", fill="tozeroy", row=2, col=1, **look)
    if window is not None:
        row, col, height, width = window
        _frame(figure, (col - 0.5, col + width - 0.5), (row - 0.5, row + height - 0.5), 2.5, row=1, col=1)
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
    values, lows, highs, units = zip(*map(scaled_score, rows), strict=True) if rows else ((),) * 4
    ends = [value if high is None else high for value, high in zip(values, highs, strict=True)]
    arms, places, scores = [arm_of(row["arm"]) for row in rows], list(range(len(rows))), list(map(score_text, rows))
    pattern = {"solidity": 0.2, "fillmode": "overlay", "fgcolor": paper(dark)}
    draw.bars(
        figure,
        values,
        places,
        "%{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]}",
        orientation="h",
        width=0.5,
        marker={
            "color": [arm.shade(dark) for arm in arms],
            "pattern": {"shape": [arm.pattern for arm in arms], **pattern},
        },
        error_x=draw.error_bars(values, lows, highs, dark, thickness=1.4),
        customdata=[
            [escape(str(row["label"])), score, _interval_text(low, high, unit)]
            for row, score, low, high, unit in zip(rows, scores, lows, highs, units, strict=True)
        ],
    )
    # Over the bars, not at their ends: the longest one leaves no room for words there in a narrow window.
    look = {"textposition": "middle right", "cliponaxis": False, "textfont": {"size": 12.5}}
    draw.scatter(figure, [0] * len(rows), [place - 0.4 for place in places], "text", text=scores, **look)
    unit = next(filter(None, units), "")
    figure.update_xaxes(title_text=f"score [{unit}]" if unit else "score", range=[0, 1.06 * max([1e-9, *ends])])
    if unit == "%" and max(ends, default=0) > 60:
        figure.update_xaxes(tickvals=[0, 20, 40, 60, 80, 100])
    draw.named_rows(figure, labels, 0.65, 0.4)
    return figure


def _interval_text(low: float | None, high: float | None, unit: str) -> str:
    return "no interval" if low is None or high is None else f"95 % interval {low:.1f} to {high:.1f} {unit}"
