"""Read a data file into examples. Strict: an error names the file, the line and what would be right."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.tasks.characters import nfc, same_text
from paraknow_core.tasks.task import ROLES, Example, Message

LETTERS = ("A", "B", "C", "D")
SUFFIXES = {".jsonl": None, ".csv": "mmlu", ".txt": "text"}
FORMATS = ("chat_jsonl", "gsm8k", "mmlu", "text")
MAX_BYTES = 2_000_000_000
TEXT_PIECE = 1000

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_SPLIT_WORD = re.compile(r"[_-](?:dev|val|validation|test|train)$")
_LAYOUTS = '{"messages": [...]} or {"question": ..., "answer": ...}'


def read_examples(path: Path, format: str = "auto") -> tuple[str, tuple[Example, ...]]:
    """Read every example of one file, in file order.

    Args:
        path: a UTF-8 file (with or without byte-order mark; LF or CRLF) of at most 2 GB.
        format: "chat_jsonl", "gsm8k", "mmlu", "text", or "auto": by extension and first line.

    Returns:
        The format and the examples. Ids that the file does not give are made of its name and the line (or row) number.

    Raises:
        DataError: names the file, the line, and what would be right.
    """
    _check_file(path)
    if format == "auto":
        format = detect_format(path)
    if format not in FORMATS:
        raise DataError(f"{path.name}: format '{format}' is not one of a file; choose from auto, {', '.join(FORMATS)}")
    if format == "text":
        examples = read_text(path)
    elif format == "mmlu":
        examples = list(_read_mmlu(path))
    else:
        parse = parse_chat if format == "chat_jsonl" else parse_gsm8k
        examples = [parse(record, where, name) for record, where, name in _json_lines(path)]
    if not examples:
        raise DataError(f"{path.name}: holds no example; give a file with at least one")
    check_unique(examples, path.name)
    return format, tuple(examples)


def detect_format(path: Path) -> str:
    """Tell the format of a file from its extension and, for JSON lines, its first record.

    Raises:
        DataError: neither tells.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path.name}: the extension '{suffix}' does not tell the format; "
            "use .jsonl, .csv or .txt, or set task.format"
        )
    known = SUFFIXES[suffix]
    if known:
        return known
    for record, where, _ in _json_lines(path):
        if "messages" in record:
            return "chat_jsonl"
        if "question" in record and "answer" in record:
            return "gsm8k"
        keys = ", ".join(str(key) for key in list(record)[:8]) or "none"
        raise DataError(f"{where}: unknown layout with keys {keys[:120]}; write each line as {_LAYOUTS}")
    raise DataError(f"{path.name}: holds no example; write one JSON object a line, {_LAYOUTS}")


def parse_chat(record: dict, where: str, name: str) -> Example:
    """Turn `{"messages": [{"role", "content"}, ...], "id"?, "choices"?}` into an example; other keys are ignored."""
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: 'messages' must be a list of turns; write [{{'role': 'user', 'content': ...}}, ...]")
    turns = tuple(_message(turn, f"{where}, message {index}") for index, turn in enumerate(messages, 1))
    if turns[-1].role != "assistant":
        raise DataError(f"{where}: no assistant answer at the end; end each conversation with an assistant message")
    if len(turns) < 2:
        raise DataError(f"{where}: an answer without a question; put a user message before it")
    given = record.get("id", name)
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise DataError(f"{where}: 'id' is {_short(given)}; give text or a whole number, or leave it out")
    choices = _choices(record.get("choices"), turns[-1].content, where)
    for choice in choices:  # the answer is learnt as the choice is scored
        if same_text(choice, turns[-1].content):
            turns = (*turns[:-1], Message("assistant", choice))
    return Example(_text(str(given), "id", where), turns, choices)


def parse_gsm8k(record: dict, where: str, name: str) -> Example:
    """Turn `{"question", "answer"}` into an example.

    The calculator marks `<<48/2=24>>` are taken out of an answer that ends in `#### 72`, as is usual when preparing
    this data; the reference keeps its reasoning and that last line. Other answers stay as they are.
    """
    for key in ("question", "answer"):
        if key not in record:
            raise DataError(f"{where}: the key '{key}' is missing; write each line as {_LAYOUTS}")
    question = _text(record["question"], "question", where)
    answer = _text(record["answer"], "answer", where)
    if "####" in answer:
        answer = _CALCULATOR.sub("", answer)
    return Example(name, (Message("user", question), Message("assistant", answer)))


def multiple_choice(question: str, choices: tuple[str, ...], letter: str, name: str, subject: str = "") -> Example:
    """Lay a question out as the usual lettered prompt; the answer and the candidates are the letters.

    Args:
        question, choices: the texts, 2 to 26 choices.
        letter: of the right choice.
        subject: if known, named in the first line.
    """
    letters = tuple(chr(ord("A") + index) for index in range(len(choices)))
    about = f" about {subject}" if subject else ""
    lines = [f"The following are multiple choice questions (with answers){about}.", "", question.strip()]
    lines += [f"{mark}. {choice.strip()}" for mark, choice in zip(letters, choices, strict=True)]
    prompt = "\n".join([*lines, "Answer:"])
    return Example(name, (Message("user", prompt), Message("assistant", letter)), letters)


