"""What Start would do with a draft: which runs that makes, and which of them are there already."""

from collections.abc import Sequence
from dataclasses import dataclass

from paraknow_core.display import arm_of
from paraknow_core.engines import queue
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec
from paraknow_core.studies import repeats, same
from paraknow_core.workbench import reading
from paraknow_core.workbench.draft import Draft
from paraknow_core.workbench.reading import Facts

WORDS = {"done": "run", "running": "running", "queued": "queued"}


@dataclass(frozen=True)
class Plan:
    """What Start would do.

    Attributes:
        specs: of all runs that the draft stands for.
        there: for each the run that has computed it or is about to, or None.
        states: of those runs; empty where there is none.
        again: whether those are run once more.
    """

    specs: list[RunSpec]
    there: list[RunFolder | None]
    states: list[str]
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
        for spec, state in zip(self.specs, self.states, strict=True):
            if state:
                seeds.setdefault((WORDS.get(state, "there"), spec.method), []).append(spec.seed)
        arms: dict[tuple[str, str], list[str]] = {}
        for (state, method), numbers in seeds.items():
            arms.setdefault((state, seed_words(numbers)), []).append(arm_name(method))
        return " ".join(f"Already {state}: {' and '.join(names)}, {words}." for (state, words), names in arms.items())


def plan(place: Workspace, draft: Draft, again: bool = False) -> Plan:
    """Work out what Start would do with a draft.

    Args:
        place: the workspace.
        draft: as it is.
        again: whether runs that are there are wanted once more.
    """
    specs = draft.planned()
    computed = {same.computes(spec) for spec in specs}
    runs = [(run, facts.spec) for run, facts in reading.all_facts(place) if facts.spec and facts.computes in computed]

    order = queue.read(place)

    def state(run: RunFolder) -> str:
        return state_of(run, order)

    there = repeats.there_already(specs, runs, state)
    return Plan(specs, there, ["" if run is None else state(run) or "there" for run in there], any(there) and again)


def state_of(run: RunFolder, order: queue.Order) -> str:
    """Return a run's state; nothing where it will never have a score: never started, or its result was removed."""
    state = reading.status(run).state
    if state == "queued" and queue.never_started(run, order):
        return ""
    return "" if state == "done" and not reading.facts(run).scores else state


def missing_seeds(place: Workspace, facts: Facts, controls: Sequence[Facts]) -> list[RunSpec]:
    """Return the specs that give a run and its controls as many seeds as a comparison needs."""
    specs = [run.spec for run in (facts, *controls) if run.spec is not None]
    methods = {spec.method for spec in specs}
    # A run with its seed alone changed is comparable to itself, so these are all that can count.
    runs = [
        (run, other.spec)
        for run, other in reading.all_facts(place)
        if other.spec is not None and other.spec.method in methods and reading.is_comparable(facts, other)
    ]
    order = queue.read(place)
    return repeats.missing_seeds(specs, runs, lambda run: state_of(run, order))


def arms_and_seeds(specs: Sequence[RunSpec]) -> tuple[str, str]:
    """Return which arms and which seeds some runs are of: `seeking and default LoRA`, `seeds 0 to 2`."""
    arms = " and ".join(dict.fromkeys(arm_name(spec.method) for spec in specs))
    return arms, seed_words(sorted({spec.seed for spec in specs}))


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
