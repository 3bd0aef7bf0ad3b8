"""What a lesson is made of, and the statistics that lessons share."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paraknow_core.errors import DataError, RunError
from paraknow_core.ops import statistics
from paraknow_core.ops.statistics import PairedResult, mean_interval
from paraknow_core.paths import Workspace, contained
from paraknow_core.runs.folder import RunFolder
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.spec import RunSpec
from paraknow_core.studies.presets import PRESETS
from paraknow_core.studies.scores import difference
from paraknow_core.studies.spec import Changes, labelled
from paraknow_core.studies.study import StudySpec
from paraknow_core.studies.words import says

say = says  # a paired difference in words; a null result as such
MARGIN = 0.1  # share: a difference of scores below 10 points counts as none in a lesson of some 100 examples


@dataclass(frozen=True)
class Row:
    """One line of a picture: a value, its interval, and the single values that it was made of.

    Attributes:
        arm: gives the colour: a method, `student`, `teacher`, or a group of modules.
        low, high: interval or range, as the panel's subtitle says; None: not known.
    """

    label: str
    arm: str
    value: float
    low: float | None = None
    high: float | None = None
    points: tuple[float, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Panel:
    """One picture: rows of values with intervals."""

    title: str
    subtitle: str
    unit: str
    rows: tuple[Row, ...]
    zero: bool = False  # a line at zero: these are differences


@dataclass(frozen=True)
class Explanation:
    """What the runs of a lesson say.

    Attributes:
        panels: pictures, most important first.
        sentences: what follows from the numbers.
        right: the prediction that these runs bear out; empty where they leave it open.
        why: one sentence: why this prediction, or why none.
    """

    panels: tuple[Panel, ...]
    sentences: tuple[str, ...]
    right: str
    why: str

    def rows(self) -> list[dict[str, Any]]:
        """Return every number of the pictures, one row a line of a picture."""
        return [
            {
                "picture": panel.title,
                "row": row.label,
                "unit": panel.unit,
                "value": row.value,
                "low": row.low,
                "high": row.high,
                "single values": " ".join(f"{value:.6g}" for value in row.points),
            }
            for panel in self.panels
            for row in panel.rows
        ]


@dataclass(frozen=True)
class Preset:
    """A draft to start from, by name in an address: `?preset=NAME`."""

    name: str
    label: str
    page: str
    changes: Mapping[str, Any]
    arms: tuple[str, ...] = ()
    seeds: int = 1

    @property
    def spec(self) -> RunSpec:
        return RunSpec().with_changes(dict(self.changes))


Runs = Mapping[str, RunFolder]


@dataclass(frozen=True)
class Lesson:
    """One guided experiment.

    Attributes:
        number: its place, and its address: `?lesson=2`.
        background: what one must know to predict.
        options: key -> a possible answer.
        specs: label -> a run it needs.
        seconds: of all its runs, measured on two cores with empty caches.
        explain: called with a finished run for each label.
        presets: what to try next.
        after: why one would try that.
        study: the preset of a study that asks the same with as many seeds as an answer takes (`studies.presets`).
    """

    number: int
    title: str
    question: str
    background: str
    options: Mapping[str, str]
    specs: Mapping[str, RunSpec]
    seconds: float
    explain: Callable[[Workspace, Runs], Explanation]
    presets: tuple[Preset, ...] = field(default=())
    after: str = ""
    study: str = ""

    def as_study(self) -> StudySpec:
        """Return the study that asks the same on the same models and task."""
        base = next(iter(self.specs.values()))
        return PRESETS[self.study].make(base.model_copy(update={"until": "evaluation"}), "pocket")


def specs_of(number: int, arms: Mapping[str, Changes], seeds: Sequence[int] = (0,)) -> dict[str, RunSpec]:
    """Return label -> spec of a lesson's runs: an arm each, with the seed in the label where there are several.

    Args:
        number: of the lesson; with the label it makes the run's name.
        arms: label -> what the arm changes in the default spec.
        seeds: of every arm.
    """

    def label(arm: str, seed: int) -> str:
        return f"{arm}, seed {seed}" if len(seeds) > 1 else arm

    planned = labelled(RunSpec(), arms, seeds, lambda arm, seed: f"Lesson {number}, {label(arm, seed)}")
    return {label(arm, seed): spec for (arm, seed), spec in planned.items()}


def range_row(label: str, arm: str, values: Sequence[float]) -> Row:
    """Return the mean of some values, with their range."""
    return Row(label, arm, math.fsum(values) / len(values), min(values), max(values), tuple(values))


def store_of(place: Workspace, run: RunFolder) -> SensitivityStore:
    """Return the saved sensitivity of a finished run.

    Raises:
        DataError: it is not there any more.
    """
    key = ((run.result() or {}).get("sensitivity") or {}).get("key")
    if not isinstance(key, str):
        raise DataError(f"run {run.id}: measured no sensitivity; run the lesson again")
    return SensitivityStore(contained(place.sensitivity, key))


def module_sums(place: Workspace, run: RunFolder) -> dict[str, float]:
    """Return module -> summed S of every module inside a layer."""
    modules = store_of(place, run).totals["modules"]
    return {name: values["sum"] for name, values in modules.items() if values.get("layer") is not None}


def rank_correlation(sums: Mapping[str, float], others: Mapping[str, float]) -> float:
    """Return Spearman's rank correlation over the names that both have.

    Raises:
        DataError: they share fewer than three names, or one is constant.
    """
    names = sorted(sums.keys() & others.keys())
    if len(names) < 3:
        raise DataError("lesson: the two measurements share fewer than three modules; run the lesson again")
    rho = statistics.rank_correlation([sums[name] for name in names], [others[name] for name in names]).spearman
    if rho is None:
        raise DataError("lesson: all modules have the same sensitivity, so they have no order; run the lesson again")
    return rho


def mean_and_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Return the mean of a few independent values and its 95 % t interval (None for a single value)."""
    mean = math.fsum(values) / len(values)
    return (mean, *mean_interval(values)) if len(values) > 1 else (mean, None, None)


