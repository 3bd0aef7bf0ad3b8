"""Trouble with disks: they fill up, lose what was not synced, and return less than was written."""

import errno
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

TROUBLE = {
    errno.ENOSPC: ("full", "free some space"),
    errno.EDQUOT: ("your quota is used up", "free some space"),
    errno.EFBIG: ("takes no file of this size", "raise the limit (`ulimit -f`), or choose another file system"),
    errno.EROFS: ("read-only", "make it writable again"),
}
_TORCH = ("inline_container", "PytorchStreamWriter", "iostream error")  # torch.save says no error number
_MOST_HEADER = 100_000_000  # bytes; the safetensors library refuses longer ones


def disk_trouble(error: BaseException | None) -> tuple[str, str] | None:
    """Return what is wrong with the disk and what to do, if a disk caused the error; None for other errors.

    Args:
        error: an OSError, or what a library raises instead: with its number in the message, or without it (torch).
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        if type(error).__name__ == "SafetensorError":
            number = next((code for code in TROUBLE if f"os error {code})" in str(error)), None)
        if isinstance(error, RuntimeError) and any(m in str(error) for m in _TORCH) and "Reader" not in str(error):
            return ("full, or takes no file of this size", "free some space")
        if number in TROUBLE:
            return TROUBLE[number]
        error = error.__cause__ or error.__context__
    return None


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder; does nothing where the file system cannot tell."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until the disk has every file in a folder, and the folder itself.

    Raises:
        OSError: the disk says only now that it could not write a file.
    """
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)
    sync_folder(folder.parent)


def whole_tensors(path: Path) -> bool:
    """Tell whether a safetensors file is as long as its own header says; its tensors are not read."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= _MOST_HEADER:
                return False
            header = json.loads(file.read(size))
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            end = max((entry["data_offsets"][1] for entry in entries), default=0)
            return os.fstat(file.fileno()).st_size == 8 + size + end
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return False


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, as 64 hex digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(path: Path | str) -> tuple[int, int]:
    """Return a file's time of change in nanoseconds and its size in bytes; zeros if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - text is a path, too
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
