"""Starting the draft: which runs that makes, which of them are there already, and putting the others into the queue."""

from dataclasses import dataclass

import streamlit as st

from pages._ui.frame import asking, reading, state
from pages._ui.frame import run_panel as widgets
from pages._ui.frame.layout import say
from paraknow_core import studies as comparison
from paraknow_core.display import arm_of, counted
from paraknow_core.engines import queue
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec

AGAIN = "launching.again"
WORDS = {"done": "run", "running": "running", "queued": "queued"}


@dataclass(frozen=True)
class Plan:
    """What Start would do.

    Attributes:
        specs: of all runs that the draft stands for.
        there: for each the run that has computed it or is about to, or None.
        again: whether those are run once more.
    """

    specs: list[RunSpec]
    there: list[RunFolder | None]
    again: bool = False

    @property
    def todo(self) -> list[RunSpec]:
        """The specs that Start makes runs of."""
        return [spec for spec, run in zip(self.specs, self.there, strict=True) if run is None or self.again]

    @property
    def known(self) -> list[RunFolder]:
        """The runs that are there already."""
        return [run for run in self.there if run is not None]

    def already(self) -> str:
        """Say which are there already: state, arm and seeds; empty where none is."""
        seeds: dict[tuple[str, str], list[int]] = {}
        for spec, run in zip(self.specs, self.there, strict=True):
            if run is not None:
                seeds.setdefault((WORDS.get(state_of(run), "there"), spec.method), []).append(spec.seed)
        arms: dict[tuple[str, str], list[str]] = {}
        for (word, method), own in seeds.items():
            arms.setdefault((word, seed_words(own)), []).append(arm_name(method))
        return " ".join(f"Already {word}: {' and '.join(names)}, {own}." for (word, own), names in arms.items())


def arm_name(method: str) -> str:
    """Return a method's name where there is little room."""
    return arm_of(method).label.replace(" (the method)", "")


def seed_words(seeds: list[int]) -> str:
    """Return seeds in few words: `seed 3`, `seeds 0 and 2`, `seeds 0 to 4`."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds[:-1]))} and {seeds[-1]}"


def plan() -> Plan:
    """Work out what Start would do with the draft as it is."""
    specs = state.whole_draft().planned()
    wanted = {comparison.computes(spec) for spec in specs}
    runs = [(run, one.spec) for run, one in reading.all_facts(state.place()) if one.spec and one.computes in wanted]
    there = comparison.there_already(specs, runs, state_of)
    return Plan(specs, there, any(there) and bool(st.session_state.get(AGAIN)))


def state_of(run: RunFolder) -> str:
    """Return a run's state; nothing where it will never have a score: never started, or its result was removed."""
    word = reading.state_of(run)
    if word == "queued" and queue.never_started(run, queue.read(state.place())):
        return ""
    return "" if word == "done" and not reading.facts(run).scores else word


def problem(patience_s: float = 0.0) -> str:
    """Return why nothing of the draft could run, as far as that is known; else nothing.

    Args:
        patience_s: how long an answer is waited for.
    """
    draft = state.whole_draft()
    tight = asking.rank_problem(draft.spec, patience_s)
    specs = [draft.spec.with_changes({"method": method}) for method in (draft.spec.method, *draft.arms)]
    return tight or next(filter(None, (asking.seeds_problem(spec) or asking.fit_problem(spec) for spec in specs)), "")


def start(made: Plan) -> RunFolder | None:
    """Put what is to be run into the queue and return the first run; where that is refused it is said."""
    unseen = state.changed_unseen()
    if unseen:
        say(unseen)
        return None
    with st.spinner(f"Putting {counted(len(made.todo), 'run')} into the queue …", show_time=False):
        run = widgets.start(*made.todo)
    if run is not None:
        st.session_state.pop(AGAIN, None)
    return run