def main_score(run: RunFolder) -> dict[str, Any]:
    """Return the main score of a finished run.

    Raises:
        RunError: it has none.
    """
    scores = (run.result() or {}).get("scores")
    if not scores:
        raise RunError(f"run {run.id}: has no score ({run.status().state}); run the lesson again")
    if any(scores[0].get(key) is None for key in ("low", "high", "n")):
        raise RunError(f"run {run.id}: its score has no interval; run the lesson again")
    return scores[0]


def module_records(run: RunFolder, key: str) -> list[float]:
    """Return one number of every module's extraction, where the record has it."""
    modules = (run.extraction().get("modules") or {}).values()
    return [module[key] for module in modules if isinstance(module, dict) and module.get(key) is not None]


def score_row(label: str, arm: str, run: RunFolder) -> Row:
    """Return a run's test score in percent with its interval."""
    score = main_score(run)
    return Row(label, arm, 100 * score["value"], 100 * score["low"], 100 * score["high"])


def untouched_row(run: RunFolder, who: str = "student") -> list[Row]:
    """Return the score of an untrained model beside a run, where the run has it."""
    name = main_score(run)["scorer"]
    scores = ((run.result() or {}).get("references") or {}).get(who) or []
    whole = [s for s in scores if s["scorer"] == name and None not in (s.get("low"), s.get("high"))]
    return [Row(f"{who}, untouched", who, 100 * s["value"], 100 * s["low"], 100 * s["high"]) for s in whole[:1]]


def paired(runs: Sequence[RunFolder], against: Sequence[RunFolder]) -> PairedResult:
    """Return the difference of two arms, paired by test example and by seed.

    Raises:
        RunError: the runs cannot be paired.
    """
    result = difference(runs, against)
    if result is None:
        raise RunError("lesson: these scores cannot be paired by example; run the lesson again")
    return result


def difference_row(label: str, arm: str, result: PairedResult) -> Row:
    """Return a paired difference of shares, in points."""
    low, high = (None if bound is None else 100 * bound for bound in (result.low, result.high))
    return Row(label, arm, 100 * result.difference, low, high)


def is_clear(result: PairedResult) -> bool:
    """True if an interval leaves zero out and the test agrees."""
    if result.low is None or result.high is None:
        return False
    return (result.low > 0 or result.high < 0) and (result.p_value is None or result.p_value < 0.05)


def is_none(result: PairedResult, margin: float = MARGIN) -> bool:
    """True if the whole interval lies within the margin: the runs rule out a difference that counts."""
    return result.low is not None and result.high is not None and max(-result.low, result.high) < margin


def is_no_gain(result: PairedResult, margin: float = MARGIN) -> bool:
    """True if the whole interval lies below the margin: no gain that counts, perhaps a loss."""
    return result.high is not None and result.high < margin
