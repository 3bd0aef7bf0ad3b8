"""The workspace on disk: where things live, and the few safe ways to write there."""

import errno
import fcntl
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

from paraknow_core.errors import RunError
from paraknow_core.files.disk import disk_trouble, sync_folder, sync_tree

PROJECT_ROOT = Path(__file__).resolve().parent.parent
GRAVE = ".deleted."  # what the name of a folder that is being removed begins with
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")  # as `build_file` and `build_folder` name them
_FORGOTTEN_S = 3600.0  # whoever writes a file is done long before
WORKSPACE_VARIABLE = "PARAKNOW_WORKSPACE"
_YOUNG_S = 2
_TAIL_BYTES = 65_536
MOST_JSON_BYTES, MOST_LINE_BYTES = 64_000_000, 16_000_000
_MOST_LEVELS = 100
# What may stand for a value that JSON has not: NaN, 1e999, a number of 19 digits, half a character.
_ODD = re.compile(rb"NaN|Infinity|[0-9]{19}|[eE][+]?[0-9]{3}|\\u[dD]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


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
    if durable:
        sync_folder(path.parent)


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


def write_json_anyhow(path: Path, value: Any) -> None:
    """Write the last words of something that a full disk ended: where there is no room for another file, in place.

    Raises:
        OSError: not even that goes.
    """
    try:
        write_json(path, value)
    except OSError as error:
        if disk_trouble(error) is None:
            raise
        content = json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with path.open("r+b") as file:  # what the old content fills is ours already
            content = content.ljust(os.fstat(file.fileno()).st_size)
            os.pwrite(file.fileno(), content, 0)  # in one go: a reader sees the old or the new one


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
    """Read a JSON file; return `default` when it is missing, torn, no plain file, or larger than any of ours.

    What JSON has not, or nobody could show, is None: NaN and infinity, numbers beyond all measure, half characters.
    """
    try:
        with open_plain(path) as file:
            if os.fstat(file.fileno()).st_size > MOST_JSON_BYTES:
                return default
            return parse_json(file.read())
    except (OSError, ValueError, RecursionError):
        return default


def read_lines(path: Path) -> list[dict]:
    """Read a JSONL file that another process may be appending to; a torn last line is ignored.

    A line of 16 MB is none that anybody wrote: nothing is read from there on.
    """
    records = []
    try:
        with open_plain(path) as file:
            while 0 < len(line := file.readline(MOST_LINE_BYTES)) < MOST_LINE_BYTES:
                with suppress(ValueError, RecursionError):
                    record = parse_json(line)
                    if isinstance(record, dict):
                        records.append(record)
    except OSError:
        return records
    return records


@contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; a pipe or a device, which may never answer, is refused.

    Raises:
        OSError: it cannot be read, or is no plain file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except ValueError:  # a zero byte, half a character
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is no plain file", str(path))
        yield file


def parse_json(content: bytes) -> Any:
    """Return what a JSON text holds; see `read_json`.

    Raises:
        ValueError: it is no UTF-8, or no JSON; RecursionError: it is nested beyond measure.
    """
    _refuse_depth(content)
    value = json.loads(content.decode("utf-8"))
    return _plain(value) if _ODD.search(content) else value


def _refuse_depth(content: bytes) -> None:
    """Refuse what nests beyond anything we write: whoever shows, copies or keeps it would go as deep."""
    if content.count(b"[") + content.count(b"{") <= _MOST_LEVELS:
        return
    left = content.translate(None, _NO_BRACKETS)
    for _ in range(_MOST_LEVELS):  # one level of brackets less each time
        fewer = left.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(left):
            return
        left = fewer
    raise RecursionError


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None
    if isinstance(value, dict):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def open_lines(path: Path) -> int:
    """Open a JSONL file for appending and return its descriptor; a line torn by a kill is cut off first."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        start, tail = size, b""
        while start and b"\n" not in tail:
            before = max(0, start - _TAIL_BYTES)
            start, tail = before, os.pread(descriptor, start - before, before) + tail
        torn = tail[tail.rfind(b"\n") + 1 :]
        if _is_record(torn):  # whole but for its end: a hand has edited the file
            _write_whole(descriptor, b"\n")
        elif torn:
            os.ftruncate(descriptor, size - len(torn))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def append_line(descriptor: int, record: dict) -> None:
    """Append one record: when this returns, a kill of the process cannot lose the line.

    Only one process appends to a file, and what it cannot write whole it takes back, so that lines are never torn.

    Raises:
        ValueError: a value is NaN or infinite (JSON has none).
        OSError: the disk is full; the file is as it was.
    """
    _write_whole(descriptor, (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _write_whole(descriptor: int, content: bytes) -> None:
    before, rest = os.fstat(descriptor).st_size, memoryview(content)
    try:
        while rest:  # a disk that is nearly full takes a part, and refuses only the next write
            written = os.write(descriptor, rest)
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rest = rest[written:]
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, before)
        raise


@contextmanager
def build_folder(final: Path, *, durable: bool = False) -> Iterator[Path]:
    """Build a folder under a temporary name and rename it into place at the end.

    Args:
        final: where it goes.
        durable: wait until the disk has its files before it gets its name, so that a crash of the machine leaves all
            or none of it.

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
            # The folder itself is locked until it is closed, by us or by the end of this process: a lock file (which
            # `filelock` needs) would be one more thing in it, or be left beside it.
            fcntl.flock(held, fcntl.LOCK_SH)
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
        os.close(held)
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(folder: Path) -> list[str]:
    """Remove what a kill left in a folder: deleted folders, folders that nobody builds any more, files half written.

    Args:
        folder: of the workspace; what it holds under names of its own is not touched.

    Returns:
        The names that are gone.
    """
    gone = []
    entries = sorted(folder.glob(".*")) if folder.is_dir() and not folder.is_symlink() else []
    for entry in entries:
        if entry.is_symlink():
            continue
        if entry.is_dir():
            left = entry.name.startswith(GRAVE) or (_TEMPORARY.fullmatch(entry.name) and _is_left(entry))
        else:
            left = _TEMPORARY.fullmatch(entry.name) and _is_old(entry)
        if left:
            with suppress(OSError):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
                gone.append(entry.name)
    return gone


def _is_old(file: Path) -> bool:
    with suppress(OSError):
        return time.time() - file.stat().st_mtime > _FORGOTTEN_S
    return False


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
