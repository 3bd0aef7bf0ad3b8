"""Values of JSON lines, tables and hub rows as text: numbers as they were written, never a missing value as a word."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from paraknow_core.errors import DataError

MISSING = object()


class Written(float):
    """A number of a JSON text that remembers how it was written: 1.50 stays 1.50."""

    def __new__(cls, text: str) -> "Written":
        """Read a number from its digits."""
        number = super().__new__(cls, text)
        number.text = text
        return number


class TwiceError(Exception):
    """A key is given twice in one JSON object."""


def read_json_text(text: str) -> Any:
    """Read one JSON value; NaN and Infinity become floats, to be refused where they are used.

    Raises:
        ValueError, RecursionError: it is not JSON.
        TwiceError: an object has one key twice; the first value would be lost without a word.
    """
    return json.loads(text, parse_float=Written, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        counted = Counter(key for key, _ in pairs)
        raise TwiceError(next(key for key, number in counted.items() if number > 1))
    return record


def find(fields: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column, `MISSING` without one; `choices.text` is looked up level by level."""
    if column in fields:
        return fields[column]
    value: Any = fields
    for level in column.split("."):
        if not isinstance(value, Mapping) or level not in value:
            return MISSING
        value = value[level]
    return value


def is_empty(value: Any) -> bool:
    """True for what says nothing: missing, null, white space, an empty list or object."""
    return value is MISSING or value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})


def as_text(value: Any) -> str | None:
    """Return a text, number or truth value as text; None for anything else, NaN and infinity among it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return getattr(value, "text", None) or str(value)
    return None


def text_of(value: Any, key: str, where: str) -> str:
    """Return a value that must say something as text.

    Args:
        value: text, a number or a truth value.
        key: the column, for the sentence; where: names the line.

    Raises:
        DataError: missing, null, NaN, infinite, empty, half a character, or a list or object.
    """
    if value is MISSING:
        raise DataError(f"{where}: has no {quoted(key)}; fill it in or remove the line")
    text = as_text(value)
    if text is None:
        if isinstance(value, Mapping) and value:
            inner = quoted(f"{key}.{next(iter(value))}")
            raise DataError(
                f"{where}: {quoted(key)} is an object; say with task.columns which of its fields it is, such as {inner}"
            )
        number = value is None or isinstance(value, float | Decimal)
        remedy = "fill it in or remove the line" if number else "it must be text"
        raise DataError(f"{where}: {quoted(key)} is {short(value)}; {remedy}")
    if not text.strip():
        raise DataError(f"{where}: {quoted(key)} is empty; fill it in or remove the line")
    return whole(text, key, where)


def whole(text: str, key: str, where: str) -> str:
    """Refuse a text that no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: {quoted(key)} holds half a character (a lone surrogate); correct its escapes"
        ) from None
    return text


def short(value: Any) -> str:
    """Return a value as it is named in a sentence."""
    if value is None:
        return "null"
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite"
    shown = repr(value) if isinstance(value, str | int | float | bool) else type(value).__name__
    return shown if len(shown) <= 40 else shown[:37] + "..."


def quoted(name: str) -> str:
    """Return a field's name as it is named in a sentence: in quotes, cut, without line ends."""
    shown = repr(name)[1:-1]
    return f"'{shown if len(shown) <= 40 else shown[:37] + '...'}'"


def listed(names: Any, most: int = 8) -> str:
    """Return field names in a row, in quotes; of many the first."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(quoted(name) for name in names[:most]) + more
