"""Pictures of the page Compare: arms with intervals, paired differences, curves together, changed weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy
import plotly.graph_objects as go

from paraknow_core.display import SHARE, arm_of, compact, percent, scaled_score, score_text, shorten, significant
from paraknow_core.figures import draw
from paraknow_core.figures.style import (
    anchor_at,
    blank,
    ink,
    legend_below,
    log_scale,
    mixed,
    neutral,
    paper,
    points,
    smoothed,
    texts_on_scale,
    thin,
)
from paraknow_core.studies.arms import Arm
from paraknow_core.studies.differences import Contrast

if TYPE_CHECKING:
    import pandas

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagon", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
ROLES = ("q", "k", "v", "o", "gate", "up", "down")
_ROW = 60  # pixels
DIVERGING = ((0.0, "#0072B2"), (0.5, "#F7F7F5"), (1.0, "#D55E00"))
UNTOUCHED = ("student", "teacher")
_LABEL = 30  # characters a line beside an axis


@dataclass(frozen=True)
class Look:
    """How an arm looks: the colour of its method, and for further arms of one method another marker and dash."""

    colour: str
    symbol: str
    dash: str


def look_of(method: str, variant: int, dark: bool) -> Look:
    """Return the look of an arm.

    Args:
        method: gives the colour, as everywhere.
        variant: 0 for the first arm of the method, 1 for the next one; each is mixed a little further with the ink.
    """
    colour = mixed(arm_of(method).shade(dark), ink(dark), min(0.6, 0.28 * variant))
    return Look(colour, SYMBOLS[variant % len(SYMBOLS)], DASHES[variant % len(DASHES)])


def score_forest(
    rows: Sequence[Mapping[str, Any]], title: str = "", subtitle: str = "", *, dark: bool = False
) -> go.Figure:
    """Draw each arm's score as a point with its 95 % interval, single seeds as small points under it.

    Args:
        rows: label, method, variant, value, low, high, n, unit, seeds, points (one value a seed). Those of untouched
            models become dotted lines, where they lie among the arms; elsewhere they would press the arms together.
    """
    arms = [row for row in rows if row["method"] not in UNTOUCHED]
    figure = blank(title, subtitle, dark, height=_height(len(arms)))
    edges: list[float] = []
    words: list[tuple[float, float, str]] = []  # over the points, once the axis is known
    for place, row in enumerate(arms):
        value, low, high, _ = scaled_score(row)
        factor = 100.0 if row.get("unit") == SHARE else 1.0
        look = look_of(row["method"], row.get("variant", 0), dark)
        seeds = [factor * point for point in row.get("points") or []]
        edges += [v for v in (value, low, high, *seeds) if v is not None]
        if len(seeds) > 1:
            small = {"opacity": 0.75, "marker": {"color": look.colour, "size": 5, "symbol": look.symbol}}
            draw.scatter(figure, seeds, [place + 0.24] * len(seeds), "markers", "one seed: %{x:.1f}", **small)
        _point(figure, value, low, high, place, look, dark, _score_hover(row))
        words.append((value, place, _with_seeds(row)))
    ends = _room(edges)
    for x, place, text in words:
        _write_over(figure, x, place, text, ends, dark)
    near: list[float] = []
    for row in rows:
        value = scaled_score(row)[0]
        if row["method"] in UNTOUCHED and ends[0] <= value <= ends[1]:
            figure.add_vline(x=value, line={"color": neutral(dark), "width": 1.4, "dash": "dot"})
            side = "right" if value > sum(ends) / 2 else "left"
            place = {"yanchor": "bottom", "xanchor": side, "yshift": -15 * len(near)}
            draw.write(
                figure, value, len(arms) - 0.5, escape(row["label"]), **place, font={"size": 11.5}, bgcolor=paper(dark)
            )
            near.append(value)
    name = next((scaled_score(row)[3] for row in rows if scaled_score(row)[3]), "")
    figure.update_xaxes(title_text=f"score [{name}]" if name else "score", range=ends)
    return _named_rows(figure, [row["label"] for row in arms])


def difference_forest(
    lines: Sequence[Contrast | Arm],
    title: str = "",
    subtitle: str = "",
    *,
    published: Sequence[tuple[str, str, float]] = (),
    dark: bool = False,
) -> go.Figure:
    """Draw each arm's paired difference with its 95 % interval around a line at no difference.

    Args:
        lines: differences, those that could not be paired are empty; and the arm that the others are compared with.
        published: (label of an arm, words, points) of values that a paper reports for another setting: hollow diamonds.
    """
    arms = [line if isinstance(line, Arm) else line.arm for line in lines]
    figure = blank(title, subtitle, dark, height=_height(len(lines)))
    edges, words = [0.0], []
    figure.add_vline(x=0, line={"color": ink(dark), "width": 1.2})
    unit = next((line.unit for line in lines if isinstance(line, Contrast) and line.unit), "")
    factor = 100.0 if unit == SHARE else 1.0
    for place, (line, arm) in enumerate(zip(lines, arms, strict=True)):
        result = None if isinstance(line, Arm) else line.result
        if result is None:
            words.append((0.0, place, "compared with this" if line is arm else "not paired", 0))
            continue
        numbers = (result.difference, result.low, result.high)
        value, low, high = (None if number is None else factor * number for number in numbers)
        edges += [number for number in (value, low, high) if number is not None]
        text = _signed(value, unit)
        if low is not None:
            text += f" ({_signed(low, unit)} to {_signed(high, unit)})"
        hover = f"{escape(arm.label)}<br>{text}<br>{escape(result.method)}"
        _point(figure, value, low, high, place, look_of(arm.method, arm.variant, dark), dark, hover)
        words.append((value, place, text, 17))
    labels = [arm.label for arm in arms]
    if published:
        _add_published(figure, published, labels, dark)
        edges += [value for _, _, value in published]
    ends = _room(edges)
    for x, place, text, lift in words:
        _write_over(figure, x, place, text, ends, dark, lift)
    name = "difference [points]" if unit == SHARE else f"difference [{unit}]" if unit else "difference"
    figure.update_xaxes(title_text=name, range=ends)
    return _named_rows(figure, labels)


@dataclass(frozen=True)
class RunCurve:
    """One run's metrics, drawn in the look of its arm."""

    label: str
    method: str
    variant: int
    seed: int
    table: "pandas.DataFrame"


