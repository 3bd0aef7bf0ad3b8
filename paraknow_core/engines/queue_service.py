"""The queue's process: gives the first waiting run to a warm worker, waits for its end, takes the next one.

Where runs had better be trained in one pass (`choice.packs_of`), those that wait and have enough in common with the
first one join it, in their order; each is stopped and resumed as alone, but a signal, which would end all of them, is
sent only when all are to end.

All that it knows is in the queue's file, and runs outlive it: when it was killed, its workers finish what they are at,
and when it is started again, it finds which runs are still going on and which wait.
"""

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

from paraknow_core.engines import local
from paraknow_core.engines.choice import Machine, most_in_pack, packs_of
from paraknow_core.engines.queue import Order, attempt_of, changing, folder_of, run_of, workers
from paraknow_core.engines.service import Service
from paraknow_core.engines.workers import WORKER, Pool, in_pack
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.processes import is_alive, is_same
from paraknow_core.settings import load_settings

IDLE_S = 600.0
POLL_S = 0.2
GRACE_S = 5.0  # how long a run that is to end may take to save
HARDER_S = 4.0  # and how long it may take after SIGTERM
LOOKED_AT = 64  # waiting runs that may join the first one
LINGER_S = 10.0  # how long a process may stay after it has written how its run ended; then the queue goes on

# When this process first saw each request to end a run, by a clock that nobody can set.
_asked: dict[tuple, float] = {}


def serve(place: Workspace) -> None:
    """Start waiting runs, as many at a time as the settings say, until asked to stop, or long idle, or left alone."""
    service = Service(place, "queue")
    with service.hold() as mine:
        if not mine:
            return
        folder_of(place).mkdir(parents=True, exist_ok=True)
        last, pool = time.monotonic(), Pool(place)
        while folder_of(place).is_dir() and not service.asked_to_stop:
            if _one_turn(place, pool):
                last = time.monotonic()
            elif (service.left_alone or time.monotonic() - last > IDLE_S) and _leave(place, service):
                return
            pool.wait(POLL_S)


def _leave(place: Workspace, service: Service) -> bool:
    """End only if nobody has submitted meanwhile; whoever submits after this finds no process and starts one."""
    with changing(place) as order:
        if order.empty:
            (service.folder / "process.json").unlink(missing_ok=True)
        return order.empty


def _one_turn(place: Workspace, pool: Pool) -> bool:
    try:
        return turn(place, pool)
    except OSError as error:  # a full disk passes; the order is as it was
        _say(f"queue: {error}")
        return True


def _say(text: str) -> None:
    """Write to the log, which may be on a full disk."""
    with suppress(OSError):
        print(text, flush=True)


def turn(place: Workspace, pool: Pool) -> bool:
    """Check on the runs that are executed and start the next ones; False when there is nothing to do."""
    _reap()
    with changing(place) as order:
        for name in list(order.ending):
            if _has_ended(place, order, name):
                del order.ending[name]
        for name in [name for name in order.working if not _is_busy(run_of(place, name), pool)]:
            order.working.remove(name)
            _say(f"{name}: {run_of(place, name).status().state}")
        while order.waiting and len(order.working) < (at_once := workers(place, order)):
            if pool.has(run_of(place, order.waiting[0])):
                break  # its worker is not through with the attempt before
            _start_next(place, order, pool, packs=at_once == 1)
        return not order.empty


def _start_next(place: Workspace, order: Order, pool: Pool, *, packs: bool) -> None:
    """Give the first waiting run, and those that join it, to a worker; what cannot be started is marked or left out."""
    run = run_of(place, order.waiting.pop(0))
    if _is_busy(run, pool):  # started by hand, or by this queue just before it was killed
        order.working.append(run.id)
        return
    if run.status().state == "done":  # executed by somebody else while it waited
        _say(f"{run.id}: done already")
        return
    if run.file("stop").exists():
        lifecycle.end(run, "stopped", lifecycle.CANCELLED)
        return
    attempts: dict[RunFolder, int] = {}
    for one in [run, *(_joining(place, order, run, pool) if packs else ())]:
        if one is not run:
            order.waiting.remove(one.id)
        try:
            (attempts[one],) = lifecycle.requeue(one)
        except RunError as error:  # done or going on elsewhere meanwhile
            _say(str(error))
        except OSError as error:
            _cannot_start(one, error)
    if not attempts:
        return
    try:
        flags, (first, *others) = order.settings.get(run.id), attempts.items()
        number = pool.give_pack(attempts, flags) if others else pool.give(*first, flags)
    except OSError as error:
        for one in attempts:
            _cannot_start(one, error)
        return
    for one in attempts:
        _say(f"{one.id}: starts in process {number}")
        order.working.append(one.id)


