"""The scores of finished runs, and the paired difference of two arms of them. Needs no torch."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paraknow_core.errors import RunError
from paraknow_core.ops.statistics import PairedResult, bootstrap_interval, paired_difference, paired_over_seeds
from paraknow_core.runs.folder import RunFolder
from paraknow_core.studies.spec import BASELINE_LABEL, METHOD
from paraknow_core.studies.words import says

if TYPE_CHECKING:
    import numpy

Pair = tuple[RunFolder, RunFolder]
NOT_PAIRED = "the scores are no averages over examples, so they are not paired."


@dataclass(frozen=True)
class ScoredArm:
    """One line of a comparison: an arm's score, and how it differs from the arm that all are compared with.

    Attributes:
        arm: its name.
        score: scorer, unit, value, low, high, n, seeds, as `pooled` gives them.
        difference: None for the reference itself, for untrained models, and where scores cannot be paired.
    """

    arm: str
    score: Mapping[str, Any]
    difference: PairedResult | None = None

    def row(self) -> dict[str, Any]:
        """Return the line as flat data, for tables and files."""
        return {"arm": self.arm, **self.score, **columns(self.difference)}


def columns(result: PairedResult | None) -> dict[str, Any]:
    """Return a paired difference as columns of a table; None in each where there is none."""
    keys = ("difference", "difference_low", "difference_high", "p_value", "paired", "shared")
    if result is None:
        return dict.fromkeys(keys)
    values = (result.difference, result.low, result.high, result.p_value, result.method, result.n)
    return dict(zip(keys, values, strict=True))


def compare(
    runs: Mapping[str, Sequence[RunFolder]], against: str = BASELINE_LABEL, scorer: str | None = None
) -> list[ScoredArm]:
    """Set the scores of finished runs side by side, example by example.

    Args:
        runs: for each arm its finished runs, one a seed, the same seeds in the same order in every arm.
        against: the arm that the others are subtracted from.
        scorer: which of the runs' scorers; None for the first.

    Returns:
        One line for each untrained reference model, and one an arm. Scores in the scorer's unit.

    Raises:
        RunError: a run has no scores, or `against` is not among the arms; ShapeError: arms with different seeds.
    """
    if against not in runs:
        raise RunError(f"study: '{against}' is not among the arms {', '.join(runs)}; give one that is")
    lines = _untrained(next(iter(runs.values()))[0], scorer)
    for name, seeds in runs.items():
        score = pooled(seeds, scorer)
        lines.append(ScoredArm(name, score, None if name == against else difference(seeds, runs[against], scorer)))
    return lines


def verdict(lines: Sequence[ScoredArm], arm: str = METHOD, against: str = BASELINE_LABEL) -> str:
    """Return one sentence about an arm's difference in a comparison; a null result is said as such."""
    line = next(line for line in lines if line.arm == arm)
    words = NOT_PAIRED if line.difference is None else says(line.difference, line.score["unit"])
    return f"{arm} against {against}: {words}"


def pooled(runs: Sequence[RunFolder], scorer: str | None = None) -> dict[str, Any]:
    """Return one arm's score: one run's own, or over several seeds mean, interval and n of the examples all have.

    Args:
        runs: of one arm, one a seed.
        scorer: which of their scorers; None for the first.

    Returns:
        scorer, unit, value, low, high (None where the score is no average over examples, or the seeds share none: the
        value is then the mean of the runs' own), n, seeds.

    Raises:
        RunError: a run has no such score.
    """
    scores = [score_of(run, scorer) for run in runs]
    first = plain(scores[0]) | {"seeds": len(runs)}
    if len(runs) == 1:
        return first
    examples = [example_scores(run, scorer) for run in runs]
    ids = _shared(examples)
    if not ids:
        sizes = {score.get("n") for score in scores}
        value = sum(score["value"] for score in scores) / len(scores)
        return first | {"value": value, "low": None, "high": None, "n": sizes.pop() if len(sizes) == 1 else None}
    means = _aligned(examples, ids).mean(0)
    low, high = bootstrap_interval(means)
    return first | {"value": float(means.mean()), "low": low, "high": high, "n": len(ids)}


