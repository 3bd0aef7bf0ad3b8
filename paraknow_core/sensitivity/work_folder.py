"""The folder in which a store is made: one process holds it, a next attempt finds it, and in the end it is gone."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

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
    lock = work.with_suffix(".lock")

    def is_cancelled() -> bool:
        report.check_stop()
        report.progress(0, 0, "another process is measuring this sensitivity; waiting for it")
        return False

    # Its last holder removes the file; whoever waits for the removed one opens it anew (FileLock sees to that).
    with FileLock(lock, poll_interval=0.5).acquire(cancel_check=is_cancelled):
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
                lock.unlink(missing_ok=True)
