"""How long a run will wait for its turn: its place in line, and what those before it are likely to take."""

import heapq
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from paraknow_core.display import duration
from paraknow_core.engines import queue
from paraknow_core.engines.choice import Machine, pack_seconds
from paraknow_core.errors import ParaknowError
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.settings import load_settings
from paraknow_core.studies import same
from paraknow_core.studies.lessons import LESSONS
from paraknow_core.workbench import past_runs, reading
from paraknow_core.workbench.past_runs import Past
from paraknow_core.workbench.reading import Facts, Runs

SHORTEST_S = 2.0  # one that has taken longer than was expected ends any moment


@dataclass(frozen=True)
class Wait:
    """Where a run stands.

    Attributes:
        number: its place among those that wait, counted from 1.
        busy: how many are going on.
        seconds: until its turn, as far as that is known.
        whole: whether something is known of every run before it.
    """

    number: int
    busy: int
    seconds: float
    whole: bool


def wait_of(place: Workspace, run: RunFolder) -> Wait | None:
    """Return how long a run of the queue will wait; None for one that does not wait there."""
    order = queue.read(place)
    return _wait(place, order, order.waiting.index(run.id)) if run.id in order.waiting else None


def wait_of_new_first(place: Workspace, count: int) -> Wait | None:
    """Return how long new runs would wait that are put ahead of others; None where they begin at once.

    Args:
        place: the workspace.
        count: how many are put first together.
    """
    order = queue.read(place)
    index = queue.place_of_first(order, count)
    free = not index and len(order.working) < queue.workers(place, order)
    return None if free else _wait(place, order, index)


def left_of_all(place: Workspace, going: Sequence[RunFolder], at_clusters: Collection[str] = ()) -> str:
    """Say how long it will take until everything is through: `about 6 m 20 s left`; nothing where that is not known.

    Args:
        place: the workspace, whose queue counts, too.
        going: runs that are going on, or wait elsewhere than in the queue.
        at_clusters: ids of those that a cluster holds: as many of them are taken to go on at a time as do now.
    """
    order = queue.read(place)
    durations = _Durations(reading.all_facts(place), place)
    in_queue = {*order.working, *order.waiting}
    parts, known = [], True
    if in_queue:
        free_at, _, known = _played(place, order, len(order.waiting), durations)
        parts.append(max(free_at))
    by_process: dict[object, list[float | None]] = {}  # one process executes its runs one after the other
    for run in going:
        if run.id not in in_queue:
            owner = "cluster" if run.id in at_clusters else run.process().get("pid", run.id)
            by_process.setdefault(owner, []).append(_left(run, durations.seconds(reading.facts(run))))
    known &= all(None not in those for those in by_process.values())
    many = max(1, sum(run.id in at_clusters and run.status().state != "queued" for run in going))
    for owner, those in by_process.items():
        parts.append(sum(seconds or 0.0 for seconds in those) / (many if owner == "cluster" else 1))
    seconds = max(parts, default=0.0)
    at_a_time = f" if {many} go on at a time" if "cluster" in by_process and many > 1 else ""
    return f"{'about' if known else 'more than'} {duration(round(seconds, -1) or 10.0)} left{at_a_time}" * bool(seconds)


def words(wait: Wait) -> str:
    """Say a place in line and the time until then: `2nd in line, after the run going on, in about 3 m 20 s`."""
    after = f", after the run{'s' if wait.busy > 1 else ''} going on" if wait.busy else ""
    if not wait.seconds:
        return f"{place_in_line(wait.number)}{after}"
    about = "in about" if wait.whole else "in more than"
    return f"{place_in_line(wait.number)}{after}, {about} {duration(round(wait.seconds, -1) or 10.0)}"


def unknown(wait: Wait) -> str:
    """Return a sentence where nothing is known of what a run waits for; empty elsewhere."""
    return "" if wait.whole or wait.seconds else " No estimate: no run like those before it has finished here."


