"""Files and folders that appear whole or not at all, whatever ends the process that writes them."""

import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import BinaryIO

from paraknow_core.files.disk import sync_folder, sync_tree

GRAVE = ".deleted."  # how the name of a folder begins that is being removed
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")  # as `build_file` and `build_folder` name them
_FORGOTTEN_S = 3600.0  # the age at which a temporary file counts as abandoned
_YOUNG_S = 2  # up to this age a temporary folder may not be locked yet


@contextmanager
def build_file(final: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside the final one and rename it at the end; on an error nothing is left.

    Its rights are those of any new file (umask).
    """
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        temporary.replace(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Write a whole file so that a reader sees either the old or the new content.

    Args:
        path: the file; its folder is created.
        data: bytes, or text written as UTF-8.
        durable: also wait until the disk has it (fsync); switch off for frequent, replaceable files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with build_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    if durable:
        sync_folder(path.parent)


def usual_rights(path: Path) -> None:
    """Give a file, or every file in a folder, the rights of a new file (umask).

    The writer of the safetensors library makes its files readable for their owner alone.
    """
    rights = 0o666 & ~_umask()
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file() and not file.is_symlink():
            file.chmod(rights)


def _umask() -> int:
    """Return this process's umask. Without /proc it can only be read by setting it for a moment."""
    with suppress(OSError, StopIteration, ValueError), open("/proc/self/status", encoding="ascii") as lines:
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def build_folder(final: Path, *, durable: bool = False) -> Iterator[Path]:
    """Build a folder under a temporary name and rename it into place at the end.

    Args:
        final: where it goes.
        durable: wait until the disk has its files before it gets its name, so that a crash of the machine leaves all
            or none of it.

    If another writer finishes first, its folder stays and ours is dropped: the name is a key of the content, so both
    are alike. An error leaves nothing behind; what a kill leaves is removed when the same folder is built again.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for earlier in final.parent.glob(f".{escape(final.name)}.{'?' * 8}"):
        if _is_left(earlier):
            shutil.rmtree(earlier, ignore_errors=True)
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: what a kill leaves is not recognised there either
            # The folder itself is locked, until we close it or this process ends: a lock file, which `filelock` needs,
            # would be one more file in it, or stay beside it.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield temporary
        usual_rights(temporary)
        if durable:
            sync_tree(temporary)
        try:
            temporary.rename(final)
        except OSError:
            if not final.is_dir():
                raise
        if durable:
            sync_folder(final.parent)
    finally:
        os.close(descriptor)
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Make a folder beside the system's temporary files, for this user alone, and remove it at the end.

    Args:
        prefix: how its name begins. What processes of this user that were killed have left under such names goes first.
    """
    for earlier in Path(tempfile.gettempdir()).glob(f"{escape(prefix)}*"):
        with suppress(OSError):
            if stat.S_ISDIR(earlier.lstat().st_mode) and earlier.stat().st_uid == os.getuid() and _is_left(earlier):
                shutil.rmtree(earlier, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            with suppress(OSError):  # see `build_folder`
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield Path(name)
        finally:
            os.close(descriptor)


def sweep(folder: Path) -> list[str]:
    """Remove what a kill left in a folder: half-deleted folders, half-built folders, half-written files.

    Args:
        folder: of the workspace; only entries with temporary names are touched.

    Returns:
        The names that were removed.
    """
    removed = []
    entries = sorted(folder.glob(".*")) if folder.is_dir() and not folder.is_symlink() else []
    for entry in entries:
        if entry.is_symlink():
            continue
        if entry.is_dir():
            is_abandoned = entry.name.startswith(GRAVE) or (_TEMPORARY.fullmatch(entry.name) and _is_left(entry))
        else:
            is_abandoned = _TEMPORARY.fullmatch(entry.name) and _is_old(entry)
        if is_abandoned:
            with suppress(OSError):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                removed.append(entry.name)
    return removed


def _is_old(file: Path) -> bool:
    with suppress(OSError):
        return time.time() - file.stat().st_mtime > _FORGOTTEN_S
    return False


def _is_left(folder: Path) -> bool:
    """Tell whether a temporary folder was abandoned; its builder holds a lock on it, taken soon after it is made."""
    with suppress(OSError):
        if time.time() - folder.stat().st_mtime < _YOUNG_S:
            return False
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True
    return False
