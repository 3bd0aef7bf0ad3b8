"""Which process is which, whether it is still there, and how one that outlives its parent is started.

All of it is read from the running system, never from the clock. A process is named by its host, its id, and when it
started: in seconds since this machine's system came up, with the name of that system. A clock that is set changes none
of them. What an earlier version wrote holds the wall clock's time instead; there, and where a file comes from another
host, the lock that its writer holds is asked.
"""

import errno
import fcntl
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import psutil
from filelock import FileLock, Timeout

from paraknow_core.paths import PROJECT_ROOT, WORKSPACE_VARIABLE, Workspace

REMOTE_SILENCE_S = 60.0  # a process of another host counts as gone after this long without a word of it
LOCK_PATIENCE_S = 0.5  # a reader that looks whether a lock is held holds it for a moment itself
_SAME_START_S = 0.001  # the system counts in hundredths
_SAME_WALL_S = 1.0
_MOST_HEARD = 10_000

# What was last heard of processes of other hosts: (the word, when it came here, whether it was not the first).
_heard: dict[tuple, tuple[float, float, bool]] = {}


def start_detached(place: Workspace, *command: str, log: IO, **environment: str) -> subprocess.Popen:
    """Start a command of this program as a process in a group of its own, which outlives this one.

    Args:
        place: the workspace it works in.
        command: as typed, without the program's name.
        log: an open file for its output; never a pipe, which would break when this process ends.
        environment: variables beside those that this process has.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "paraknow_core", *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd=PROJECT_ROOT,
        start_new_session=True,
        env=os.environ | {WORKSPACE_VARIABLE: str(place.root), "PYTHONUNBUFFERED": "1"} | environment,
    )


@cache
def boot_id() -> str | None:
    """Return what names this machine's running system until it starts anew; None where that is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def this_process() -> dict[str, Any]:
    """Return what names this process for good; see `process_identity`."""
    return process_identity(os.getpid())


def process_identity(pid: int) -> dict[str, Any]:
    """Return host, pid, process_started and boot: together they name a process for good, a bare pid does not.

    Raises:
        psutil.NoSuchProcess: there is no such process.
    """
    boot, since_boot = boot_id(), _since_boot(pid)
    if boot is None or since_boot is None:
        started, boot = psutil.Process(pid).create_time(), ""
    else:
        started = since_boot[0]
    return {"host": socket.gethostname(), "pid": pid, "process_started": started, "boot": boot}


def _since_boot(pid: int) -> tuple[float, str] | None:
    """Return when a process started, in seconds since the system did, and its state; None where nothing says it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # a program's name may hold anything
        return int(fields[19]) / os.sysconf("SC_CLK_TCK"), fields[0].decode()
    except (OSError, ValueError, IndexError):
        return None


def is_alive(process: object, heard: str = "", lock: Path | None = None) -> bool:
    """Tell whether a process is alive.

    Args:
        process: as `process_identity` names it, perhaps in an earlier version or on another host, among other keys;
            a file edited by hand that names none names nobody.
        heard: the key that says when it was last heard of (seconds since the epoch, by its host's clock); used for a
            process of another host.
        lock: the file that it holds locked while it works, where there is one.
    """
    if not isinstance(process, dict):
        return False
    host, pid, started, boot, word = (process.get(k) for k in ("host", "pid", "process_started", "boot", heard))
    if not isinstance(host, str) or not isinstance(pid, int) or not isinstance(started, int | float):
        return False
    is_here = host == socket.gethostname()
    if is_here and _is_running(pid, started, boot if isinstance(boot, str) else ""):
        return True
    if lock is not None and is_held(lock):
        return True
    return not is_here and _is_heard((host, pid, started, lock), word if isinstance(word, int | float) else 0)


def _is_running(pid: int, started: float, boot: str) -> bool:
    if pid <= 0:
        return False
    if boot:
        since_boot = _since_boot(pid)
        if boot != boot_id() or since_boot is None:
            return False
        return abs(since_boot[0] - started) < _SAME_START_S and since_boot[1] not in ("Z", "X")
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < _SAME_WALL_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, TypeError, OverflowError):
        return False
    except psutil.AccessDenied:
        return True


def _is_heard(key: tuple, heard: float) -> bool:
    """Judge a process of another host by its last word; its clock may be wrong, so a word that is new counts more."""
    now = time.monotonic()
    last, came, moved = _heard.get(key, (-math.inf, now, False))
    if heard != last:
        moved = key in _heard and heard > last
        if len(_heard) >= _MOST_HEARD:
            _heard.clear()
        came = now
        _heard[key] = (heard, came, moved)
    age = time.time() - heard
    if moved or age < 0:
        return now - came < REMOTE_SILENCE_S
    return age < REMOTE_SILENCE_S


def is_held(lock: Path) -> bool:
    """Tell whether some process, of any host that shares its locks, holds a lock file; the kernel drops a dead one's.

    A lock file that cannot be read or locked says nothing, which is False.
    """
    # A shared lock, which FileLock has not: readers that look at the same time must not take each other for the
    # holder, and must neither create the file nor need the right to write it.
    try:
        with os.fdopen(os.open(lock, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def lock_file(path: Path) -> FileLock:
    """Return the lock by which one process at a time works on a run or is a service; it raises `Timeout` if taken.

    The file stays when it is let go of, and the kernel lets go of it for a process that dies.
    """
    return FileLock(path, timeout=LOCK_PATIENCE_S, poll_interval=0.02)


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a lock file for a while; yields False if another process holds it."""
    lock, alone = lock_file(path), True
    try:
        lock.acquire()
    except Timeout:
        alone = False
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ELOOP):  # damaged by hand: nobody can hold it
            raise
    try:
        yield alone
    finally:
        lock.release()