def difference(
    runs: Sequence[RunFolder], base: Sequence[RunFolder], scorer: str | None = None, *, means_only: bool = True
) -> PairedResult | None:
    """Return how one arm differs from another on the examples that both have.

    Args:
        runs, base: of the two arms, the same seeds in the same order.
        scorer: which of their scorers; None for the first.
        means_only: False pairs the records of a score that is not their mean, too: a perplexity's nats per token.

    Returns:
        The paired difference in the scorer's unit; None where the score is no average over examples.

    Raises:
        RunError: a run has no such score, or no example is shared; ShapeError: another number of seeds.
    """
    own, other = ([example_scores(run, scorer, means_only=means_only) for run in arm] for arm in (runs, base))
    if not all([*own, *other]):
        return None
    ids = _shared([*own, *other])
    return paired_over_seeds(list(_aligned(own, ids)), list(_aligned(other, ids)))


def gains_differ(pair: Pair, other: Pair, scorer: str | None = None) -> PairedResult:
    """Return by how much the gain of one pair of runs exceeds that of another, on the examples that all four have.

    Args:
        pair, other: a run and the run that it is measured against.
        scorer: which of their scorers; None for the first.

    Raises:
        RunError: a run has no such score, its score is no average over examples, or no example is shared.
    """
    scores = [example_scores(run, scorer) for run in (*pair, *other)]
    if not all(scores):
        raise RunError("study: a score is no average over examples, so gains cannot be paired; choose another scorer")
    a, a_base, b, b_base = _aligned(scores, _shared(scores))
    return paired_difference(a - a_base, b - b_base)


def score_of(run: RunFolder, scorer: str | None = None) -> dict[str, Any]:
    """Return a run's score by this scorer, or its main one.

    Raises:
        RunError: it has none.
    """
    scores = (run.result() or {}).get("scores")
    if not scores:
        raise RunError(f"run {run.id}: has no scores ({run.status().state}); let it finish, or leave it out")
    for score in scores:
        if scorer in (None, score.get("scorer")):
            return score
    raise RunError(f"run {run.id}: was not scored by {scorer}; choose another scorer, or leave the run out")


def plain(score: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every score says, without what is special to its scorer."""
    return {key: score.get(key) for key in ("scorer", "unit", "value", "low", "high", "n")}


def _untrained(run: RunFolder, scorer: str | None) -> list[ScoredArm]:
    name = score_of(run, scorer)["scorer"]
    references = (run.result() or {}).get("references", {})
    return [
        ScoredArm(f"untouched {model}", plain(score) | {"seeds": None})
        for model, scores in references.items()
        for score in scores
        if score["scorer"] == name
    ]


def example_scores(
    run: RunFolder, scorer: str | None = None, *, means_only: bool = True
) -> dict[str, tuple[float, str]]:
    """Return example id -> score and `content_of`; nothing if only means are wanted and the score is not theirs."""
    score = score_of(run, scorer)
    records = [p for p in run.predictions() if p.get("scorer") == score["scorer"]]
    own = {p["id"]: (float(p["score"]), content_of(p)) for p in records}
    is_mean = own and abs(sum(value for value, _ in own.values()) / len(own) - score["value"]) < 1e-6
    return own if is_mean or not means_only else {}


def content_of(record: Mapping[str, Any]) -> str:
    """Return a hash of a record's prompt and reference; empty where it holds neither."""
    texts = [str(record.get(key) or "") for key in ("prompt", "reference")]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest() if any(texts) else ""


def same_content(contents: Iterable[str]) -> bool:
    """Tell whether records of one id are of one example: an id may be a line number, which names another one later.

    Args:
        contents: `content_of` each; an empty one agrees with all.
    """
    return len(set(contents) - {""}) <= 1


def _shared(scores: Sequence[dict[str, tuple[float, str]]]) -> list[str]:
    ids = set.intersection(*(set(own) for own in scores))
    return sorted(name for name in ids if same_content(own[name][1] for own in scores))


def _aligned(scores: Sequence[dict[str, tuple[float, str]]], ids: Sequence[str]) -> "numpy.ndarray":
    """Return (seeds, examples) scores in the order of ids."""
    import numpy

    if not ids:
        raise RunError("study: the runs share no test example; compare runs of one task and split")
    return numpy.array([[own[name][0] for name in ids] for own in scores])
