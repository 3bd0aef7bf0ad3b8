"""Multiple choice: what a line's choices are, and which of them its answer names, settled by all lines together."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.tasks.characters import nfc
from paraknow_core.tasks.values import MISSING, find, is_empty, quoted, said, short, text_of, whole

MOST = 26
MOST_LITERAL = 100_000  # characters of a table's cell that is read as a list
# How an answer may name a choice, in the order in which they are told apart.
READINGS = {
    "label": "a choice's label",
    "letter": "a letter",
    "from 0": "a position counted from 0",
    "from 1": "a position counted from 1",
    "text": "the text of a choice",
}
_POSITION = re.compile(r"[0-9]{1,3}")


@dataclass(frozen=True)
class Offered:
    """The choices of one line: their texts and, where the data gives them, their labels."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()


def offered(fields: Mapping[str, Any], columns: Sequence[str], where: str) -> Offered:
    """Return the choices of one line.

    Args:
        fields: the line.
        columns: one that holds all choices (a list of texts or of `{"text", "label"}`, `{"text": [...], "label":
            [...]}`, or `{"A": ..., "B": ...}`), or one for each choice, of which the last may be empty.
        where: names the line.

    Raises:
        DataError: they are not 2 to 26 texts.
    """
    labels: Any = []
    if len(columns) > 1:
        given = [find(fields, column) for column in columns]
        while given and is_empty(given[-1]):
            given.pop()
        texts = [text_of(value, column, where) for value, column in zip(given, columns, strict=False)]
        return Offered(_enough(texts, where, "choices"))
    (column,) = columns
    given = find(fields, column)
    if given is MISSING:
        text_of(given, column, where)
    if isinstance(given, str):
        given = _literal(given)
    if isinstance(given, Mapping):
        if "text" in given or "label" in given:
            labels, given = given.get("label"), given.get("text")
        else:
            labels, given = list(given), list(given.values())
    elif isinstance(given, list) and given and all(isinstance(each, Mapping) and "text" in each for each in given):
        labels = [each["label"] for each in given if "label" in each]
        given = [each["text"] for each in given]
    if not isinstance(given, list | tuple):
        raise DataError(
            f"{where}: the choices must be a list of 2 to {MOST} texts, and {quoted(column)} is {short(given)}; "
            "correct it, or say with task.columns.choices where they are"
        )
    texts = [
        each if isinstance(each, str) else text_of(each, f"{column}, choice {index}", where)
        for index, each in enumerate(given, 1)
    ]
    for text in texts:
        whole(text, column, where)
    marks = tuple(name for label in (labels if isinstance(labels, list) else ()) if (name := said(label)) is not None)
    return Offered(_enough(texts, where, column), marks if len(marks) == len(texts) else ())


def settle(
    offers: Sequence[Offered], answers: Mapping[str, Sequence[Any]], places: Sequence[str], hint: str = ""
) -> tuple[list[int], str, list[str]]:
    """Tell which choice each line's answer names: one reading for all lines, never a guess for one.

    Args:
        offers: the choices of each line.
        answers: column -> its value in each line. All columns must name the same choice; those after the first that
            are no answers at all do not count.
        places: names each line.
        hint: the reading of another part of the same data, which decides where these lines do not.

    Returns:
        The position of the right choice in each line, the reading of the first column, and columns that are no
        answers.

    Raises:
        DataError: names the first line that no reading fits, that columns disagree on, or where readings that fit all
            lines differ.
    """
    columns = list(answers)
    found = {column: _positions(column, answers[column], offers) for column in columns}
    first = columns[0]
    if not found[first]:
        raise _misfit(first, answers[first], offers, places)
    possible, ignored = {tuple(where): name for name, where in reversed(found[first].items())}, []
    for column in columns[1:]:
        others = {tuple(where) for where in found[column].values()}
        if not others:
            ignored.append(column)
            continue
        if not others & possible.keys():
            raise _conflict(first, column, answers, found, places)
        possible = {where: name for where, name in possible.items() if where in others}
    if len(possible) > 1 and hint in possible.values():
        possible = {where: name for where, name in possible.items() if name == hint}
    if len(possible) > 1:
        raise _unsettled(answers[first], possible, offers, places)
    ((positions, reading),) = possible.items()
    return list(positions), reading, ignored


def readings_of(column: str, values: Sequence[Any]) -> tuple[str, ...]:
    """Return what the answers of a column may be, by its name: a position or label is never a choice's text."""
    name = re.sub(r"[\s_-]", "", column.rpartition(".")[2]).casefold()
    if name in ("answerkey", "answerindex", "answeridx", "answerid"):
        return tuple(reading for reading in READINGS if reading != "text")
    if name == "label" and not all(isinstance(value, str) for value in values):
        return tuple(reading for reading in READINGS if reading != "text")
    return tuple(READINGS)