def curves_table(curves: Sequence[RunCurve]) -> "pandas.DataFrame":
    """Return the metrics of all curves with their arm and seed, one row a record."""
    import pandas

    table = pandas.concat([curve.table.assign(arm=curve.label, seed=curve.seed) for curve in curves])
    return table.drop(columns=["event", "time"], errors="ignore")


def overlaid(
    curves: Sequence[RunCurve],
    column: str,
    title: str = "",
    subtitle: str = "",
    *,
    smoothing: float = 0.0,
    dark: bool = False,
) -> go.Figure:
    """Draw one metric of several runs over steps: a colour an arm, a line a seed.

    Args:
        column: loss or validation_loss.
        smoothing: 0 to below 1, weight of the past in an exponential mean; the raw curve stays, faint.
    """
    figure = blank(title, subtitle, dark, height=360)
    seen: set[str] = set()
    for curve in curves:
        x, y = thin(*points(curve.table, column))
        if not len(x):
            continue
        look, first = look_of(curve.method, curve.variant, dark), curve.label not in seen
        seen.add(curve.label)
        shown = smoothed(y, smoothing)
        if smoothing > 0:
            faint = {"line": {"color": look.colour, "width": 1}, "opacity": 0.25, "showlegend": False}
            draw.scatter(figure, x, y, "lines", legendgroup=curve.label, **faint)
        draw.scatter(
            figure,
            x,
            shown,
            "lines+markers" if len(x) <= 12 else "lines",
            "step %{x}: %{y:.4f} nats",
            extra=f"{escape(curve.label)}, seed {curve.seed}",
            name=escape(shorten(curve.label, 44)),
            legendgroup=curve.label,
            showlegend=first,
            line={"color": look.colour, "width": 1.8, "dash": look.dash},
            marker={"symbol": look.symbol, "size": 6},
        )
    figure.update_xaxes(title_text="optimiser step")
    figure.update_yaxes(title_text="loss [nats per token]")
    if seen:
        legend_below(figure, [shorten(label, 44) for label in seen])
    return figure


