"""What a finished run says beside others: a table of scores, what a scorer says besides, and what was checked."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paraknow_core.catalogue import METHODS
from paraknow_core.display import NOT_MEASURED, SHARE, arm_of, percent, significant
from paraknow_core.workbench.reading import Facts

if TYPE_CHECKING:
    import pandas


def score_table(scorer: str | None, facts: Facts, by_method: Mapping[str, Facts]) -> "pandas.DataFrame":
    """Return one row an arm: arm, label, value, low, high, n, unit; the untouched models first.

    Args:
        scorer: whose scores.
        facts: of the run that the page is about.
        by_method: the runs, this one among them.
    """
    import pandas

    rows: list[dict[str, Any]] = []

    def add(arm: str, label: str, scores: list[dict]) -> None:
        keys = ("value", "low", "high", "n", "unit")
        of_scorer = (score for score in scores if score.get("scorer") == scorer)
        rows.extend({"arm": arm, "label": label, **{key: score.get(key) for key in keys}} for score in of_scorer)

    for name in ("student", "teacher"):
        add(name, arm_of(name).label, (facts.result.get("references") or {}).get(name) or [])
    for method in [name for name in METHODS if name in by_method]:
        other = by_method[method]
        label = arm_of(method).label + (" (this run)" if other is facts else "")
        add(method, label + ("" if other.spec.seed == facts.spec.seed else f", seed {other.spec.seed}"), other.scores)
    return pandas.DataFrame(rows)


def extras(score: Mapping[str, Any]) -> str:
    """Return what a scorer says beside its value, in words."""

    def shown(value: float) -> str:
        return percent(value) if score.get("unit") == SHARE and 0 <= value <= 1 else significant(value)

    named = (score.get("extra") or {}).items()
    return "; ".join(f"{str(name).replace('_', ' ')} {shown(v)}" for name, v in named if isinstance(v, int | float))


def largest_difference(value: float | None) -> str:
    """Return a difference of logits as two digits."""
    return NOT_MEASURED if value is None else significant(float(value), 2)
