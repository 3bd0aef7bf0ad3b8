"""The workspace on disk: where things live, and the few safe ways to write there."""

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from paraknow_core.errors import RunError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
WORKSPACE_VARIABLE = "PARAKNOW_WORKSPACE"
_YOUNG_S = 2


@dataclass(frozen=True)
class Workspace:
    """The folder that holds everything the workbench writes (default: `cache/` of the project)."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    @property
    def sensitivity(self) -> Path:
        return self.root / "sensitivity"

    @property
    def evaluations(self) -> Path:
        return self.root / "evaluations"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def settings_file(self) -> Path:
        return self.root / "settings.yaml"


def workspace(root: Path | str | None = None) -> Workspace:
    """Return the workspace: the argument, else $PARAKNOW_WORKSPACE, else `cache/` of the project. Creates nothing."""
    chosen = root or os.environ.get(WORKSPACE_VARIABLE) or PROJECT_ROOT / "cache"
    return Workspace(Path(chosen).expanduser().resolve())


def contained(root: Path, name: str) -> Path:
    """Return `root / name` if it stays inside `root`.

    Raises:
        RunError: the name is empty, hidden, absolute, or leads outside.
    """
    candidate = (root / name).resolve()
    if not name or name.startswith(".") or candidate.parent != root.resolve():
        raise RunError(f"name: '{name}' is not a plain name inside {root.name}/; use letters, digits, '-' and '_'")
    return candidate


@contextmanager
def build_file(final: Path) -> Iterator[BinaryIO]:
    """Write a file under a temporary name beside it and put it into place at the end; on an error nothing is left.

    Its rights are those of any new file: what the umask leaves.
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


def usual_rights(path: Path) -> None:
    """Give a file, or every file in a folder, the rights that the umask leaves a new one.

    The writer of the safetensors library makes its files readable for their owner alone.
    """
    rights = 0o666 & ~_umask()
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file() and not file.is_symlink():
            file.chmod(rights)


def _umask() -> int:
    """Return this process's umask; only where the system does not say it, it is set for a moment to be read."""
    with suppress(OSError, StopIteration, ValueError), open("/proc/self/status", encoding="ascii") as lines:
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write a value as indented JSON, atomically; NaN and infinity are refused (JSON has none)."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", durable=durable)


@cache
def boot_id() -> str | None:
    """Return what names this machine's running system until it starts anew; None where that is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


def file_stamp(path: Path) -> tuple[int, int]:
    """Return what changes whenever a file is written: time and size; zeros where there is none."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def read_json(path: Path, default: Any = None) -> Any:
    """Read a JSON file; return `default` when it is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return default


def read_lines(path: Path) -> list[dict]:
    """Read a JSONL file that another process may be appending to; a torn last line is ignored."""
    records = []
    try:
        content = path.read_bytes()
    except OSError:
        return records
    for line in content.split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def open_lines(path: Path) -> int:
    """Open a JSONL file for appending and return its descriptor; a line torn by a kill is closed first."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")
    return descriptor


def append_line(descriptor: int, record: dict) -> None:
    """Append one record in one write: when this returns, a kill of the process cannot lose the line.

    Raises:
        ValueError: a value is NaN or infinite (JSON has none).
    """
    os.write(descriptor, (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode())


@contextmanager
def build_folder(final: Path) -> Iterator[Path]:
    """Build a folder under a temporary name and rename it into place at the end.

    If another writer finished first, its folder stays and ours is dropped: both hold the same content by key.
    On an error nothing is left behind; what a kill left is removed by whoever builds the same folder next.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for other in final.parent.glob(f".{escape(final.name)}.{'?' * 8}"):
        if _is_left(other):
            shutil.rmtree(other, ignore_errors=True)
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    held = os.open(temporary, os.O_RDONLY)
    try:
        with suppress(OSError):  # no locks here: then nothing that was left is found either
            fcntl.flock(held, fcntl.LOCK_SH)  # until it is closed, by us or by the end of this process
        yield temporary
        usual_rights(temporary)
        try:
            temporary.rename(final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        os.close(held)
        shutil.rmtree(temporary, ignore_errors=True)


def _is_left(folder: Path) -> bool:
    """Return whether nobody is building in a temporary folder any more; a young one may be about to be held."""
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
