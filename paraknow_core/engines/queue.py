"""The queue of a workspace: which runs wait for their turn, and which have it.

`queue/order.json` is the whole protocol. It is changed under a lock and replaced at once, so that any number of windows
and the process that starts the runs (`queue_service.py`) see the same order. A waiting run is `queued` and has no
process yet; it is taken out of the file when its process is there.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from paraknow_core.engines import local
from paraknow_core.engines.service import Service
from paraknow_core.errors import RunError
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.paths import Workspace, contained
from paraknow_core.runs.folder import RunFolder, Status

MOST_AHEAD = 24  # runs that may be put before one that waits: two whole lessons, then it has its turn
# What a run says that was stopped without a process of its own to say it.
CANCELLED = "taken out of the queue before it began"
ENDED = "ended before it could save"


@dataclass
class Order:
    """Run ids: those that wait, first come first; those that have a process; those whose end was asked for.

    `ending` holds when that was, and of which attempt: a run that was resumed meanwhile is not ended. `first` names
    those of the waiting that were put before others, and `passed` how many were put before each of the others.
    """

    waiting: list[str] = field(default_factory=list)
    working: list[str] = field(default_factory=list)
    ending: dict[str, list[float]] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)
    passed: dict[str, int] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """True when nobody needs the queue's process."""
        return not (self.waiting or self.working or self.ending)


def folder_of(place: Workspace) -> Path:
    """Return where the queue lies."""
    return place.root / "queue"


def read(place: Workspace) -> Order:
    """Read the order; what is damaged or names no run folder is left out."""
    data = read_json(folder_of(place) / "order.json", {})
    data = data if isinstance(data, dict) else {}
    ending = data.get("ending")
    ending = ending if isinstance(ending, dict) else {}
    waiting, passed = _known(place, data.get("waiting")), data.get("passed")
    first = data.get("first") if isinstance(data.get("first"), list) else []
    return Order(
        waiting,
        _known(place, data.get("working")),
        {name: ending[name] for name in _known(place, list(ending)) if _is_whole(ending[name])},
        [name for name in waiting if name in first],
        {name: passed[name] for name in waiting if type(passed.get(name)) is int} if isinstance(passed, dict) else {},
    )


def _is_whole(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, int | float) for part in entry)


def _known(place: Workspace, names: object) -> list[str]:
    found: list[str] = []
    for name in names if isinstance(names, list) else []:
        with suppress(RunError, OSError, ValueError, TypeError):
            if name not in found and (contained(place.runs, name) / "spec.yaml").exists():
                found.append(name)
    return found


@contextmanager
def changing(place: Workspace) -> Iterator[Order]:
    """Hold the queue alone; what is changed inside is written when it ends without an error."""
    folder = folder_of(place)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        order = read(place)
        yield order
        if asdict(order) != read_json(folder / "order.json"):
            write_json(folder / "order.json", asdict(order))


def run_of(place: Workspace, name: str) -> RunFolder:
    """Return the run with this id."""
    return RunFolder(place.runs / name)


def submit(place: Workspace, *runs: RunFolder) -> None:
    """Put runs at the end of the queue, new ones or such that go on after a stop, a failure or a kill.

    Raises:
        RunError: no run was given, or one is waiting, going on or done; nothing was changed then.
    """
    if not runs or len({run.path for run in runs}) < len(runs):
        raise RunError("queue: needs run folders, each only once; create one first")
    with changing(place) as order:
        attempts = [_attempt(place, run, order) for run in runs]
        for run, attempt in zip(runs, attempts, strict=True):
            local.reset(run, attempt)
            order.ending.pop(run.id, None)  # that was said of the attempt before
            order.working = [name for name in order.working if name != run.id]
            order.waiting.append(run.id)
    Service(place, "queue").start()


