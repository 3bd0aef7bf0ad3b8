"""The one writer of a run folder: its state, heartbeat and events, written by the process that computes the run."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

from filelock import Timeout

from paraknow_core.errors import ModelError, NumericError, ParaknowError, RunError, is_panic
from paraknow_core.files.disk import disk_trouble
from paraknow_core.files.json_file import append_line, open_lines, write_json, write_json_anyhow
from paraknow_core.runs.folder import JobFolder
from paraknow_core.runs.processes import lock_file, this_process
from paraknow_core.runs.status import Status

HEARTBEAT_S = 2.0


class StopRequested(Exception):  # noqa: N818 - not an error: the user asked for it
    """Raised inside a run when it has been asked to stop and everything worth keeping is saved."""


class RunWriter:
    """Context manager that owns a run folder while a process works on it.

    Entering takes an exclusive lock (the kernel drops it with the process) and starts a heartbeat thread; leaving
    writes the final state: done, stopped (on `StopRequested`) or failed.
    """

    def __init__(self, folder: JobFolder, on_change: Callable[[Status], None] | None = None) -> None:
        """Args: folder to write; on_change is called with every status, e.g. to draw a progress bar."""
        self.folder = folder
        self._on_change = on_change
        self._guard = threading.RLock()
        self._finished = threading.Event()
        self._stop_signal = False
        self._last_written = 0.0

    def __enter__(self) -> "RunWriter":
        self._lock = lock_file(self.folder.file("lock"))
        try:
            self._lock.acquire()
        except Timeout:
            raise RunError(
                f"{self.folder.noun} {self.folder.id}: another process is working on it; stop that one first"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOLCK, errno.EISDIR):
                raise
            raise RunError(
                f"{self.folder.noun} {self.folder.id}: its file 'lock' cannot be locked ({error.strerror}); remove it, "
                "or move the workspace to a file system that has locks"
            ) from None
        try:
            self._begin()
        except BaseException:  # a full disk, for example: __exit__ will not be called
            self._lock.release()
            raise
        return self

    def _begin(self) -> None:
        before = self.folder.written()
        if before.state != "queued":  # a request to an earlier attempt; one that was made while this one waited counts
            self.folder.file("stop").unlink(missing_ok=True)
        self._events = open_lines(self.folder.file("events.jsonl"))
        self.status = Status(state="running", attempt=before.attempt + 1, started=time.time(), **this_process())
        self._write_status(durable=True)
        self.event("started", attempt=self.status.attempt)
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
        self._thread.start()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        self._finished.set()
        self._thread.join()
        state, message = "done", ""
        if isinstance(error, StopRequested):
            state = "stopped"
        elif error is not None:
            state, message = "failed", str(error) or kind.__name__
        try:
            with suppress(OSError):  # a disk that ended the run has no room for a line; the state is what counts
                self.event("ended", state=state, message=message)
            moment = time.time()
            self._change(state=state, message=message, ended=moment, heartbeat=moment, write=False)
            write_json_anyhow(self.folder.file("status.json"), asdict(self.status))
            self.folder.file("stop").unlink(missing_ok=True)
        finally:
            os.close(self._events)
            self._lock.release()
        return isinstance(error, StopRequested)

    def event(self, name: str, **fields: Any) -> None:
        """Append one line to events.jsonl; when this returns, a kill of the process cannot lose it.

        Raises:
            NumericError: a field is NaN or infinite.
        """
        record = {"event": name, "time": round(time.time(), 3), **fields}
        try:
            append_line(self._events, record)
        except ValueError:
            raise NumericError(
                f"{name}: a value is not a finite number ({fields}); lower the learning rate or check the data"
            ) from None

    def stage(self, name: str, message: str = "") -> None:
        """Enter a stage; also a place where a stop request takes effect."""
        self.check_stop()
        self.event("stage", stage=name)
        self._change(stage=name, done=0, total=0, message=message)

    def progress(self, done: float, total: float, message: str = "") -> None:
        """Report how far the stage is, in any unit; written at most a few times a second."""
        quiet = time.monotonic() - self._last_written < 0.25 and done < total
        self._change(done=done, total=total, message=message, write=not quiet)

    @property
    def stop_requested(self) -> bool:
        """True once a stop file or a termination signal has arrived."""
        if self._stop_signal or self.folder.file("stop").exists():
            if self.status.state == "running":
                self._change(state="stopping")
            return True
        return False

    def check_stop(self) -> None:
        """Raise StopRequested if a stop was asked for."""
        if self.stop_requested:
            raise StopRequested

    def signal_stop(self) -> None:
        """Ask this process itself to stop gracefully, as SIGTERM and SIGINT do."""
        self._stop_signal = True

    def _change(self, *, write: bool = True, **fields: Any) -> None:
        with self._guard:
            self.status = replace(self.status, **fields)
            if write:
                self._write_status()
        if self._on_change:
            self._on_change(self.status)

    def _write_status(self, *, durable: bool = False) -> None:
        self.status = replace(self.status, heartbeat=time.time())
        self._last_written = time.monotonic()
        write_json(self.folder.file("status.json"), asdict(self.status), durable=durable)

    def _beat(self) -> None:
        while not self._finished.wait(HEARTBEAT_S):
            # A full disk must not end the run here; the next real write will say it.
            with self._guard, suppress(OSError):
                self._write_status()


@contextmanager
def stopped_by_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Turn SIGTERM and the first Ctrl-C into a stop request while runs are going on (main thread only).

    Args:
        stop: `RunWriter.signal_stop` of the run, or what calls that of several.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first_interrupt(*_: object) -> None:
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends it hard

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, lambda *_: stop())
    signal.signal(signal.SIGINT, first_interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def errors_told(run: JobFolder) -> Iterator[None]:
    """Turn what a full disk or a damaged model raises, in whatever library, into a sentence; what was saved stays.

    Raises:
        RunError: the disk is full, or takes no more for another reason. ModelError: a library gave a file up.
    """
    try:
        yield
    except (ParaknowError, StopRequested):
        raise
    except BaseException as error:
        if is_panic(error):
            raise ModelError(
                f"model: one of its files is damaged so that its library gave up ({str(error)[:100]}); get the "
                "model's tokenizer and weights again"
            ) from None
        trouble = disk_trouble(error) if isinstance(error, Exception) else None
        if trouble is None:
            raise
        stage = run.written().stage
        where = f" (stage {stage})" if stage else ""
        raise RunError(f"disk: {trouble[0]}{where}; {trouble[1]}; {run.way_on(stage)}") from None
