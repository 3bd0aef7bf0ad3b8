"""JSON and JSON-lines files: written whole, and read even if a kill, a full disk or a person has damaged them."""

import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from paraknow_core.files.atomic import write_atomic
from paraknow_core.files.disk import disk_trouble

_TAIL_BYTES = 65_536
_MOST_JSON_BYTES, _MOST_LINE_BYTES = 64_000_000, 16_000_000
_MOST_LEVELS = 100
_SIMPLER = bytes.maketrans(b"123456789ED", b"000000000ed")
_LARGE = re.compile(rb"[0-9][eE][+]?[0-9]{3,}(?:[\s,\]}]|$)")  # a number whose exponent has three digits
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write a value as indented JSON, atomically; NaN and infinity are refused (JSON has none)."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", durable=durable)


def write_json_anyhow(path: Path, value: Any) -> None:
    """Write a JSON file; where a full disk has no room for a new one, overwrite the old content in place.

    Raises:
        OSError: the old file cannot be overwritten either.
    """
    try:
        write_json(path, value)
    except OSError as error:
        if disk_trouble(error) is None:
            raise
        content = json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with path.open("r+b") as file:  # the old content's room is ours already
            content = content.ljust(os.fstat(file.fileno()).st_size)
            os.pwrite(file.fileno(), content, 0)  # in one go: a reader sees the old or the new one


def read_json(path: Path | str, default: Any = None) -> Any:
    """Read a JSON file; return `default` when it is missing, torn, no plain file, or larger than any of ours.

    Values that JSON does not have, or that cannot be shown, become None: NaN, infinity, integers of more than 64 bits;
    half of a surrogate pair becomes a question mark.
    """
    try:
        descriptor, size = _opened(path)
        try:
            if size > _MOST_JSON_BYTES:
                return default
            content = b"".join(iter(lambda: os.read(descriptor, size + 1), b""))
        finally:
            os.close(descriptor)
        return parse_json(content)
    except (OSError, ValueError, RecursionError):
        return default


def read_object(path: Path | str) -> dict[str, Any]:
    """Read a JSON file that holds an object; see `read_json`. Where it holds anything else, the object is empty."""
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def read_lines(path: Path) -> list[dict]:
    """Read a JSONL file that another process may be appending to; a torn last line is ignored.

    Reading ends at a line of 16 MB: none of our writers wrote it.
    """
    records = []
    with suppress(OSError), open_plain(path) as file:
        while 0 < len(line := file.readline(_MOST_LINE_BYTES)) < _MOST_LINE_BYTES:
            with suppress(ValueError, RecursionError):
                if isinstance(record := parse_json(line), dict):
                    records.append(record)
    return records


@contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; a pipe or a device, which may never answer, is refused.

    Raises:
        OSError: it cannot be read, or is no plain file.
    """
    with os.fdopen(_opened(path)[0], "rb") as file:
        yield file


def _opened(path: Path | str) -> tuple[int, int]:
    """Open a file as `open_plain` does; return its descriptor, which is to be closed, and its size."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except ValueError:  # a zero byte, half a character
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path)) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no plain file", str(path))
    return descriptor, status.st_size


def parse_json(content: bytes) -> Any:
    """Return what a JSON text holds; see `read_json`.

    Raises:
        ValueError: it is no UTF-8, or no JSON; RecursionError: it is nested too deep.
    """
    _refuse_depth(content)
    if not _may_be_odd(content):
        return from_json(content, allow_inf_nan=False)  # the same in half the time, and without the odd ones
    return _plain(json.loads(content.decode("utf-8")))


def _may_be_odd(content: bytes) -> bool:
    """Tell whether JSON may hold a value that `_plain` replaces: NaN, 1e999, a number of 19 digits, half a character.

    Digests hold an `e` before three digits, too, so that is looked at closely.
    """
    simpler = content.translate(_SIMPLER, b"+")
    if b"0" * 19 in simpler or b"\\ud" in simpler or b"NaN" in content or b"Infinity" in content:
        return True
    return b"e000" in simpler and _LARGE.search(content) is not None


def _refuse_depth(content: bytes) -> None:
    """Refuse JSON that nests deeper than anything we write, because later code would recurse that deep."""
    if content.count(b"[") + content.count(b"{") <= _MOST_LEVELS:
        return
    brackets = content.translate(None, _NO_BRACKETS)
    for _ in range(_MOST_LEVELS):  # each round removes the innermost level
        inner = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(inner) == len(brackets):
            return
        brackets = inner
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
    """Open a JSONL file for appending and return its descriptor; an incomplete last line is cut off first."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        start, tail = size, b""
        while start and b"\n" not in tail:
            before = max(0, start - _TAIL_BYTES)
            start, tail = before, os.pread(descriptor, start - before, before) + tail
        torn = tail[tail.rfind(b"\n") + 1 :]
        if _is_record(torn):  # only its line end is missing: somebody has edited the file
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
    """Append one record; once this has returned, a kill of the process cannot lose the line.

    Only one process appends to a file, and it takes back a line that it cannot write whole, so that none is torn.

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