def _attempt(place: Workspace, run: RunFolder, order: Order) -> int:
    # The same test as in `read`: what it would leave out must not be put in.
    if run.path.parent.resolve() != place.runs.resolve() or not _known(place, [run.id]):
        raise RunError(f"run {run.id}: lies outside the workspace; `runs resume` goes on with it")
    if run.id in order.waiting:
        raise RunError(f"run {run.id}: is waiting already; watch it, or take it out of the queue")
    if run.status().state == "done":
        raise RunError(f"run {run.id}: is done; duplicate it to run it with other settings")
    return local.next_attempt(run)


def never_started(run: RunFolder, order: Order) -> bool:
    """Tell whether a run is only a folder: it says `queued`, but it neither waits here nor has a process."""
    if run.id in order.waiting or run.file("process.json").exists():
        return False
    return run.status().state == "queued"


def is_active(run: RunFolder, order: Order) -> bool:
    """Tell whether a run waits or goes on, so that something will still come of it."""
    return run.status().active and not never_started(run, order)


def ensure(place: Workspace) -> None:
    """Start the queue's process again if somebody needs it and it is gone (killed, or the machine was restarted)."""
    if not read(place).empty:
        Service(place, "queue").start()


def cancel(place: Workspace, run: RunFolder) -> None:
    """Take a waiting run out of the queue; one that is going on is asked to save and stop.

    Raises:
        RunError: the run has ended.
    """
    with changing(place) as order:
        if run.id in order.waiting:
            order.waiting.remove(run.id)
            write_stopped(run, CANCELLED)
            return
    local.stop(run)


def write_stopped(run: RunFolder, message: str) -> None:
    """Say that a run which no process holds is stopped."""
    now = time.time()
    before = Status.from_dict(read_json(run.file("status.json"), {}))
    status = {**asdict(before), "state": "stopped", "message": message, "ended": now}
    write_json(run.file("status.json"), status)
    run.file("stop").unlink(missing_ok=True)


def move(place: Workspace, run: RunFolder, by: int) -> None:
    """Move a waiting run so many places back (negative: forward); beyond an end means that end."""
    with changing(place) as order:
        if run.id not in order.waiting:
            return  # its turn came while somebody was looking
        at = order.waiting.index(run.id)
        order.waiting.pop(at)
        order.waiting.insert(max(0, at + by), run.id)


def put_first(place: Workspace, *runs: RunFolder) -> None:
    """Let waiting runs begin before those that were submitted without hurry, behind such as were put first earlier.

    Nobody waits for ever: a run that so many were put before that one of these would be more than `MOST_AHEAD` is not
    passed again. The order of all others stays as it is. Runs that have begun meanwhile are no error.
    """
    with changing(place) as order:
        mine = [run.id for run in runs if run.id in order.waiting]
        order.waiting = [name for name in order.waiting if name not in mine]
        at = place_of_first(order, len(mine))
        passed = [name for name in order.waiting[at:] if name not in order.first]
        order.waiting[at:at] = mine
        order.first = [name for name in order.waiting if name in {*order.first, *mine}]
        order.passed |= {name: order.passed.get(name, 0) + len(mine) for name in passed}


def place_of_first(order: Order, count: int) -> int:
    """Return how many of the waiting runs stay before `count` runs that are put first now."""
    slow = {name for name in order.waiting if name not in order.first}
    patient = {name for name in slow if order.passed.get(name, 0) + count <= MOST_AHEAD}
    not_again = [at for at, name in enumerate(order.waiting) if name in slow - patient]
    first_patient = next((at for at, name in enumerate(order.waiting) if name in patient), len(order.waiting))
    return max([first_patient, *(last + 1 for last in not_again)])


def attempt_of(status: Status) -> int:
    """Return the number of the attempt that a run is at; a queued one is still before it."""
    return status.attempt + (status.state == "queued")


def end(place: Workspace, run: RunFolder) -> None:
    """Ask a run to save and stop, and let the queue's process end it if it has not after a few seconds.

    Raises:
        RunError: the run is not active.
    """
    run.request_stop()
    attempt = attempt_of(run.status())
    with changing(place) as order:
        if order.ending.get(run.id, [0, None])[1] != attempt:
            order.ending[run.id] = [time.time(), attempt]
    Service(place, "queue").start()
