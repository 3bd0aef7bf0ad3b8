"""Pictures of the Sensitivity page beside its maps: what was picked in a module, and two sensitivities compared."""

from collections.abc import Sequence

import numpy
import plotly.graph_objects as go

from paraknow_core.display import GROUP_COLOURS, percent, significant
from paraknow_core.figures.maps import MOST_LABELLED, TALL
from paraknow_core.figures.style import (
    BLUE,
    COLORBAR,
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
        figure.add_trace(
            go.Scatter(
                x=x, y=y, mode="lines", line={"color": HIGHLIGHT, "width": 7}, hoverinfo="skip", showlegend=False
            ),
            row=1 if along_rows else 2,
            col=2 if along_rows else 1,
        )
    return figure


def box_targets(figure: go.Figure, origin: tuple[int, int], shape: tuple[int, int]) -> go.Figure:
    """Let a region of a `matrix_map` be chosen by drawing a box: Plotly reports boxes only over points. Returns it."""
    (top, left), (rows, cols) = origin, shape
    x, y = numpy.meshgrid(
        left + (numpy.arange(24) + 0.5) * cols / 24 - 0.5, top + (numpy.arange(24) + 0.5) * rows / 24 - 0.5
    )
    hidden = {"marker": {"opacity": 0}}
    figure.add_trace(
        go.Scatter(
            x=x.ravel(),
            y=y.ravel(),
            mode="markers",
            hoverinfo="skip",
            showlegend=False,
            marker={"size": 3, "opacity": 0},
            selected=hidden,
            unselected=hidden,
        ),
        row=1,
        col=1,
    )
    figure.update_layout(dragmode="select", newselection={"line": {"color": HIGHLIGHT, "width": 2}})
    return figure


def difference_map(
    found: Agreement,
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
        found: both on one grid.
        kind: `ratio`: log2 of the ratio of shares; `points`: their difference in hundredths of all.
        names: of the two, for the hover.
        modules: (row, role) -> the first's module, where a row is one layer: such cells can be clicked.
    """
    cells = found.log_ratio() if kind == "ratio" else found.difference()
    rows = len(cells)
    height = max(TALL, min(900, 110 + 34 * rows))
    figure = blank(title, subtitle, dark, height)
    known = cells[numpy.isfinite(cells)]
    limit = max(0.25 if kind == "ratio" else 0.01, float(numpy.abs(known).max(initial=0.0)))
    ticks = _ratio_ticks(limit) if kind == "ratio" else {"ticksuffix": " pt"}
    heading = "ratio of shares" if kind == "ratio" else "difference of shares [points]"
    columns = list(range(len(found.roles)))
    figure.add_trace(
        go.Heatmap(
            z=cells,
            x=columns,
            y=list(range(rows)),
            colorscale=DIVERGING,
            zmin=-limit,
            zmax=limit,
            xgap=2,
            ygap=2 if rows <= 40 else 1,
            hoverinfo="skip",
            colorbar={**COLORBAR, **ticks, "title": {"text": heading, "side": "right", "font": {"size": 13}}},
        )
    )
    if rows <= MOST_LABELLED:
        figure.add_trace(_difference_labels(cells, kind, limit))
    figure.add_trace(_difference_targets(found, cells, names, modules or {}, min(34, 0.95 * (height - 120) / rows)))
    figure.update_layout(clickmode="event+select", hoverdistance=60, dragmode=False)
    figure.update_xaxes(
        title_text="module",
        tickvals=columns,
        ticktext=list(found.roles),
        showgrid=False,
        range=[-0.5, len(columns) - 0.5],
    )
    figure.update_yaxes(
        title_text="relative depth" if found.by_depth else "layer",
        showgrid=False,
        range=[-0.5, rows - 0.5],
        tickvals=list(range(0, rows, max(1, rows // 20))),
        ticktext=[row_name(found, row) for row in range(0, rows, max(1, rows // 20))],
    )
    return figure


def row_name(found: Agreement, row: int) -> str:
    """Name a row of the common grid: a layer, or where in the depth it lies."""
    if not found.by_depth:
        return str(row)
    rows = min(found.depths)
    return f"{100 * row / rows:.0f}–{100 * (row + 1) / rows:.0f} %"


def share_scatter(
    found: Agreement,
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
    first, second = found.shares
    there = numpy.isfinite(first) & numpy.isfinite(second) & (first > 0) & (second > 0)
    ends = (
        [100 * f(numpy.concatenate([first[there], second[there]])) for f in (numpy.min, numpy.max)]
        if (there.any())
        else [0.1, 1.0]
    )
    ends = [ends[0] * 0.8, ends[1] * 1.25]
    figure.add_trace(
        go.Scatter(
            x=ends,
            y=ends,
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            line={"color": neutral(dark), "dash": "dot", "width": 1.2},
        )
    )
    for group in dict.fromkeys(groups[role] for role in found.roles):
        places = [
            (row, column)
            for row, column in zip(*numpy.nonzero(there), strict=True)
            if groups[found.roles[column]] == group
        ]
        figure.add_trace(
            go.Scatter(
                x=[100 * second[place] for place in places],
                y=[100 * first[place] for place in places],
                mode="markers",
                name=group,
                showlegend=True,
                marker={
                    "color": GROUP_COLOURS[group],
                    "symbol": SYMBOLS[group],
                    "size": 9 if len(first) <= 40 else 6,
                    "opacity": 0.8,
                    "line": {"color": ink(dark), "width": 0.5},
                },
                customdata=[
                    [
                        f"{row_name(found, row)} {found.roles[column]}",
                        percent(first[row, column]),
                        percent(second[row, column]),
                    ]
                    for row, column in places
                ],
                hovertemplate=f"<b>%{{customdata[0]}}</b><br>{_hover(names[0])} %{{customdata[1]}}<br>"
                f"{_hover(names[1])} %{{customdata[2]}}<extra></extra>",
            )
        )
    spread = [float(numpy.log10(end)) for end in ends]
    axis = {"type": "log", "range": spread, "dtick": 1 if spread[1] - spread[0] > 1 else "D2", "ticksuffix": " %"}
    across, up = ("<br>".join(map(_hover, wrapped(f"share in {name}", AXIS_CELLS))) for name in (names[1], names[0]))
    figure.update_xaxes(title_text=across, **axis)
    figure.update_yaxes(title_text=up, **axis)
    legend_below(figure, [trace.name for trace in figure.data if trace.showlegend])
    return figure


def layer_lines(
    found: Agreement, names: tuple[str, str], title: str = "", subtitle: str = "", *, dark: bool = False
) -> go.Figure:
    """Draw each layer's share of all in both, over the layers."""
    figure = blank(title, subtitle, dark, LOW)
    places = list(range(len(found.by_layer[0])))
    for shares, name, colour, dash in zip(found.by_layer, names, (BLUE, HIGHLIGHT), ("solid", "dash"), strict=True):
        figure.add_trace(
            go.Scatter(
                x=places,
                y=100 * shares,
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                marker={"size": 7 if len(places) <= 40 else 4, "symbol": "circle" if dash == "solid" else "diamond"},
                name="<br>".join(map(_hover, wrapped(name, AXIS_CELLS))),
                customdata=[row_name(found, row) for row in places],
                showlegend=True,
                hovertemplate=f"{_hover(name)}<br>%{{customdata}}: %{{y:.2f}} %<extra></extra>",
            )
        )
    step = max(1, len(places) // 12)
    figure.update_xaxes(
        title_text="relative depth" if found.by_depth else "layer",
        showgrid=False,
        tickvals=places[::step],
        ticktext=[row_name(found, row) for row in places[::step]],
    )
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
    figure.add_trace(
        go.Scatter(
            x=counts,
            y=chance,
            mode="lines",
            line={"color": neutral(dark), "dash": "dot"},
            hovertemplate="by chance: %{y:.0f} %<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=counts,
            y=shares,
            mode="lines+markers",
            line={"color": BLUE},
            marker={"size": 7 if n <= 40 else 4},
            customdata=[[c, k] for k, c in enumerate(common, 1)],
            hovertemplate="%{customdata[0]} of the %{customdata[1]} most sensitive: %{y:.0f} %<extra></extra>",
        )
    )
    if kept and kept <= n:
        figure.add_trace(
            go.Scatter(
                x=[kept],
                y=[shares[kept - 1]],
                mode="markers",
                hoverinfo="skip",
                marker={"size": 14, "symbol": "circle-open", "color": HIGHLIGHT, "line": {"width": 2.5}},
            )
        )
        figure.add_annotation(
            x=kept,
            y=shares[kept - 1],
            text="the draft keeps so many",
            showarrow=False,
            yshift=-18,
            xanchor="right" if kept > 0.7 * n else "center",
            font={"color": readable(HIGHLIGHT, dark)},
        )
    figure.add_annotation(
        x=counts[n // 3],
        y=chance[n // 3],
        text="chance",
        showarrow=False,
        yshift=-12,
        xshift=18,
        font={"color": readable(neutral(dark), dark)},
    )
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
        figure.add_trace(
            go.Scatter(
                x=samples,
                y=values,
                mode="lines+markers",
                line={"color": colour, "dash": dash},
                marker={"size": 8, "symbol": "circle" if dash == "solid" else "diamond"},
                hovertemplate=f"{name}, %{{x}} seed samples: %{{y:.3f}}<extra></extra>",
            )
        )
        if values and values[0] is not None:
            ends.append((samples[0], values[0], name, colour))
    known = [v for point in points for v in point[1:] if v is not None]
    low = min(known, default=0.0)
    bottom = min(0.8, low - 0.05)
    close = len(ends) == 2 and abs(ends[0][1] - ends[1][1]) < 0.1 * (1.02 - bottom)
    upper = max(ends, key=lambda end: end[1], default=None)
    for end in ends:
        x, y, name, colour = end
        shift = (8 if end is upper else -8) if close else 0
        figure.add_annotation(
            x=numpy.log10(x),
            y=y,
            text=name,
            showarrow=False,
            xanchor="right",
            xshift=-8,
            yshift=shift,
            font={"color": readable(colour, dark)},
        )
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


def _difference_labels(cells: numpy.ndarray, kind: str, limit: float) -> go.Scatter:
    places = [(row, column) for row, column in numpy.ndindex(*cells.shape) if numpy.isfinite(cells[row, column])]
    return go.Scatter(
        x=[column for _, column in places],
        y=[row for row, _ in places],
        mode="text",
        hoverinfo="skip",
        text=[_difference_text(cells[place], kind) for place in places],
        textfont={
            "size": 11.5,
            "color": texts_on_scale([float(cells[place]) for place in places], -limit, limit, DIVERGING),
        },
    )


def _difference_text(cell: float, kind: str) -> str:
    if kind == "points":
        return "0" if abs(cell) < 0.005 else f"{cell:+.2f}".replace("-", "−")
    factor = 2 ** abs(cell)
    return "1" if factor < 1.005 else f"{'×' if cell > 0 else '÷'}{significant(factor, 3 if factor < 10 else 2)}"


def _difference_targets(
    found: Agreement, cells: numpy.ndarray, names: tuple[str, str], modules: dict[tuple[int, str], str], size: float
) -> go.Scatter:
    places = [(row, column) for row, column in numpy.ndindex(*cells.shape) if numpy.isfinite(cells[row, column])]
    data = [
        [
            modules.get((row, found.roles[column]), ""),
            f"{row_name(found, row)} {found.roles[column]}",
            percent(found.shares[0][row, column]),
            percent(found.shares[1][row, column]),
        ]
        for row, column in places
    ]
    return go.Scatter(
        x=[column for _, column in places],
        y=[row for row, _ in places],
        mode="markers",
        customdata=data,
        marker={"symbol": "square", "size": size, "color": "rgba(128,128,128,0.01)"},
        selected={"marker": {"opacity": 0.02}},
        unselected={"marker": {"opacity": 0.02}},
        hovertemplate="<b>%{customdata[1]}</b><br>" + f"{_hover(names[0])} %{{customdata[2]}}<br>"
        f"{_hover(names[1])} %{{customdata[3]}}<extra></extra>",
    )


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
