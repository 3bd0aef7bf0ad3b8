"""What people upload: refused early where it cannot be data, read strictly, or laid out anew by mapping columns."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.tasks.formats import Data, read_files, read_table, samples
from paraknow_core.tasks.layouts import UnknownLayoutError, guess

MAX_BYTES = 20_000_000
MAX_FIRST_LINE = 1_000_000  # bytes
MAX_COLUMNS = 100
_START = 65_536


def check_upload(path: Path) -> None:
    """Refuse what is no table of examples, from its size and its first line.

    Raises:
        DataError: empty, too large, binary, not UTF-8, or with too long a first line or too many columns.
    """
    name, size = path.name, path.stat().st_size
    if not size:
        raise DataError(f"{name}: is empty; give a file with at least one example")
    if size > MAX_BYTES:
        raise DataError(
            f"{name}: has {size / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB can be uploaded; "
            "give a smaller part of the data, or the path of the file"
        )
    with path.open("rb") as file:
        first = file.readline(MAX_FIRST_LINE + 1)
        start = first[:_START] + file.read(max(0, _START - len(first)))
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{name}: is UTF-16 text; save it as UTF-8")
    if b"\0" in start:
        raise DataError(
            f"{name}: is not text (line {start[: start.index(0)].count(10) + 1} holds a zero byte); "
            "give a .jsonl, .csv or .txt file"
        )
    if path.suffix.lower() == ".txt":
        return
    if len(first) > MAX_FIRST_LINE:
        raise DataError(f"{name} line 1: is longer than 1 MB; write one example a line")
    is_csv = path.suffix.lower() == ".csv"
    columns = first.count(b",") + 1 if is_csv else _keys(first)
    # A text in quotes may hold commas, so that a CSV's are counted generously here and exactly when it is read.
    if columns > MAX_COLUMNS * (10 if is_csv else 1):
        raise DataError(f"{name} line 1: has {columns:,} columns; at most {MAX_COLUMNS} are read")


def load_upload(path: Path, columns: Mapping[str, str] | None = None) -> Data:
    """Read every example of an upload, and what was read from which field.

    Args:
        path: of the upload.
        columns: part of the prompt -> a field (see `paraknow_core.tasks.layouts.mapping_of`), if a person mapped them.

    Raises:
        DataError: names the line.
    """
    check_upload(path)
    return read_files([path], columns=columns)


def columns_of(path: Path) -> dict[str, str]:
    """Return the fields of a file whose layout is not known, each with the start of its first value; else nothing.

    The first line of a CSV file is taken for its names, unless it is a question with its four choices.
    """
    try:
        load_upload(path)
        return {}
    except UnknownLayoutError:
        with suppress(DataError):
            if table := read_table(path, header=True):
                return dict(list(samples([table]).items())[:MAX_COLUMNS])
        return {}
    except DataError:
        return {}  # a line is wrong, not the layout


def guess_of(columns: Mapping[str, str]) -> dict[str, str]:
    """Return which field each part of a prompt most likely is, of fields as `columns_of` gives them."""
    return guess([name for name, value in columns.items() if value])


def mapped(path: Path, columns: Mapping[str, str]) -> Data:
    """Read an upload by a mapping that must name what a conversation needs; see `load_upload`."""
    missing = [] if columns.get("messages") else [key for key in ("question", "answer") if not columns.get(key)]
    if missing:
        raise DataError(f"{path.name}: no column is chosen for {' and '.join(missing)}; choose one")
    return load_upload(path, columns)


def write_chat(data: Data, target: Path) -> int:
    """Write examples as chat JSONL; return how many."""
    examples = [example for part in data.parts for example in part]
    with target.open("w", encoding="utf-8") as file:
        for example in examples:
            record: dict[str, Any] = {"messages": [asdict(turn) for turn in example.messages]}
            if example.choices:
                record["choices"] = example.choices
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return len(examples)


def _keys(first: bytes) -> int:
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return 1  # read strictly afterwards, which says what is wrong
    return len(record) if isinstance(record, dict) else 1
