"""The queue's process: gives the first waiting run to a warm worker, waits for its end, takes the next one.

All that it knows is in the queue's file, and runs outlive it: when it was killed, its workers finish what they are at,
and when it is started again, it finds which runs are still going on and which wait.
"""

import os
import signal
import time
from contextlib import suppress

from paraknow_core.engines import local
from paraknow_core.engines.queue import Order, attempt_of, changing, folder_of, run_of, workers
from paraknow_core.engines.service import Service
from paraknow_core.engines.workers import WORKER, Pool
from paraknow_core.errors import RunError
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.processes import is_alive

IDLE_S = 600.0
POLL_S = 0.2
GRACE_S = 5.0  # how long a run that is to end may take to save
HARDER_S = 4.0  # and how long it may take after SIGTERM
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
            if _has_ended(run_of(place, name), *order.ending[name]):
                del order.ending[name]
        for name in [name for name in order.working if not _is_busy(run_of(place, name), pool)]:
            order.working.remove(name)
            _say(f"{name}: {run_of(place, name).status().state}")
        while order.waiting and len(order.working) < workers(place, order):
            if pool.has(run_of(place, order.waiting[0])):
                break  # its worker is not through with the attempt before
            _start_next(place, order, pool)
        return not order.empty


def _start_next(place: Workspace, order: Order, pool: Pool) -> None:
    """Give the first waiting run to a worker; one that cannot be started is marked failed or left out."""
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
    try:
        (attempt,) = lifecycle.requeue(run)
        _say(f"{run.id}: starts in process {pool.give(run, attempt, order.settings.get(run.id))}")
        order.working.append(run.id)
    except RunError as error:  # done or going on elsewhere meanwhile
        _say(str(error))
    except OSError as error:
        _say(f"{run.id}: {error}")
        with suppress(OSError):
            message = f"queue: could not be started ({error.strerror}); free some space and resume it"
            lifecycle.end(run, "failed", message)


def _is_busy(run: RunFolder, pool: Pool) -> bool:
    """Tell whether the run's process is still working, or has only just written how the run ended."""
    process = run.process()
    if not pool.has(run) and not is_alive(process, "launched"):
        return False
    status = run.status()
    lingers = 0 <= time.time() - status.ended < LINGER_S
    # A worker of this queue says when it is through; one of another owner lives on with other runs.
    return status.active or (lingers and (pool.has(run) or not process.get(WORKER)))


def _has_ended(run: RunFolder, asked: float, attempt: float) -> bool:
    """Go on with ending an attempt of a run, by stronger signals as time passes; True when it has ended."""
    status = run.status()
    if not status.active:
        if not run.is_over:
            lifecycle.end(run, "stopped", lifecycle.CUT_OFF)
        return True
    if attempt_of(status) != attempt:
        return True  # resumed from the command line, which knows no queue
    waited = time.monotonic() - _asked.setdefault((run.path, asked, attempt), time.monotonic())
    if waited > GRACE_S:
        local.signal_group(run, signal.SIGKILL if waited > GRACE_S + HARDER_S else signal.SIGTERM)
    return False


def _reap() -> None:
    """Collect children that have ended, which would stay as zombies."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
