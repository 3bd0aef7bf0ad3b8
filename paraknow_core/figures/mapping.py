"""Figures of Mapping & extraction: which layer goes where, and what one block is made of. Data in, figure out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import plotly.graph_objects as go

from paraknow_core.display import percent, significant
from paraknow_core.figures.maps import TALL as MATRIX
from paraknow_core.figures.maps import matrix_map
from paraknow_core.figures.style import (
    BLUE,
    HIGHLIGHT,
    anchor_at,
    binned,
    blank,
    ink,
    neutral,
    paper,
    readable,
    text_on,
)

PICTURE = 330  # pixels
TALL = 430  # the map of a block and what stands beside it
_CURVE = 0.5 - 0.5 * numpy.cos(numpy.linspace(0, numpy.pi, 25))  # from 0 to 1, flat at both ends
_MOST_BAR = 0.42  # of the distance between the two columns


def layer_links(
    layers: Sequence[int | None],
    teacher_layers: int,
    scores: Sequence[float] | None,
    title: str = "",
    subtitle: str = "",
    *,
    picked: tuple[str, int] | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw teacher layers at the left, student layers at the right, and a link for each that receives something.

    Args:
        layers: for each student layer the teacher layer it receives, or None.
        teacher_layers: how many there are.
        scores: (teacher_layers,) sensitivity: width of the links and length of the bars at the left; None: not known.
        picked: ("teacher" or "student", layer) that was clicked first and waits for its partner.

    Returns:
        A figure whose last trace is nearly transparent and has `customdata` (side, layer, ...): clicks on it choose.
    """
    tallest = max(teacher_layers, len(layers))
    figure = blank(title, subtitle, dark, height=max(330, min(900, 130 + 26 * tallest)))
    largest = max(scores or [0.0]) or 1.0
    order = sorted(range(teacher_layers), key=lambda i: -(scores[i] if scores else 0))
    rank = {layer: place + 1 for place, layer in enumerate(order)}
    lift = [(tallest - size) / 2 for size in (teacher_layers, len(layers))]  # the shorter column stands in the middle
    said = [_teacher_words(i, scores, rank) for i in range(teacher_layers)]
    if scores:
        _bars(figure, layers, scores, largest, lift[0], said, dark)
    for student, teacher in enumerate(layers):
        if teacher is None or not 0 <= teacher < teacher_layers:
            continue
        share = scores[teacher] / largest if scores else 0.3
        start, end = teacher + lift[0], student + lift[1]
        lit = picked in (("teacher", teacher), ("student", student))
        figure.add_trace(
            go.Scatter(
                x=0.045 + 0.91 * numpy.linspace(0, 1, len(_CURVE)),
                y=start + (end - start) * _CURVE,
                mode="lines",
                line={"color": HIGHLIGHT if lit else BLUE, "width": 1.5 + 12 * share},
                opacity=0.85 if lit or dark else 0.6,
                hovertemplate=f"teacher layer {teacher} → student layer {student}<br>{said[teacher]}<extra></extra>",
            )
        )
    _nodes(figure, layers, teacher_layers, lift, picked, dark)
    _targets(figure, layers, teacher_layers, lift, said)
    figure.update_layout(clickmode="event+select", dragmode=False, hoverdistance=30, margin={"b": 6})
    figure.update_xaxes(visible=False, range=[-0.14 - (_MOST_BAR + 0.12 if scores else 0), 1.16])
    figure.update_yaxes(visible=False, range=[-0.75, tallest + 0.35])
    for x, text in ((0, "teacher"), (1, "student")):
        figure.add_annotation(x=x, y=tallest + 0.1, text=f"<b>{text}</b>", showarrow=False)
    if scores:
        figure.add_annotation(
            x=-0.17,
            y=tallest + 0.1,
            text="S of the layer",
            showarrow=False,
            xanchor="right",
            font={"color": readable(neutral(dark), dark)},
        )
    return figure


def _teacher_words(layer: int, scores: Sequence[float] | None, rank: Mapping[int, int]) -> str:
    if not scores:
        return f"teacher layer {layer}"
    share = scores[layer] / (sum(scores) or 1.0)
    return f"S {significant(scores[layer], 4)}, rank {rank[layer]} of {len(scores)}, {percent(share)} of all layers"


