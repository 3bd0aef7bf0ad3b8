"""The folder in which a store is made: one process holds it, a next attempt finds it, and in the end it is gone."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paraknow_core.context import Reporter
from paraknow_core.errors import NumericError, ParaknowError, RunError
from paraknow_core.files.disk import disk_trouble

PROGRESS = "progress.json"  # of a streamed measurement: while it is there, another attempt goes on from it


@contextmanager
def disk_errors(label: str) -> Iterator[None]:
    """Turn a full disk into a sentence; what was finished is kept, so that the measurement goes on from there.

    Args:
        label: the teacher's name for the message.

    Raises:
        RunError: the disk is full.
    """
    try:
        yield
    except ParaknowError:
        raise
    except Exception as error:
        trouble = disk_trouble(error)
        if trouble is None:
            raise
        raise RunError(
            f"disk: {trouble[0]} while the sensitivity of {label} was written; {trouble[1]} and "
            "start again, finished layers are kept"
        ) from None


@contextmanager
def own_folder(final: Path, report: Reporter) -> Iterator[Path]:
    """Hold the working folder of a store alone; whoever makes the same one waits for it and then finds it done."""
    work = final.parent / f".{final.name}.work"
    work.parent.mkdir(parents=True, exist_ok=True)
    path = work.with_suffix(".lock")
    with _locked(path, report):
        work.mkdir(exist_ok=True)
        goes_on = False
        try:
            yield work
        except BaseException as error:  # numbers that are not finite would be the same another time
            goes_on = (work / PROGRESS).exists() and not isinstance(error, NumericError)
            raise
        finally:
            if not goes_on:
                shutil.rmtree(work, ignore_errors=True)
                path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path, report: Reporter) -> Iterator[None]:
    """Hold a lock file; one that its last holder removed meanwhile is opened anew."""
    while True:
        with path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report.check_stop()
                report.progress(0, 0, "another process is measuring this sensitivity; waiting for it")
                time.sleep(0.5)
                continue
            if path.exists() and path.stat().st_ino == os.fstat(lock.fileno()).st_ino:
                yield
                return
