"""Find and compare answers in text. Pure functions on strings."""

import re
from decimal import Decimal

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# A minus after a word, a digit or a bracket subtracts; elsewhere it is a sign.
_ANYWHERE = re.compile(rf"(?:(?<![\w)\]])-)?\$?(?:{_DIGITS})")
_HASHES = re.compile(rf"####[ \t]*(-?[ \t]*\$?(?:{_DIGITS}))")
_PLAIN = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_SAID = re.compile(r"answer\s+is\b[:\s]*([^\n]*)", re.IGNORECASE)


def extract_number(text: str, *, strict: bool = False) -> str | None:
    """Find the number that a text gives as its answer.

    Args:
        text: a reference or a model's output.
        strict: only the first `#### x` counts.

    Returns:
        The number in plain decimal notation, e.g. "-1200.5", without `$`, `,`, `%` and needless zeros; None if there
        is none. Not strict, these places are tried in turn: the first `####`, the last `\\boxed{}`, the last
        "answer is", the last number of the text.
    """
    text = text.replace("\u2212", "-")
    marked = _HASHES.search(text)
    if strict or marked:
        return plain_number(marked.group(1)) if marked else None
    for pattern, pick in ((_BOXED, _last), (_SAID, _first)):
        said = pattern.findall(text)
        found = pick(said[-1]) if said else None
        if found is not None:
            return found
    return _last(text)


def plain_number(text: str) -> str | None:
    """Bring one number to plain notation: "$1,200.50" -> "1200.5", "7.00." -> "7"; None if it is not a number."""
    kept = re.sub(r"[$,%\s]", "", text).rstrip(".")
    if not _PLAIN.fullmatch(kept):
        return None
    sign, digits = ("-", kept[1:]) if kept.startswith("-") else ("", kept)
    whole, _, fraction = digits.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    plain = f"{whole}.{fraction}" if fraction else whole
    return plain if plain == "0" else sign + plain


def same_number(first: str | None, second: str | None) -> bool:
    """True if both are numbers and equal as decimals (1.0 equals 1)."""
    if first is None or second is None:
        return False
    one, two = plain_number(first), plain_number(second)
    return one is not None and two is not None and Decimal(one) == Decimal(two)


def normalise_answer(text: str) -> str:
    """Return the text with every run of white space as one space and none at its ends."""
    return " ".join(text.split())


def _first(text: str) -> str | None:
    found = _ANYWHERE.search(text)
    return plain_number(found.group()) if found else None


def _last(text: str) -> str | None:
    found = _ANYWHERE.findall(text)
    return plain_number(found[-1]) if found else None
