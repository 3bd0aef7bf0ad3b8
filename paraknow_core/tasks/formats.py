"""Read data files into examples. Strict: an error names the file, the line and what would be right."""

import csv
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import dropwhile, islice
from pathlib import Path

from paraknow_core.errors import DataError
from paraknow_core.tasks.layouts import (
    FORMAT_OF,
    LAYOUTS,
    MAP,
    ColumnsError,
    Line,
    UnclearError,
    UnknownLayoutError,
    recognise,
    understand,
    unused_sentence,
)
from paraknow_core.tasks.lines import Read, examples_of, multiple_choice
from paraknow_core.tasks.task import Example
from paraknow_core.tasks.values import TwiceError, find, is_empty, listed, quoted, read_json_text, short, text_of, whole

LETTERS = ("A", "B", "C", "D")
SUFFIXES = {".jsonl": "lines", ".csv": "table", ".txt": "text"}
FORMATS = ("chat_jsonl", "gsm8k", "mmlu", "text")
MAX_BYTES = 2_000_000_000
MAX_CELL = 2_000_000_000  # characters of a table's cell: any that a file can hold
TEXT_PIECE = 1000
MOST_COLUMNS = 10_000
DELIMITERS = ",;\t"
_HEAD = 1000  # lines within which a table's first row ends

_SPLIT_WORD = re.compile(r"[_-](?:dev|val|validation|test|train)$")
_APPLE_DOUBLE = b"\x00\x05\x16\x07"


@dataclass(frozen=True)
class Table:
    """Lines of one file or hub split, not yet understood.

    Attributes:
        title: what it is called in sentences; stem: what ids begin with.
        lines: see `Line`.
        names: all its columns, where lines hold only those that matter.
    """

    title: str
    stem: str
    lines: Sequence[Line]
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Data:
    """What files or hub splits hold.

    Attributes:
        format: one of FORMATS.
        parts: the examples of each.
        notes: sentences for the user.
        fields: what was read from which field, for people; empty where fields have no names.
        reading: how answers name their choices, see `paraknow_core.tasks.choices`.
    """

    format: str
    parts: tuple[tuple[Example, ...], ...]
    notes: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    reading: str = ""


def read_examples(path: Path, format: str = "auto") -> tuple[str, tuple[Example, ...]]:
    """Read every example of one file, in file order.

    Args:
        path: a UTF-8 file (with or without byte-order mark; LF or CRLF) of at most 2 GB.
        format: "chat_jsonl", "gsm8k", "mmlu", "text", or "auto": by extension and all lines.

    Returns:
        The format and the examples. Ids that the file does not give are made of its name and the line (or row) number.

    Raises:
        DataError: names the file, the line, and what would be right.
    """
    data = read_files([path], format)
    return data.format, data.parts[0]


def read_files(
    paths: Sequence[Path],
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    hint: str = "",
    title: str = "",
) -> Data:
    """Read the files of one data set: what their fields mean is told from all lines of all of them.

    Args:
        paths: files as for `read_examples`.
        format: of them all, or "auto".
        columns: `task.columns`, see `paraknow_core.tasks.layouts.mapping_of`.
        hint: the reading of choices in another part of the same data.
        title: what they are called together.

    Raises:
        DataError: names the file, the line, and what would be right.
    """
    columns = columns or {}
    if format != "auto" and format not in FORMATS:
        shown = name_of(paths[0])
        raise DataError(f"{shown}: format '{format}' is not one of a file; choose from auto, {', '.join(FORMATS)}")
    read = {path: _read(path, format, columns) for path in paths}
    tables = {path: table for path, table in read.items() if isinstance(table, Table)}
    data = read_tables(list(tables.values()), columns, format, title, hint=hint) if tables else Data("", ())
    of_tables = {path: (data.format, part) for path, part in zip(tables, data.parts, strict=True)}
    parts = {path: of_tables.get(path) or read[path] for path in paths}
    usual = parts[paths[0]][0]
    for path, (kind, _) in parts.items():
        if kind != usual:
            raise DataError(f"{title}: {name_of(path)} is {kind}, others are {usual}; keep one format")
    for path, (_, examples) in parts.items():
        if not examples:
            raise DataError(f"{name_of(path)}: holds no example; give a file with at least one")
        check_unique(examples, name_of(path))
    return replace(data, format=usual, parts=tuple(tuple(examples) for _, examples in parts.values()))


