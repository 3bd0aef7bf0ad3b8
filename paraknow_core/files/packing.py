"""A run's files, handed out to others: only what lies in its folder, never what a link in it leads to."""

import io
import os
import re
import shutil
import stat
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from paraknow_core.errors import RunError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "README.md")
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold


def open_inside(folder: Path, name: str) -> BinaryIO | None:
    """Open a file inside a folder for reading.

    Args:
        folder: itself no link.
        name: of the file below it, `/` between folders.

    Returns:
        The open file; None where there is no such plain file, or where it or a folder on the way is a link.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        return None
    descriptors: list[int] = []
    try:
        descriptors.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
        for part in parts[:-1]:
            descriptors.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptors[-1]))
        # Not blocking: opening a pipe would wait for its writer.
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptors[-1])
    except OSError:
        return None
    finally:
        for folder_descriptor in descriptors:
            os.close(folder_descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb")


def read_inside(folder: Path, name: str) -> bytes:
    """Return a file's content; see `open_inside`.

    Raises:
        RunError: there is none, or it is reached through a link.
    """
    file = open_inside(folder, name)
    if file is None:
        raise RunError(f"run {folder.name}: has no {name} of its own; what a link leads to is not handed out")
    with file:
        return file.read()


def is_linked(folder: Path, name: str) -> bool:
    """Return whether a name in a folder, a folder on the way to it, or the folder itself is a link."""
    path = folder / name
    return any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(folder))


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse to hand out files of a run if one of them is a link.

    Raises:
        RunError: names the first.
    """
    linked = next((name for name in names if is_linked(folder, name)), None)
    if linked is not None:
        raise RunError(
            f"run {folder.name}: {linked} is a link, and what it leads to is not the run's; put the file itself there"
        )


def pack(
    folder: Path, names: Sequence[str], target: BinaryIO, prefix: str = "", *, compress: bool = False
) -> tuple[list[str], list[str]]:
    """Write a zip file of some files of a run's folder.

    Args:
        folder: the run's.
        names: which, relative to it; one that is not there is passed over.
        target: open for writing.
        prefix: the folder inside the zip file.
        compress: deflate; otherwise stored as they are.

    Returns:
        Names that are inside, and names left out because they are links.
    """
    inside, left_out = [], []
    kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", kind) as archive:
        for name in names:
            file = open_inside(folder, name)
            if file is None:
                left_out += [name] if is_linked(folder, name) else []
                continue
            with file:
                when = time.localtime(os.fstat(file.fileno()).st_mtime)[:6]
                entry = zipfile.ZipInfo(f"{safe_name(prefix)}/{name}" if prefix else name, max(when, _EARLIEST))
                entry.compress_type, entry.external_attr = kind, (stat.S_IFREG | 0o644) << 16
                with archive.open(entry, "w", force_zip64=True) as packed:
                    shutil.copyfileobj(file, packed, 1 << 20)
            inside.append(name)
    return inside, left_out


def adapter_zip(folder: Path, name: str) -> bytes:
    """Return an adapter of a run as a zip file: its PEFT files and README.md under its name, nothing else.

    Args:
        folder: the run's.
        name: `adapter` or `init_adapter`.

    Raises:
        RunError: it is not there, or reached through a link.
    """
    names = [f"{name}/{file}" for file in ADAPTER_FILES]
    buffer = io.BytesIO()
    inside, left_out = pack(folder, names, buffer)
    if left_out:
        raise RunError(f"run {folder.name}: has no {name}/ of its own: {left_out[0]} is a link or lies behind one")
    if inside[:2] != names[:2]:
        after = "it has to be trained first: resume it on Train" if name == "adapter" else "extract it again"
        raise RunError(f"run {folder.name}: has no {name}/; {after}")
    return buffer.getvalue()


def safe_name(text: str) -> str:
    """Return a text as a file name that every file system accepts."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "run"