def place_in_line(number: int) -> str:
    """Return in words which of the waiting runs this one is, counted from 1."""
    if number == 1:
        return "next"
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending} in line"


def _wait(place: Workspace, order: queue.Order, index: int) -> Wait:
    free_at, busy, whole = _played(place, order, index, _Durations(reading.all_facts(place)))
    return Wait(index + 1, busy, free_at[0], whole)


def _played(place: Workspace, order: queue.Order, index: int, durations: "_Durations") -> tuple[list[float], int, bool]:
    """Play the queue forward: as many runs at a time as the settings say, those before this index first.

    Returns:
        A heap of the seconds until each place is free, how many runs are going on, and whether something is known of
        all of them.
    """
    by_id = {facts.id: (run, facts) for run, facts in durations.runs}
    working = [by_id[name] for name in order.working if name in by_id]
    before = [by_id[name] for name in order.waiting[:index] if name in by_id]
    places, takes = queue.workers(place, order), [durations.seconds(facts) for _, facts in working]
    owners = {run.process().get("pid") for run, _ in working}
    if len(working) > places == len(owners) == 1:  # trained in one pass: they leave their place together
        whole = pack_seconds([seconds or 0.0 for seconds in takes], _has_gpu(place))
        left = [_left(working[0][0], None if None in takes else whole)]
    else:
        left = [_left(run, seconds) for (run, _), seconds in zip(working, takes, strict=True)]
    coming = [durations.seconds(facts) for _, facts in before]
    free_at = [seconds or 0.0 for seconds in left]
    free_at += [0.0] * (places - len(free_at))
    heapq.heapify(free_at)
    for seconds in coming:
        heapq.heapreplace(free_at, free_at[0] + (seconds or 0.0))
    return free_at, len(working), None not in [*left, *coming]


def _has_gpu(place: Workspace) -> bool:
    try:
        return Machine.here(load_settings(place)).gpu
    except ParaknowError:
        return False


def _left(run: RunFolder, takes: float | None) -> float | None:
    started = run.status().started
    return takes if takes is None or not started else max(SHORTEST_S, takes - max(0.0, time.time() - started))


class _Durations:
    """What runs are likely to take, judging by earlier ones like them on this machine, else by their lesson.

    With a workspace, else by the sizes of their models.
    """

    def __init__(self, runs: Runs, place: Workspace | None = None) -> None:
        self.runs, self.place = runs, place
        # One look at all runs for each stage that runs end at, pair and task.
        self._past: dict[tuple, list[Past]] = {}
        self._newest: dict[tuple, Facts | None] = {}
        self._guessed: dict[tuple, float | None] = {}
        self._estimated: dict[str, float] = {}

    @cached_property
    def _processes(self) -> int:
        return past_runs.processes_now(self.place) if self.place else 1

    def seconds(self, facts: Facts) -> float | None:
        """Return what a run is likely to take; None where nothing is known of runs like it."""
        spec = facts.spec
        if spec is None:
            return None
        key = spec.until, facts.asks(same.COST)
        if spec.until == "evaluation":
            if key not in self._past:
                self._past[key] = past_runs.past_runs(spec, self.runs)
            if self._past[key]:
                alike = spec.model_dump_json(exclude=past_runs.APART)
                if alike not in self._estimated:
                    found = past_runs.estimate(spec, self._past[key], self._processes)
                    self._estimated[alike] = found.seconds - found.start  # the queue's workers have started
                return self._estimated[alike]
        else:
            if key not in self._newest:
                self._newest[key] = past_runs.newest_until(spec, self.runs)
            if self._newest[key] is not None:
                return past_runs.seconds_as(spec, self._newest[key])
        lessons = (lesson for lesson in LESSONS if spec in lesson.specs.values())
        found = next((lesson.seconds / len(lesson.specs) for lesson in lessons), None)
        if found is None and self.place is not None:
            if key not in self._guessed:
                [guess] = past_runs.estimate_runs([spec], self.place)
                self._guessed[key] = None if guess is None else guess.seconds - guess.start
            return self._guessed[key]
        return found
