"""What Compare keeps in its address, so that a link shows the same comparison: runs, study, view, base, scorer."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.frame.fields import mirror
from paraknow_core.errors import RunError
from paraknow_core.workbench import reading
from paraknow_core.workbench.views.compare import of_study, suggestion

if TYPE_CHECKING:
    import pandas

MOST = 60  # runs in one comparison
CHOSEN, LINK, PROBLEMS = "compare.runs", "compare.link", "compare.problems"


def chosen(table: "pandas.DataFrame") -> list[str]:
    """Return the ids to compare: the address's, else those of a study, else the last ones, else a suggestion.

    Whatever it is, the address then names it.
    """
    link = (st.query_params.get("run", ""), st.query_params.get("study", ""))
    if any(link) and link != st.session_state.get(LINK):
        st.session_state[CHOSEN], st.session_state[PROBLEMS] = _from_link(table, *link)
        st.session_state[LINK] = link
    elif CHOSEN not in st.session_state:
        st.session_state[CHOSEN] = suggestion(table, state.place())
    for problem in st.session_state.get(PROBLEMS, []):
        layout.say(problem)
    all_ids = set(table["id"])
    ids = [run_id for run_id in st.session_state[CHOSEN] if run_id in all_ids]
    if ids and not link[1]:
        _write(ids)
    return ids


def choose(ids: Sequence[str]) -> None:
    """Compare these from now on, and say so in the address."""
    st.session_state[CHOSEN], st.session_state[PROBLEMS] = list(ids)[:MOST], []
    if len(ids) > MOST:
        st.session_state[PROBLEMS] = [f"compare: {len(ids)} runs chosen; the first {MOST} are compared, choose fewer"]
    _write(st.session_state[CHOSEN])


def _write(ids: Sequence[str]) -> None:
    text = ",".join(ids)
    if st.query_params.get("run", "") != text:
        st.query_params["run"] = text
    st.session_state[LINK] = (text, st.query_params.get("study", ""))


def _from_link(table: "pandas.DataFrame", runs: str, study: str) -> tuple[list[str], list[str]]:
    """Return the ids that an address names, and a sentence for each part of it that names nothing."""
    ids, problems = [], []
    for name in [name.strip() for name in runs.split(",") if name.strip()][:MOST]:
        try:
            ids.append(reading.run_named(state.place(), name).id)
        except RunError as error:
            problems.append(str(error))
    if not ids and study:
        ids = of_study(table, study)[:MOST]
        if not ids:
            problems.append(f"study '{study[:60]}': no run has a name that begins with it; choose runs in the table")
    return list(dict.fromkeys(ids)) or suggestion(table, state.place()), problems


def linked(
    widget: Callable[..., Any], label: str, name: str, options: Sequence[str], default: str | None = None, **more: Any
) -> str:
    """Draw a choice that is kept in the address and over a change of pages.

    Args:
        widget: selectbox or segmented_control.
        label: its label.
        name: of the address's parameter.
        options: what can be chosen, not empty.
        default: where nothing was; the first by default.
        more: for the widget.
    """
    kept = f"compare.{name}"
    asked = st.query_params.get(name, "")
    current = asked or st.session_state.get(kept)
    if current not in options:
        current = default if default in options else options[0]
        if asked and asked != st.session_state.get(kept):  # not what was there until another choice took it away
            layout.say_unknown(name, asked, options, current)
    elif asked:
        st.session_state[kept] = asked

    def store(value: str | None) -> None:
        if value is not None:
            st.session_state[kept] = value
            st.query_params[name] = value

    return mirror(widget, label, f"{kept}.widget", current, store, options=options, **more) or current
