"""Warm workers: processes that load the heavy libraries once and then execute one run folder after the other.

Owner and worker share a socket, which is the worker's standard input. The owner sends a line for each run, or for some
that are trained in one pass (a pack), the worker answers when it is through with it, and ends when the owner closes its
end or has ended: a run that is going on is finished first, unless the worker is tied to its owner. The run folder stays
the protocol for everybody else: its process.json and status.json name the worker, its log.txt gets what the worker
prints meanwhile, and its lock tells whether a worker that lives on is still at work on it.

`Pool` is the owner's side, for one thread; `WorkersEngine` an engine with a pool of its own; `work` the worker's side.
"""

import gc
import json
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paraknow_core.engines.base import SHARED, Engine, claimed_here
from paraknow_core.engines.local import LocalEngine
from paraknow_core.engines.service import end_with
from paraknow_core.memory import forget_peak, release
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.processes import process_identity, start_detached

IDLE_S = 60.0  # a worker that has had nothing to do for so long ends, which gives its memory back
KEPT_BYTES = 1_500_000_000  # what a worker holds beyond this when it is through with a run goes back to the system
WORKER = "worker"  # marks, in process.json, a process that may live on when the run has ended


def in_pack(run: RunFolder) -> bool:
    """Tell whether a run was given to a worker together with others, to be trained in one pass."""
    process = run.process()
    return bool(process.get(SHARED) and process.get(WORKER))


@dataclass(eq=False)
class _Worker:
    """A worker, as its owner sees it."""

    place: Workspace
    tied: bool
    log: Path  # of its first run: what it says before it begins that one
    runs: tuple[RunFolder, ...] = ()
    idle_since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.line, theirs = socket.socketpair()
        with theirs, self.log.open("ab") as log:
            options = ["--tied"] if self.tied else []
            self.process = start_detached(self.place, "work", *options, log=log, stdin=theirs.fileno())
        self.identity = {**process_identity(self.process.pid), WORKER: True}
        self.line.setblocking(False)

    def give(self, runs: Mapping[RunFolder, int], settings: Mapping[str, Any] | None) -> None:
        # A signal for one of a pack would reach all: until all are to end, it is only asked to stop.
        identity = self.identity | ({SHARED: True} if len(runs) > 1 else {})
        for run, attempt in runs.items():  # first: of a run that does not name it, a worker says no end
            lifecycle.claim(run, identity, attempt)
        self.runs = tuple(runs)
        order = {"runs": [str(run.path) for run in runs], "settings": settings}
        with suppress(OSError):  # it is gone: then the run is lost, as one is whose process was killed
            self.line.sendall(json.dumps(order).encode() + b"\n")

    def hear(self) -> bool:
        """Take note of an answer, if there is one; False when the worker is gone."""
        try:
            answer = self.line.recv(64)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if answer:
            self.runs, self.idle_since = (), time.monotonic()
        return bool(answer)

    def end(self) -> None:
        """Let it finish its run, if it has one, and end."""
        self.line.close()
        threading.Thread(target=self.process.wait, daemon=True).start()  # else it would stay as a zombie


