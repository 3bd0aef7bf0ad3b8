"""Characters of all scripts brought to the forms that answers are compared and numbers are read in."""

import re
import unicodedata
from functools import cache
from typing import Any

# Stands before a fraction, so that "1 + this + 1/2" is the mixed number that `1\frac{1}{2}` or "1½" is.
JOINER = "\u2064"
HARD_SPACE = "\u00a0"  # may stand between the groups of one number

_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2212\u2796\ufe63\uff0d"), "-") | dict.fromkeys(
    map(ord, "\u2012\u2013\u2014\u2015\ufe58"), "–"
)
_SPACES = dict.fromkeys([0xA0, 0x202F, 0x205F, *range(0x2000, 0x200B)], HARD_SPACE) | {0x3000: " ", 0x1680: " "}
_INVISIBLE = dict.fromkeys(
    [0xAD, 0xFEFF, 0x2060, 0x061C, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], ""
)
_MARKS = dict(
    zip(
        map(ord, "\u066b\u066c\u2018\u2019\u02bc\u2044\u2215\u00d7\u2715\u2716\u22c5\u2219\u2217\u066a"),
        ".,'''//×××··*%",
        strict=True,
    )
)
_KNOWN = _DASHES | _SPACES | _INVISIBLE | _MARKS
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_POWER = re.compile(r"(?<=[0-9])⁻?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_WIDE_MARK = re.compile(r"(?<=[\uff10-\uff19])[\uff0c\uff0e](?=[\uff10-\uff19])")


def nfc(text: str) -> str:
    """Return a text in Unicode's normalisation form C.

    Runs of more than 30 combining marks, which no language has, are cut by a grapheme joiner as in Unicode's
    stream-safe format: sorting a run takes the square of its length.
    """
    if text.isascii():
        return text
    if len(text) > 1000:
        text = _mark_run().sub(lambda run: run.group() + "\u034f", text)
    return unicodedata.normalize("NFC", text)


def same_text(first: str, second: str) -> bool:
    """True if two texts show the same characters: equal in NFC."""
    return first == second or nfc(first) == nfc(second)


def plain_characters(text: str) -> str:
    """Write digits, signs and spaces of all scripts as ASCII digits, `-`, `–` (a dash that may join), NBSP or space.

    The text is brought to NFC, and only these characters further: NFKC would make 102 of 10², and lose which spaces
    may stand within a number.
    """
    if text.isascii():
        return text
    text = nfc(text)
    text = _POWER.sub(lambda power: "^" + power.group().translate(_RAISED), text)
    text = _WIDE_MARK.sub(lambda mark: chr(ord(mark.group()) - 0xFEE0), text)
    return text.translate({code: _plain(chr(code)) for code in set(map(ord, text)) if code > 127})


def _plain(character: str) -> str:
    if ord(character) in _KNOWN:
        return _KNOWN[ord(character)]
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if "\uff01" <= character <= "\uff5e" and character not in "\uff0c\uff0e":
        return chr(ord(character) - 0xFEE0)
    if unicodedata.category(character) == "No" and "\u2044" in (parts := unicodedata.normalize("NFKC", character)):
        return JOINER + parts.replace("\u2044", "/")
    return character


@cache
def _mark_run() -> Any:
    import regex

    return regex.compile(r"\p{M}{30}(?=\p{M})")
