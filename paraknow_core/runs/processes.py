"""Which process is which, whether it is still there, and how one that outlives its parent is started.

Nothing here depends on the wall clock, which somebody may set. A process is named by its host, its id, and when it
started: in seconds since this machine was started, with the id of that start (`boot_id`). Earlier versions wrote the
wall clock's time instead; for those, and for a process of another host, the lock that it holds counts as well.
"""

import errno
import fcntl
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
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
_MOST_HEARD = 10_000  # entries of `_heard`

# Of processes of other hosts: the time of their last word by their clock, when it came by ours, whether it was new.
_heard: dict[tuple, tuple[float, float, bool]] = {}


def start_detached(
    place: Workspace, *command: str, log: IO, stdin: IO | int = subprocess.DEVNULL, **environment: str
) -> subprocess.Popen:
    """Start a command of this program as a process in a group of its own, which outlives this one.

    Args:
        place: the workspace it works in.
        command: as typed, without the program's name.
        log: an open file for its output; never a pipe, which would break when this process ends.
        stdin: what it reads.
        environment: variables beside those that this process has.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "paraknow_core", *command],
        stdin=stdin,
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
    """Return what identifies this process; see `process_identity`."""
    return process_identity(os.getpid())


def process_identity(pid: int) -> dict[str, Any]:
    """Return host, pid, process_started and boot: together they identify a process; a pid alone is used again.

    Raises:
        psutil.NoSuchProcess: there is no such process.
    """
    boot, since_boot = boot_id(), _since_boot(pid)
    if boot is None or since_boot is None:
        started, boot = psutil.Process(pid).create_time(), ""
    else:
        started = since_boot[0]
    return {"host": socket.gethostname(), "pid": pid, "process_started": started, "boot": boot}


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two records of `process_identity`, which may have more keys, name the same process."""
    return "pid" in one and all(one.get(key) == other.get(key) for key in ("host", "pid", "process_started"))


def _since_boot(pid: int) -> tuple[float, str] | None:
    """Return when a process started, in seconds since the system did, and its state letter; None where unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # a program's name may hold anything
        return int(fields[19]) / os.sysconf("SC_CLK_TCK"), fields[0].decode()
    except (OSError, ValueError, IndexError):
        return None


def is_alive(process: object, heard: str = "", lock: Path | None = None) -> bool:
    """Tell whether a process is alive.

    Args:
        process: what `process_identity` returned, perhaps in an earlier version or on another host, among other keys.
            Anything else, such as a file that was edited by hand, is no process: False.
        heard: for a process of another host, the key of its last sign of life (seconds since the epoch, by its clock).
        lock: the file that it holds locked while it works, if there is one.
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
        is_same = abs(process.create_time() - started) < _SAME_WALL_S
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError, TypeError, OverflowError):
        return False
    except psutil.AccessDenied:
        return True


def _is_heard(key: tuple, heard: float) -> bool:
    """Judge a process of another host by its last sign of life; its clock may be wrong, so a new sign counts more."""
    moment = time.monotonic()
    last, came, moved = _heard.get(key, (-math.inf, moment, False))
    if heard != last:
        came, moved = moment, key in _heard and heard > last
        if len(_heard) >= _MOST_HEARD:
            _heard.clear()
        _heard[key] = (heard, came, moved)
    age = time.time() - heard
    silence = moment - came if moved or age < 0 else age
    return silence < REMOTE_SILENCE_S


def is_held(lock: Path) -> bool:
    """Tell whether a process holds a lock file, on this host or on one that shares its locks; a dead one holds none.

    False also where the file cannot be read or locked.
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
    """Return the lock of a run or a service, which one process at a time may hold; `acquire` raises `Timeout` if taken.

    The file stays when the lock is released, and the kernel releases it for a process that dies.

    Raises:
        FileNotFoundError: the folder is gone; a lock would make it anew.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
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
        if error.errno not in (errno.EISDIR, errno.ELOOP):
            raise
        alone = not is_held(path)  # damaged by hand: a folder, which nobody can hold, or a link, whose end may be held
    try:
        yield alone
    finally:
        lock.release()