class Pool:
    """The workers of one owner: as many as there were runs at a time, each with its one run or idle."""

    def __init__(self, place: Workspace, *, tied: bool = False) -> None:
        """Args: place, the workspace; tied, whether workers are killed in the middle of a run when their owner ends."""
        self.place, self.tied = place, tied
        self._workers: list[_Worker] = []

    def give(self, run: RunFolder, attempt: int, settings: Mapping[str, Any] | None = None) -> int:
        """Have a queued run executed at once, by an idle worker or else a new one; returns the worker's process id.

        Args:
            run: see `lifecycle.requeue`, which returns `attempt`.
            settings: what wins over the settings file for this run; None values do not.
        """
        return self.give_pack({run: attempt}, settings)

    def give_pack(self, runs: Mapping[RunFolder, int], settings: Mapping[str, Any] | None = None) -> int:
        """Do the same for runs that are trained in one pass: run -> attempt."""
        self.look()  # an idle one may be gone
        worker = next((worker for worker in self._workers if not worker.runs), None)
        if worker is None:
            worker = _Worker(self.place, self.tied, next(iter(runs)).file("log.txt"))
            self._workers.append(worker)
        worker.give(runs, settings)
        return worker.process.pid

    def has(self, run: RunFolder) -> bool:
        """Tell whether a worker is not through with a run; where it is, the worker takes the next one at once."""
        return any(one.path == run.path for worker in self._workers for one in worker.runs)

    @property
    def busy(self) -> int:
        """How many workers are at work."""
        return sum(bool(worker.runs) for worker in self._workers)

    def wait(self, seconds: float | None, *more: Any) -> None:
        """Sleep until a worker has said something or is gone, or one of `more` can be read, but not for longer.

        Args:
            seconds: None: for ever. Workers that have been idle for long are let go meanwhile.
        """
        idle = [worker.idle_since + IDLE_S for worker in self._workers if not worker.runs]
        until_idle = max(0.0, min(idle) - time.monotonic()) if idle else None
        limits = [limit for limit in (seconds, until_idle) if limit is not None]
        select.select([*(worker.line for worker in self._workers), *more], [], [], min(limits, default=None))
        self.look()

    def look(self) -> None:
        """Take note of who is through or gone, and let go who has been idle for long."""
        for worker in list(self._workers):
            is_idle = not worker.runs and time.monotonic() - worker.idle_since > IDLE_S
            if is_idle or not worker.hear():
                worker.end()
                self._workers.remove(worker)

    def close(self) -> None:
        """Let all workers end, each when it is through with its run."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()


class WorkersEngine(Engine):
    """Executes runs in warm workers of this process, which end with it."""

    def __init__(self, place: Workspace, count: int = 1, settings: Mapping[str, Any] | None = None) -> None:
        """Args: place, the workspace; count, how many runs at a time; settings, which win over the settings file."""
        super().__init__(place)
        self.count, self._settings = count, settings
        self._pool = Pool(place, tied=True)
        self._waiting: deque[tuple[RunFolder, int]] = deque()
        self._guard = threading.Lock()  # of those that wait
        self._bell, self._ear = socket.socketpair()
        self._thread: threading.Thread | None = None

    def together(self) -> int:
        """Return how many runs are executed at a time."""
        return self.count

    def submit(self, *runs: RunFolder, first: bool = False) -> None:
        """Let runs wait for a free worker: see `Engine.submit`."""
        del first
        attempts = claimed_here(*runs)
        with self._guard:
            self._waiting += zip(runs, attempts, strict=True)
        if self._thread is None:
            self._thread = threading.Thread(target=self._deal, daemon=True, name="workers")
            self._thread.start()
        self._bell.send(b".")

    def stop(self, run: RunFolder, grace_s: float | None = None) -> None:
        """Ask, and with a grace period signal the worker: see `Engine.stop`. A worker that was killed is replaced.

        A run that still waits here is taken out.
        """
        with self._guard:
            waits = [one for one in self._waiting if one[0] == run]
            for one in waits:
                self._waiting.remove(one)
        if waits:
            lifecycle.end(run, "stopped", lifecycle.CANCELLED)
            return
        LocalEngine(self.place).stop(run, grace_s)

    def close(self) -> None:
        """Let the workers end; what still waits is not executed."""
        with self._guard:
            self._waiting.clear()
        self._bell.close()
        if self._thread is not None:
            self._thread.join()

    def _deal(self) -> None:
        # Workers are started by this very thread: the system ends a tied worker with the thread that has started it.
        while True:
            while self._pool.busy < self.count:
                with self._guard:
                    if not self._waiting:
                        break
                    run, attempt = self._waiting.popleft()
                try:
                    if run.file("stop").exists():  # asked by another process
                        lifecycle.end(run, "stopped", lifecycle.CANCELLED)
                        continue
                    self._pool.give(run, attempt, self._settings)
                except OSError as error:
                    lifecycle.give_up(run, error)
            self._pool.wait(None, self._ear)
            if select.select([self._ear], [], [], 0)[0] and not self._ear.recv(4096):
                self._pool.close()
                return


def work(execute: Callable[[Sequence[RunFolder], Mapping[str, Any]], bool], *, tied: bool = False) -> None:
    """Inside a worker: execute what the owner sends, until there is no owner.

    Args:
        execute: computes run folders, a pack if there are several, to their ends, with settings that win over those of
            the file; returns False where the process may not be as good as new, so that another one had better take
            the next run.
        tied: end at once when the owner ends, even in the middle of a run.
    """
    if tied:
        end_with(os.getppid())
    owner = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:  # what a run starts must not hold the socket
        os.dup2(nothing.fileno(), 0)
    with owner, owner.makefile("r", encoding="utf-8") as orders:
        for line in orders:
            order = json.loads(line)
            runs = [RunFolder(Path(path)) for path in order["runs"]]
            _print_to(runs[0].file("log.txt"))
            for run in runs[1:]:
                _refer(run.file("log.txt"), f"executed together with run {runs[0].id}, whose log has what they print")
            forget_peak()
            is_sound = execute(runs, order["settings"] or {})
            gc.collect()
            release(KEPT_BYTES)
            if not is_sound or any(lifecycle.is_own(run) and not run.is_over for run in runs):
                return  # a process that has failed to say how its run ended: readers infer it when it is gone
            with suppress(OSError):  # the owner is gone: so are its orders
                owner.sendall(b".")


def _print_to(log: Path) -> None:
    """Let all that this process prints, in whatever library, go to the end of a file."""
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    with suppress(OSError), log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _refer(log: Path, words: str) -> None:
    with suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.write(f"{words}\n")
