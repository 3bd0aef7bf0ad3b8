"""Studies: several runs that differ in one stated way, and what their scores say together. Needs no torch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paraknow_core.errors import RunError
from paraknow_core.runs import RunFolder
from paraknow_core.spec import RunSpec

if TYPE_CHECKING:
    import numpy
    import pandas

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


def compare(runs: Mapping[str, Sequence[RunFolder]], against: str = REFERENCE) -> "pandas.DataFrame":
    """Set the scores of finished runs side by side, example by example.

    Args:
        runs: for each arm its finished runs, one a seed, the same seeds in the same order in every arm.
        against: the arm that the others are subtracted from.

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
    rows = _reference_rows(next(iter(runs.values()))[0])
    base = [_example_scores(run) for run in runs[against]]
    for name, seeds in runs.items():
        own = [_example_scores(run) for run in seeds]
        row = {"arm": name, **_pooled(seeds, own)}
        if name != against and all(base) and all(own):
            row |= _difference(own, base)
        rows.append(row)
    return pandas.DataFrame(rows)


def verdict(table: "pandas.DataFrame", arm: str = METHOD, against: str = REFERENCE) -> str:
    """Return one sentence about an arm's difference in a table of `compare`; a null result is said as such."""
    from paraknow_core.ops.statistics import PairedResult, says

    row = table[table["arm"] == arm].iloc[0]
    if "difference" not in table or row["difference"] != row["difference"]:  # NaN: could not be paired
        return f"{arm} against {against}: the scores are no averages over examples, so they are not paired."
    result = PairedResult(
        row["difference"], row["difference_low"], row["difference_high"], int(row["n"]), row["p_value"], row["paired"]
    )
    return f"{arm} against {against}: {says(result, row['unit'])}"


def _main_score(run: RunFolder) -> dict[str, Any]:
    scores = (run.result() or {}).get("scores")
    if not scores:
        raise RunError(f"run {run.id}: has no scores ({run.status().state}); let it finish, or leave it out")
    return scores[0]


def _reference_rows(run: RunFolder) -> list[dict[str, Any]]:
    scorer = _main_score(run)["scorer"]
    found = (run.result() or {}).get("references", {})
    return [
        {"arm": f"untouched {name}", "seeds": None, **_plain(score)}
        for name, scores in found.items()
        for score in scores
        if score["scorer"] == scorer
    ]


def _plain(score: dict[str, Any]) -> dict[str, Any]:
    return {key: score.get(key) for key in ("scorer", "unit", "value", "low", "high", "n")}


def _example_scores(run: RunFolder) -> dict[str, float]:
    """Return example id -> score of the main scorer; nothing if their mean is not the run's score (a perplexity)."""
    score = _main_score(run)
    own = {p["id"]: float(p["score"]) for p in run.predictions() if p.get("scorer") == score["scorer"]}
    is_mean = own and abs(sum(own.values()) / len(own) - score["value"]) < 1e-6
    return own if is_mean else {}


def _pooled(runs: Sequence[RunFolder], own: Sequence[dict[str, float]]) -> dict[str, Any]:
    """One arm's score: the run's own interval, or over several seeds the mean with an interval over examples."""
    first = _plain(_main_score(runs[0])) | {"seeds": len(runs)}
    if len(runs) == 1:
        return first
    from paraknow_core.ops.statistics import bootstrap_interval

    value = sum(_main_score(run)["value"] for run in runs) / len(runs)
    if not all(own):
        return first | {"value": value, "low": None, "high": None}
    low, high = bootstrap_interval(_aligned(own, _shared(own)).mean(0))
    return first | {"value": value, "low": float(low), "high": float(high)}


def _difference(own: Sequence[dict[str, float]], base: Sequence[dict[str, float]]) -> dict[str, Any]:
    from paraknow_core.ops.statistics import paired_over_seeds

    ids = _shared([*own, *base])
    result = paired_over_seeds(list(_aligned(own, ids)), list(_aligned(base, ids)))
    return {
        "difference": result.difference, "difference_low": result.low, "difference_high": result.high,
        "p_value": result.p_value, "paired": result.method,
    }  # fmt: skip


def _shared(scores: Sequence[dict[str, float]]) -> list[str]:
    return sorted(set.intersection(*(set(one) for one in scores)))


def _aligned(scores: Sequence[dict[str, float]], ids: Sequence[str]) -> "numpy.ndarray":
    """Return (seeds, examples) scores in the order of ids."""
    import numpy

    if not ids:
        raise RunError("study: the runs share no test example; compare runs of one task and split")
    return numpy.array([[one[name] for name in ids] for one in scores])
