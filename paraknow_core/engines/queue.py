"""The queue of a workspace: which runs wait, which are executed, and the engine that adds runs to it.

`queue/order.json` is the whole protocol. It is changed under a lock and replaced at once, so that any number of windows
and the process that starts the runs (`queue_service.py`) see the same order. A waiting run is `queued` and has no
process yet; it is taken out of the file when its process is there.
"""

import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from paraknow_core.engines.base import HERE, Engine, Standing
from paraknow_core.engines.choice import Machine, most_in_pack, together
from paraknow_core.engines.local import LocalEngine
from paraknow_core.engines.service import Service
from paraknow_core.engines.workers import in_pack
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files import shapes
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.paths import Workspace, contained
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.status import Status
from paraknow_core.settings import load_settings, usable_cores
from paraknow_core.training.amounts import threads_of_spec

MOST_AHEAD = 24  # how many runs may overtake one that waits: two whole lessons
_SHAPE = {
    "waiting": [shapes.TEXT],
    "working": [shapes.TEXT],
    "ending": shapes.Each([shapes.NUMBER]),
    "first": [shapes.TEXT],
    "passed": shapes.Each(shapes.WHOLE),
    "settings": shapes.Each(shapes.Each(None)),
}


@dataclass
class Order:
    """Run ids: those that wait, first come first; those that have a process; those whose end was asked for.

    `ending` holds when that was, and of which attempt: a run that was resumed meanwhile is not ended. `first` names
    those of the waiting that were put before others, and `passed` how many were put before each of the others.
    `settings` holds what wins over the settings file for some of the waiting, and those that have a process.
    """

    waiting: list[str] = field(default_factory=list)
    working: list[str] = field(default_factory=list)
    ending: dict[str, list[float]] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)
    passed: dict[str, int] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """True when nobody needs the queue's process."""
        return not (self.waiting or self.working or self.ending)


def folder_of(place: Workspace) -> Path:
    """Return the folder of the queue."""
    return place.root / "queue"


def read(place: Workspace) -> Order:
    """Read the order; what is damaged or names no run folder is left out."""
    data, _ = shapes.fit(read_json(folder_of(place) / "order.json", {}), _SHAPE)
    data = {} if data is shapes.MISSING else data
    waiting, working = (_runs_in(place, data.get(key, ())) for key in ("waiting", "working"))
    ending, first, in_line, going = data.get("ending", {}), set(data.get("first", ())), set(waiting), set(working)
    return Order(
        waiting,
        working,
        {name: ending[name] for name in _runs_in(place, ending) if len(ending[name]) == 2},
        [name for name in waiting if name in first],
        {name: count for name, count in data.get("passed", {}).items() if name in in_line},
        {name: given for name, given in data.get("settings", {}).items() if name in in_line or name in going},
    )


def _runs_in(place: Workspace, names: Iterable[str]) -> list[str]:
    """Return those of the names that are run folders of the workspace, each once."""
    root, runs = str(place.runs), []
    for name in dict.fromkeys(names):
        with suppress(RunError, OSError, ValueError):
            # A plain folder lies where its name says; of a thousand that wait, resolving each is most of the time.
            plain = name and "/" not in name and name[0] != "." and stat.S_ISDIR(os.lstat(f"{root}/{name}").st_mode)
            folder = f"{root}/{name}" if plain else contained(place.runs, name)
            if os.path.exists(f"{folder}/spec.yaml"):  # noqa: PTH110 - text, as above
                runs.append(name)
    return runs


@contextmanager
def changing(place: Workspace) -> Iterator[Order]:
    """Lock the queue and yield its order; changes to it are written on leaving, unless there was an error."""
    folder = folder_of(place)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock", poll_interval=0.01):
        order = read(place)
        yield order
        if asdict(order) != read_json(folder / "order.json"):
            write_json(folder / "order.json", asdict(order))


def run_of(place: Workspace, name: str) -> RunFolder:
    """Return the run with this id."""
    return RunFolder(place.runs / name)


def workers(place: Workspace, order: Order | None = None) -> int:
    """Return how many runs of the queue are executed at the same time: the settings' number, else by the runs' size.

    Args:
        place: the workspace.
        order: of its queue, if it was read; the first waiting run and those that are executed count, with their flags.
    """
    try:
        settings = load_settings(place)
    except ParaknowError:  # the run itself will refuse broken settings
        return 1
    if settings.workers:
        return settings.workers
    order = order or read(place)
    threads, machines = [], []
    for name in [*order.working, *order.waiting[:1]]:
        with suppress(ParaknowError):  # one that cannot be read ends at once
            own = load_settings(place, **order.settings.get(name, {}))
            threads.append(threads_of_spec(run_of(place, name).spec(), own))
            machines.append(Machine.here(own))
    machines = machines or [Machine.here(settings)]
    machine = Machine(min(one.cores for one in machines), machines[0].free, any(one.gpu for one in machines))
    return together(threads, machine, going=len(order.working))


