"""The picture of a lesson: values with intervals, and the single values they were made of, one row each."""

from html import escape

import plotly.graph_objects as go

from paraknow_core.display import ARMS, GROUP_COLOURS, arm_of, shorten, significant
from paraknow_core.figures import draw
from paraknow_core.figures.style import blank, ink
from paraknow_core.studies.lessons import Panel, Row

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "hexagon", "star", "cross")


def panel_figure(panel: Panel, *, dark: bool = False) -> go.Figure:
    """Draw a panel: a marker at each value, a line for its interval, small points for what it was made of."""
    rows, places = panel.rows, list(range(len(panel.rows)))
    figure = blank(panel.title, panel.subtitle, dark, height=120 + 40 * len(rows))
    for place, row in enumerate(rows):
        if row.points:
            marker = {"size": 6, "color": _colour(row, dark), "opacity": 0.55}
            draw.scatter(figure, list(row.points), [place] * len(row.points), "markers", marker=marker)
    values = [row.value for row in rows]
    draw.scatter(
        figure,
        values,
        places,
        "markers",
        "%{customdata[0]}<br>%{customdata[1]}",
        marker={
            "size": 12,
            "color": [_colour(row, dark) for row in rows],
            "line": {"color": ink(dark), "width": 1},
            "symbol": [_symbol(row) for row in rows],
        },
        error_x=draw.error_bars(values, [row.low for row in rows], [row.high for row in rows], dark, width=6),
        customdata=[[escape(row.label), row_text(panel, row)] for row in rows],
    )
    ends = [max([row.value, *([row.high] if row.high is not None else []), *row.points]) for row in rows]
    numbers = [f"   {_number(panel, value)}" for value in values]
    draw.scatter(figure, ends, places, "text", text=numbers, textposition="middle right", cliponaxis=False)
    figure.update_xaxes(title_text=panel.unit, range=_range(panel), zeroline=False)
    if panel.zero:
        figure.add_vline(x=0, line={"color": ink(dark), "width": 1.2, "dash": "dot"})
    draw.named_rows(figure, [escape(shorten(row.label, 34), quote=False) for row in rows], 0.5, 0.5)
    return figure


def row_text(panel: Panel, row: Row) -> str:
    """Return a row in words: `0.92, 0.88 to 0.95`."""
    known = row.low is not None and row.high is not None
    interval = f", {_number(panel, row.low)} to {_number(panel, row.high)}" if known else ""
    return f"{_number(panel, row.value)}{interval}"


def _number(panel: Panel, value: float) -> str:
    sign = "+" if panel.zero and value > 0 else ""
    return sign + (f"{value:.1f}" if panel.unit.endswith(("[%]", "[points]")) else significant(value))


def alternative(panel: Panel) -> str:
    """Return the picture as a sentence, for those who do not see it."""
    rows = "; ".join(f"{row.label} {row_text(panel, row)}" for row in panel.rows)
    return f"{panel.title} ({panel.subtitle}), {panel.unit}: {rows}"


def _range(panel: Panel) -> tuple[float, float]:
    """Room for all intervals, for zero where it has a line, and for the numbers at the right."""
    numbers = [
        number for row in panel.rows for number in (row.value, row.low, row.high, *row.points) if number is not None
    ]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    if panel.zero or panel.unit.endswith("[%]"):
        low, high = min(low, 0.0), max(high, 0.0)
    width = (high - low) or 1.0
    margin = 0.0 if low == 0.0 and not panel.zero else 0.05
    return low - margin * width, high + 0.16 * width


def _colour(row: Row, dark: bool) -> str:
    return GROUP_COLOURS[row.arm] if row.arm in GROUP_COLOURS else arm_of(row.arm).shade(dark)


def _symbol(row: Row) -> str:
    names = [*GROUP_COLOURS] if row.arm in GROUP_COLOURS else [*ARMS]
    return SYMBOLS[names.index(row.arm) % len(SYMBOLS)] if row.arm in names else SYMBOLS[0]