def _positions(column: str, values: Sequence[Any], offers: Sequence[Offered]) -> dict[str, list[int]]:
    """Return the positions by every reading that fits all lines; a label or an index from 0 of that name is sure."""
    fits: dict[str, list[int]] = {}
    for reading in readings_of(column, values):
        positions = []
        for value, offer in zip(values, offers, strict=True):
            position = _position(value, offer, reading)
            if position is None:
                break
            positions.append(position)
        else:
            fits[reading] = positions
    if "label" in fits:
        return {"label": fits["label"]}
    if "from 0" in fits and re.sub(r"[\s_-]", "", column).casefold() in ("answerindex", "answeridx"):
        return {"from 0": fits["from 0"]}
    return fits


def _position(value: Any, offer: Offered, reading: str) -> int | None:
    if isinstance(value, bool) and reading != "text":
        return None
    text = said(value)
    if text is None:
        return None
    text = text.strip()
    if reading in ("label", "text"):
        plain = nfc(text)
        known = offer.labels if reading == "label" else offer.texts
        same = [index for index, each in enumerate(known) if nfc(each.strip()) == plain]
        return same[0] if len(same) == 1 else None
    if reading == "letter":
        mark = text.strip("().: ").upper()
        index = ord(mark) - ord("A") if len(mark) == 1 else -1
    else:
        if isinstance(value, float) and value.is_integer():  # a column of a table with holes elsewhere
            text = str(int(value))
        index = int(text) - int(reading[-1]) if _POSITION.fullmatch(text) and text.isascii() else -1
    return index if 0 <= index < len(offer.texts) else None


def _misfit(column: str, values: Sequence[Any], offers: Sequence[Offered], places: Sequence[str]) -> DataError:
    counted = {
        reading: [_position(value, offer, reading) is not None for value, offer in zip(values, offers, strict=True)]
        for reading in readings_of(column, values)
    }
    best = max(counted, key=lambda reading: sum(counted[reading]))
    index = counted[best].index(False)
    shown, number = short(values[index]), len(offers[index].texts)
    if values[index] is MISSING or values[index] is None or said(values[index]) is None:
        try:
            text_of(values[index], column, places[index])
        except DataError as error:
            return error
    if not any(counted[best]):
        why = f"names none of {number} choices; give a letter (A to {chr(64 + number)}), a position counted from 0, or "
        return DataError(f"{places[index]}: the answer {shown} {why}the text of a choice")
    return DataError(
        f"{places[index]}: the answer {shown} names none of {number} choices by {READINGS[best]}, as "
        f"{sum(counted[best])} of {len(offers)} lines do; correct it or remove the line"
    )


def _conflict(
    first: str,
    second: str,
    answers: Mapping[str, Sequence[Any]],
    found: Mapping[str, Mapping[str, list[int]]],
    places: Sequence[str],
) -> DataError:
    # The pair of readings that goes furthest names the line that is odd, not the first one of a wrong pair.
    pairs = [(one, other) for one in found[first].values() for other in found[second].values()]
    index = max(next(i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b) for pair in pairs)
    one, other = short(answers[first][index]), short(answers[second][index])
    return DataError(
        f"{places[index]}: {quoted(first)} is {one} and {quoted(second)} is {other}, which are different choices; "
        "correct one of them"
    )


def _unsettled(
    values: Sequence[Any], possible: Mapping[tuple[int, ...], str], offers: Sequence[Offered], places: Sequence[str]
) -> DataError:
    (one, name), (other, other_name) = sorted(possible.items(), key=lambda pair: list(READINGS).index(pair[1]))[:2]
    index = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    texts = offers[index].texts
    return DataError(
        f"{places[index]}: the answer {short(values[index])} may be {READINGS[name]} ({short(texts[one[index]])}) or "
        f"{READINGS[other_name]} ({short(texts[other[index]])}), and no line shows which; add to every line a field "
        "answer_index that counts from 0"
    )


def _literal(text: str) -> Any:
    """Read a table's cell that holds a list, as JSON or as Python writes it; the text itself if it is none."""
    if len(text) > MOST_LITERAL or not text.strip().startswith(("[", "{")):
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return text


def _enough(texts: Sequence[str], where: str, name: str) -> tuple[str, ...]:
    if not 2 <= len(texts) <= MOST:
        raise DataError(f"{where}: {quoted(name)} holds {len(texts)}; the choices must be a list of 2 to {MOST} texts")
    return tuple(texts)
