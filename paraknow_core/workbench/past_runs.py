"""What runs are likely to take, from earlier ones of the same pair and task on this machine. Arithmetic only."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from paraknow_core.catalogue import METHODS
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import FinetuningSpec, RunSpec
from paraknow_core.studies import same
from paraknow_core.workbench.reading import Runs, while_unchanged

MOST = 8  # earlier runs that are asked; the newest know the machine best


@dataclass(frozen=True)
class Estimate:
    """Seconds, bytes of disk, bytes of memory at the highest, and how many earlier runs say so."""

    seconds: float
    disk: float
    memory: float
    runs: int


@dataclass(frozen=True)
class Past:
    """What one earlier run took: its spec, its result, and the size of its folder."""

    spec: RunSpec
    result: dict
    disk: int


def of_specs(specs: Sequence[RunSpec], trained: Runs) -> Estimate | None:
    """Estimate runs of one pair and task, seeds apart; the teacher is measured once for all of them."""
    past = past_runs(specs[0], trained)
    if not past:
        return None
    repeats = Counter(spec.method for spec in specs)
    of_method = {spec.method: spec for spec in specs}
    takes = {m: (estimate(spec, past), sensitivity_seconds(spec, past)) for m, spec in of_method.items()}
    seconds = sum(repeats[m] * (e.seconds - measuring) for m, (e, measuring) in takes.items())
    measuring = max(measuring for _, measuring in takes.values())
    most = max(e.memory for e, _ in takes.values())
    disk = sum(repeats[m] * e.disk for m, (e, _) in takes.items())
    return Estimate(seconds + measuring, disk, most, len(past))


def past_runs(spec: RunSpec, trained: Runs, before: float = math.inf) -> list[Past]:
    """Return the newest finished runs of the same pair and task, those that ended before a moment."""
    past: list[Past] = []
    for run, facts in trained:
        if facts.spec is None or not facts.scores or question(facts.spec) != question(spec):
            continue
        try:
            ended = run.file("result.json").stat().st_mtime
        except OSError:
            continue
        if ended < before:
            past.append(Past(facts.spec, facts.result, _folder_size(run)))
        if len(past) == MOST:
            break
    return past


def seconds_until(spec: RunSpec, runs: Runs) -> float | None:
    """Return what the newest finished run took that ended at the same stage, on the same models and task source."""
    for _, facts in runs:
        timings = facts.result.get("timings")
        if facts.spec is None or facts.spec.until != spec.until or not isinstance(timings, dict) or not timings:
            continue
        if question(facts.spec) == question(spec):
            samples = spec.sensitivity.samples / facts.spec.sensitivity.samples
            measuring = timings.get("sensitivity", 0.0)
            return sum(timings.values()) + measuring * (samples - 1)
    return None


def question(spec: RunSpec) -> frozenset:
    """Return what runs must share for one to say what another takes: models and task."""
    return same.asked(spec, same.COST)


@while_unchanged(lambda run: [run.file("result.json")], most=500)
def _folder_size(run: RunFolder) -> int:
    total = 0
    for file in run.path.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total


def estimate(spec: RunSpec, past: list[Past]) -> Estimate:
    """Estimate one run: each stage scaled by what its time grows with, the middle one of what the earlier runs say.

    Args:
        spec: what will run.
        past: at least one earlier run of the same pair and task.
    """
    fixed = median(sum(_timings(p).get(name, 0.0) for name in ("prepare", "injection", "export")) for p in past)
    tuning = median(_timings(p).get("fine-tuning", 0.0) / max(1, trained_examples(p.spec, p)) for p in past)
    scoring = median(_timings(p).get("evaluation", 0.0) / max(1, _tested(p)) for p in past)
    tested = _there_are(spec.task.sizes.test, _tested(past[0]), past[0].spec.task.sizes.test)
    measuring = sensitivity_seconds(spec, past)
    seconds = fixed + tuning * trained_examples(spec, past[0]) + scoring * tested + measuring
    disk = median(p.disk * spec.factorisation.rank / p.spec.factorisation.rank for p in past)
    peak = max(float(p.result.get("peak_memory_bytes") or 0) for p in past)
    return Estimate(seconds, disk, peak, len(past))


def sensitivity_seconds(spec: RunSpec, past: list[Past]) -> float:
    """Return what measuring the teacher will take: nothing where that was done before."""
    if not METHODS[spec.method].needs_teacher:
        return 0.0
    measured = [p for p in past if METHODS[p.spec.method].needs_teacher]
    if any(p.spec.sensitivity == spec.sensitivity and p.spec.task.template == spec.task.template for p in measured):
        return 0.0
    rates = [_timings(p).get("sensitivity", 0.0) / p.spec.sensitivity.samples for p in measured]
    return max(rates, default=0.0) * spec.sensitivity.samples


def trained_examples(spec: RunSpec, past: Past) -> int:
    """Return how many examples the optimiser steps of a spec take in all."""
    recipe: FinetuningSpec = spec.finetuning
    if recipe.max_steps is not None:
        return recipe.max_steps * recipe.batch_size
    sizes = (past.result.get("task") or {}).get("sizes") or {}
    limit = past.spec.task.sizes.train
    return math.ceil(recipe.epochs * _there_are(spec.task.sizes.train, sizes.get("train") or limit or 1000, limit))


def _there_are(asked: int | None, before: int, limit: int | None) -> int:
    """Return how many examples a spec will get.

    Args:
        asked: the most that it takes; None: all.
        before: how many an earlier run took.
        limit: the most that the earlier run would have taken.
    """
    if asked is None or (asked > before and before != limit):
        return before  # that was all there are
    return asked


def _timings(past: Past) -> dict[str, float]:
    timings = past.result.get("timings")
    return timings if isinstance(timings, dict) else {}


def _tested(past: Past) -> int:
    return int((past.result.get("scores") or [{}])[0].get("n") or 1)
