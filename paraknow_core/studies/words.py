"""How a comparison is said: settings, p-values, differences and intervals in few words."""

from collections.abc import Sequence
from typing import Any

from paraknow_core.display import SHARE, compact, counted, shorten, significant, source_label
from paraknow_core.ops.statistics import PairedResult, Verdict, fewest_seeds

NATS = "nats per token"  # what the records of a perplexity hold
_SMALL_POINTS = 5.0  # a null result that allows more is not said to be small

_WORDS = {
    "teacher.source": "teacher",
    "student.source": "student",
    "task.source": "task",
    "mapping.strategy": "mapping",
    "mapping.layers": "layers",
    "extraction.structure": "",
    "extraction.origin": "origin",
    "injection.mode": "",
    "factorisation.rank": "rank",
    "factorisation.split": "split",
    "finetuning.learning_rate": "learning rate",
    "sensitivity.samples": "seed samples",
    "sensitivity.ids": "seed sample ids",
    "sensitivity.task": "seed samples of",
    "teacher.untrained": "untrained teacher",
    "student.untrained": "untrained student",
}
_USUAL = {  # what null means, of the keys that only controls set
    "sensitivity.task": "own seed samples",
    "teacher.untrained": "trained teacher",
    "student.untrained": "trained student",
}


def setting_text(key: str, value: Any) -> str:
    """Return one setting in few words: `rank 8`, `student kin`, `difference`."""
    if value is None and key in _USUAL:
        return _USUAL[key]
    word = _WORDS.get(key, key.rpartition(".")[2].replace("_", " "))
    if isinstance(value, list | tuple):
        shown = "+".join("–" if each is None else str(each) for each in value)
    elif key.endswith(("source", "sensitivity.task")) and isinstance(value, str):
        shown = source_label(value, 20)
    elif isinstance(value, float):
        shown = compact(value)
    else:
        shown = "all" if value is None else str(value)
    return shorten(f"{word} {shown.replace('_', ' ')}".strip(), 34)


_FACTORS = {
    "task.source": "task",
    "teacher.source": "teacher",
    "student.source": "student",
    "sensitivity.task": "task of the seed samples",
    "sensitivity.samples": "number of seed samples",
    "mapping.strategy": "layer mapping",
    "extraction.origin": "modules",
}


def factor_text(key: str) -> str:
    """Return what a study varies, for people: `structure`, `learning rate`, `number of seed samples`."""
    return _FACTORS.get(key, key.rpartition(".")[2].replace("_", " "))


def value_text(key: str, value: Any) -> str:
    """Return one value of what a study varies, beside the name of it."""
    if isinstance(value, list | tuple):
        return ", ".join("–" if each is None else str(each) for each in value)
    if isinstance(value, str) and (key.endswith("source") or key == "sensitivity.task"):
        return source_label(value, 24)
    if isinstance(value, float):
        return compact(value)
    return "own" if value is None else shorten(str(value).replace("_", " "), 24)


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def p_text(p: float | None) -> str:
    """Return a p-value as people write it: `0.21`, `0.003`, `< 0.001`."""
    if p is None or p != p:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_words(p: float | None) -> str:
    """Return a p-value for a sentence: `= 0.21`, `< 0.001`."""
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def points_text(value: float | None, unit: str | None) -> str:
    """Return a difference with its sign: shares in points (hundredths), anything else in its own unit."""
    if value is None or value != value:
        return "–"
    points = 100 * value if abs(value) >= 0.0005 else 0.0  # never a minus before 0.0
    return f"{points:+.1f}" if unit == SHARE else f"{'+' if value >= 0 else '-'}{significant(abs(value))}"


def interval_text(low: float | None, high: float | None, unit: str | None) -> str:
    """Return an interval of a difference, as `points_text` writes its ends."""
    return "none" if low is None or high is None else f"{points_text(low, unit)} to {points_text(high, unit)}"


