"""The layer x module maps that carry clicks, and the ranking and group charts under them."""

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from pages._ui.frame import layout
from pages._ui.frame.fields import kept
from pages._ui.frame.layout import kept_picture
from paraknow_core.display import source_label
from paraknow_core.figures import maps as figures
from paraknow_core.workbench.views.sensitivity import Saved, most_sensitive

MODULE = "sensitivity.module"
VALUE = "sensitivity.value"
LOG = "sensitivity.log"
FORMULAS = {
    "sum": "total: S = Σ over seed samples of |θ · ∂L/∂θ|, summed over the module's weights",
    "mean": "per parameter: S divided by the module's number of weights",
    "share": "share: S divided by S of the whole model",
}
LABELS = {"sum": "total", "mean": "per parameter", "share": "share"}
TITLES = {
    "sum": "Sensitivity by layer and module",
    "mean": "Sensitivity per parameter",
    "share": "Share of the model's sensitivity",
}


def view_fields(value_cell: Any, log_cell: Any) -> None:
    """Draw what the cells show and how they are coloured; both are kept when the page is left."""
    shown = {"options": list(LABELS), "format_func": LABELS.get, "required": True, "help": "; ".join(FORMULAS.values())}
    kept(value_cell.segmented_control, "Show", VALUE, "sum", **shown)
    tip = "Colour by log₁₀: modules differ by orders of magnitude."
    kept(log_cell.toggle, "Log", LOG, True, help=tip)


def chosen_module(saved: Saved) -> str:
    """Return the module that is looked at: the one that was clicked or picked, else the one with the largest share."""
    if st.session_state.get(MODULE) not in set(saved.table["module"]):
        st.session_state[MODULE] = most_sensitive(saved)
    return st.session_state[MODULE]


def heatmap(
    saved: Saved,
    chosen: str | None,
    *,
    name: str = "",
    limits: tuple[float, float] | None = None,
    height: int = figures.TALL,
) -> None:
    """Draw one map of a model; clicking a cell chooses its module.

    Args:
        saved: what is drawn.
        chosen: the module that is framed.
        name: told in the title, where two maps stand side by side.
        limits: of the colours, to share them with another map.
        height: in pixels, at least.
    """
    value, log = st.session_state[VALUE], st.session_state[LOG]
    title = f"{TITLES[value]}: {name}" if name else TITLES[value]

    def draw() -> go.Figure:
        about = {"dark": layout.is_dark(), "log": log, "limits": limits, "height": height}
        return figures.sensitivity_heatmap(saved.table, value, title, saved.about, **about)

    # Building a figure costs several times what sending it does: it is kept without its frame, too, which moves.
    key = (saved.key, value, title, saved.about, limits, log, height)
    clickable(
        kept_picture(
            "map", (key, chosen), lambda: figures.frame_cell(go.Figure(kept_picture("heatmap", key, draw)), chosen)
        ),
        f"heatmap:{saved.store.folder.name}:{value}:{bool(name)}",
        f"Heatmap: {title}, {saved.about}; layers upwards, modules from left to right; Numbers below holds the values",
    )


def clickable(figure: go.Figure, key: str, alt: str) -> None:
    """Draw a map whose points carry a module's name first; a click chooses it."""

    def clicked() -> None:
        data = layout.chosen_point(key)
        if data and data[0]:
            st.session_state[MODULE] = data[0]

    layout.chart(figure, key, alt, without=layout.NO_SELECTION, on_select=clicked, selection_mode="points")


def picture(name: str, key: tuple, alt: str, draw: Callable[[], go.Figure]) -> None:
    """Draw a picture that depends on nothing but its key; see `kept_picture`."""
    layout.chart(kept_picture(name, key, draw), name, alt, without=layout.NO_SELECTION)


def ranking(saved: Saved, kept_layers: list[int] | None, student: str) -> None:
    """Draw the layers as ranked bars, those that the draft keeps solid."""
    dark, layers = layout.is_dark(), saved.totals["layers"]
    hints = ["number above the bar: rank"] if len(layers) <= 40 else []
    hints += [f"hatched: not kept for {source_label(student, 24)}"] if kept_layers else []
    hint = "; ".join(hints)
    picture(
        "layers",
        (saved.key, tuple(kept_layers or ()), hint),
        "Bars: total sensitivity of each layer",
        lambda: figures.layer_ranking(layers, kept_layers, "Layers by sensitivity", hint, dark=dark),
    )


def groups(saved: Saved) -> None:
    """Draw how S divides between attention, ffn, embedding and the rest."""
    dark = layout.is_dark()
    picture(
        "groups",
        (saved.key,),
        "Bars: share of attention, ffn, embedding and other",
        lambda: figures.group_shares(saved.totals.get("groups") or {}, "Groups", saved.about, dark=dark),
    )