class QueueEngine(Engine):
    """Lets runs wait until it is their turn; then the queue's process gives each to a warm worker (`workers.py`)."""

    def submit(self, *runs: RunFolder, first: bool = False) -> None:
        """Put runs at the end of the queue, or first: see `Engine.submit`.

        No run waits for ever: it is not overtaken any more once that would make more than `MOST_AHEAD` runs. Runs that
        were put first earlier stay before these, and all others keep their order.

        Raises:
            RunError: also where one is done, or lies outside the workspace.
        """
        with changing(self.place) as order:
            for run in runs:
                self._refuse(run, order)
            lifecycle.requeue(*runs)
            names = [run.id for run in runs]
            for name in names:
                order.ending.pop(name, None)  # that was said of the attempt before
            order.working = [name for name in order.working if name not in names]
            order.settings = {name: own for name, own in order.settings.items() if name not in names}
            order.settings |= dict.fromkeys(names, own) if (own := self.of_runs()) else {}
            at = len(order.waiting)
            if first:
                at = place_of_first(order, len(names))
                passed = [name for name in order.waiting[at:] if name not in order.first]
                order.passed |= {name: order.passed.get(name, 0) + len(names) for name in passed}
                order.first += names
            order.waiting[at:at] = names
        Service(self.place, "queue").start()

    def _refuse(self, run: RunFolder, order: Order) -> None:
        # The same test as in `read`: what it would leave out must not be put in.
        if run.path.parent.resolve() != self.place.runs.resolve() or not _runs_in(self.place, [run.id]):
            raise RunError(f"run {run.id}: lies outside the workspace; `runs resume` goes on with it")
        if run.id in order.waiting:
            raise RunError(f"run {run.id}: is waiting already; watch it, or take it out of the queue")
        if run.status().state == "done":
            raise RunError(f"run {run.id}: is done; duplicate it to run it with other settings")

    def stop(self, run: RunFolder, grace_s: float | None = None) -> None:
        """Take a waiting run out of the queue; ask one that goes on to save and stop: see `Engine.stop`.

        Where its process is a pack's, the queue ends that once the end of all its runs was asked for.
        """
        if run.id in read(self.place).waiting:
            with changing(self.place) as order:
                if run.id in order.waiting:
                    order.waiting.remove(run.id)
                    lifecycle.end(run, "stopped", lifecycle.CANCELLED)
                    return
        LocalEngine(self.place).stop(run, grace_s)
        if grace_s is not None and in_pack(run):
            with suppress(RunError):  # it has stopped
                end(self.place, run)

    def together(self) -> int:
        """Return how many runs a study lets wait here: as many as could go on, if all were small, or in one pass."""
        settings = self.settings()
        most = most_in_pack(settings, Machine.here(settings)) if settings.workers in (None, 1) else 1
        return max(settings.workers or usable_cores(), most)

    def alive(self, run: RunFolder) -> bool:
        """Tell whether a run waits or goes on: see `Engine.alive`."""
        return is_active(run, read(self.place))

    def standing(self, run: RunFolder) -> Standing:
        """Say how many wait before a run, or where it goes on: see `Engine.standing`."""
        waiting = read(self.place).waiting
        return Standing("waiting", waiting.index(run.id), HERE) if run.id in waiting else super().standing(run)


def never_started(run: RunFolder, order: Order) -> bool:
    """Tell whether a run is only a folder: in state `queued`, but not in the queue and without a process."""
    return run.id not in order.waiting and not run.claimed and run.status().state == "queued"


def is_active(run: RunFolder, order: Order) -> bool:
    """Tell whether a run waits in the queue or is executed."""
    return run.status().active and not never_started(run, order)


def ensure(place: Workspace) -> None:
    """Start the queue's process again if runs wait and it is gone (killed, or the machine was restarted)."""
    if not read(place).empty:
        Service(place, "queue").start()


def move(place: Workspace, run: RunFolder, by: int) -> None:
    """Move a waiting run back by so many places (negative: forward), at most to an end of the queue."""
    with changing(place) as order:
        if run.id not in order.waiting:
            return  # its turn came while somebody was looking
        at = order.waiting.index(run.id)
        order.waiting.pop(at)
        order.waiting.insert(max(0, at + by), run.id)


def place_of_first(order: Order, count: int) -> int:
    """Return how many of the waiting runs stay ahead of `count` runs that are being put first."""
    slow = {name for name in order.waiting if name not in order.first}
    patient = {name for name in slow if order.passed.get(name, 0) + count <= MOST_AHEAD}
    not_again = [at for at, name in enumerate(order.waiting) if name in slow - patient]
    first_patient = next((at for at, name in enumerate(order.waiting) if name in patient), len(order.waiting))
    return max([first_patient, *(last + 1 for last in not_again)])


def attempt_of(status: Status) -> int:
    """Return the number of a run's current attempt; of a queued run, the attempt that is to come."""
    return status.attempt + (status.state == "queued")


def end(place: Workspace, run: RunFolder) -> None:
    """Stop a run without waiting: the queue's process ends it if it has not stopped after a few seconds.

    Raises:
        RunError: the run is not active.
    """
    lifecycle.ask_to_stop(run)
    attempt = attempt_of(run.status())
    with changing(place) as order:
        if order.ending.get(run.id, [0, None])[1] != attempt:
            order.ending[run.id] = [time.time(), attempt]
    Service(place, "queue").start()
