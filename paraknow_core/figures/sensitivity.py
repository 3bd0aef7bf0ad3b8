"""Pictures of the Sensitivity page beside its maps: what was picked in a module, and two sensitivities compared."""

from collections.abc import Sequence
from typing import Any

import numpy
import plotly.graph_objects as go

from paraknow_core.display import GROUP_COLOURS, percent, significant
from paraknow_core.figures import draw
from paraknow_core.figures.maps import TALL
from paraknow_core.figures.style import (
    BLUE,
    HIGHLIGHT,
    blank,
    ink,
    legend_below,
    neutral,
    readable,
    texts_on_scale,
    wrapped,
)
from paraknow_core.sensitivity.agreement import Agreement

DIVERGING = [[0.0, "#005A8E"], [0.25, "#6FB0D8"], [0.5, "#F6F6F3"], [0.75, "#F0A671"], [1.0, "#B34A00"]]
KINDS = {"ratio": "log-ratio", "points": "difference"}
SYMBOLS = {"attention": "circle", "ffn": "diamond", "embedding": "square"}
LOW = 330  # pixels
Region = tuple[int, int, int, int]  # row, col, height, width
AXIS_CELLS = 40  # of a line beside an axis


def mark_picked(figure: go.Figure, rows: Sequence[Sequence[int]], cols: Sequence[Sequence[int]]) -> go.Figure:
    """Mark picked rows and columns (lists of [first, last]) as bars along the edges of a `matrix_map`; returns it."""
    for ranges, along_rows in ((rows, True), (cols, False)):
        ends = [end for low, high in ranges for end in (low - 0.5, high + 0.5, None)]
        edge = [0.0 if end is not None else None for end in ends]
        x, y = (edge, ends) if along_rows else (ends, edge)
        where = {"row": 1, "col": 2} if along_rows else {"row": 2, "col": 1}
        draw.scatter(figure, x, y, "lines", line={"color": HIGHLIGHT, "width": 7}, showlegend=False, **where)
    return figure


def box_targets(figure: go.Figure, origin: tuple[int, int], shape: tuple[int, int]) -> go.Figure:
    """Let a region of a `matrix_map` be chosen by drawing a box: Plotly reports boxes only over points. Returns it."""
    (top, left), (rows, cols) = origin, shape
    at = numpy.arange(24) + 0.5
    x, y = numpy.meshgrid(left + at * cols / 24 - 0.5, top + at * rows / 24 - 0.5)
    hidden = {"marker": {"opacity": 0}}
    look = {"marker": {"size": 3, "opacity": 0}, "selected": hidden, "unselected": hidden, "showlegend": False}
    draw.scatter(figure, x.ravel(), y.ravel(), "markers", row=1, col=1, **look)
    figure.update_layout(dragmode="select", newselection={"line": {"color": HIGHLIGHT, "width": 2}})
    return figure


