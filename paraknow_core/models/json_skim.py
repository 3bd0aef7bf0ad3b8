"""Pick a few values out of a large JSON file without building the rest.

A tokenizer.json of 50 MB is mostly merges, which take 400 MB as Python objects with `json.loads`; its vocabulary takes
a tenth of that.
"""

import json
import re

_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[-+.\w]++")
_FLAT = rb'[^\[\]{}"]*+(?:"(?:[^"\\]|\\.)*+"[^\[\]{}"]*+)*+'
# One or two levels of brackets, which covers vocabularies and merges, are skipped inside the regex engine.
_SHALLOW = re.compile(rb"[\[{]" + _FLAT + rb"(?:[\[{]" + _FLAT + rb"[\]}]" + _FLAT + rb")*+[\]}]", re.DOTALL)
_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)

Path = tuple[str, ...]


def skim(data: bytes, wanted: set[Path]) -> dict[Path, object]:
    """Return the values at some key paths of a JSON object, reading no further than needed.

    Args:
        data: the JSON text.
        wanted: key paths, e.g. `("model", "vocab")`.

    Returns:
        Path -> parsed value; paths that are absent are left out.

    Raises:
        ValueError: not a JSON object, as far as it was read.
    """
    values: dict[Path, object] = {}
    start = _SPACE.match(data, 3 if data.startswith(b"\xef\xbb\xbf") else 0).end()
    if data[start : start + 1] != b"{":
        raise ValueError("not a JSON object")
    _walk(data, start, (), wanted, values)
    return values


def _walk(data: bytes, position: int, path: Path, wanted: set[Path], values: dict[Path, object]) -> int:
    """Read the object that starts at `position`; return where it ends, or -1 once everything is found."""
    position = _SPACE.match(data, position + 1).end()
    while data[position : position + 1] != b"}":
        key, position = _key(data, position)
        below = (*path, key)
        if below in wanted:
            end = _skip(data, position)
            values[below] = json.loads(data[position:end])
            if len(values) == len(wanted):
                return -1
        elif data[position : position + 1] == b"{" and any(item[: len(below)] == below for item in wanted):
            end = _walk(data, position, below, wanted, values)
            if end < 0:
                return end
        else:
            end = _skip(data, position)
        position = _SPACE.match(data, end).end()
        if data[position : position + 1] == b",":
            position = _SPACE.match(data, position + 1).end()
        elif data[position : position + 1] != b"}":
            raise ValueError(f"expected , or }} at byte {position}")
    return position + 1


def _key(data: bytes, position: int) -> tuple[str, int]:
    match = _STRING.match(data, position)
    if not match:
        raise ValueError(f"expected a key at byte {position}")
    colon = _SPACE.match(data, match.end()).end()
    if data[colon : colon + 1] != b":":
        raise ValueError(f"expected : at byte {colon}")
    return json.loads(match.group()), _SPACE.match(data, colon + 1).end()


def _skip(data: bytes, position: int) -> int:
    """Return where the value that starts at `position` ends."""
    first = data[position : position + 1]
    if first in (b"{", b"["):
        match = _SHALLOW.match(data, position)
        return match.end() if match else _skip_deep(data, position)
    match = (_STRING if first == b'"' else _SCALAR).match(data, position)
    if not match:
        raise ValueError(f"expected a value at byte {position}")
    return match.end()


def _skip_deep(data: bytes, position: int) -> int:
    depth = 0
    for match in _BRACKET.finditer(data, position):
        token = match.group()
        depth += (token in b"[{") - (token in b"]}")
        if depth == 0:
            return match.end()
    raise ValueError("ends inside a value")
