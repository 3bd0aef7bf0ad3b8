"""The runs of a lesson: found again by what they compute, submitted where they are missing."""

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from pages._ui.frame import layout, reading, state, waiting
from pages._ui.frame import run_panel as widgets
from paraknow_core.display import counted, duration
from paraknow_core.engines import queue
from paraknow_core.runs.folder import RunFolder
from paraknow_core.studies import same
from paraknow_core.studies.lessons import Lesson

ENDED_BADLY = ("failed", "lost", "stopped")


@dataclass(frozen=True)
class Found:
    """Which runs of a lesson are there.

    Attributes:
        runs: label -> the best run of this spec: done, else active, else the newest that ended otherwise.
        states: label -> its state; "" where there is none.
    """

    runs: Mapping[str, RunFolder]
    states: Mapping[str, str]

    @property
    def done(self) -> bool:
        return all(word == "done" for word in self.states.values())

    @property
    def active(self) -> bool:
        return any(word in ("queued", "running", "stopping") for word in self.states.values())

    @property
    def missing(self) -> list[str]:
        return [label for label, word in self.states.items() if not word or word in ENDED_BADLY]

    @property
    def finished(self) -> int:
        return sum(word == "done" for word in self.states.values())


def find(lesson: Lesson) -> Found:
    """Look for a run that computes what each spec of the lesson does, whatever it is called."""
    wanted = {same.computes(spec): label for label, spec in lesson.specs.items()}
    runs: dict[str, RunFolder] = {}
    states: dict[str, str] = {}
    order = queue.read(state.place())
    for run, one in reading.all_facts(state.place()):
        label = wanted.get(one.computes)
        if label is None or states.get(label) == "done" or queue.never_started(run, order):
            continue
        if not same.shows(one.spec, lesson.specs[label]):
            continue  # the lesson shows an untrained model that this run has not scored
        word = run.status().state
        word = "lost" if word == "done" and not one.result else word  # its result was removed
        if label not in runs or _rank(word) < _rank(states[label]):
            runs[label], states[label] = run, word
    return Found(runs, {label: states.get(label, "") for label in lesson.specs})


def _rank(word: str) -> int:
    return 0 if word == "done" else 2 if word in ENDED_BADLY else 1


def submit(lesson: Lesson, found: Found) -> None:
    """Start every run that is missing, in the lesson's order, before what waits without hurry."""
    if widgets.start(*(lesson.specs[label] for label in found.missing), first=True) is not None:
        st.rerun()


def progress(lesson: Lesson, found: Found) -> None:
    """Draw how far the lesson's runs are, and what each is doing."""
    total = len(lesson.specs)
    running = next((label for label, word in found.states.items() if word == "running"), None)
    part = found.runs[running].status() if running else None
    share = (found.finished + (0.5 * part.fraction if part else 0.0)) / total
    stage = f", {running}: {part.stage or 'starting'}" if part else ""
    st.progress(min(1.0, share), text=layout.plain(f"{found.finished} of {total} runs done{stage}"))
    if part is None:
        _say_the_wait(found)
    with st.expander("The runs", expanded=False, icon=":material/list:"):
        table(lesson, found)


def _say_the_wait(found: Found) -> None:
    """Say which place in line the lesson's next run has, and when its turn will be."""
    queued = [found.runs[label] for label, word in found.states.items() if word == "queued"]
    waits = [wait for wait in map(waiting.wait_of, queued) if wait is not None]
    if not waits:
        return
    soonest = min(waits, key=lambda wait: wait.number)
    if soonest.number > 1 or soonest.busy:
        words = f"Waiting: {waiting.words(soonest)}. Lessons go before other runs that wait, not before those going on."
        words += waiting.unknown(soonest)
        st.info(layout.plain(words), icon=":material/hourglass_empty:")


def wait_before(count: int, whose: str = "Its") -> str:
    """Return a sentence on how long a lesson that is started now would wait; empty where it begins at once."""
    wait = waiting.wait_of_new_first(count)
    if wait is None:
        return ""
    others = len(queue.read(state.place()).waiting) - (wait.number - 1)
    ahead = f"; it goes before {counted(others, 'run')} that wait{'s' if others == 1 else ''}" if others else ""
    return f"{whose} turn would be {waiting.words(wait)}{ahead}.{waiting.unknown(wait)}"


def table(lesson: Lesson, found: Found) -> None:
    """Draw every run of the lesson with its state and the way to look at it."""
    for label, spec in lesson.specs.items():
        name, word = st.columns([4, 1.4], vertical_alignment="center", wrap=False)
        run = found.runs.get(label)
        if run is None:
            name.markdown(layout.plain(label))
            word.html('<span class="pk-quiet">not started</span>')
            continue
        page = "pages/sensitivity.py" if spec.until == "sensitivity" else "pages/train.py"
        name.page_link(page, label=layout.plain(label), query_params={"run": run.id}, help=run.id)
        word.html(layout.chip(found.states[label]))


def problems(found: Found) -> None:
    """Say of runs that ended otherwise what happened."""
    for label, word in found.states.items():
        if word in ENDED_BADLY:
            message = found.runs[label].status().message
            st.warning(layout.plain(f"{label}: {word}. {message}"), icon=":material/error:")


def cost(lesson: Lesson, found: Found) -> str:
    """Say what the missing runs will take."""
    number = len(found.missing)
    seconds = max(10.0, round(number / len(lesson.specs) * lesson.seconds, -1))
    return f"{number} run{'s' if number != 1 else ''}, about {duration(seconds)}"
