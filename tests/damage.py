"""Ways in which a file of a workspace can be damaged by hand, by a disk, or on purpose."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HUGE = 10**30


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _sparse(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, 3 * 10**9)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": _write(b""),
    "not UTF-8": _write(b"\xff\xfe\x00{"),
    "zeros": _write(b"\0" * 500),
    "list": _write(b"[]"),
    "list of lists": _write(b"[[1], {}, null]"),
    "number": _write(b"3"),
    "text": _write(b'"x"'),
    "null": _write(b"null"),
    "NaN": _write(b"NaN"),
    "empty object": _write(b"{}"),
    "deep": _write(b"[" * 10_000 + b"]" * 10_000),
    "deep object": _write(b'{"scores":' * 400 + b"1" + b"}" * 400),
    "long number": _write(b"9" * 6000),
    "half a character": _write(b'{"name": "\\ud800", "\\udfff": ["\\ud800"], "message": "\\ud800"}\n'),
    "tag": _write(b"name: !!bool x\n"),
    "foreign": _write(b"MZ\x90\x00\x03" * 50),
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "sparse": _sparse,
    "no rights": lambda path: (path.write_bytes(b"{}"), path.chmod(0)),
    "link to nowhere": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
}
WRONG: tuple[Any, ...] = (
    None,
    [],
    {},
    "x",
    "",
    True,
    -1,
    0,
    1e308,
    HUGE,
    -HUGE,
    float("nan"),
    float("inf"),
    [[]],
    [None],
    {"a": {"b": []}},
    "\ud800",
    "<script>alert(1)</script>",
    "x" * 5000,
)


def damage(path: Path, kind: str) -> None:
    """Put something damaged in a file's place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    DAMAGES[kind](path)


def places(value: Any, before: tuple = ()) -> Iterator[tuple]:
    """Yield the keys of every value inside plain data; of a list only the first."""
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, one in inner:
        yield (*before, key)
        yield from places(one, (*before, key))


def with_wrong(value: Any, place: tuple, wrong: Any) -> Any:
    """Return plain data with one value replaced."""
    copy = json.loads(json.dumps(value))
    node = copy
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = wrong
    return copy
