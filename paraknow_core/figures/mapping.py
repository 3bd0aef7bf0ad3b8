"""Figures of Mapping & extraction: which layer goes where, and what one block is made of. Data in, figure out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import plotly.graph_objects as go

from paraknow_core.display import percent, significant
from paraknow_core.figures import draw
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
    texts_on_scale,
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
    words = [_teacher_words(i, scores, rank) for i in range(teacher_layers)]
    if scores:
        _bars(figure, layers, scores, largest, lift[0], words, dark)
    for student, teacher in enumerate(layers):
        if teacher is None or not 0 <= teacher < teacher_layers:
            continue
        share = scores[teacher] / largest if scores else 0.3
        start, end = teacher + lift[0], student + lift[1]
        lit = picked in (("teacher", teacher), ("student", student))
        draw.scatter(
            figure,
            0.045 + 0.91 * numpy.linspace(0, 1, len(_CURVE)),
            start + (end - start) * _CURVE,
            "lines",
            f"teacher layer {teacher} → student layer {student}<br>{words[teacher]}",
            line={"color": HIGHLIGHT if lit else BLUE, "width": 1.5 + 12 * share},
            opacity=0.85 if lit or dark else 0.6,
        )
    _nodes(figure, layers, teacher_layers, lift, picked, dark)
    _targets(figure, layers, lift, words)
    figure.update_layout(clickmode="event+select", dragmode=False, hoverdistance=30, margin={"b": 6})
    figure.update_xaxes(visible=False, range=[-0.14 - (_MOST_BAR + 0.12 if scores else 0), 1.16])
    figure.update_yaxes(visible=False, range=[-0.75, tallest + 0.35])
    for x, text in ((0, "teacher"), (1, "student")):
        draw.write(figure, x, tallest + 0.1, f"<b>{text}</b>")
    if scores:
        draw.write(figure, -0.17, tallest + 0.1, "S of the layer", readable(neutral(dark), dark), xanchor="right")
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
    words: Sequence[str],
    dark: bool,
) -> None:
    """Draw S of each teacher layer as a bar that grows to the left, with its number where there is room."""
    places = [i + lift for i in range(len(scores))]
    colours = [BLUE if i in layers else neutral(dark) for i in range(len(scores))]
    draw.bars(
        figure,
        [-_MOST_BAR * s / largest for s in scores],
        places,
        "%{customdata}",
        base=-0.08,
        width=0.5,
        orientation="h",
        marker={"color": colours, "opacity": 1.0 if dark else 0.75},
        customdata=list(words),
    )
    if len(scores) <= 24:
        numbers = [significant(s) for s in scores]
        look = {"text": numbers, "textposition": "middle left", "textfont": {"size": 11.5}, "cliponaxis": False}
        draw.scatter(figure, [-0.09 - _MOST_BAR * s / largest for s in scores], places, "text", **look)


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
        fills = [HIGHLIGHT if picked == (side, i) else BLUE if linked[i] else None for i in range(size)]  # None: hollow
        large, step = size <= 40, 1 if size <= 40 else 5
        edge = {"width": 1.6, "color": [fill or neutral(dark) for fill in fills]}
        marker = {"symbol": "square", "size": 22 if large else 9, "color": [fill or paper(dark) for fill in fills]}
        texts = [text_on(fill) if large and fill else ink(dark) for fill in fills]
        draw.scatter(
            figure,
            [x] * size,
            [i + shift for i in range(size)],
            "markers+text",
            marker=marker | {"line": edge},
            text=[str(i) if i % step == 0 else "" for i in range(size)],
            textposition="middle center" if large else "middle left" if side == "teacher" else "middle right",
            textfont={"size": 12, "color": texts},
        )


def _targets(figure: go.Figure, layers: Sequence[int | None], lift: Sequence[float], words: Sequence[str]) -> None:
    points = [
        (0, i + lift[0], "teacher", i, f"{text}<br><i>click, then click a student layer</i>")
        for i, text in enumerate(words)
    ]
    for i, teacher in enumerate(layers):
        gets = "receives nothing" if teacher is None else f"receives teacher layer {teacher}"
        points.append((1, i + lift[1], "student", i, f"{gets}<br><i>click, then click a teacher layer</i>"))
    x, y, *data = zip(*points, strict=True)
    hover = "<b>%{customdata[0]} layer %{customdata[1]}</b><br>%{customdata[2]}"
    draw.click_targets(figure, x, y, list(map(list, zip(*data, strict=True))), 30 if len(points) <= 80 else 11, hover)


def layer_similarity(
    table: Sequence[Sequence[float]],
    layers: Sequence[int | None],
    name: str,
    title: str = "",
    subtitle: str = "",
    *,
    dark: bool = False,
) -> go.Figure:
    """Draw how alike every student layer and every teacher layer are, and frame the pairs of the mapping.

    Args:
        table: one row a student layer, one number a teacher layer.
        layers: for each student layer the teacher layer it receives, or None.
        name: of the measure.
    """
    values = numpy.array(table, dtype=float)
    students, teachers = values.shape
    figure = blank(title, subtitle, dark, height=max(PICTURE, min(900, 130 + 30 * students)))
    hover = f"student layer %{{y}}, teacher layer %{{x}}<br>{name} %{{z:.3f}}"
    places = {"x": list(range(teachers)), "y": list(range(students)), "xgap": 2, "ygap": 2}
    draw.heatmap(figure, values, draw.upright_bar(name, {}), hover, **places)
    if max(students, teachers) <= draw.MOST_LABELLED:
        x, y = numpy.tile(numpy.arange(teachers), students), numpy.repeat(numpy.arange(students), teachers)
        colours = texts_on_scale(values.ravel().tolist(), values.min(), values.max())
        draw.cell_texts(figure, x, y, [f"{value:.2f}" for value in values.ravel()], colours)
    for student, teacher in enumerate(layers):
        if teacher is not None and teacher < teachers:
            ends = {"x0": teacher - 0.5, "x1": teacher + 0.5, "y0": student - 0.5, "y1": student + 0.5}
            figure.add_shape(type="rect", line={"color": HIGHLIGHT, "width": 3}, **ends)
    figure.update_xaxes(title_text="teacher layer", dtick=max(1, teachers // 20), showgrid=False)
    figure.update_yaxes(title_text="student layer", dtick=max(1, students // 20), showgrid=False)
    return figure


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
        look = {"line": {"width": 0}, "fillcolor": "rgba(213,94,0,0.75)", "showlegend": False}
        y, x = binned(arrays["rows"] * arrays["kept_rows"])
        draw.scatter(figure, x, y, "lines", "kept of row %{y:.0f}: %{x:.3g}", fill="tozerox", row=1, col=2, **look)
        x, y = binned(arrays["cols"] * arrays["kept_cols"])
        draw.scatter(figure, x, y, "lines", "kept of column %{x:.0f}: %{y:.3g}", fill="tozeroy", row=2, col=1, **look)
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
    (x0, dx), (y0, dy) = draw.spanned(cols, density.shape[1]), draw.spanned(rows, density.shape[0])
    figure = blank(title, subtitle, dark, height=TALL)
    hover = "row %{y:.0f}, column %{x:.0f}<br>%{z:.0f} % taken"
    place = {"x0": x0, "dx": dx, "y0": y0, "dy": dy}
    draw.heatmap(figure, 100 * density, draw.flat_bar("weights taken [%]"), hover, zmin=0, zmax=100, **place)
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
    _histogram(figure, edges, 100 * counts / counts.sum(), "%{x:.1f} % of S: %{y:.2f} % of all offsets", dark)
    marks = [(own, f"this block {own:.1f} %", HIGHLIGHT, "solid"), (area, f"area {area:.1f} %", BLUE, "dash")]
    _marks(figure, marks, ends, dark)
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
        _histogram(figure, edges, counts, "cosine %{x:.4f}: %{y} random blocks", dark)
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
    width = 1 if len(values) > 60 else 0.8
    for part, colour, word in ((kept, BLUE, "kept"), (~kept, neutral(dark), "left out")):
        marker = {"line": {"width": 0}, "color": colour}
        draw.bars(figure, place[part], values[part], f"number %{{x}}: %{{y:.4g}}, {word}", marker=marker, width=width)
    ends = (0.2, max(len(values), rank) + 0.8)
    _marks(figure, [(rank + 0.5, f"rank {rank}: {percent(retained)} of the energy", HIGHLIGHT, "dash")], ends, dark)
    figure.update_layout(bargap=0)
    figure.update_xaxes(title_text="number of the singular value", range=ends)
    figure.update_yaxes(title_text="singular value", rangemode="tozero")
    return figure


def _histogram(figure: go.Figure, edges: numpy.ndarray, counts: numpy.ndarray, hover: str, dark: bool) -> None:
    """Draw bars that touch each other in the grey of what is not in focus."""
    marker = {"color": neutral(dark), "line": {"width": 0}}
    draw.bars(figure, (edges[:-1] + edges[1:]) / 2, counts, hover, width=numpy.diff(edges), marker=marker)


def _marks(
    figure: go.Figure, marks: Sequence[tuple[float, str, str, str]], ends: tuple[float, float], dark: bool
) -> None:
    """Draw labelled vertical lines; labels stand above one another, each on the side with room.

    Args:
        figure: takes them.
        marks: place, text, colour and dash of each.
        ends: of the axis. Near the middle a label stands on its line: on neither side is there room for a long one.
        dark: the page's theme.
    """
    for number, (x, text, colour, dash) in enumerate(marks):
        figure.add_vline(x=x, line={"color": colour, "width": 2.2, "dash": dash})
        anchor = anchor_at(x, ends)
        place = {
            "yref": "paper",
            "yanchor": "top",
            "xanchor": anchor,
            "xshift": {"left": 5, "right": -5}.get(anchor, 0),
        }
        draw.write(figure, x, 1.0 - 0.1 * number, text, ink(dark), bgcolor=paper(dark), opacity=0.92, **place)
