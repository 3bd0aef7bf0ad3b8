"""How numbers, names and arms look to people: one place, so that a score or a colour is the same on every screen."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from paraknow_core.catalogue import ARMS as STUDY_ARMS
from paraknow_core.catalogue import METHODS, SCORERS, UNTRAINED, Line

NOT_MEASURED = "–"
SHARE = "share"  # the unit of scores that are fractions of 1, shown as percent
LOWER_IS_BETTER = ("ppl", "bits")
GROUP_COLOURS = {
    "attention": "#0072B2",
    "ffn": "#D55E00",
    "embedding": "#009E73",
    "norm": "#999999",
    "other": "#999999",
}

ARMS: dict[str, Line] = {**STUDY_ARMS, **METHODS, **UNTRAINED}


def arm_of(name: str) -> Line:
    """Return how the arm with this name is shown; an unknown one in grey, under its own name."""
    unknown = Line(name, name.replace("_", " "), "", colour="#7A8286", dark_colour="#8C9498", pattern="|")
    return ARMS.get(name, unknown)


def significant(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits; with an exponent only where it would be hard to read."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if -4 <= exponent < 6:
        return f"{value:,.{max(0, digits - 1 - exponent)}f}"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa} × 10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def compact(value: float | None) -> str:
    """Return a number in three significant digits and few characters: `0.0123`, `4.12`, `631 k`."""
    return count(value) if value is not None and abs(value) >= 1e4 else significant(value, 3)


def percent(fraction: float | None) -> str:
    """Return a fraction of 1 as percent with one decimal."""
    return NOT_MEASURED if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.1f} %"


def duration(seconds: float | None) -> str:
    """Return seconds as `12 s`, `2 m 10 s` or `3 h 05 m`."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NOT_MEASURED
    if 0 < seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} m"
    return f"{minutes} m {rest:02d} s" if minutes else f"{rest} s"


def counted(number: int, noun: str) -> str:
    """Return a number with what it counts: `1 example`, `2,000 examples`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def count(number: float | None) -> str:
    """Return a number of parameters, examples or bytes as `870`, `4.9 M` or `13 B`."""
    if number is None or not math.isfinite(number):
        return NOT_MEASURED
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            scaled = number / size
            return f"{scaled:.0f} {letter}" if abs(scaled) >= 10 else f"{scaled:.1f} {letter}"
    return f"{number:.0f}"


def memory(size: float | None) -> str:
    """Return bytes as `512 MB` or `1.3 GB` (powers of ten)."""
    if size is None or not math.isfinite(size):
        return NOT_MEASURED
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def scaled_score(score: Mapping[str, Any]) -> tuple[float, float | None, float | None, str]:
    """Return value, low, high and unit of a score as shown: shares become percent."""
    factor, unit = (100.0, "%") if score.get("unit") == SHARE else (1.0, score.get("unit") or "")
    low, high = (None if end is None else end * factor for end in (score.get("low"), score.get("high")))
    return score["value"] * factor, low, high, unit


def score_text(score: Mapping[str, Any] | None) -> str:
    """Return a score as `41.2 ± 1.3 % (n = 300)`; the ± is half the width of the 95 % interval."""
    if not score or score.get("value") is None:
        return NOT_MEASURED
    value, low, high, unit = scaled_score(score)
    decimals = 1 if abs(value) >= 10 or unit == "%" else 2
    spread = "" if low is None or high is None else f" ± {(high - low) / 2:.{decimals}f}"
    size = "" if score.get("n") is None else f" (n = {score['n']:,})"
    return f"{value:.{decimals}f}{spread}{f' {unit}' if unit else ''}{size}"


def outcome_text(result: Mapping[str, Any] | None) -> str:
    """Return what a run came to: its main score; of one that ended after training, its validation loss; or nothing."""
    result = result or {}
    if result.get("scores"):
        return score_text(result["scores"][0])
    if result.get("diverged"):
        return "diverged"
    loss = (result.get("validation") or {}).get("final")
    return "" if loss is None else f"validation loss {loss:,.3f}"


def scorer_label(score: Mapping[str, Any]) -> str:
    """Return a scorer's name for people, with its unit and which way is better."""
    name = str(score.get("scorer"))
    name = SCORERS[name].label if name in SCORERS else name
    unit = "%" if score.get("unit") == SHARE else score.get("unit") or ""
    direction = "lower is better" if unit in LOWER_IS_BETTER else "higher is better"
    return f"{name} [{unit}], {direction}" if unit else f"{name}, {direction}"


def shorten(text: str, limit: int = 40) -> str:
    """Return the text with its middle left out when it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 3
    return f"{text[:head]}…{text[-(limit - 1 - head) :]}"


_JOINERS = "\u200c\u200d"  # invisible, but words of Persian or Hindi and composed signs need them


def one_line(text: str) -> str:
    """Return text on one line, without invisible characters, among them those that control a terminal or direction."""
    return " ".join("".join(c if c.isprintable() or c in _JOINERS else " " for c in text).split())


def whole_words(text: str, limit: int) -> str:
    """Return the beginning of a text, cut between words where it is longer than `limit` characters.

    A single word that is longer by itself loses its end.
    """
    if len(text) <= limit:
        return text
    head = text[:limit]
    cut = head.rfind(" ")
    return f"{(head[:cut] if cut > 0 else head[: limit - 1]).rstrip(' ,;·')}…"


def distinct(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels by id, no two alike: equal ones get the end of their id, or all of it where that is not enough.

    A widget with two options of the same label returns the wrong one.
    """
    for tail in (lambda key: key[-4:], lambda key: key):
        uses = Counter(labels.values())
        labels = {key: f"{label} · {tail(key)}" if key and uses[label] > 1 else label for key, label in labels.items()}
    return dict(labels)


def source_label(source: str, limit: int = 40) -> str:
    """Return the name of a model or task without its place: `bundled:teacher` and `/a/b/teacher` are `teacher`."""
    for prefix in ("bundled:", "hub:"):
        if source.startswith(prefix):
            return shorten(source.removeprefix(prefix).replace("_", " "), limit)
    is_path = source.startswith((".", "/", "~")) or "\\" in source
    return shorten(PurePath(source.replace("\\", "/")).name or source if is_path else source, limit)


def file_text(content: Any) -> str | bytes:
    """Return the content of a download: text or bytes as they are, a table or its rows as CSV."""
    if isinstance(content, str | bytes):
        return content
    import pandas

    return pandas.DataFrame(content).to_csv(index=False)
