"""Where runs are executed: chosen here, explained in one line before a start, and said of every run afterwards."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from pages._ui.frame import state
from pages._ui.frame.layout import plain, say, unwritable, warn
from paraknow_core.engines.choice import Choice
from paraknow_core.errors import ParaknowError
from paraknow_core.settings import load_settings
from paraknow_core.spec import RunSpec
from paraknow_core.workbench import execution
from paraknow_core.workbench.execution import PLACES
from paraknow_core.workbench.standing import disk_words

ENGINE, SEEN, OUTCOME = "execution.engine", "execution.seen", "execution.outcome"
PLACEHOLDERS = {
    "address": "127.0.0.1:6379",
    "cpus": "as many as its threads",
    "gpus": "none",
    "partition": "the cluster's own",
    "account": "your own",
    "time": "2:00:00",
    "memory": "16G",
    "options": "--gres=gpu:1",
}


def choice(specs: Sequence[RunSpec]) -> Choice | None:
    """Return who would execute runs that are started here; None where the settings are not valid, which is said."""
    try:
        return execution.choice_of(state.place(), specs)
    except ParaknowError:
        return None


def before_start(specs: Sequence[RunSpec], study: bool = False) -> None:
    """Draw who would execute runs, of a study or not, and how long that takes, beside the way to choose it."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        try:
            engine = execution.engine_now(load_settings(state.place()))
            sentence = execution.choice_of(state.place(), specs, study).sentence if specs else ""
        except ParaknowError as error:  # a settings file that was edited by hand
            say(error)
            return
        if sentence:
            st.caption(f":material/computer: {plain(sentence)}.", width="content")
        with st.popover(
            plain(f"Executed by: {PLACES[engine].label}"),
            icon=":material/dns:",
            type="tertiary",
            help="Where runs and studies are executed that are started from now on; what waits stays where it is.",
        ):
            _choose(engine)
    full()


def full() -> None:
    """Say where the disk is full, and what to do."""
    if words := disk_words(state.place()):
        warn(words, "hard_drive")


def _choose(now: str) -> None:
    """Draw the choice, and the settings of what is chosen; only a person at this machine can change them."""
    if state.access().restricted:
        st.caption(plain(f"{PLACES[now].label}: {PLACES[now].text} Only whoever started the workbench can change it."))
        return
    st.markdown("**Where runs are executed**")
    if st.session_state.get(SEEN) != now:  # also where another window has changed it
        st.session_state[SEEN] = st.session_state[ENGINE] = now
    chosen = st.selectbox("Engine", list(PLACES), key=ENGINE, format_func=lambda name: PLACES[name].label)
    st.caption(plain(PLACES[chosen].text))
    with st.form(f"execution.{chosen}", border=False):
        values = execution.values_of(load_settings(state.place()), chosen)
        fields, boxes = PLACES[chosen].fields or {}, st.columns(2)
        for number, (key, label) in enumerate(fields.items()):
            wide = number == len(fields) - 1 and number % 2 == 0
            with st.container() if wide else boxes[number % 2]:
                _field(chosen, key, label, values[key])
        text, good = st.session_state.get(OUTCOME, ("", True))
        if text:
            st.success(plain(text), icon=":material/check:") if good else say(text)
        st.form_submit_button("Save settings", icon=":material/check:", type="primary", on_click=_save, args=(chosen,))
    st.caption("Kept in settings.yaml of the workspace; the command line goes by it, too.")


def _key(engine: str, name: str) -> str:
    return f"execution.{engine}.{name}"


def _field(engine: str, name: str, label: str, value: Any) -> None:
    options = {"key": _key(engine, name), "help": plain(execution.help_of(engine, name))}
    if isinstance(value, bool):
        st.checkbox(label, value, **options)
    elif name in ("cpus", "gpus"):
        st.number_input(label, 0.0, None, value, step=0.25, format="%g", placeholder=PLACEHOLDERS[name], **options)
    else:
        st.text_input(label, value or "", max_chars=300, placeholder=PLACEHOLDERS[name], **options)


def _save(engine: str) -> None:
    """Write the choice; what came of it is kept to say, where it was made."""
    values = {name: st.session_state.get(_key(engine, name)) for name in PLACES[engine].fields or {}}
    try:
        execution.choose_engine(state.place(), state.access(), engine, values)
    except (ParaknowError, OSError) as error:
        st.session_state[OUTCOME] = (unwritable(error) if isinstance(error, OSError) else str(error), False)
        return
    st.session_state[OUTCOME] = (f"Saved: {PLACES[engine].label}.", True)
