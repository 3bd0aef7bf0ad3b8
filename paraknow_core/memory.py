"""How much memory this process takes of its own: anonymous pages, not those of mapped files, which can be dropped."""

import contextlib
import ctypes
import resource
import sys
import threading
from pathlib import Path

_STATUS = "/proc/{}/status"
_INTERVAL_S = 0.02


def anonymous_bytes(pid: int | None = None) -> int:
    """Return the memory that is a process's own (Linux: RssAnon; elsewhere all that is resident).

    Args:
        pid: of a process of this machine; None for this one. One that is gone has none.
    """
    try:
        for line in Path(_STATUS.format(pid or "self")).read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import psutil

    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def peak_bytes() -> int:
    """Return the largest resident memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def total_bytes() -> int:
    """Return the memory of the machine, or what a container's limit leaves of it."""
    import psutil

    total = psutil.virtual_memory().total
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path(limit).read_text()))
    return total


def available_bytes() -> int:
    """Return the memory that could be had without swapping: the system's, or what a container's limit leaves."""
    import psutil

    available = psutil.virtual_memory().available
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            available = min(available, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no container, or "max": no limit
            continue
    return max(0, available)


def release(beyond: int = 0) -> None:
    """Give memory that was freed back to the system; the C library keeps hundreds of MB of it otherwise (Linux).

    Args:
        beyond: only where this process holds more bytes than that: what is used again soon costs time to find again.
    """
    if beyond and anonymous_bytes() <= beyond:
        return
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


class PeakMemory:
    """Context manager that watches this process's own memory, or a GPU's; `bytes` is the largest amount seen."""

    def __init__(self, device: str = "cpu") -> None:
        """Args: cpu, or cuda for what torch allocates there."""
        self._device = device

    def __enter__(self) -> "PeakMemory":
        if self._device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        self.bytes = self.before = anonymous_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="memory")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()
        if self._device == "cuda":
            import torch

            self.bytes = torch.cuda.max_memory_allocated()

    def _watch(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, anonymous_bytes())