def _bars(
    figure: go.Figure,
    layers: Sequence[int | None],
    scores: Sequence[float],
    largest: float,
    lift: float,
    said: Sequence[str],
    dark: bool,
) -> None:
    """Draw S of each teacher layer as a bar that grows to the left, with its number where there is room."""
    used = set(layers)
    figure.add_trace(
        go.Bar(
            y=[i + lift for i in range(len(scores))],
            x=[-_MOST_BAR * s / largest for s in scores],
            base=-0.08,
            width=0.5,
            orientation="h",
            marker={
                "color": [BLUE if i in used else neutral(dark) for i in range(len(scores))],
                "opacity": 1.0 if dark else 0.75,
            },
            customdata=list(said),
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    if len(scores) <= 24:
        figure.add_trace(
            go.Scatter(
                x=[-0.09 - _MOST_BAR * s / largest for s in scores],
                y=[i + lift for i in range(len(scores))],
                mode="text",
                text=[significant(s) for s in scores],
                textposition="middle left",
                hoverinfo="skip",
                textfont={"size": 11.5},
                cliponaxis=False,
            )
        )


def _nodes(
    figure: go.Figure,
    layers: Sequence[int | None],
    teacher_layers: int,
    lift: Sequence[float],
    picked: tuple[str, int] | None,
    dark: bool,
) -> None:
    """Draw the layers as squares with their numbers; hollow where nothing is given or received."""
    used = set(layers)
    for x, side, size, shift in ((0, "teacher", teacher_layers, lift[0]), (1, "student", len(layers), lift[1])):
        linked = [i in used if side == "teacher" else layers[i] is not None for i in range(size)]
        lit = [picked == (side, i) for i in range(size)]
        step = 1 if size <= 40 else 5
        figure.add_trace(
            go.Scatter(
                x=[x] * size,
                y=[i + shift for i in range(size)],
                mode="markers+text",
                hoverinfo="skip",
                marker={
                    "symbol": "square",
                    "size": 22 if size <= 40 else 9,
                    "color": [HIGHLIGHT if lit[i] else BLUE if linked[i] else paper(dark) for i in range(size)],
                    "line": {
                        "width": 1.6,
                        "color": [HIGHLIGHT if lit[i] else BLUE if linked[i] else neutral(dark) for i in range(size)],
                    },
                },
                text=[str(i) if i % step == 0 else "" for i in range(size)],
                textposition="middle center" if size <= 40 else "middle left" if side == "teacher" else "middle right",
                textfont={
                    "size": 12,
                    "color": [
                        text_on(HIGHLIGHT if lit[i] else BLUE) if size <= 40 and (linked[i] or lit[i]) else ink(dark)
                        for i in range(size)
                    ],
                },
            )
        )


def _targets(
    figure: go.Figure, layers: Sequence[int | None], teacher_layers: int, lift: Sequence[float], said: Sequence[str]
) -> None:
    points = [
        (0, i + lift[0], "teacher", i, f"{said[i]}<br><i>click, then click a student layer</i>")
        for i in range(teacher_layers)
    ]
    for i, teacher in enumerate(layers):
        gets = "receives nothing" if teacher is None else f"receives teacher layer {teacher}"
        points.append((1, i + lift[1], "student", i, f"{gets}<br><i>click, then click a teacher layer</i>"))
    figure.add_trace(
        go.Scatter(
            x=[p[0] for p in points],
            y=[p[1] for p in points],
            mode="markers",
            customdata=[list(p[2:]) for p in points],
            marker={"symbol": "square", "size": 30 if len(points) <= 80 else 11, "color": "rgba(128,128,128,0.01)"},
            selected={"marker": {"opacity": 0.02}},
            unselected={"marker": {"opacity": 0.02}},
            hovertemplate="<b>%{customdata[0]} layer %{customdata[1]}</b><br>%{customdata[2]}<extra></extra>",
        )
    )


def selection_map(
    facts: Mapping[str, Any],
    arrays: Mapping[str, numpy.ndarray],
    title: str = "",
    subtitle: str = "",
    *,
    dark: bool = False,
) -> go.Figure:
    """Draw which entries of the teacher's weight are taken: a frame, kept rows and columns, or their density.

    Args:
        facts: `kind` (window, grid, weights), `top_left`, `shape`, `teacher_shape`.
        arrays: `map`, `rows`, `cols` of S; for a grid `kept_rows`, `kept_cols` (1 where kept); for weights `density`.
    """
    if facts["kind"] == "weights":
        return density_map(arrays["density"], facts["teacher_shape"], title, subtitle, dark=dark)
    window = (*facts["top_left"], *facts["shape"]) if facts["top_left"] is not None else None
    figure = matrix_map(arrays["map"], arrays["rows"], arrays["cols"], window, title, subtitle, dark=dark)
    figure.layout.height += TALL - MATRIX
    if facts["kind"] == "grid":
        fill = {"line": {"width": 0}, "fillcolor": "rgba(213,94,0,0.75)", "mode": "lines", "showlegend": False}
        y, x = binned(arrays["rows"] * arrays["kept_rows"])
        figure.add_trace(
            go.Scatter(x=x, y=y, fill="tozerox", hovertemplate="kept of row %{y:.0f}: %{x:.3g}<extra></extra>", **fill),
            row=1,
            col=2,
        )
        x, y = binned(arrays["cols"] * arrays["kept_cols"])
        figure.add_trace(
            go.Scatter(
                x=x, y=y, fill="tozeroy", hovertemplate="kept of column %{x:.0f}: %{y:.3g}<extra></extra>", **fill
            ),
            row=2,
            col=1,
        )
    return figure


def density_map(
    density: numpy.ndarray, shape: Sequence[int], title: str = "", subtitle: str = "", *, dark: bool = False
) -> go.Figure:
    """Draw what share of the weights is taken, place by place.

    Args:
        density: (<= 256, <= 256) shares, 0 to 1.
        shape: (rows, cols) of the teacher's weight.
    """
    rows, cols = shape
    high, wide = rows / density.shape[0], cols / density.shape[1]
    figure = blank(title, subtitle, dark, height=TALL)
    figure.add_trace(
        go.Heatmap(
            z=100 * density,
            x0=wide / 2 - 0.5,
            dx=wide,
            y0=high / 2 - 0.5,
            dy=high,
            colorscale="Cividis",
            zmin=0,
            zmax=100,
            colorbar={
                "orientation": "h",
                "thickness": 10,
                "outlinewidth": 0,
                "len": 0.8,
                "x": 0,
                "xanchor": "left",
                "y": -0.19,
                "yanchor": "top",
                "title": {"text": "weights taken [%]", "side": "bottom", "font": {"size": 13}},
            },
            hovertemplate="row %{y:.0f}, column %{x:.0f}<br>%{z:.0f} % taken<extra></extra>",
        )
    )
    figure.update_yaxes(range=[rows - 0.5, -0.5], title_text="row", showgrid=False)
    figure.update_xaxes(range=[-0.5, cols - 0.5], title_text="column", showgrid=False)
    return figure


def mass_histogram(
    facts: Mapping[str, Any], counts: numpy.ndarray, title: str = "", subtitle: str = "", *, dark: bool = False
) -> go.Figure:
    """Draw what share of S a window of this size holds at every offset, with the block's own and the area share.

    Args:
        facts: `captured_mass`, `area_fraction`, and `offsets` (lowest, highest, at_most) as shares of S.
        counts: (bins,) offsets in equal bins from lowest to highest.
    """
    offsets = facts["offsets"]
    edges = 100 * numpy.linspace(offsets["lowest"], offsets["highest"], len(counts) + 1)
    own, area = 100 * facts["captured_mass"], 100 * facts["area_fraction"]
    figure = blank(title, subtitle, dark, height=TALL)
    low, high = min(edges[0], area, own), max(edges[-1], area, own)
    room = 0.06 * (high - low) or 1.0
    ends = (low - room, high + room)
    figure.add_trace(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=100 * counts / counts.sum(),
            width=numpy.diff(edges),
            marker={"color": neutral(dark), "line": {"width": 0}},
            hovertemplate="%{x:.1f} % of S: %{y:.2f} % of all offsets<extra></extra>",
        )
    )
    _marks(
        figure,
        [(own, f"this block {own:.1f} %", HIGHLIGHT, "solid"), (area, f"area {area:.1f} %", BLUE, "dash")],
        ends,
        dark,
    )
    figure.update_xaxes(title_text="captured share of S [%]", range=ends)
    figure.update_yaxes(title_text="offsets [%]", range=[0, 125 * counts.max() / counts.sum()])
    return figure


def cosine_strip(
    cosine: float, others: numpy.ndarray, title: str = "", subtitle: str = "", *, dark: bool = False
) -> go.Figure:
    """Draw the block's cosine with the student's weight among those of blocks at random offsets.

    Args:
        cosine: of the block.
        others: (n,) of random offsets, perhaps none.
    """
    figure = blank(title, subtitle, dark, height=PICTURE)
    if len(others):
        counts, edges = numpy.histogram(others, bins=min(30, max(5, len(others) // 5)))
        figure.add_trace(
            go.Bar(
                x=(edges[:-1] + edges[1:]) / 2,
                y=counts,
                width=numpy.diff(edges),
                marker={"color": neutral(dark), "line": {"width": 0}},
                hovertemplate="cosine %{x:.4f}: %{y} random blocks<extra></extra>",
            )
        )
    reach = 1.15 * max(abs(cosine), float(numpy.abs(others).max(initial=0.0)), 0.01)
    _marks(figure, [(cosine, f"this block {significant(cosine)}", HIGHLIGHT, "solid")], (-reach, reach), dark)
    figure.update_xaxes(title_text="cosine with the student's weight", range=[-reach, reach])
    figure.update_yaxes(title_text="random blocks" if len(others) else "", showticklabels=bool(len(others)))
    figure.update_yaxes(range=[0, 1.25 * (counts.max() if len(others) else 1.0)])
    return figure


def spectrum_cut(
    values: numpy.ndarray, rank: int, retained: float, title: str = "", subtitle: str = "", *, dark: bool = False
) -> go.Figure:
    """Draw singular values, those that are kept in blue, with the rank cut.

    Args:
        values: (k,) descending.
        rank: how many are kept.
        retained: share of the squared norm they hold, 0 to 1.
    """
    figure = blank(title, subtitle, dark, height=PICTURE)
    place = numpy.arange(1, len(values) + 1)
    kept = place <= rank
    marker = {"line": {"width": 0}}
    for part, colour, word in ((kept, BLUE, "kept"), (~kept, neutral(dark), "left out")):
        figure.add_trace(
            go.Bar(
                x=place[part],
                y=values[part],
                marker={**marker, "color": colour},
                width=1 if len(values) > 60 else 0.8,
                hovertemplate=f"number %{{x}}: %{{y:.4g}}, {word}<extra></extra>",
            )
        )
    ends = (0.2, max(len(values), rank) + 0.8)
    _marks(figure, [(rank + 0.5, f"rank {rank}: {percent(retained)} of the energy", HIGHLIGHT, "dash")], ends, dark)
    figure.update_layout(bargap=0)
    figure.update_xaxes(title_text="number of the singular value", range=ends)
    figure.update_yaxes(title_text="singular value", rangemode="tozero")
    return figure


def _marks(
    figure: go.Figure, marks: Sequence[tuple[float, str, str, str]], ends: tuple[float, float], dark: bool
) -> None:
    """Draw labelled vertical lines; labels stand above one another, each on the side with room.

    Args:
        ends: of the axis. Near the middle a label stands on its line: on neither side is there room for a long one.
    """
    for number, (x, text, colour, dash) in enumerate(marks):
        figure.add_vline(x=x, line={"color": colour, "width": 2.2, "dash": dash})
        anchor = anchor_at(x, ends)
        figure.add_annotation(
            x=x,
            y=1.0 - 0.1 * number,
            yref="paper",
            text=text,
            showarrow=False,
            yanchor="top",
            xanchor=anchor,
            xshift={"left": 5, "right": -5}.get(anchor, 0),
            font={"color": ink(dark)},
            bgcolor=paper(dark),
            opacity=0.92,
        )