def read_tables(
    tables: Sequence[Table], columns: Mapping[str, str], format: str, title: str, *, hub: bool = False, hint: str = ""
) -> Data:
    """Turn the lines of one data set's files or splits into examples; the one way for all kinds of tables.

    Args:
        tables: at least one.
        columns, format, hint: see `read_files`.
        title: what they are called together; of one table its own title.
        hub: they are splits of a hub data set.

    Raises:
        DataError: names the line.
    """
    title = tables[0].title if len(tables) == 1 else title
    lines = [line for table in tables for line in table.lines]
    if hub and any("id" in (table.names or ()) for table in tables):
        columns = {"id": "id", **columns}
    if not lines:
        raise DataError(f"{title}: holds no example; write one a line, {LAYOUTS}")
    names = [name for table in tables for name in table.names or ()]
    layout, loose = understand(lines, columns, format, title, list(dict.fromkeys(names)) if names else None)
    if layout.kind == "text":
        read, parts = Read([]), tuple(_joined(table, layout.parts["text"][0]) for table in tables)
    else:
        read = examples_of(lines, layout, hub=hub, hint=hint)
        rest = iter(read.examples)
        parts = tuple(tuple(islice(rest, len(table.lines))) for table in tables)
    loose += read.ignored
    notes = tuple(f"{title}: {note}" for note in ([unused_sentence(loose)] if loose else []) + read.notes)
    return Data(FORMAT_OF[layout.kind], parts, notes, layout.fields, read.reading)


def read_table(path: Path, *, header: bool = False) -> Table | None:
    """Return the lines of a file as they are; None for one without fields (plain text, a table without a header).

    Args:
        path: a .jsonl or .csv file.
        header: the first line of a table names its columns, whether it looks like that or not.

    Raises:
        DataError: names the line.
    """
    _check_file(path)
    kind = SUFFIXES.get(path.suffix.lower())
    if kind == "text":
        return None
    if kind == "table":
        rows = _rows(path)
        return _with_header(path, rows) if header or not _is_bare(rows) else None
    return Table(name_of(path), path.stem, list(_json_lines(path)))


def samples(tables: Iterable[Table]) -> dict[str, str]:
    """Return every field of some tables with the start of its first value; of an object also its own fields."""
    shown: dict[str, str] = {}
    for table in tables:
        for fields, _, _ in table.lines:
            for name, value in fields.items():
                if not shown.get(name):
                    shown[name] = "" if is_empty(value) else str(value)[:200]
                    inner = value if isinstance(value, dict) else {}
                    shown |= {f"{name}.{key}": str(part)[:200] for key, part in inner.items()}
    return shown


def name_of(path: Path) -> str:
    """Return what a file is called in sentences: an upload has its user's name of it, not its generated one."""
    if path.name.startswith("upload-"):
        try:
            note = path.with_suffix(".json")
            match json.loads(note.read_bytes()) if note.stat().st_size < 10_000 else None:
                case {"file": path.name, "label": str(label)}:
                    return label[:60] or path.name
        except (OSError, ValueError, RecursionError):
            pass
    return path.name


def is_hidden(path: Path) -> bool:
    """True for files that systems and offices leave beside data: `._train.jsonl`, `.DS_Store`, `~$train.csv`."""
    return path.name.startswith((".", "~$")) or path.name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _read(path: Path, format: str, columns: Mapping[str, str]) -> Table | tuple[str, list[Example]]:
    """Read one file: a table with named fields, or at once the format and the examples of one without."""
    _check_file(path)
    name = name_of(path)
    kind = SUFFIXES.get(path.suffix.lower())
    if format == "text" and not columns:
        kind = "text"
    if kind is None and format == "auto":
        raise DataError(
            f"{name}: the extension '{path.suffix.lower()}' does not tell the format; "
            "use .jsonl, .csv or .txt, or set task.format"
        )
    if kind is None:
        kind = "table" if format == "mmlu" else "lines"
    if kind == "text":
        if any(columns.values()):
            raise ColumnsError(
                f"{name}: task.columns given, but a .txt file is plain text without columns; "
                "leave it out, or give a .jsonl or .csv file"
            )
        if format not in ("auto", "text"):
            raise DataError(f"{name}: format '{format}' given, but a .txt file is plain text; use format text or auto")
        return "text", read_text(path)
    if kind == "lines":
        return Table(name, path.stem, list(_json_lines(path)))
    rows = _rows(path)
    if not rows:
        return Table(name, path.stem, [])
    if not columns and _is_bare(rows):
        if format not in ("auto", "mmlu"):
            raise DataError(
                f"{name}: format '{format}' given, but it is a table of question, A, B, C, D, "
                "letter; use format mmlu or auto, or name its columns in the first line"
            )
        return "mmlu", list(_bare_examples(path, rows))
    number, names = rows[0]
    if not columns and not _is_header(names):
        raise UnknownLayoutError(
            f"{name} line {number}: has {len(names)} columns; 6 are needed: question, A, B, C, D, letter, or a "
            f"first line that names them (question, A, B, C, D, answer); it holds {listed(names)}: if these are names, "
            f"{MAP}"
        )
    return _with_header(path, rows)


