"""What runs are likely to take, from earlier ones of the same pair and task on this machine. Arithmetic only.

`estimate_runs` takes many specs at once; where no earlier run is like one, it goes by the models' shapes.
"""

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from statistics import median

import numpy

from paraknow_core.catalogue import METHODS
from paraknow_core.errors import ParaknowError
from paraknow_core.files.remember import once_a_look, one_look, while_unchanged
from paraknow_core.models.anatomy import Anatomy, read_anatomy
from paraknow_core.models.source import resolve_model
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder, list_runs, readable
from paraknow_core.sensitivity.plan import Rates
from paraknow_core.settings import usable_cores
from paraknow_core.spec import FinetuningSpec, RunSpec
from paraknow_core.studies import same
from paraknow_core.training.amounts import threads_of_spec
from paraknow_core.training.estimates import guess_run, run_bytes, trained_parameters
from paraknow_core.workbench import reading
from paraknow_core.workbench.reading import Facts, Runs

MOST = 8  # earlier runs that are asked; the newest know the machine best
# What an estimate does not depend on: runs of a study differ in little else.
APART = {"name": True, "seed": True, "finetuning": {"learning_rate", "seed"}} | dict.fromkeys(
    ("mapping", "extraction"), {"seed"}
)
BYTES_A_PARAMETER = 20  # that is trained: itself, its gradient, two moments, what a save takes on the way
DISK_RATE = 1.5e9  # bytes a second, assumed


@dataclass(frozen=True)
class Estimate:
    """Seconds, bytes of disk, bytes of memory at the highest, and how many earlier runs say so; 0: it is a guess."""

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


@one_look()
def estimate_runs(specs: Sequence[RunSpec], place: Workspace) -> list[Estimate | None]:
    """Estimate runs that share a workspace, one by one; what they share is counted with the first that needs it.

    Args:
        specs: of the runs, in the order in which they will run; of any pairs, tasks, methods and last stages.
        place: the workspace: its earlier runs know this machine best.

    Returns:
        One estimate a spec; None where no earlier run is like it and a model's files are not there. Disk is what the
        run's folder takes at most; measuring a teacher is counted once for all that read it.

    Note:
        About 0.1 ms a spec beside reading the workspace's runs; no torch, and no file of a task is read.
    """
    asking = _by_question(place)
    past_of: dict[frozenset, list[Past]] = {}
    known: dict[str, tuple[tuple[Estimate | None, float], frozenset]] = {}
    measured: set[frozenset] = set()
    estimates: list[Estimate | None] = []
    for spec in specs:
        alike = spec.model_dump_json(exclude=APART)
        if alike not in known:
            key = question(spec)
            if key not in past_of:
                past_of[key] = past_runs(spec, _with_facts(asking.get(key, [])))
            known[alike] = _one(spec, past_of[key], place), same.asked(spec, same.MEASUREMENT, same.NOT_MEASURED)
        (found, measuring), measurement = known[alike]
        if found is not None and measuring:
            found = replace(found, seconds=found.seconds - measuring) if measurement in measured else found
            measured.add(measurement)
        estimates.append(found)
    return estimates


def _one(spec: RunSpec, past: list[Past], place: Workspace) -> tuple[Estimate | None, float]:
    """Return what a run takes alone, and the seconds of that which measure the teacher."""
    like = [p for p in past if METHODS[p.spec.method].whole == METHODS[spec.method].whole] or past
    if not like:
        guess, measuring = _guess(spec)
        factor = _slowness(place)
        return guess and replace(guess, seconds=factor * guess.seconds), factor * measuring
    found = estimate(spec, like)
    return replace(found, **_by_shape(spec, found, like)), sensitivity_seconds(spec, like)


def _by_shape(spec: RunSpec, found: Estimate, past: list[Past]) -> dict[str, float]:
    """Return disk, and memory, as far as the models' shapes tell more than earlier runs of other sizes do."""
    shapes = _shapes(spec.teacher.source, spec.teacher.revision, spec.student.source, spec.student.revision)
    if shapes is None:
        return {}
    student = shapes[1]
    more = max(0, trained_parameters(student, spec) - max(trained_parameters(student, p.spec) for p in past))
    return {"disk": run_bytes(student, spec), "memory": found.memory + BYTES_A_PARAMETER * more}


def _guess(spec: RunSpec) -> tuple[Estimate | None, float]:
    """Return what a run takes alone by its models' shapes, and the seconds of that which measure the teacher."""
    shapes = _shapes(spec.teacher.source, spec.teacher.revision, spec.student.source, spec.student.revision)
    if shapes is None:
        return None, 0.0
    rates = _rates()
    rates = replace(rates, flops=rates.flops * threads_of_spec(spec))
    need, measuring = guess_run(*shapes, spec, rates)
    return Estimate(need.seconds, need.disk, need.memory, 0), measuring


