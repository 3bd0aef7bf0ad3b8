"""The layer x module maps that carry clicks, and the ranking and group charts under them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import streamlit as st

from pages._ui.frame import layout
from pages._ui.sensitivity.read import Saved, _opened
from paraknow_core.display import source_label
from paraknow_core.figures import maps as figures

if TYPE_CHECKING:
    import pandas

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
PLOT = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
    "toImageButtonOptions": {"format": "svg"},
}


def view_fields(value_cell: Any, log_cell: Any) -> None:
    """Draw what the cells show and how they are coloured; both are kept when the page is left."""
    st.session_state.setdefault(VALUE, "sum")
    with value_cell:
        value = st.segmented_control(
            "Show",
            list(LABELS),
            format_func=LABELS.get,
            key="sensitivity.value.widget",
            default=st.session_state[VALUE],
            required=True,
            help="; ".join(FORMULAS.values()),
        )
    st.session_state[VALUE] = value or "sum"
    st.session_state["sensitivity.log.widget"] = st.session_state.setdefault(LOG, True)
    with log_cell:
        st.session_state[LOG] = st.toggle(
            "Log",
            key="sensitivity.log.widget",
            help="Colour by log₁₀: modules differ by orders of magnitude.",
            on_change=lambda: st.session_state.update({LOG: st.session_state["sensitivity.log.widget"]}),
        )


def chosen_module(table: "pandas.DataFrame") -> str:
    """Return the module that is looked at: the one that was clicked or picked, else the one with the largest share."""
    chosen = st.session_state.get(MODULE)
    if chosen not in set(table["module"]):
        inside = table[table["layer"].notna()]
        chosen = (inside if len(inside) else table).sort_values("share", ascending=False)["module"].iloc[0]
        st.session_state[MODULE] = chosen
    return chosen


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
    parts = (saved.key, value, title, saved.about, limits, log, layout.is_dark(), height)
    figure = kept_picture("map", (parts, chosen), lambda: figures.frame_cell(go.Figure(_heatmap(*parts)), chosen))
    clickable(
        figure,
        f"heatmap:{saved.store.folder.name}:{value}:{bool(name)}",
        f"Heatmap: {title}, {saved.about}; layers upwards, modules from left to right; Numbers below holds the values",
    )


def clickable(figure: go.Figure, key: str, alt: str) -> None:
    """Draw a map whose points carry a module's name first; a click chooses it."""
    st.plotly_chart(
        figure, theme=None, config=PLOT, key=key, on_select=lambda: _clicked(key), selection_mode="points", alt=alt
    )


def _clicked(key: str) -> None:
    event = st.session_state.get(key)
    points = (event.get("selection") or {}).get("points") if isinstance(event, Mapping) else None
    if points and points[0].get("customdata"):
        data = points[0]["customdata"]
        module = data[0] if isinstance(data, list | tuple) else data["0"]
        if module:
            st.session_state[MODULE] = module


# Building a figure costs several times what sending it does: it is kept without its frame, which moves.
@st.cache_resource(max_entries=48, show_spinner=False)
def _heatmap(
    key: tuple[str, int],
    value: str,
    title: str,
    about: str,
    limits: tuple[float, float] | None,
    log: bool,
    dark: bool,
    height: int,
) -> dict:
    _, table = _opened(*key)
    figure = figures.sensitivity_heatmap(table, value, title, about, dark=dark, log=log, limits=limits, height=height)
    return figure.to_plotly_json()


def kept_picture(name: str, key: tuple, draw: Callable[[], go.Figure]) -> go.Figure:
    """Return a picture that depends on nothing but its key, drawn once.

    Args:
        name: of the kind of picture.
        key: everything that it depends on.
        draw: makes it; the result is shared and must not be changed.
    """
    return _kept(name, key, layout.is_dark(), draw)


@st.cache_resource(max_entries=160, show_spinner=False)
def _kept(name: str, key: tuple, dark: bool, _draw: Callable[[], go.Figure]) -> go.Figure:
    del name, key, dark
    return _draw()


def ranking(saved: Saved, kept: list[int] | None, student: str) -> None:
    """Draw the layers as ranked bars, those that the draft keeps solid."""
    dark = layout.is_dark()
    hints = ["number above the bar: rank"] if len(saved.totals["layers"]) <= 40 else []
    hints += [f"hatched: not kept for {source_label(student, 24)}"] if kept else []
    hint = "; ".join(hints)
    figure = kept_picture(
        "layers",
        (saved.key, tuple(kept or ()), hint),
        lambda: figures.layer_ranking(saved.totals["layers"], kept, "Layers by sensitivity", hint, dark=dark),
    )
    st.plotly_chart(figure, theme=None, config=PLOT, key="layers", alt="Bars: total sensitivity of each layer")


def groups(saved: Saved) -> None:
    """Draw how S divides between attention, ffn, embedding and the rest."""
    dark = layout.is_dark()
    figure = kept_picture(
        "groups",
        (saved.key,),
        lambda: figures.group_shares(saved.totals.get("groups") or {}, "Groups", saved.about, dark=dark),
    )
    st.plotly_chart(
        figure, theme=None, config=PLOT, key="groups", alt="Bars: share of attention, ffn, embedding and other"
    )


def common_limits(first: Saved, second: Saved) -> tuple[float, float] | None:
    """Return the span of two maps of shares together, so that equal colours mean equal numbers.

    Totals are not to be compared: they grow with the loss and with the number of samples.
    """
    value = st.session_state[VALUE]
    if value != "share":
        return None
    cells = [saved.table.loc[saved.table["layer"].notna(), value] for saved in (first, second)]
    numbers = [number for column in cells for number in column if number > 0]
    return (min(numbers), max(numbers)) if numbers and min(numbers) < max(numbers) else None
