"""What people upload: refused early where it cannot be data, read strictly, or laid out anew by mapping columns."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.tasks.formats import LETTERS, read_examples
from paraknow_core.tasks.hub import example_of_row
from paraknow_core.tasks.task import Example

MAX_BYTES = 20_000_000
MAX_FIRST_LINE = 1_000_000  # bytes
MAX_COLUMNS = 100
KEYS = ("question", "answer", "choices")
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
        raise DataError(f"{name}: has {size / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB can be uploaded; "
                        "give a smaller part of the data, or the path of the file")  # fmt: skip
    with path.open("rb") as file:
        first = file.readline(MAX_FIRST_LINE + 1)
        start = first[:_START] + file.read(max(0, _START - len(first)))
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{name}: is UTF-16 text; save it as UTF-8")
    if b"\0" in start:
        raise DataError(f"{name}: is not text (line {start[: start.index(0)].count(10) + 1} holds a zero byte); "
                        "give a .jsonl, .csv or .txt file")  # fmt: skip
    if path.suffix.lower() == ".txt":
        return
    if len(first) > MAX_FIRST_LINE:
        raise DataError(f"{name} line 1: is longer than 1 MB; write one example a line")
    columns = first.count(b",") + 1 if path.suffix.lower() == ".csv" else _keys(first)
    # A text in quotes may hold commas, so that a CSV's are counted generously here and exactly when it is read.
    if columns > MAX_COLUMNS * (10 if path.suffix.lower() == ".csv" else 1):
        raise DataError(f"{name} line 1: has {columns:,} columns; at most {MAX_COLUMNS} are read")


def read_upload(path: Path) -> tuple[str, int]:
    """Read every example of an upload, as strictly as a run would; return the format and their number.

    Raises:
        DataError: names the line.
    """
    check_upload(path)
    found, examples = read_examples(path)
    return found, len(examples)


def columns_of(path: Path) -> dict[str, str]:
    """Return the columns of a file whose layout is not known, each with the start of its first value; else nothing.

    The first line of a CSV file is taken for its names, the first object's keys for those of JSON lines.
    """
    try:
        check_upload(path)
        _, record = next(_records(path))
    except (DataError, StopIteration):
        return {}
    if _known_layout(record) or (path.suffix.lower() == ".jsonl" and {"question", "answer"} <= record.keys()):
        return {}  # some line is wrong, not the layout
    return {str(name): str(value)[:200] for name, value in list(record.items())[:MAX_COLUMNS]}


def _known_layout(record: Mapping[str, Any]) -> bool:
    """Tell whether a first record (of a CSV file: the names its first line would give) is one that is read as it is."""
    lettered = len(record) == len(LETTERS) + 2 and str(list(record)[-1]).strip() in LETTERS
    return lettered or "messages" in record


def rewrite(path: Path, columns: Mapping[str, str], target: Path) -> int:
    """Write an upload as chat JSONL, its question, answer and choices taken from the columns named.

    Args:
        path: JSON lines, or CSV whose first line names the columns.
        columns: question and answer (and choices, a list) -> column.
        target: a new file.

    Returns:
        How many examples were written.

    Raises:
        DataError: names the line.
    """
    check_upload(path)
    missing = [key for key in ("question", "answer") if not columns.get(key)]
    if missing:
        raise DataError(f"{path.name}: no column is chosen for {' and '.join(missing)}; choose one")
    wanted = {key: column for key, column in columns.items() if key in KEYS and column}
    lines = [_line(_example(path, number, record, wanted)) for number, record in _records(path)]
    if not lines:
        raise DataError(f"{path.name}: holds no example; give a file with at least one")
    target.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def _example(path: Path, number: int, record: Mapping[str, Any], wanted: Mapping[str, str]) -> Example:
    where = f"{path.name} line {number}"
    absent = next((column for column in wanted.values() if record.get(column) is None), None)
    if absent is not None:
        raise DataError(f"{where}: has no '{absent[:60]}'; fill it in or remove the line")
    row = dict(record)
    if "choices" not in wanted:  # a number is a fine answer, but only text can be learnt
        for column in wanted.values():
            row[column] = str(row[column]) if isinstance(row[column], int | float) else row[column]
    return example_of_row(row, wanted, where, str(number))


def _line(example: Example) -> str:
    record: dict[str, Any] = {"messages": [{"role": turn.role, "content": turn.content} for turn in example.messages]}
    if example.choices:
        record["choices"] = list(example.choices)
    return json.dumps(record, ensure_ascii=False) + "\n"


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, record); a line that is none is named."""
    yield from _csv_records(path) if path.suffix.lower() == ".csv" else _json_records(path)


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                record = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise DataError(f"{path.name} line {number}: is not a JSON object; write one a line")
            yield number, record


def _csv_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            names = next(reader, [])
            if len(set(names)) < len(names) or not 2 <= len(names) <= MAX_COLUMNS:
                raise DataError(f"{path.name} line 1: must name 2 to {MAX_COLUMNS} different columns")
            for row in reader:
                if len(row) not in (0, len(names)):
                    raise DataError(
                        f"{path.name} line {reader.line_num}: has {len(row)} columns, line 1 names {len(names)}; "
                        "quote cells that hold commas"
                    )
                if row:
                    yield reader.line_num, dict(zip(names, row, strict=True))
    except UnicodeDecodeError:
        raise DataError(f"{path.name}: is not UTF-8 text; save the file as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path.name}: is not valid CSV ({error}); quote cells that hold commas or quotes") from None


def _keys(first: bytes) -> int:
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return 1  # read strictly afterwards, which says what is wrong
    return len(record) if isinstance(record, dict) else 1
