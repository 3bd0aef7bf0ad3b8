"""The memory of this process and of the machine.

A process's own memory is its anonymous pages; pages of mapped files do not count, because the system can drop them.
"""

import contextlib
import ctypes
import resource
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

_STATUS = "/proc/{}/status"
_INTERVAL_S = 0.02
_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def anonymous_bytes(pid: int | None = None) -> int:
    """Return the bytes that are a process's own (Linux: RssAnon; elsewhere all that is resident); 0 if it has ended.

    Args:
        pid: of a process of this machine; None for this one.
    """
    try:
        for line in Path(_STATUS.format(pid or "self")).read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def peak_bytes() -> int:
    """Return the largest resident memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Let `peak_bytes` count from now on (Linux; elsewhere it goes on counting from the start of the process)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def total_bytes() -> int:
    """Return the memory of the machine in bytes, or the limit of the container that this process runs in."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _containers())])


def available_bytes() -> int:
    """Return the bytes that could be had without swapping, within the limit of the container if there is one."""
    return max(0, min([psutil.virtual_memory().available, *(limit - used for limit, used in _containers())]))


def _containers() -> Iterator[tuple[int, int]]:
    """Yield the limit of each container that has one, and how much of it is used, in bytes."""
    for folder, limit, used in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # no container, or "max": no limit
            yield int((folder / limit).read_text()), int((folder / used).read_text())


def release(beyond: int = 0) -> None:
    """Give memory that was freed back to the system; the C library keeps hundreds of MB of it otherwise (Linux).

    Args:
        beyond: do so only if this process holds more bytes than that, because memory that is soon needed again takes
            time to get back.
    """
    if beyond and anonymous_bytes() <= beyond:
        return
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)


def map_blocks_from(size: int = 32 << 20) -> None:
    """Have the C library take blocks of so many bytes from the system, and give each back when it is freed (Linux).

    By itself it learns from every large block that is freed to keep such blocks, up to 32 MiB, which is the default
    here. Weights that come and go then stay in memory, in the gaps between what remains.
    """
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).mallopt(-3, size)  # M_MMAP_THRESHOLD


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
        if self._device == "cuda":
            import torch

            self.bytes = torch.cuda.max_memory_allocated()

    def _watch(self) -> None:
        ended = False
        while not ended:  # once more at the end
            ended = self._ended.wait(_INTERVAL_S)
            self.bytes = max(self.bytes, anonymous_bytes())
