"""The runs of a lesson as they are drawn: how far they are, a table, what went wrong."""

import streamlit as st

from pages._ui.frame import state, submit
from pages._ui.frame.layout import chip, info, plain, warn
from paraknow_core.studies.lessons import Lesson
from paraknow_core.workbench.views.lessons import ENDED_BADLY, Found, waiting_words


def submit_missing(lesson: Lesson, found: Found) -> None:
    """Start every run that is missing, in the lesson's order, before what waits without hurry."""
    if submit.start(*(lesson.specs[label] for label in found.missing), first=True) is not None:
        st.rerun()


def progress(lesson: Lesson, found: Found) -> None:
    """Draw how far the lesson's runs are, and what each is doing."""
    running = found.running
    stage = f", {running}: {found.runs[running].status().stage or 'starting'}" if running else ""
    st.progress(found.fraction, text=plain(f"{found.finished} of {len(lesson.specs)} runs done{stage}"))
    words = "" if running else waiting_words(state.place(), found)
    if words:
        info(plain(words), "hourglass_empty")
    with st.expander("The runs", expanded=False, icon=":material/list:"):
        table(lesson, found)


def table(lesson: Lesson, found: Found) -> None:
    """Draw every run of the lesson with its state and the way to look at it."""
    for label, spec in lesson.specs.items():
        name, word = st.columns([4, 1.4], vertical_alignment="center", wrap=False)
        run = found.runs.get(label)
        if run is None:
            name.markdown(plain(label))
            word.html('<span class="pk-quiet">not started</span>')
            continue
        page = "pages/sensitivity.py" if spec.until == "sensitivity" else "pages/train.py"
        name.page_link(page, label=plain(label), query_params={"run": run.id}, help=run.id)
        word.html(chip(found.states[label]))


def problems(found: Found) -> None:
    """Say of runs that ended otherwise what happened."""
    for label, ended in found.states.items():
        if ended in ENDED_BADLY:
            warn(f"{label}: {ended}. {found.runs[label].status().message}", "error")
