"""Figures of the page Models & task: where the parameters of a pair are, and how long a task's examples are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import plotly.graph_objects as go

from paraknow_core.display import GROUP_COLOURS, count, percent
from paraknow_core.figures import draw
from paraknow_core.figures.style import BLUE, HIGHLIGHT, blank, ink, legend_below, neutral, paper, readable, text_on

LETTER_SHARE = 0.019  # of the longest bar that a letter takes: names of narrower parts are on hover only
MOST_BINS = 60


def parameter_bars(
    models: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "", subtitle: str = "", *, dark: bool = False
) -> go.Figure:
    """Draw for each model one bar of its parameters, a part for each role, coloured by group.

    Args:
        models: label (markup already escaped) -> parts with `role`, `group`, `parameters` and `modules`, as the
            desk's `anatomy` gives them.
    """
    figure = blank(title, subtitle, dark, height=124 + 82 * max(1, len(models)))
    totals = {label: sum(part["parameters"] for part in parts) for label, parts in models.items()}
    longest = max(totals.values(), default=1) or 1
    seen: set[str] = set()
    for label, parts in models.items():
        for part in parts:
            if not part["parameters"]:
                continue
            wide = part["parameters"] / longest >= LETTER_SHARE * (1 + len(part["role"]))
            hover = (
                f"{label.replace('<br>', ' ')}: {part['role']} ({part['group']})<br>{count(part['parameters'])} in "
                f"{part['modules']:,}, {percent(part['parameters'] / totals[label])} of the model"
            )
            draw.bars(
                figure,
                [part["parameters"]],
                [label],
                hover,
                orientation="h",
                name=part["group"],
                legendgroup=part["group"],
                showlegend=part["group"] not in seen,
                marker={"color": GROUP_COLOURS[part["group"]], "line": {"color": paper(dark), "width": 1.5}},
                text=part["role"] if wide else None,
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                textfont={"color": text_on(GROUP_COLOURS[part["group"]]), "size": 12},
                constraintext="none",
            )
            seen.add(part["group"])
    for label, total in totals.items():
        font = {"color": ink(dark), "size": 13}
        draw.write(figure, total, label, count(total), xanchor="left", xshift=6, font=font)
    figure.update_layout(
        barmode="stack",
        bargap=0.3,
        margin={"r": 70},
        legend={"traceorder": "normal", "itemclick": False, "itemdoubleclick": False},
    )
    legend_below(figure, sorted(seen))
    figure.update_xaxes(title_text="parameters", range=[0, longest * 1.02], nticks=6)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def length_histogram(
    lengths: Sequence[int], limit: int, title: str = "", subtitle: str = "", *, dark: bool = False
) -> go.Figure:
    """Draw how many examples have how many tokens, and where the limit cuts.

    Args:
        lengths: tokens of each example before any cut.
        limit: tokens that are kept.
    """
    figure = blank(title, subtitle, dark, height=300)
    lengths = numpy.asarray(lengths, dtype=numpy.int64)
    figure.update_xaxes(title_text="tokens of an example, prompt and answer", rangemode="tozero", showgrid=False)
    figure.update_yaxes(title_text="examples", rangemode="tozero", tickformat=",d")
    if not lengths.size:
        return figure
    low, high = int(lengths.min()), int(lengths.max())
    width = max(1, -(-(high - low + 1) // MOST_BINS))
    edges = numpy.arange(low, high + width + 1, width)
    for inside, name, colour in ((True, "whole", BLUE), (False, "cut at the end", HIGHLIGHT)):
        chosen = lengths[(lengths <= limit) == inside]
        counts, _ = numpy.histogram(chosen, edges)
        if not counts.any():
            continue
        cut = {"shape": "/", "fgcolor": colour, "bgcolor": "rgba(213,94,0,0.35)", "solidity": 0.5}
        draw.bars(
            figure,
            edges[:-1] + (width - 1) / 2,
            counts,
            f"%{{customdata}} tokens: %{{y:,}} examples, {name}",
            width=width * 0.94,
            name=name,
            customdata=[_span(start, width) for start in edges[:-1]],
            marker={"color": colour, "pattern": None if inside else cut},
        )
    figure.update_layout(barmode="stack", bargap=0.06, margin={"t": figure.layout.margin.t + 22})
    near = limit <= 1.6 * high
    if near:
        figure.add_vline(x=limit + 0.5, line={"color": ink(dark), "width": 1.5, "dash": "dash"})
    draw.write(
        figure,
        limit + 0.5 if near else 1,
        1,
        f"limit {limit:,}" if near else f"limit {limit:,} →",
        ink(dark) if near else readable(neutral(dark), dark),
        xref="x" if near else "paper",
        yref="paper",
        yanchor="bottom",
        xanchor="center" if near and limit < 0.85 * high else "right",
    )
    return figure


def _span(start: int, width: int) -> str:
    return f"{start:,}" if width == 1 else f"{start:,}–{start + width - 1:,}"
