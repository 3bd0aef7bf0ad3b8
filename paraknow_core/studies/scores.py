"""Studies: several runs that differ in one stated way, and what their scores say together. Needs no torch."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paraknow_core.errors import RunError
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec

if TYPE_CHECKING:
    import numpy
    import pandas

    from paraknow_core.ops.statistics import PairedResult

Pair = tuple[RunFolder, RunFolder]
METHOD, REFERENCE = "seeking", "default LoRA"
# Arms by the name people see. All else (modules, rank, steps, data, seed) is the same in every arm.
ARMS: dict[str, dict[str, Any]] = {
    REFERENCE: {"method": "default_lora"},
    "PiSSA": {"method": "pissa"},
    "OLoRA": {"method": "olora"},
    "random offset": {"method": "random_offset", "injection.mode": "residual"},
    METHOD: {"method": "seeking", "injection.mode": "residual"},
    "seeking, difference": {"method": "seeking", "injection.mode": "difference"},
}
STANDARD = (REFERENCE, "PiSSA", "OLoRA", "random offset", METHOD)


def arms(spec: RunSpec, names: Sequence[str] = STANDARD) -> dict[str, RunSpec]:
    """Return the spec of each arm of a comparison.

    Args:
        spec: what all arms share.
        names: which of `ARMS`, in the order wanted.

    Raises:
        RunError: an arm is unknown.
    """
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise RunError(f"study: arm '{unknown[0]}' is unknown; choose from {', '.join(ARMS)}")
    prefix = f"{spec.name} " if spec.name else ""
    return {name: spec.with_changes({**ARMS[name], "name": f"{prefix}{name}"[:120]}) for name in names}


def compare(
    runs: Mapping[str, Sequence[RunFolder]], against: str = REFERENCE, scorer: str | None = None
) -> "pandas.DataFrame":
    """Set the scores of finished runs side by side, example by example.

    Args:
        runs: for each arm its finished runs, one a seed, the same seeds in the same order in every arm.
        against: the arm that the others are subtracted from.
        scorer: which of the runs' scorers; None for the first.

    Returns:
        One row an arm, and one for each untrained reference model: arm, scorer, unit, value, low, high (95 %), n,
        seeds; and for the other arms difference, difference_low, difference_high (95 %, paired by example), p_value.
        Scores in the scorer's unit. The difference is left out where a score is no average over examples.

    Raises:
        RunError: a run has no scores, or `against` is not among the arms; ShapeError: arms with different seeds.
    """
    import pandas

    if against not in runs:
        raise RunError(f"study: '{against}' is not among the arms {', '.join(runs)}; give one that is")
    rows = _reference_rows(next(iter(runs.values()))[0], scorer)
    for name, seeds in runs.items():
        row = {"arm": name, **pooled(seeds, scorer)}
        if name != against:
            row |= difference(seeds, runs[against], scorer)
        rows.append(row)
    return pandas.DataFrame(rows)


def verdict(table: "pandas.DataFrame", arm: str = METHOD, against: str = REFERENCE) -> str:
    """Return one sentence about an arm's difference in a table of `compare`; a null result is said as such."""
    from paraknow_core.ops.statistics import PairedResult, says

    row = table[table["arm"] == arm].iloc[0]
    if "difference" not in table or row["difference"] != row["difference"]:  # NaN: could not be paired
        return f"{arm} against {against}: the scores are no averages over examples, so they are not paired."
    low, high = (None if row[key] != row[key] else row[key] for key in ("difference_low", "difference_high"))
    number = row["shared"] if row["n"] is None or row["n"] != row["n"] else row["n"]  # a result that does not say
    result = PairedResult(row["difference"], low, high, int(number), row["p_value"], row["paired"])
    return f"{arm} against {against}: {says(result, row['unit'])}"


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
    first = _plain(score_of(runs[0], scorer)) | {"seeds": len(runs)}
    if len(runs) == 1:
        return first
    from paraknow_core.ops.statistics import bootstrap_interval

    scores = [score_of(run, scorer) for run in runs]
    own = [example_scores(run, scorer) for run in runs]
    ids = _shared(own)
    if not ids:
        sizes = {score.get("n") for score in scores}
        value = sum(score["value"] for score in scores) / len(scores)
        return first | {"value": value, "low": None, "high": None, "n": sizes.pop() if len(sizes) == 1 else None}
    means = _aligned(own, ids).mean(0)
    low, high = bootstrap_interval(means)
    return first | {"value": float(means.mean()), "low": float(low), "high": float(high), "n": len(ids)}


