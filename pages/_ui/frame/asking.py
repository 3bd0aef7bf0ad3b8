"""Asking the desk: a page draws the answer when it is there, and a quiet line until then."""

import time

import streamlit as st

from pages._ui.frame import state
from pages._ui.frame.layout import plain, say, sentences
from paraknow_core.catalogue import BASELINE, METHODS, PAPER_METHOD
from paraknow_core.engines.service import Service
from paraknow_core.errors import ParaknowError
from paraknow_core.spec import ROLES, RunSpec
from paraknow_core.workbench import desk
from paraknow_core.workbench.desk import Reply, requests
from paraknow_core.workbench.desk.requests import Question

PATIENCE_S = 0.5  # a quick answer is drawn at once, without a second rerun
BEFORE_START_S = 1.0  # a click that starts runs waits so long for what would refuse them
STEP_S = 0.02
EVERY_S = 0.4
FREE_FOR_S = 300  # what was free so long ago is looked at again
GONE_S = 8.0  # a desk that is not there after so long does not stay; it is started again every few seconds


def answered(question: Question, waiting: str = "Working it out …") -> Reply | None:
    """Return the desk's answer; until it is there, draw a line and return None; a failure is drawn as a sentence.

    Args:
        question: see `desk.requests`.
        waiting: what is said meanwhile.
    """
    reply = None
    with sentences():
        reply = _patient(question, PATIENCE_S)
    if reply is None or reply.state == "done":
        return reply
    if reply.state == "waiting":
        _wait(question, waiting)
        return None
    say(reply.error)
    if st.button("Try again", key=f"again:{reply.folder.name}", icon=":material/refresh:"):
        desk.forget(reply)
        st.rerun()
    return None


def _patient(question: Question, patience_s: float) -> Reply:
    reply, deadline = desk.ask(state.place(), question), time.monotonic() + patience_s
    while reply.state == "waiting" and time.monotonic() < deadline:
        time.sleep(STEP_S)
        reply = desk.ask(state.place(), question)
    return reply


def _quietly(question: Question, patience_s: float = 0.0) -> Reply:
    """Return the desk's answer; an empty one where it may not be asked: the field that chooses its subject says so."""
    try:
        return _patient(question, patience_s)
    except (ParaknowError, OSError):
        return Reply("failed")


def student_roles(spec: RunSpec) -> list[str]:
    """Return the roles that a spec's student has; empty while nobody knows."""
    parts = _quietly(requests.Anatomy(model=spec.student)).value.get("parts", [])
    return [part["role"] for part in parts if part["role"] in ROLES]


# Reasons why no run of a spec could begin. Each is empty where there is none, or none is known after `patience_s`.


def rank_problem(spec: RunSpec, patience_s: float = 0.0) -> str:
    """Return why the student is too small for the rank."""
    parts = _quietly(requests.Anatomy(model=spec.student), patience_s).value.get("parts", [])
    parts = [part for part in parts if part["role"] in spec.extraction.roles]
    smallest = min(parts, key=lambda part: min(part["shape"]), default=None)
    if smallest is None or METHODS[spec.method].whole or spec.factorisation.rank <= min(smallest["shape"]):
        return ""
    rows, columns = smallest["shape"]
    return (
        f"rank {spec.factorisation.rank} does not fit {smallest['first']} of the student, {rows} x {columns}; choose 1 "
        f"to {min(rows, columns)}"
    )


def seeds_problem(spec: RunSpec, patience_s: float = 0.0) -> str:
    """Return why the seed samples cannot be taken, as the run itself would say it."""
    if not METHODS[spec.method].needs_teacher and spec.until != "sensitivity":
        return ""
    error = _quietly(seeds_question(spec), patience_s).error
    # What else is wrong with the task may be over by the time that the run begins.
    return error if error.startswith("sensitivity") else ""


def fit_problem(spec: RunSpec, patience_s: float = 0.0) -> str:
    """Return why a run would refuse its examples, as it would say it itself."""
    method = PAPER_METHOD if METHODS[spec.method].needs_teacher else BASELINE  # all that matters is who reads what
    question = requests.Fit(spec=spec.model_copy(update={"method": method}))
    return _quietly(question, patience_s).value.get("problem", "")


def seeds_question(spec: RunSpec) -> requests.Seeds:
    """Return the question which training examples are a spec's seed samples.

    Which ones are left out as too long depends on the pair, and on what else of the run reads them.
    """
    if spec.task.too_long == "leave_out":
        return requests.Seeds(spec=spec, with_models=True)
    return requests.Seeds(spec=RunSpec(task=spec.task, sensitivity=spec.sensitivity), with_models=False)


def estimate_now(spec: RunSpec) -> requests.Estimate:
    """Return the question what a spec takes now; free memory and disk decide, so it is asked anew every few minutes."""
    return requests.Estimate(spec=spec, moment=int(time.time() // FREE_FOR_S))


def _wait(question: Question, waiting: str) -> None:
    """Keep the question asked while the page is open, and draw the page again when the answer is there."""

    began, service, problem = time.monotonic(), Service(state.place(), "desk"), ""

    def tick() -> None:
        nonlocal problem
        with sentences():
            if desk.ask(state.place(), question).state != "waiting":
                st.rerun()
        if time.monotonic() - began > GONE_S and not service.alive():
            problem = service.last_error() or problem  # a start empties the log
        if problem:
            say(f"desk: its process does not stay, and is started again and again; the end of its log: {problem}")
        st.caption(f":material/hourglass_top: {plain(waiting)}")

    st.fragment(tick, run_every=EVERY_S)()