def says(result: PairedResult, unit: str = SHARE) -> str:
    """Put a paired result into a sentence.

    Args:
        unit: "share" for scores of 0 to 1, said in points (hundredths); any other unit is said as it is.

    Returns:
        With an interval that includes zero, or a p-value of 0.05 or more, the largest difference that the data allow
        ("No difference larger than 0.9 points (...)."); where that is more than 5 points, and would read as a claim of
        smallness, that none was found, with the p-value of a test that is named ("No difference was found: +1.2 points
        (...)."). Otherwise the difference ("+2.1 points (...)."). Without an interval: that no difference was seen.
    """
    if result.low is None or result.high is None:
        return f"No difference was seen, and nothing bounds one ({result.method})."
    factor, name = (100.0, "points") if unit == SHARE else (1.0, unit)
    low, high = factor * result.low, factor * result.high
    digits = 1 if unit == SHARE else 3
    how = f"(95 % interval {low:+.{digits}f} to {high:+.{digits}f}, {result.method})"
    open_question = low <= 0 <= high or (result.p_value is not None and result.p_value >= 0.05)
    difference = f"{factor * result.difference:+.{digits}f} {name}"
    if not open_question:
        return f"{difference} {how}."
    largest = max(abs(low), abs(high))
    if unit != SHARE or largest <= _SMALL_POINTS:
        return f"No difference larger than {largest:.{digits}f} {name} {how}."
    tested = ""
    if result.p_value is not None and " test" in result.method and "Holm" not in result.method:
        tested = f", p = {result.p_value:.2f}" if result.p_value >= 0.01 else ", p < 0.01"
    return f"No difference was found: {difference} {how[:-1]}{tested})."


def verdict_line(result: Verdict, unit: str | None = SHARE, times: str = "x") -> str:
    """Return a verdict on one line.

    `+1.4 (-0.3 to +3.1), 6 seeds x 1,319 examples, smallest detectable 2.6: undecided`; shares in points, anything else
    in its own unit. `times` stands between seeds and examples.
    """
    interval = "no interval" if result.low is None else interval_text(result.low, result.high, unit)
    size = f"{counted(result.seeds, 'seed')} {times} {counted(result.n, 'example')}"
    smallest = size_text(result.smallest_detectable, unit)
    return (
        f"{points_text(result.difference, unit)} ({interval}), {size}, smallest detectable {smallest}: {result.verdict}"
    )


def unit_text(unit: str | None) -> str:
    """Return what differences are counted in: shares in points."""
    return "points" if unit == SHARE else unit or ""


def size_text(value: float | None, unit: str | None) -> str:
    """Return the size of an effect, without a sign: `2.6`; `none` where no effect is large enough."""
    if value is None:
        return "none"
    return f"{100 * value:.1f}" if unit == SHARE else significant(value)


def verdict_sentence(result: Verdict, unit: str | None = SHARE) -> str:
    """Return what a verdict means, in a plain sentence: a null result with what it leaves open."""
    name = unit_text(unit)

    def sized(value: float | None) -> str:
        return f"{size_text(value, unit)} {name}".strip()

    def within(low: float | None, high: float | None) -> str:
        return f"{interval_text(low, high, unit)} {name}".strip()

    if result.verdict in ("better", "worse"):
        matters = f", below the declared margin of {sized(result.margin)}" if result.within_margin else ""
        return (
            f"{result.verdict.capitalize()} by {sized(abs(result.difference))} (95 % interval "
            f"{within(result.low, result.high)}){matters}: more than chance in seeds and examples explains."
        )
    if result.verdict == "equivalent":
        interval = within(result.equivalence_low, result.equivalence_high)
        below = f"any difference is below the declared margin of {sized(result.margin)}"
        return f"Equivalent: {below} (90 % interval {interval})."
    open_to = f"anything in {within(result.low, result.high)} is possible"
    why = "nothing bounds the difference" if result.low is None else open_to
    fewest = fewest_seeds(result.comparisons)
    if result.seeds < fewest:
        family = f" for {result.comparisons} comparisons" if result.comparisons > 1 else ""
        seeds = counted(result.seeds, "seed")
        return f"Undecided: {why}; {seeds} cannot tell an effect from chance, {fewest} are needed{family}."
    if result.smallest_detectable is None:
        return f"Undecided: {why}; no effect, however large, would be seen."
    return f"Undecided: {why}; an effect below {sized(result.smallest_detectable)} would mostly be missed."
