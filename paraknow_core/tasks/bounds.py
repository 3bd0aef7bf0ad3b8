"""Bounds for a program of somebody else's: a chat template may loop for ever or ask for all the memory there is.

A bound ends what is interpreted (a loop) and what asks for memory. Only one long call into C is not ended by it; that
is what the desk's own limits are for, and Stop for a run.
"""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SECONDS, BYTES = 5.0, 1_000_000_000  # of one rendering: thousands of times what is usual


class OutOfBoundsError(Exception):
    """What was bounded took too long, or too much."""


@contextmanager
def bounded(seconds: float = SECONDS, size: int = BYTES) -> Iterator[None]:
    """Raise inside the block if it takes longer (in the main thread only) or asks for more memory (Linux only).

    Args:
        seconds: what the block may take.
        size: bytes by which this process may grow.

    Raises:
        OutOfBoundsError: inside the block, or for the MemoryError that was raised there.
    """
    try:
        with _within_time(seconds), _within_memory(size):
            yield
    except MemoryError:
        raise OutOfBoundsError(f"took more than {size / 1e9:g} GB of memory") from None


@contextmanager
def _within_time(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def over(*_: Any) -> None:
        raise OutOfBoundsError(f"took longer than {seconds:g} s")

    before, began = signal.signal(signal.SIGALRM, over), time.monotonic()
    left, again = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # somebody else's alarm goes on
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, left - (time.monotonic() - began)), again)


@contextmanager
def _within_memory(size: int) -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = now + size if soft == resource.RLIM_INFINITY else min(soft, now + size)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    except (OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