def _cannot_start(run: RunFolder, error: OSError) -> None:
    _say(f"{run.id}: {error}")
    with suppress(OSError):
        message = f"queue: could not be started ({error.strerror}); free some space and resume it"
        lifecycle.end(run, "failed", message)


def _joining(place: Workspace, order: Order, first: RunFolder, pool: Pool) -> list[RunFolder]:
    """Return those of the waiting runs that had better be trained in one pass with the first, in their order."""
    with suppress(ParaknowError):  # settings or a spec that cannot be read: the run itself will say so
        flags = order.settings.get(first.id, {})
        settings = load_settings(place, **flags)
        machine = Machine.here(settings)
        if most_in_pack(settings, machine) == 1:
            return []
        runs, specs = [first], [first.spec()]
        for run in (run_of(place, name) for name in order.waiting[:LOOKED_AT]):
            if order.settings.get(run.id, {}) != flags or pool.has(run) or _is_busy(run, pool):
                continue
            if run.status().state != "done" and not run.file("stop").exists():
                with suppress(ParaknowError):
                    specs.append(run.spec())
                    runs.append(run)
        return [runs[number] for number in packs_of(specs, settings, machine)[0][1:]]
    return []


def _is_busy(run: RunFolder, pool: Pool) -> bool:
    """Tell whether the run's process is still working, or has only just written how the run ended."""
    process = run.process()
    if not pool.has(run) and not is_alive(process, "launched"):
        return False
    status = run.status()
    lingers = 0 <= time.time() - status.ended < LINGER_S
    # A worker of this queue says when it is through; one of another owner lives on with other runs.
    return status.active or (lingers and (pool.has(run) or not process.get(WORKER)))


def _has_ended(place: Workspace, order: Order, name: str) -> bool:
    """Go on with ending an attempt of a run, by stronger signals as time passes; True when it has ended.

    The process of a pack gets none before the end of all its runs was asked for.
    """
    run = run_of(place, name)
    status = run.status()
    if not status.active:
        if not run.is_over:
            lifecycle.end(run, "stopped", lifecycle.CUT_OFF)
        return True
    if attempt_of(status) != order.ending[name][1]:
        return True  # resumed from the command line, which knows no queue

    def have_waited(seconds: float) -> bool:
        return all(_waited(place, order, one) > seconds for one in _hit(place, order, run))

    if have_waited(GRACE_S):
        number = signal.SIGKILL if have_waited(GRACE_S + HARDER_S) else signal.SIGTERM
        local.signal_group(run, number, shared=in_pack(run))
    return False


def _waited(place: Workspace, order: Order, name: str) -> float:
    """Return for how many seconds a run has been asked to end, as far as this process saw; -inf where it was not."""
    if name not in order.ending:
        return -math.inf
    return time.monotonic() - _asked.setdefault((run_of(place, name).path, *order.ending[name]), time.monotonic())


def _hit(place: Workspace, order: Order, run: RunFolder) -> Iterator[str]:
    """Yield whom a signal for a run would cut off: itself, and those of its pack that go on."""
    yield run.id
    if not in_pack(run):
        return
    process = run.process()
    # Where the queue was killed while it gave a pack away, some of it are still among those that wait.
    for name in dict.fromkeys([*order.working, *order.ending, *order.waiting]):
        other = run_of(place, name)
        if other != run and is_same(other.process(), process):
            status = other.status()
            is_cancelled = status.state == "queued" and other.file("stop").exists()  # it has nothing to save
            if status.active and not is_cancelled:
                yield name


def _reap() -> None:
    """Collect children that have ended, which would stay as zombies."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