def read_text(path: Path) -> list[Example]:
    """Cut a plain text into examples of about 1000 characters at blank lines; joined again they are the file."""
    return _pieces(_decode(path.read_bytes(), name_of(path), 1).replace("\r\n", "\n"), path.stem)


def _pieces(text: str, stem: str) -> list[Example]:
    pieces = text_pieces(text) if text.strip() else []
    return [Example(f"{stem}:{index}", text=piece) for index, piece in enumerate(pieces, 1)]


def text_pieces(text: str, size: int = TEXT_PIECE) -> list[str]:
    """Group paragraphs into pieces of at most `size` characters; what is longer is cut at lines, then anywhere.

    Returns:
        Pieces whose concatenation is the text; none is only white space unless the text is.
    """
    units: list[str] = []
    for paragraph in re.findall(r".+?(?:\n\s*\n|\Z)", text, re.DOTALL):
        lines = [paragraph] if len(paragraph) <= size else paragraph.splitlines(keepends=True)
        units += [line[start : start + size] for line in lines for start in range(0, len(line), size)]
    pieces: list[list[str]] = []
    length, blank = 0, True  # of the last piece, kept beside it: pieces of blank lines may be as long as the file
    for unit in units:
        is_blank = not unit.strip()
        if pieces and (length + len(unit) <= size or is_blank or blank):
            pieces[-1].append(unit)
            length, blank = length + len(unit), blank and is_blank
        else:
            pieces.append([unit])
            length, blank = len(unit), is_blank
    return ["".join(piece) for piece in pieces]


def check_unique(examples: Sequence[Example], where: str) -> None:
    """Refuse two examples with one id: predictions and seed samples are found by it."""
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DataError(f"{where}: the id '{example.id[:60]}' is given twice; make ids unique or leave them out")
        seen.add(example.id)


def _check_file(path: Path) -> None:
    shown = name_of(path)
    if not path.is_file():
        raise DataError(f"{path}: is not a file that can be read; give the path of a .jsonl, .csv or .txt file")
    if path.name.startswith("~$"):
        raise DataError(f"{shown}: is a lock file that an office program left; give {path.name[2:]}")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f"{shown}: cannot be read ({error.strerror}); check its permissions") from None
    if start == _APPLE_DOUBLE or path.name.startswith("._"):
        raise DataError(f"{shown}: is a macOS side file (AppleDouble), not the data; give the file without '._'")
    if size == 0:
        raise DataError(f"{shown}: is empty; give a file with at least one example")
    if size > MAX_BYTES:
        raise DataError(f"{shown}: has {size / 1e9:.1f} GB; at most 2 GB are read, give a smaller part of the data")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{shown}: is UTF-16 text; save it as UTF-8")


def _decode(raw: bytes, file: str, line: int) -> str:
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += raw[: error.start].count(b"\n")
        raise DataError(f"{file} line {line}: is not UTF-8 text; save the file as UTF-8") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    shown = name_of(path)
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            yield number, _decode(raw, shown, number)