@once_a_look(lambda place: [place.runs])
def _by_question(place: Workspace) -> dict[frozenset, list[RunFolder]]:
    """Return all runs, newest first, by what they must share to tell each other's cost: presets ask of many pairs.

    Of their files only the specs are read: of each question a few results are enough.
    """
    asking: dict[frozenset, list[RunFolder]] = {}
    for run, spec in readable(place):
        asking.setdefault(question(spec), []).append(run)
    return asking


def _with_facts(runs: Iterable[RunFolder]) -> Iterator[tuple[RunFolder, Facts]]:
    """Read what is known of runs, one after the other: whoever takes them stops after a few."""
    return ((run, reading.facts(run)) for run in runs)


@once_a_look(lambda place: [place.runs])
def _slowness(place: Workspace) -> float:
    """Return by how much the newest finished runs, of whatever models, took longer than guessed; 1 without any."""
    ratios: list[float] = []
    for _, facts in _with_facts(list_runs(place)):
        timings = facts.result.get("timings")
        if facts.spec is None or not facts.result.get("budget") or not isinstance(timings, dict) or not timings:
            continue
        guess, _ = _guess(facts.spec)
        if guess is not None:
            ratios.append(sum(timings.values()) / guess.seconds)
        if len(ratios) == MOST:
            break
    return median(ratios or [1.0])


@lru_cache(maxsize=64)
def _shapes(teacher: str, revision: str | None, student: str, own: str | None) -> tuple[Anatomy, Anatomy] | None:
    """Return both anatomies, without a look at the weights; None where a model is not on this machine."""
    try:
        pairs = ((teacher, revision), (student, own))
        return tuple(read_anatomy(resolve_model(*pair, offline=True), tokenizer=False) for pair in pairs)
    except ParaknowError:
        return None


@cache
def _rates() -> Rates:
    """Measure in some milliseconds, without torch, what one core of this machine does in a second.

    By this thread's own time: the clock would count what other processes do meanwhile.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = min(usable_cores(), int(given) if given.isdecimal() and int(given) else usable_cores())  # of a product
    states, weight = numpy.ones((512, 256), numpy.float32), numpy.ones((256, 1024), numpy.float32)
    large = numpy.ones(1 << 20, numpy.float32)

    def best(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(9):
            began = time.thread_time()
            work()
            seconds.append(time.thread_time() - began)
        return max(min(seconds), 1e-7)

    flops = 2 * states.size * weight.shape[1] / best(lambda: states @ weight) / threads
    return Rates(flops, 2 * large.nbytes / best(lambda: large + 1), DISK_RATE)


def past_runs(spec: RunSpec, trained: Iterable[tuple[RunFolder, Facts]], before: float = math.inf) -> list[Past]:
    """Return the newest finished runs of the same pair and task, those that ended before a moment."""
    past: list[Past] = []
    asked = question(spec)
    for run, facts in trained:
        done = facts.scores or facts.result.get("budget")
        if facts.spec is None or not done or facts.asks(same.COST) != asked:
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


def newest_until(spec: RunSpec, runs: Runs) -> Facts | None:
    """Return the newest finished run that ended at the same stage, on the same models and task source."""
    asked = question(spec)
    for _, facts in runs:
        timings = facts.result.get("timings")
        if facts.spec is None or facts.spec.until != spec.until or not isinstance(timings, dict) or not timings:
            continue
        if facts.asks(same.COST) == asked:
            return facts
    return None


def seconds_as(spec: RunSpec, newest: Facts) -> float:
    """Return what a run will take if it takes what another did that ended at the same stage, seed samples apart."""
    timings, samples = newest.result["timings"], spec.sensitivity.samples / newest.spec.sensitivity.samples
    return sum(timings.values()) + timings.get("sensitivity", 0.0) * (samples - 1)


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
    scored = [p for p in past if p.result.get("scores")] if spec.until == "evaluation" else []
    fixed = median(sum(_timings(p).get(name, 0.0) for name in ("prepare", "injection", "export")) for p in past)
    tuning = median(_timings(p).get("fine-tuning", 0.0) / max(1, trained_examples(p.spec, p)) for p in past)
    scoring = median([_timings(p).get("evaluation", 0.0) / max(1, _tested(p)) for p in scored] or [0.0])
    tested = _there_are(spec.task.sizes.test, _tested(scored[0]), scored[0].spec.task.sizes.test) if scored else 0
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
