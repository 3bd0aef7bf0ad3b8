"""Multiple choice: what a line's choices are, and which of them its answer names, settled by all lines together."""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.tasks.characters import nfc
from paraknow_core.tasks.values import MISSING, as_text, find, is_empty, quoted, short, text_of, whole

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
        values = [find(fields, column) for column in columns]
        while values and is_empty(values[-1]):
            values.pop()
        texts = [text_of(value, column, where) for value, column in zip(values, columns, strict=False)]
        return Offered(_enough(texts, where, "choices"))
    (column,) = columns
    value = find(fields, column)
    if value is MISSING:
        text_of(value, column, where)  # refuses it
    if isinstance(value, str):
        value = _literal(value)
    if isinstance(value, Mapping) and ("text" in value or "label" in value):
        labels, value = value.get("label"), value.get("text")
    elif isinstance(value, Mapping):
        labels, value = list(value), list(value.values())
    elif (
        isinstance(value, list) and value and all(isinstance(choice, Mapping) and "text" in choice for choice in value)
    ):
        labels = [choice["label"] for choice in value if "label" in choice]
        value = [choice["text"] for choice in value]
    if not isinstance(value, list | tuple):
        raise DataError(
            f"{where}: the choices must be a list of 2 to {MOST} texts, and {quoted(column)} is {short(value)}; "
            "correct it, or say with task.columns.choices where they are"
        )
    texts = [
        choice if isinstance(choice, str) else text_of(choice, f"{column}, choice {index}", where)
        for index, choice in enumerate(value, 1)
    ]
    for text in texts:
        whole(text, column, where)
    marks = map(as_text, labels if isinstance(labels, list) else ())
    readable = tuple(mark for mark in marks if mark is not None)
    return Offered(_enough(texts, where, column), readable if len(readable) == len(texts) else ())


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
    fitting = {column: _positions(column, values, offers) for column, values in answers.items()}
    first, *others = answers
    if not fitting[first]:
        raise _misfit(first, answers[first], offers, places)
    possible = {tuple(positions): reading for reading, positions in reversed(fitting[first].items())}
    ignored = [column for column in others if not fitting[column]]
    for column in others:
        if fitting[column]:
            agreed = {tuple(positions) for positions in fitting[column].values()} & possible.keys()
            if not agreed:
                raise _conflict((first, column), answers, fitting, places)
            possible = {positions: reading for positions, reading in possible.items() if positions in agreed}
    if len(possible) > 1 and hint in possible.values():
        possible = {positions: reading for positions, reading in possible.items() if reading == hint}
    if len(possible) > 1:
        raise _unsettled(answers[first], possible, offers, places)
    ((positions, reading),) = possible.items()
    return list(positions), reading, ignored


def readings_of(column: str, values: Sequence[Any]) -> tuple[str, ...]:
    """Return what the answers of a column may be, by its name: a position or label is never a choice's text."""
    name = re.sub(r"[\s_-]", "", column.rpartition(".")[2]).casefold()
    is_label = name == "label" and not all(isinstance(value, str) for value in values)
    is_key = name in ("answerkey", "answerindex", "answeridx", "answerid")
    return tuple(reading for reading in READINGS if reading != "text" or not (is_label or is_key))


def _positions(column: str, values: Sequence[Any], offers: Sequence[Offered]) -> dict[str, list[int]]:
    """Return the positions by every reading that fits all lines; a label or an index from 0 of that name is sure."""
    fits: dict[str, list[int]] = {}
    for reading in readings_of(column, values):
        positions = [_position(value, offer, reading) for value, offer in zip(values, offers, strict=True)]
        if None not in positions:
            fits[reading] = positions
    if "label" in fits:
        return {"label": fits["label"]}
    if "from 0" in fits and re.sub(r"[\s_-]", "", column).casefold() in ("answerindex", "answeridx"):
        return {"from 0": fits["from 0"]}
    return fits


def _position(value: Any, offer: Offered, reading: str) -> int | None:
    if isinstance(value, bool) and reading != "text":
        return None
    text = as_text(value)
    if text is None:
        return None
    text = text.strip()
    if reading in ("label", "text"):
        names = offer.labels if reading == "label" else offer.texts
        same = [index for index, name in enumerate(names) if nfc(name.strip()) == nfc(text)]
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
    if values[index] is MISSING or values[index] is None or as_text(values[index]) is None:
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
    columns: tuple[str, str],
    answers: Mapping[str, Sequence[Any]],
    fitting: Mapping[str, Mapping[str, list[int]]],
    places: Sequence[str],
) -> DataError:
    # The pair of readings that goes furthest names the line that is odd, not the first one of a wrong pair.
    index = max(_first_difference(*pair) for pair in product(*(fitting[column].values() for column in columns)))
    (first, second), (own, other) = map(quoted, columns), (short(answers[column][index]) for column in columns)
    return DataError(
        f"{places[index]}: {first} is {own} and {second} is {other}, which are different choices; correct one of them"
    )


def _first_difference(first: Sequence[int], second: Sequence[int]) -> int:
    return next(index for index, (own, other) in enumerate(zip(first, second, strict=True)) if own != other)


def _unsettled(
    values: Sequence[Any], possible: Mapping[tuple[int, ...], str], offers: Sequence[Offered], places: Sequence[str]
) -> DataError:
    two = sorted(possible.items(), key=lambda item: list(READINGS).index(item[1]))[:2]
    index = _first_difference(*(positions for positions, _ in two))
    texts = offers[index].texts
    readings = (f"{READINGS[reading]} ({short(texts[positions[index]])})" for positions, reading in two)
    return DataError(
        f"{places[index]}: the answer {short(values[index])} may be {' or '.join(readings)}, and no line shows which; "
        "add to every line a field answer_index that counts from 0"
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