def module_map(
    records: Sequence[Mapping[str, Any]],
    column: str,
    title: str = "",
    subtitle: str = "",
    *,
    kind: str = "size",
    words: str = "",
    limits: tuple[float, float] | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw one number for each layer and module of a model, layers upwards.

    Args:
        records: role, layer, module and the column; without a layer: left out (say them in words).
        column: what is drawn; None stays empty.
        kind: size (positive, cividis, log), share (0 to 1, cividis) or change (signed, centred at zero).
        words: of the colour bar.
        limits: lowest and highest value, where two maps are to share their colours.
    """
    cells = [r for r in records if r.get("layer") is not None and r["role"] in ROLES]
    layers = sorted({int(r["layer"]) for r in cells})
    roles = [role for role in ROLES if any(r["role"] == role for r in cells)]
    matrix = numpy.full((len(layers), len(roles)), numpy.nan)
    names = numpy.full(matrix.shape, "", dtype=object)
    for r in cells:
        place = layers.index(int(r["layer"])), roles.index(r["role"])
        matrix[place] = numpy.nan if r.get(column) is None else float(r[column])
        names[place] = escape(str(r["module"]))
    figure = blank(title, subtitle, dark, height=max(300, min(820, 130 + 34 * len(layers))))
    shown, bar = _coloured(matrix, kind, limits)
    text = numpy.vectorize(lambda v: _cell(v, kind), otypes=[object])(matrix) if matrix.size else matrix
    ticks = bar.pop("ticks", {})
    hover = "<b>%{customdata}</b><br>%{text}"
    place = {"x": list(range(len(roles))), "y": layers, "xgap": 2, "ygap": 2}
    draw.heatmap(figure, shown, draw.upright_bar(words, ticks), hover, customdata=names, text=text, **place, **bar)
    if len(layers) <= draw.MOST_LABELLED:
        _cell_texts(figure, shown, text, layers, bar, dark)
    draw.module_axes(figure, roles, layers)
    return figure


def effect_scatter(units: Sequence[Mapping[str, Any]], title: str, subtitle: str, *, dark: bool = False) -> go.Figure:
    """Draw what the edit of each unit costs over the sensitivity of what it received, with intervals.

    Args:
        units: name, layer, sensitivity (None: drawn at the left edge, at its place in the list), twin_nats,
            twin_nats_low, twin_nats_high.
    """
    figure = blank(title, subtitle, dark, height=360)
    known = [unit for unit in units if unit["sensitivity"]]
    drawn, ranked = (known, True) if known else (list(units), False)
    x = [unit["sensitivity"] for unit in drawn] if ranked else list(range(len(drawn)))
    values, lows, highs = ([unit[f"twin_nats{end}"] for unit in drawn] for end in ("", "_low", "_high"))
    draw.scatter(
        figure,
        x,
        values,
        "markers+text" if len(drawn) <= 8 else "markers",
        "<b>%{customdata}</b><br>%{y:+.4f} nats per token",
        customdata=[escape(unit["name"]) for unit in drawn],
        text=[escape(shorten(unit["name"].removeprefix("model."), 16)) for unit in drawn],
        textposition="top center",
        marker={"size": 8, "color": arm_of("seeking").shade(dark)},
        error_y=draw.error_bars(values, lows, highs, dark),
        showlegend=False,
    )
    figure.add_hline(y=0, line={"color": neutral(dark), "width": 1})
    if ranked:
        figure.update_xaxes(type="log", title_text="sensitivity of the teacher's blocks, S (log)")
    else:
        figure.update_xaxes(tickvals=x, ticktext=[escape(shorten(unit["name"], 14)) for unit in drawn])
    figure.update_yaxes(title_text="cost of the edit [nats per token]")
    return figure


def _cell_texts(
    figure: go.Figure,
    shown: numpy.ndarray,
    text: numpy.ndarray,
    layers: Sequence[int],
    bar: Mapping[str, Any],
    dark: bool,
) -> None:
    """Write each cell's value on it, in white or black, whichever can be read; on the page where there is none."""
    places = list(numpy.ndindex(*shown.shape))
    known = [float(shown[place]) for place in places if numpy.isfinite(shown[place])]
    low, high = bar.get("zmin", min(known, default=0.0)), bar.get("zmax", max(known, default=1.0))
    on_cells = iter(texts_on_scale(known, low, high, bar["colorscale"]))
    colours = [next(on_cells) if numpy.isfinite(shown[place]) else ink(dark) for place in places]
    x, y = [column for _, column in places], [layers[row] for row, _ in places]
    draw.cell_texts(figure, x, y, [text[place] for place in places], colours)


def _coloured(
    matrix: numpy.ndarray, kind: str, limits: tuple[float, float] | None
) -> tuple[numpy.ndarray, dict[str, Any]]:
    """Return what is handed to the heatmap, and how it is coloured."""
    if kind == "change":
        known = numpy.abs(matrix[numpy.isfinite(matrix)])
        most = max(abs(v) for v in limits) if limits else float(known.max(initial=0.0))
        scale = [list(stop) for stop in DIVERGING]
        return matrix, {"colorscale": scale, "zmid": 0, "zmin": -(most or 1), "zmax": most or 1}
    if kind == "share":
        ticks = {"tickvals": [0, 0.25, 0.5, 0.75, 1], "ticktext": ["0 %", "25 %", "50 %", "75 %", "100 %"]}
        return matrix, {"colorscale": "Cividis", "zmin": 0, "zmax": 1, "ticks": ticks}
    both = numpy.concatenate([matrix.ravel(), [v for v in limits or () if v > 0]])
    logs, ticks = log_scale(both)
    known = logs[numpy.isfinite(logs)]
    if known.size and numpy.ptp(known) < 2.5:  # ticks at whole powers of ten would be one or two
        at = numpy.unique(numpy.linspace(known.min(), known.max(), 4))
        ticks = {"tickvals": at.tolist(), "ticktext": [compact(10**tick) for tick in at]}
    ends = {"zmin": float(known.min()), "zmax": float(known.max())} if known.size else {}
    return logs[: matrix.size].reshape(matrix.shape), {"colorscale": "Cividis", "ticks": ticks, **ends}


def _cell(value: float, kind: str) -> str:
    if not numpy.isfinite(value):
        return "–"
    if kind == "share":
        return percent(value)
    return f"{value:+.2f}" if kind == "change" else compact(value)


def _height(rows: int) -> int:
    return 110 + _ROW * max(1, rows)


def _write_over(
    figure: go.Figure, x: float, place: float, text: str, ends: Sequence[float], dark: bool, lift: int = 17
) -> None:
    """Write over a point, or beside it where the words would leave the axis and run into the labels of the rows."""
    anchor = anchor_at(x, ends)
    shift = {"left": -8, "right": 8}[anchor] * (lift != 0) if anchor != "center" else 0
    look = {"bgcolor": paper(dark), "borderpad": 0, "font": {"size": 12.5}}
    draw.write(figure, x, place, escape(text), yshift=lift, xanchor=anchor, xshift=shift, **look)


def _point(
    figure: go.Figure,
    value: float,
    low: float | None,
    high: float | None,
    place: float,
    look: Look,
    dark: bool,
    hover: str,
) -> None:
    low, high = (None, None) if low is None or high is None else (low, high)
    edge = {"color": ink(dark), "width": 0.8}
    marker = {"color": look.colour, "size": 11, "symbol": look.symbol, "line": edge}
    draw.scatter(
        figure, [value], [place], "markers", hover, marker=marker, error_x=draw.error_bars([value], [low], [high], dark)
    )


def _add_published(
    figure: go.Figure, published: Sequence[tuple[str, str, float]], labels: Sequence[str], dark: bool
) -> None:
    names, words, values = zip(*published, strict=True)
    heights = [labels.index(name) + 0.3 for name in names]
    marker = {"symbol": "diamond-open", "size": 10, "color": ink(dark), "line": {"width": 1.6}}
    hover = "paper (LLaMA-1): %{x:+.2f} points<br>%{customdata}<br>another setting"
    draw.scatter(figure, values, heights, "markers", hover, marker=marker, customdata=list(map(escape, words)))
    look = {"xshift": 9, "xanchor": "left", "font": {"size": 12}, "bgcolor": paper(dark)}
    draw.write(figure, max(values), heights[0], "paper (LLaMA-1)", **look)


def _named_rows(figure: go.Figure, labels: Sequence[str]) -> go.Figure:
    draw.named_rows(figure, [_wrapped(label) for label in labels], 0.6, 0.6)
    return figure


def _wrapped(label: str) -> str:
    """Break a long label into at most two lines at a comma or space."""
    label = shorten(label, 2 * _LABEL)
    if len(label) <= _LABEL:
        return escape(label)
    cut = max(label.rfind(", ", 0, _LABEL + 1) + 1, 0) or max(label.rfind(" ", 0, _LABEL + 1), 0) or _LABEL
    return f"{escape(label[:cut].rstrip())}<br>{escape(label[cut:].lstrip())}"


def _room(edges: Sequence[float]) -> list[float]:
    """Return an axis range with room for the words over the outermost points."""
    low, high = min(edges, default=0.0), max(edges, default=1.0)
    width = (high - low) or abs(high) or 1.0
    return [low - 0.22 * width, high + 0.22 * width]


def _with_seeds(row: Mapping[str, Any]) -> str:
    text = score_text(row).split(" (")[0]
    seeds = row.get("seeds")
    return f"{text} ({seeds} seeds)" if seeds and seeds > 1 else text


def _score_hover(row: Mapping[str, Any]) -> str:
    seeds = row.get("seeds")
    many = f", {seeds} seed{'s' if seeds != 1 else ''}" if seeds else ""
    return f"{escape(str(row['label']))}<br>{score_text(row)}{many}"


def _signed(value: float, unit: str | None) -> str:
    value += 0.0 if abs(value) >= 0.05 or unit != SHARE else -value  # never a minus before 0.0
    return f"{value:+.1f}" if unit == SHARE else f"{'+' if value >= 0 else '-'}{significant(abs(value))}"
