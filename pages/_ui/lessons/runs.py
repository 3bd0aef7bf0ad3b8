"""The runs of a lesson as they are drawn: how far they are, a table, what went wrong."""

import streamlit as st

from pages._ui.frame import state, submit
from pages._ui.frame.layout import chip, info, plain, warn
from paraknow_core.studies.lessons import Lesson
from paraknow_core.workbench.views.lessons import ENDED_BADLY, LessonRuns, waiting_words


def submit_missing(lesson: Lesson, lesson_runs: LessonRuns) -> None:
    """Start every run that is missing, in the lesson's order, before what waits without hurry."""
    if submit.start(*(lesson.specs[label] for label in lesson_runs.missing), first=True) is not None:
        st.rerun()


def progress(lesson: Lesson, lesson_runs: LessonRuns) -> None:
    """Draw how far the lesson's runs are, and what each is doing."""
    running = lesson_runs.running
    stage = f", {running}: {lesson_runs.runs[running].status().stage or 'starting'}" if running else ""
    st.progress(lesson_runs.fraction, text=plain(f"{lesson_runs.finished} of {len(lesson.specs)} runs done{stage}"))
    words = "" if running else waiting_words(state.place(), lesson_runs)
    if words:
        info(plain(words), "hourglass_empty")
    with st.expander("The runs", expanded=False, icon=":material/list:"):
        table(lesson, lesson_runs)


def table(lesson: Lesson, lesson_runs: LessonRuns) -> None:
    """Draw every run of the lesson with its state and the way to look at it."""
    for label, spec in lesson.specs.items():
        name, word = st.columns([4, 1.4], vertical_alignment="center", wrap=False)
        run = lesson_runs.runs.get(label)
        if run is None:
            name.markdown(plain(label))
            word.html('<span class="pk-quiet">not started</span>')
            continue
        page = "pages/sensitivity.py" if spec.until == "sensitivity" else "pages/train.py"
        name.page_link(page, label=plain(label), query_params={"run": run.id}, help=run.id)
        word.html(chip(lesson_runs.states[label]))


def problems(lesson_runs: LessonRuns) -> None:
    """Say of runs that ended otherwise what happened."""
    for label, ended in lesson_runs.states.items():
        if ended in ENDED_BADLY:
            warn(f"{label}: {ended}. {lesson_runs.runs[label].status().message}", "error")
