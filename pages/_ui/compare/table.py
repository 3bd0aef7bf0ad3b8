"""The table of runs on Compare: filters, only the settings that differ, and rows to pick."""

from typing import TYPE_CHECKING

import streamlit as st

from pages._ui.compare import link as compare_link
from pages._ui.frame import state
from pages._ui.frame.fields import kept
from pages._ui.frame.layout import info, plain, selected
from paraknow_core.workbench import reading
from paraknow_core.workbench.views import compare as runs_view

if TYPE_CHECKING:
    import pandas

FILTER = "compare.filter."
VERSION = "compare.table.version"
ROWS_HIGH = 9
WIDTHS = {"state": 92, "arm": 150, "score": 190, "seed": 60, "name": 220, "run": 280}


def pick(table: "pandas.DataFrame", chosen: list[str]) -> None:
    """Draw filters and table; what is picked goes into the address."""
    matching = _filtered(table)
    shown = runs_view.listed(matching, chosen)
    if shown.empty:
        info("No run matches these filters.", "filter_alt_off")
        if st.button("Clear the filters", icon=":material/filter_alt_off:"):
            for name in [key for key in st.session_state if str(key).startswith(FILTER)]:
                del st.session_state[name]
            st.rerun()
        return
    ids = list(shown["id"])
    places = [place for place, run_id in enumerate(ids) if run_id in set(chosen)]
    # A table of other rows is another widget: Streamlit keeps row numbers, not runs.
    key = f"compare.table:{hash(tuple(ids))}:{st.session_state.get(VERSION, 0)}"

    def picked() -> None:
        inside = [ids[row] for row in selected(key, "rows") if row < len(ids)]
        compare_link.choose([*(run_id for run_id in chosen if run_id not in ids), *inside])

    tips = {"score": "main score, half its 95 % interval, n"}
    config = {name: st.column_config.TextColumn(width=w, help=tips.get(name)) for name, w in WIDTHS.items()}
    view = runs_view.as_shown(shown, reading.titles(state.place()))
    st.dataframe(
        view,
        key=key,
        on_select=picked,
        selection_mode="multi-row",
        selection_default={"selection": {"rows": places}},
        hide_index=True,
        height=38 + 35 * min(ROWS_HIGH, len(view)),
        column_config=config,
        placeholder="",
        alt="Table of runs: state, arm, pair, task, score, and the settings in which they differ",
    )
    _below(table, matching, shown, chosen)


def _below(
    table: "pandas.DataFrame", matching: "pandas.DataFrame", shown: "pandas.DataFrame", chosen: list[str]
) -> None:
    hidden = len(set(chosen) - set(shown["id"]))
    text = f"{len(chosen)} of {len(table)} runs chosen; tick rows to choose. Only settings that differ are columns."
    if len(shown) < len(matching):
        text += f" Listed are the newest of {len(matching):,} that match: filter or find for older ones."
    line = st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center")
    line.caption(plain(text + (f" {hidden} chosen are hidden by the filters." if hidden else "")), width="content")
    buttons = line.container(horizontal=True, width="content")
    if buttons.button(
        "Newest and its siblings",
        icon=":material/auto_awesome:",
        type="tertiary",
        help="The newest finished run and all that ask the same: same models, task, rank and training, "
        "any method and seed.",
    ):
        redraw(runs_view.suggestion(table, state.place()))
    if chosen and buttons.button("Choose none", icon=":material/deselect:", type="tertiary"):
        redraw([])


def redraw(ids: list[str]) -> None:
    """Choose runs from outside the table: it is drawn anew, with these ticked."""
    st.session_state[VERSION] = st.session_state.get(VERSION, 0) + 1
    compare_link.choose(ids)
    st.rerun()


def _filtered(table: "pandas.DataFrame") -> "pandas.DataFrame":
    boxes = st.container(key="stack-fields-filters").columns([2.2, 1.6, 1.5, 1.2, 2], vertical_alignment="bottom")
    choices = {}
    for box, (label, values) in zip(boxes, runs_view.columns_to_filter(table).items(), strict=False):
        options, key = ["all", *sorted(set(values) - {""})], f"{FILTER}{label}"
        if st.session_state.get(key) not in options:
            st.session_state.pop(key, None)
        choices[label] = kept(box.selectbox, label, key, "all", options=options)
    shown = {"placeholder": "name, note, id or setting", "max_chars": 200, "icon": ":material/search:"}
    text = kept(boxes[-1].text_input, "Find", f"{FILTER}text", "", **shown)
    choices = {label: value for label, value in choices.items() if value != "all"}
    return runs_view.filtered(table, choices, text.strip(), state.place())
