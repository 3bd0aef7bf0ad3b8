"""What Compare keeps in its address, so that a link shows the same comparison: runs, study, view, base, scorer."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from pages._ui.frame import fields, layout, state
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
        ids = of_study(table, study, state.place())
        if not ids:
            problems.append(f"study '{study[:60]}': no run has a name that begins with it; choose runs in the table")
        if len(ids) > MOST:
            problems.append(f"study '{study[:60]}': has {len(ids)} runs; the first {MOST} are compared, seed by seed")
        ids = ids[:MOST]
    return list(dict.fromkeys(ids)) or suggestion(table, state.place()), problems


linked = partial(fields.linked, "compare")
