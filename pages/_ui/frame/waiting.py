"""How long a run will wait for its turn: its place in line, and what those before it are likely to take."""

import heapq
import time
from dataclasses import dataclass

from pages._ui.frame import reading, state
from pages._ui.frame.reading import Facts
from pages._ui.train import estimate as train_estimate
from pages._ui.train.estimate import Past
from paraknow_core.display import duration
from paraknow_core.engines import queue
from paraknow_core.runs.folder import RunFolder
from paraknow_core.studies.lessons import LESSONS

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


def wait_of(run: RunFolder) -> Wait | None:
    """Return how long a run of the queue will wait; None for one that does not wait there."""
    order = queue.read(state.place())
    return _wait(order, order.waiting.index(run.id)) if run.id in order.waiting else None


def wait_of_new_first(count: int) -> Wait | None:
    """Return how long a new run would wait that is put first, ahead of others; None where it begins at once.

    Args:
        count: how many are put first together.
    """
    order = queue.read(state.place())
    place = queue.place_of_first(order, count)
    free = not place and len(order.working) < queue.workers(state.place())
    return None if free else _wait(order, place)


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


def _wait(order: queue.Order, place: int) -> Wait:
    """Play the queue forward: so many runs at a time as the settings say, the ones before this place first."""
    known = _Known(reading.all_facts(state.place()))
    by_id = {one.id: (run, one) for run, one in known.runs}
    working = [by_id[name] for name in order.working if name in by_id]
    before = [by_id[name] for name in order.waiting[:place] if name in by_id]
    left = [_left(run, known.seconds(one)) for run, one in working]
    coming = [known.seconds(one) for _, one in before]
    free_at = [seconds or 0.0 for seconds in left]
    free_at += [0.0] * (queue.workers(state.place()) - len(free_at))
    heapq.heapify(free_at)
    for seconds in coming:
        heapq.heapreplace(free_at, free_at[0] + (seconds or 0.0))
    return Wait(place + 1, len(working), free_at[0], None not in [*left, *coming])


def _left(run: RunFolder, takes: float | None) -> float | None:
    started = run.status().started
    return takes if takes is None or not started else max(SHORTEST_S, takes - max(0.0, time.time() - started))


class _Known:
    """What runs take by what is known: earlier ones like them on this machine, else the lesson that they are of."""

    def __init__(self, runs: list[tuple[RunFolder, Facts]]) -> None:
        self.runs = runs
        self._past: dict[tuple, list[Past]] = {}  # one look at all runs for each pair and task, however many wait

    def seconds(self, one: Facts) -> float | None:
        """Return what a run is likely to take; None where nothing is known of runs like it."""
        if one.spec is None:
            return None
        if one.spec.until == "evaluation":
            key = train_estimate.question(one.spec)
            if key not in self._past:
                self._past[key] = train_estimate.past_runs(one.spec, self.runs)
            if self._past[key]:
                return train_estimate.estimate(one.spec, self._past[key]).seconds
        else:
            took = train_estimate.seconds_until(one.spec, self.runs)
            if took is not None:
                return took
        return next((each.seconds / len(each.specs) for each in LESSONS if one.spec in each.specs.values()), None)