def difference(
    runs: Sequence[RunFolder], base: Sequence[RunFolder], scorer: str | None = None, *, means_only: bool = True
) -> dict[str, Any]:
    """Return how one arm differs from another on the examples that both have.

    Args:
        runs, base: of the two arms, the same seeds in the same order.
        scorer: which of their scorers; None for the first.
        means_only: False pairs the records of a score that is not their mean, too: a perplexity's nats per token.

    Returns:
        difference, difference_low, difference_high (95 %; None where all scores are alike and nothing bounds them),
        p_value, paired (the method, in words), shared (the number of examples); nothing where the score is no average
        over examples.

    Raises:
        RunError: a run has no such score, or no example is shared; ShapeError: another number of seeds.
    """
    from paraknow_core.ops.statistics import paired_over_seeds

    own, other = ([example_scores(run, scorer, means_only=means_only) for run in arm] for arm in (runs, base))
    if not all([*own, *other]):
        return {}
    ids = _shared([*own, *other])
    result = paired_over_seeds(list(_aligned(own, ids)), list(_aligned(other, ids)))
    return {
        "difference": result.difference,
        "difference_low": result.low,
        "difference_high": result.high,
        "p_value": result.p_value,
        "paired": result.method,
        "shared": len(ids),
    }


def gains_differ(one: Pair, other: Pair, scorer: str | None = None) -> "PairedResult":
    """Return by how much the gain of one pair of runs exceeds that of another, on the examples that all four have.

    Args:
        one, other: a run and the run that it is measured against.
        scorer: which of their scorers; None for the first.

    Raises:
        RunError: a run has no such score, its score is no average over examples, or no example is shared.
    """
    from paraknow_core.ops.statistics import paired_difference

    scores = [example_scores(run, scorer) for run in (*one, *other)]
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
    found = next((score for score in scores if scorer in (None, score.get("scorer"))), None)
    if found is None:
        raise RunError(f"run {run.id}: was not scored by {scorer}; choose another scorer, or leave the run out")
    return found


def _reference_rows(run: RunFolder, scorer: str | None) -> list[dict[str, Any]]:
    wanted = score_of(run, scorer)["scorer"]
    found = (run.result() or {}).get("references", {})
    return [
        {"arm": f"untouched {name}", "seeds": None, **_plain(score)}
        for name, scores in found.items()
        for score in scores
        if score["scorer"] == wanted
    ]


def _plain(score: dict[str, Any]) -> dict[str, Any]:
    return {key: score.get(key) for key in ("scorer", "unit", "value", "low", "high", "n")}


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
    content = [str(record.get(key) or "") for key in ("prompt", "reference")]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest() if any(content) else ""


def same_content(contents: Iterable[str]) -> bool:
    """Tell whether records of one id are of one example: an id may be a line number, which names another one later.

    Args:
        contents: `content_of` each; an empty one agrees with all.
    """
    return len(set(contents) - {""}) <= 1


def _shared(scores: Sequence[dict[str, tuple[float, str]]]) -> list[str]:
    ids = set.intersection(*(set(one) for one in scores))
    return sorted(name for name in ids if same_content(one[name][1] for one in scores))


def _aligned(scores: Sequence[dict[str, tuple[float, str]]], ids: Sequence[str]) -> "numpy.ndarray":
    """Return (seeds, examples) scores in the order of ids."""
    import numpy

    if not ids:
        raise RunError("study: the runs share no test example; compare runs of one task and split")
    return numpy.array([[one[name][0] for name in ids] for one in scores])