def difference_map(
    agreement: Agreement,
    kind: str,
    names: tuple[str, str],
    title: str = "",
    subtitle: str = "",
    *,
    modules: dict[tuple[int, str], str] | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw where the first holds more than the second (orange) and less (blue), layers upwards.

    Args:
        agreement: both on one grid.
        kind: `ratio`: log2 of the ratio of shares; `points`: their difference in hundredths of all.
        names: of the two, for the hover.
        modules: (row, role) -> the first's module, where a row is one layer: such cells can be clicked.
    """
    cells = agreement.log_ratio() if kind == "ratio" else agreement.difference()
    rows = len(cells)
    height = max(TALL, min(900, 110 + 34 * rows))
    figure = blank(title, subtitle, dark, height)
    known = cells[numpy.isfinite(cells)]
    limit = max(0.25 if kind == "ratio" else 0.01, float(numpy.abs(known).max(initial=0.0)))
    ticks = _ratio_ticks(limit) if kind == "ratio" else {"ticksuffix": " pt"}
    heading = "ratio of shares" if kind == "ratio" else "difference of shares [points]"
    columns, gap = list(range(len(agreement.roles))), 2 if rows <= 40 else 1
    ends = {"zmin": -limit, "zmax": limit, "colorscale": DIVERGING}
    draw.heatmap(
        figure, cells, draw.upright_bar(heading, ticks), x=columns, y=list(range(rows)), xgap=2, ygap=gap, **ends
    )
    places = [place for place in numpy.ndindex(*cells.shape) if numpy.isfinite(cells[place])]
    x, y = [column for _, column in places], [row for row, _ in places]
    if rows <= draw.MOST_LABELLED:
        colours = texts_on_scale([float(cells[place]) for place in places], -limit, limit, DIVERGING)
        draw.cell_texts(figure, x, y, [_difference_text(cells[place], kind) for place in places], colours)
    data = [
        [(modules or {}).get((row, agreement.roles[column]), ""), *_shares_in_words(agreement, row, column)]
        for row, column in places
    ]
    hover = (
        f"<b>%{{customdata[1]}}</b><br>{_hover(names[0])} %{{customdata[2]}}<br>{_hover(names[1])} %{{customdata[3]}}"
    )
    draw.click_targets(figure, x, y, data, min(34, 0.95 * (height - 120) / rows), hover)
    figure.update_layout(clickmode="event+select", hoverdistance=60, dragmode=False)
    draw.module_axes(figure, agreement.roles, list(range(rows)))
    figure.update_xaxes(range=[-0.5, len(columns) - 0.5])
    figure.update_yaxes(range=[-0.5, rows - 0.5], **_row_axis(agreement, rows, 20))
    return figure


def _shares_in_words(agreement: Agreement, row: int, column: int) -> list[str]:
    shares = (percent(share[row, column]) for share in agreement.shares)
    return [f"{row_name(agreement, row)} {agreement.roles[column]}", *shares]


def _row_axis(agreement: Agreement, rows: int, most: int) -> dict[str, Any]:
    """Return how an axis over the rows of the common grid is named, with about so many ticks."""
    ticks = list(range(0, rows, max(1, rows // most)))
    title = "relative depth" if agreement.by_depth else "layer"
    return {
        "title_text": title,
        "showgrid": False,
        "tickvals": ticks,
        "ticktext": [row_name(agreement, t) for t in ticks],
    }


def row_name(agreement: Agreement, row: int) -> str:
    """Name a row of the common grid: a layer, or where in the depth it lies."""
    if not agreement.by_depth:
        return str(row)
    rows = min(agreement.depths)
    return f"{100 * row / rows:.0f}–{100 * (row + 1) / rows:.0f} %"


def share_scatter(
    agreement: Agreement,
    names: tuple[str, str],
    title: str = "",
    subtitle: str = "",
    *,
    groups: dict[str, str],
    dark: bool = False,
) -> go.Figure:
    """Draw each module's share in the first against its share in the second, both logarithmic, with the line of equals.

    Args:
        groups: role -> group.
    """
    figure = blank(title, subtitle, dark, height=TALL)
    first, second = agreement.shares
    there = numpy.isfinite(first) & numpy.isfinite(second) & (first > 0) & (second > 0)
    both = numpy.concatenate([first[there], second[there]])
    low, high = (100 * both.min(), 100 * both.max()) if both.size else (0.1, 1.0)
    ends = [low * 0.8, high * 1.25]
    equal = {"color": neutral(dark), "dash": "dot", "width": 1.2}
    draw.scatter(figure, ends, ends, "lines", showlegend=False, line=equal)
    hover = (
        f"<b>%{{customdata[0]}}</b><br>{_hover(names[0])} %{{customdata[1]}}<br>{_hover(names[1])} %{{customdata[2]}}"
    )
    for group in dict.fromkeys(groups[role] for role in agreement.roles):
        places = [
            place for place in zip(*numpy.nonzero(there), strict=True) if groups[agreement.roles[place[1]]] == group
        ]
        marker = {"color": GROUP_COLOURS[group], "symbol": SYMBOLS[group], "size": 9 if len(first) <= 40 else 6}
        draw.scatter(
            figure,
            [100 * second[place] for place in places],
            [100 * first[place] for place in places],
            "markers",
            hover,
            name=group,
            showlegend=True,
            marker={**marker, "opacity": 0.8, "line": {"color": ink(dark), "width": 0.5}},
            customdata=[_shares_in_words(agreement, *place) for place in places],
        )
    spread = [float(numpy.log10(end)) for end in ends]
    axis = {"type": "log", "range": spread, "dtick": 1 if spread[1] - spread[0] > 1 else "D2", "ticksuffix": " %"}
    across, up = ("<br>".join(map(_hover, wrapped(f"share in {name}", AXIS_CELLS))) for name in (names[1], names[0]))
    figure.update_xaxes(title_text=across, **axis)
    figure.update_yaxes(title_text=up, **axis)
    legend_below(figure, [trace.name for trace in figure.data if trace.showlegend])
    return figure


def layer_lines(
    agreement: Agreement, names: tuple[str, str], title: str = "", subtitle: str = "", *, dark: bool = False
) -> go.Figure:
    """Draw each layer's share of all in both, over the layers."""
    figure = blank(title, subtitle, dark, LOW)
    places = list(range(len(agreement.by_layer[0])))
    for shares, name, colour, dash in zip(agreement.by_layer, names, (BLUE, HIGHLIGHT), ("solid", "dash"), strict=True):
        draw.scatter(
            figure,
            places,
            100 * shares,
            "lines+markers",
            f"{_hover(name)}<br>%{{customdata}}: %{{y:.2f}} %",
            line={"color": colour, "dash": dash},
            marker={"size": 7 if len(places) <= 40 else 4, "symbol": _symbol(dash)},
            name="<br>".join(map(_hover, wrapped(name, AXIS_CELLS))),
            customdata=[row_name(agreement, row) for row in places],
            showlegend=True,
        )
    figure.update_xaxes(**_row_axis(agreement, len(places), 12))
    figure.update_yaxes(title_text="share of all [%]", rangemode="tozero")
    legend_below(figure, [line for name in names for line in wrapped(name, AXIS_CELLS)])
    return figure


def top_overlap_curve(
    common: Sequence[int], kept: int | None, title: str = "", subtitle: str = "", *, dark: bool = False
) -> go.Figure:
    """Draw for every k how many of the k most sensitive layers are the same, beside what chance would give.

    Args:
        common: for k = 1 to n, the number of common layers.
        kept: how many layers the student has; marked.
    """
    figure = blank(title, subtitle, dark, LOW)
    n = len(common)
    counts, shares = list(range(1, n + 1)), [100 * c / k for k, c in enumerate(common, 1)]
    chance = [100 * k / n for k in counts]
    draw.scatter(figure, counts, chance, "lines", "by chance: %{y:.0f} %", line={"color": neutral(dark), "dash": "dot"})
    draw.scatter(
        figure,
        counts,
        shares,
        "lines+markers",
        "%{customdata[0]} of the %{customdata[1]} most sensitive: %{y:.0f} %",
        line={"color": BLUE},
        marker={"size": 7 if n <= 40 else 4},
        customdata=[[c, k] for k, c in enumerate(common, 1)],
    )
    if kept and kept <= n:
        ring = {"size": 14, "symbol": "circle-open", "color": HIGHLIGHT, "line": {"width": 2.5}}
        draw.scatter(figure, [kept], [shares[kept - 1]], "markers", marker=ring)
        place = {"yshift": -18, "xanchor": "right" if kept > 0.7 * n else "center"}
        draw.write(figure, kept, shares[kept - 1], "the draft keeps so many", readable(HIGHLIGHT, dark), **place)
    grey = readable(neutral(dark), dark)
    draw.write(figure, counts[n // 3], chance[n // 3], "chance", grey, yshift=-12, xshift=18)
    figure.update_xaxes(title_text="k, number of layers", dtick=max(1, n // 12), showgrid=False)
    figure.update_yaxes(title_text="common among the top k [%]", range=[-4, 108], tickvals=[0, 25, 50, 75, 100])
    return figure


def stability_curve(
    points: Sequence[tuple[int, float | None, float | None]], title: str = "", subtitle: str = "", *, dark: bool = False
) -> go.Figure:
    """Draw rank correlation with the largest sample against the number of seed samples.

    Args:
        points: (seed samples, Spearman over modules, Spearman over layers), ascending; the last one is the largest.
    """
    figure = blank(title, subtitle, dark, LOW)
    samples = [n for n, _, _ in points]
    ends = []
    lines = (("modules", 1, BLUE, "solid"), ("layers", 2, HIGHLIGHT, "dash"))
    for name, index, colour, dash in lines:
        values = [point[index] for point in points]
        look = {"line": {"color": colour, "dash": dash}, "marker": {"size": 8, "symbol": _symbol(dash)}}
        draw.scatter(figure, samples, values, "lines+markers", f"{name}, %{{x}} seed samples: %{{y:.3f}}", **look)
        if values and values[0] is not None:
            ends.append((values[0], name, colour))
    low = min((value for point in points for value in point[1:] if value is not None), default=0.0)
    bottom = min(0.8, low - 0.05)
    close = len(ends) == 2 and abs(ends[0][0] - ends[1][0]) < 0.1 * (1.02 - bottom)
    upper = max(ends, key=lambda end: end[0], default=None)
    for end in ends:
        y, name, colour = end
        place = {"xanchor": "right", "xshift": -8, "yshift": (8 if end is upper else -8) if close else 0}
        draw.write(figure, numpy.log10(samples[0]), y, name, readable(colour, dark), **place)
    ticks = _ticks_apart(samples)
    figure.update_xaxes(
        title_text="seed samples",
        type="log",
        tickvals=ticks,
        ticktext=[f"{n:,}" for n in ticks],
        range=[numpy.log10(samples[0]) - 0.22, numpy.log10(samples[-1]) + 0.08],
    )
    figure.update_yaxes(title_text=f"rank correlation with n = {samples[-1]:,}", range=[bottom, 1.02])
    return figure


def _ticks_apart(samples: Sequence[int]) -> list[int]:
    """Return those of ascending numbers whose texts do not overlap on a log axis, the largest among them."""
    room = 0.05 * (numpy.log10(samples[-1] / samples[0]) + 0.3)  # 0.3: what the axis shows beyond the two ends
    kept = [samples[-1]]
    for n in reversed(samples[:-1]):
        if numpy.log10(kept[-1] / n) > room:
            kept.append(n)
    return kept[::-1]


def _symbol(dash: str) -> str:
    return "circle" if dash == "solid" else "diamond"


def _difference_text(cell: float, kind: str) -> str:
    if kind == "points":
        return "0" if abs(cell) < 0.005 else f"{cell:+.2f}".replace("-", "−")
    factor = 2 ** abs(cell)
    return "1" if factor < 1.005 else f"{'×' if cell > 0 else '÷'}{significant(factor, 3 if factor < 10 else 2)}"


def _ratio_ticks(limit: float) -> dict:
    """Name powers of two as factors: ×2 is twice the share, ÷2 is half of it."""
    step = max(1, int(numpy.ceil(limit / 3))) if limit >= 1 else limit / 2
    powers = [k * step for k in range(-3, 4) if abs(k * step) <= limit * 1.001]
    texts = [
        "1" if p == 0 else f"{'×' if p > 0 else '÷'}{significant(2 ** abs(p), 2 if 2 ** abs(p) < 10 else 1)}"
        for p in powers
    ]
    return {"tickvals": powers, "ticktext": [text.replace(".0", "") for text in texts]}


def _hover(name: str) -> str:
    """Return a name that Plotly shows letter by letter, without its templates and tags."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace("%{", "% {")


def region_of_box(x: list[float], y: list[float], shape: tuple[int, int]) -> Region | None:
    """Return the weights inside a drawn box, at least 8 x 8 where there are so many; None if it misses the module."""
    spans = []
    for ends, size in ((y, shape[0]), (x, shape[1])):
        low, high = (int(numpy.clip(round(end + 0.5), 0, size)) for end in (min(ends), max(ends)))
        if high - low < 1 and (min(ends) > size - 0.5 or max(ends) < -0.5):
            return None
        missing = max(0, min(8, size) - (high - low))
        low = max(0, min(low - missing // 2, size - (high - low) - missing))
        spans.append((low, max(high - low, min(8, size)) if missing else high - low))
    (row, height), (col, width) = spans
    return row, col, min(height, shape[0] - row), min(width, shape[1] - col)