def read_text(path: Path) -> list[Example]:
    """Cut a plain text into examples of about 1000 characters at blank lines; joined again they are the file."""
    text = _decode(path.read_bytes(), path.name, 1).replace("\r\n", "\n")
    if not text.strip():
        return []
    return [Example(f"{path.stem}:{index}", text=piece) for index, piece in enumerate(text_pieces(text), 1)]


def text_pieces(text: str, size: int = TEXT_PIECE) -> list[str]:
    """Group paragraphs into pieces of at most `size` characters; what is longer is cut at lines, then anywhere.

    Returns:
        Pieces whose concatenation is the text; none is only white space unless the text is.
    """
    units: list[str] = []
    for paragraph in re.findall(r".+?(?:\n\s*\n|\Z)", text, re.DOTALL):
        lines = [paragraph] if len(paragraph) <= size else paragraph.splitlines(keepends=True)
        units += [line[start : start + size] for line in lines for start in range(0, len(line), size)]
    pieces: list[str] = []
    for unit in units:
        fits = pieces and len(pieces[-1]) + len(unit) <= size
        if pieces and (fits or not unit.strip() or not pieces[-1].strip()):
            pieces[-1] += unit
        else:
            pieces.append(unit)
    return pieces


def check_unique(examples: list[Example] | tuple[Example, ...], where: str) -> None:
    """Refuse two examples with one id: predictions and seed samples are found by it."""
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DataError(f"{where}: the id '{example.id[:60]}' is given twice; make ids unique or leave them out")
        seen.add(example.id)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: is not a file that can be read; give the path of a .jsonl, .csv or .txt file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if size == 0:
        raise DataError(f"{path.name}: is empty; give a file with at least one example")
    if size > MAX_BYTES:
        raise DataError(f"{path.name}: has {size / 1e9:.1f} GB; at most 2 GB are read, give a smaller part of the data")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path.name}: is UTF-16 text; save it as UTF-8")


def _decode(raw: bytes, file: str, line: int) -> str:
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += raw[: error.start].count(b"\n")
        raise DataError(f"{file} line {line}: is not UTF-8 text; save the file as UTF-8") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            yield number, _decode(raw, path.name, number)


def _json_lines(path: Path) -> Iterator[tuple[dict, str, str]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{where}: is not JSON; write one JSON object a line, {_LAYOUTS}") from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: holds {_short(record)}, not an object; write each line as {_LAYOUTS}")
        yield record, where, f"{path.stem}:{number}"


def _read_mmlu(path: Path) -> Iterator[Example]:
    subject = _SPLIT_WORD.sub("", path.stem).replace("_", " ") if _SPLIT_WORD.search(path.stem) else ""
    reader = csv.reader((line for _, line in _lines(path)), strict=True)
    count = 0
    while True:
        where = f"{path.name} line {reader.line_num + 1}"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{where}: is not valid CSV ({error}); quote cells that hold commas or quotes") from None
        if not row:
            continue
        count += 1
        if len(row) != 6:
            raise DataError(f"{where}: has {len(row)} columns; 6 are needed: question, A, B, C, D, letter")
        names = ("question", *(f"choice {letter}" for letter in LETTERS))
        question, *choices = (_text(cell, name, where) for cell, name in zip(row, names, strict=False))
        letter = row[5].strip()
        if letter not in LETTERS:
            raise DataError(f"{where}: the answer is {_short(letter)}; it must be A, B, C or D (no header line)")
        yield multiple_choice(question, tuple(choices), letter, f"{path.stem}:{count}", subject)


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
        raise DataError(f"{where}: a turn needs the keys 'role' and 'content'; add them")
    if turn["role"] not in ROLES:
        raise DataError(f"{where}: the role is {_short(turn['role'])}; choose from {', '.join(ROLES)}")
    return Message(turn["role"], _text(turn["content"], "content", where))


def _choices(given: Any, reference: str, where: str) -> tuple[str, ...]:
    if given is None or given == []:
        return ()
    if not isinstance(given, list) or not all(isinstance(choice, str) and choice.strip() for choice in given):
        raise DataError(f'{where}: \'choices\' must be a list of texts; write for example ["A", "B"]')
    if len({nfc(choice) for choice in given}) != len(given) or len(given) < 2:
        raise DataError(f"{where}: 'choices' must be two or more different texts; correct them")
    if not any(same_text(choice, reference) for choice in given):
        raise DataError(f"{where}: the answer {_short(reference)} is not among the choices; add it or correct it")
    return tuple(given)


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: '{key}' is {_short(value)}; it must be text")
    if not value.strip():
        raise DataError(f"{where}: '{key}' is empty; fill it in or remove the line")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: '{key}' holds half a character (a lone surrogate); correct its escapes") from None
    return value


def _short(value: Any) -> str:
    shown = repr(value) if isinstance(value, str | int | float | bool | type(None)) else type(value).__name__
    return shown if len(shown) <= 40 else shown[:37] + "..."