def _json_lines(path: Path) -> Iterator[Line]:
    shown = name_of(path)
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{shown} line {number}"
        try:
            record = read_json_text(line)
        except TwiceError as error:
            raise DataError(f"{where}: the key {quoted(str(error))} is given twice; keep one of them") from None
        except (ValueError, RecursionError):
            raise DataError(f"{where}: is not JSON; write one JSON object a line, {LAYOUTS}") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: holds {short(record)}, not an object; write each line as {LAYOUTS}")
        yield record, where, f"{path.stem}:{number}"


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a table that hold anything, each with the number of its first line.

    Columns are apart by commas, semicolons or tabs, whichever make the first row one that is known, else most of it.
    """
    shown = name_of(path)
    # The limit of 128 KB a cell is one of the whole process. It is only ever raised, and always to the same, so that
    # no reader in another thread can find it lower than it was.
    if csv.field_size_limit() < MAX_CELL:
        csv.field_size_limit(MAX_CELL)
    reader = csv.reader((line for _, line in _lines(path)), delimiter=_delimiter(path), strict=True)
    rows: list[tuple[int, list[str]]] = []
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return rows
        except csv.Error as error:
            raise DataError(
                f"{shown} line {start}: is not valid CSV ({error}); quote cells that hold commas or quotes"
            ) from None
        if len(row) > MOST_COLUMNS:
            raise DataError(f"{shown} line {start}: has {len(row):,} columns; at most {MOST_COLUMNS:,} are read")
        if row:
            rows.append((start, row))


def _delimiter(path: Path) -> str:
    filled = dropwhile(lambda line: not line.strip(), (line for _, line in _lines(path)))
    head, widths = list(islice(filled, _HEAD)), {}
    for mark in DELIMITERS:
        try:
            row = next((row for row in csv.reader(head, delimiter=mark) if row), [])
        except csv.Error:
            row = []
        if _is_header(row) or _is_bare_row(row):
            return mark
        widths[mark] = len(row)
    return max(widths, key=widths.__getitem__)  # of equal ones the first


def _is_header(names: Collection[str]) -> bool:
    try:
        return len(names) <= MOST_COLUMNS and bool(recognise(names, {}))
    except UnclearError as error:
        return bool(str(error))


def _is_bare_row(row: Sequence[str]) -> bool:
    return len(row) == len(LETTERS) + 2 and row[-1].strip() in LETTERS


def _is_bare(rows: Sequence[tuple[int, list[str]]]) -> bool:
    """True for a table of question, four choices and letter, without a line of names."""
    if not rows or (_is_header(rows[0][1]) and len(set(rows[0][1])) == len(rows[0][1])):
        return False
    return _is_bare_row(rows[0][1]) or 2 * sum(_is_bare_row(row) for _, row in rows) > len(rows)


def _with_header(path: Path, rows: Sequence[tuple[int, list[str]]]) -> Table:
    """Read a table whose first row names its columns."""
    shown = name_of(path)
    (first, names), *others = rows
    names = [name.strip() or f"column {index}" for index, name in enumerate(names, 1)]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise DataError(f"{shown} line {first}: names the column {quoted(twice)} twice; give each another name")
    lines = []
    for count, (number, row) in enumerate(others, 1):
        if len(row) != len(names):
            raise DataError(
                f"{shown} line {number}: has {len(row)} columns, line {first} names {len(names)}; "
                "quote cells that hold commas or quotes"
            )
        lines.append((dict(zip(names, row, strict=True)), f"{shown} line {number}", f"{path.stem}:{count}"))
    return Table(shown, path.stem, lines)


def _bare_examples(path: Path, rows: Sequence[tuple[int, list[str]]]) -> Iterator[Example]:
    subject = _SPLIT_WORD.sub("", path.stem).replace("_", " ") if _SPLIT_WORD.search(path.stem) else ""
    for count, (number, row) in enumerate(rows, 1):
        where = f"{name_of(path)} line {number}"
        if len(row) != len(LETTERS) + 2:
            raise DataError(f"{where}: has {len(row)} columns; 6 are needed: question, A, B, C, D, letter")
        names = ("question", *(f"choice {letter}" for letter in LETTERS))
        question, *choices = (text_of(cell, name, where) for cell, name in zip(row, names, strict=False))
        letter = row[5].strip()
        if letter not in LETTERS:
            kind = UnknownLayoutError if count == 1 else DataError
            raise kind(
                f"{where}: the answer is {short(letter)}; it must be A, B, C or D (no header line, or one that names "
                f"question, A, B, C, D, answer; with other names, {MAP})"
            )
        yield multiple_choice(question, tuple(choices), letter, f"{path.stem}:{count}", subject)


def _joined(table: Table, column: str) -> tuple[Example, ...]:
    """Rows of text may be lines or whole documents: join them and cut them like a text file."""
    rows = []
    for fields, where, _ in table.lines:
        value = find(fields, column)
        if not isinstance(value, str):
            raise DataError(f"{where}: {quoted(column)} is not text; set task.columns.text to a column of text")
        rows.append(whole(value, column, where))
    text = ("" if all(row.endswith("\n") for row in rows) else "\n\n").join(rows)
    return tuple(_pieces(text, table.stem))
