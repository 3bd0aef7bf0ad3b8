"""What runs are likely to take, from earlier ones of the same pair and task on this machine. Arithmetic only.

`estimate_runs` takes many specs at once; where no earlier run is like one, it goes by the models' shapes.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy

from paraknow_core.catalogue import METHODS
from paraknow_core.errors import ParaknowError
from paraknow_core.files.remember import once_a_look, one_look, while_unchanged
from paraknow_core.models.anatomy import Anatomy, read_anatomy
from paraknow_core.models.source import resolve_model
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder, list_runs, readable
from paraknow_core.sensitivity.plan import Rates
from paraknow_core.settings import load_settings, usable_cores
from paraknow_core.spec import FinetuningSpec, RunSpec
from paraknow_core.studies import same
from paraknow_core.tasks.glance import Glance, glance
from paraknow_core.training.amounts import threads_of_spec
from paraknow_core.training.estimates import (
    COLD_SECONDS,
    PREPARE_SECONDS,
    Guess,
    Shared,
    guess_run,
    guess_shared,
    unseen,
)
from paraknow_core.workbench import reading
from paraknow_core.workbench.reading import Facts, Runs

MOST = 8  # earlier runs that are asked; the newest know the machine best
# What an estimate does not depend on: runs of a study differ in little else.
APART = {"name": True, "seed": True, "finetuning": {"learning_rate", "seed"}} | dict.fromkeys(
    ("mapping", "extraction"), {"seed"}
)
UNSCORED = ("task.sizes.train", "task.sizes.validation")  # what the scores of untrained models do not depend on
SLOWEST_START, COLD_PART = 8.0, 0.8  # beyond that, it was not the start that took so long
LEAST_START = 1.0  # seconds; less was no start, but reading a new task
DISK_RATE = 1.5e9  # bytes a second, assumed


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        seconds, disk: by the clock, and bytes of its folder.
        memory: bytes that its own process takes at the highest.
        runs: how many earlier ones say so; 0: it is a guess.
        in_all: bytes of memory of all processes that share its training; 0: it has one.
        start: seconds of these that a process spends on the first run that it executes, and on no other.
    """

    seconds: float
    disk: float
    memory: float
    runs: int
    in_all: float = 0.0
    start: float = 0.0


@dataclass(frozen=True)
class Past:
    """What one earlier run took: its spec, its result, and the size of its folder."""

    spec: RunSpec
    result: dict
    disk: int


def of_specs(specs: Sequence[RunSpec], trained: Runs, processes: int = 1) -> Estimate | None:
    """Estimate runs of one pair and task, seeds apart; what they share is counted once."""
    past = past_runs(specs[0], trained)
    if not past:
        return None
    repeats = Counter(spec.method for spec in specs)
    of_method = {spec.method: spec for spec in specs}
    takes = {m: (estimate(spec, past, processes), shared_seconds(spec, past)) for m, spec in of_method.items()}
    once = {key: seconds for _, shared in takes.values() for key, seconds in shared.items()}
    seconds = sum(repeats[m] * (e.seconds - sum(shared.values())) for m, (e, shared) in takes.items())
    most = max(e.memory for e, _ in takes.values())
    disk = sum(repeats[m] * e.disk for m, (e, _) in takes.items())
    in_all = max(e.in_all for e, _ in takes.values())
    start = sum(repeats[m] * e.start for m, (e, _) in takes.items())
    return Estimate(seconds + sum(once.values()), disk, most, len(past), in_all, start)


@one_look()
def estimate_runs(specs: Sequence[RunSpec], place: Workspace, processes: int | None = None) -> list[Estimate | None]:
    """Estimate runs that share a workspace, one by one; what they share is counted with the first that needs it.

    Args:
        specs: of the runs, in the order in which they will run; of any pairs, tasks, methods and last stages.
        place: the workspace: its earlier runs know this machine best.
        processes: that share the training of each run; None: as the settings say.

    Returns:
        One estimate a spec; None where no earlier run is like it and a model's files are not there. Disk is what the
        run's folder takes at most; measuring a teacher is counted once for all that read it.

    Note:
        About 0.2 ms a spec beside reading the workspace's runs, and one look at the first examples of a task; no torch.
    """
    asking, processes = _by_question(place), processes or processes_now(place)
    past_of: dict[frozenset, list[Past]] = {}
    known: dict[str, tuple[Estimate | None, dict[Hashable, float]]] = {}
    counted: set[Hashable] = set()
    estimates: list[Estimate | None] = []
    for spec in specs:
        alike = spec.model_dump_json(exclude=APART)
        if alike not in known:
            key = question(spec)
            if key not in past_of:
                past_of[key] = past_runs(spec, _with_facts(asking.get(key, [])))
            known[alike] = _one(spec, past_of[key], place, processes)
        found, shared = known[alike]
        if found is not None:
            again = sum(seconds for key, seconds in shared.items() if key in counted)
            found = replace(found, seconds=found.seconds - again)
            counted |= shared.keys()
        estimates.append(found)
    return estimates


def _one(
    spec: RunSpec, past: list[Past], place: Workspace, processes: int
) -> tuple[Estimate | None, dict[Hashable, float]]:
    """Return what a run takes alone, and the seconds of that which other runs share."""
    like = [p for p in past if METHODS[p.spec.method].whole == METHODS[spec.method].whole] or past
    if like:
        return estimate(spec, like, processes), shared_seconds(spec, like)
    guess = _guess(spec, processes)
    if guess is None:
        return None, {}
    factor, start = _speed(place)
    stages = {name: factor * need.seconds for name, need in guess.stages.items()}
    shared = _shared_keys(spec, stages.get("sensitivity", 0.0), factor * guess.references)
    seconds = sum(stages.values()) + factor * guess.references + start
    return Estimate(seconds, guess.disk, guess.memory, 0, _in_all(spec, guess.memory, processes), start), shared


def _shared_keys(spec: RunSpec, measuring: float, scoring: float) -> dict[Hashable, float]:
    """Return seconds by what they are spent on, equal for two runs of which one need not do it again."""
    measured = same.asked(spec, same.MEASUREMENT, same.NOT_MEASURED)
    scored = *spec.references, same.asked(spec, (*spec.references, "task"), UNSCORED)
    return {key: seconds for key, seconds in ((measured, measuring), (scored, scoring)) if seconds}


def _in_all(spec: RunSpec, own: float, processes: int) -> float:
    """Return the bytes of all processes that share a run's training, of which its own takes some; 0 if it has one."""
    shared = _shared(spec, processes)
    return own + (processes - 1) * shared.other if shared else 0.0


def processes_now(place: Workspace) -> int:
    """Return how many processes share the training of a run, as the settings of a workspace say."""
    try:
        return load_settings(place).processes
    except ParaknowError:  # the runs themselves will refuse broken settings
        return 1


def processes_of(result: Mapping[str, Any]) -> int:
    """Return how many processes have shared the training of a run, as its result says."""
    training = result.get("training")
    count = training.get("processes") if isinstance(training, dict) else None
    return count if isinstance(count, int) and count > 0 else 1


def _guess(spec: RunSpec, processes: int = 1, sizes: Mapping[str, int] | None = None) -> Guess | None:
    """Return what a run takes by its models' shapes and a glance at its task; None where a model is not here.

    Args:
        spec: of the run.
        processes: that share its training.
        sizes: of the splits, where they are known better.
    """
    shapes = _shapes(spec.teacher.source, spec.teacher.revision, spec.student.source, spec.student.revision)
    if shapes is None:
        return None
    _, student, tokenizer = shapes
    seen = glance(spec.task, tokenizer, student.max_position_embeddings) or unseen(spec)
    if sizes and not seen.seen:
        seen = replace(seen, sizes=seen.sizes | sizes)
    data = spec.model_dump_json(exclude=APART)
    return _guess_of(data, processes, seen, _rates(), threads_of_spec(spec), usable_cores())


@lru_cache(2048)
def _guess_of(data: str, processes: int, seen: Glance, rates: Rates, threads: int, *_machine: int) -> Guess:
    """Return the same for a spec as JSON, without what no guess depends on: pages ask of thousands."""
    spec = RunSpec.model_validate_json(data)
    models = spec.teacher, spec.student
    teacher, student, _ = _shapes(*(value for model in models for value in (model.source, model.revision)))
    whole = replace(rates, flops=rates.flops * threads)
    return guess_run(teacher, student, spec, whole, shared=_shared(spec, processes, seen), seen=seen)


def _shared(spec: RunSpec, processes: int, seen: Glance | None = None) -> Shared | None:
    """Return what training takes that several processes share; None for one, without training, or unknown models."""
    if processes == 1:
        return None
    shapes = _shapes(spec.teacher.source, spec.teacher.revision, spec.student.source, spec.student.revision)
    if shapes is None or spec.until not in ("training", "evaluation"):
        return None
    # Each takes its part of the cores, and no more threads than a run alone; more processes than cores take turns.
    part = min(threads_of_spec(spec), usable_cores() / processes)
    rates, turns = _rates(), min(1.0, part)
    each = Rates(rates.flops * part, rates.bytes * turns, rates.disk)
    return guess_shared(shapes[1], spec, each, processes, seen=seen)


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
def _speed(place: Workspace) -> tuple[float, float]:
    """Return by how much the newest finished runs, of whatever models, took longer than guessed, and a start's seconds.

    Without any, 1 and what is assumed.
    """
    ratios, starts = [], []
    for _, facts in _with_facts(list_runs(place)):
        if facts.spec is None or not facts.result.get("budget"):
            continue
        past = Past(facts.spec, facts.result, 0)
        took, start = _own_seconds(past)
        guess = _guess(facts.spec, processes_of(facts.result), _sizes_of(past))
        if known := guess.stages.keys() & took.keys() if guess is not None else ():
            ratios.append(sum(took[name] for name in known) / sum(guess.stages[name].seconds for name in known))
            starts.append(start)
        if len(ratios) == MOST:
            break
    return median(ratios or [1.0]), _of_a_start(starts)


def _of_a_start(starts: Sequence[float]) -> float:
    """Return the seconds that a process's start takes, judging by runs of which some were the first of theirs."""
    return median([start for start in starts if start >= LEAST_START] or [sum(COLD_SECONDS.values())])


def start_of(spec: RunSpec, result: dict[str, Any]) -> float:
    """Return how many seconds of a run that is done were its process's start."""
    return _own_seconds(Past(spec, result, 0))[1]


@lru_cache(maxsize=64)
def _shapes(teacher: str, revision: str | None, student: str, own: str | None) -> tuple[Anatomy, Anatomy, Path] | None:
    """Return both anatomies, without a look at the weights, and the student's `tokenizer.json`.

    None where a model is not on this machine.
    """
    try:
        sources = [resolve_model(*pair, offline=True) for pair in ((teacher, revision), (student, own))]
        first, second = (read_anatomy(source, tokenizer=False) for source in sources)
        return first, second, sources[1].folder / "tokenizer.json"
    except ParaknowError:
        return None


@cache
def _rates() -> Rates:
    """Measure in some milliseconds, without torch, what one core of this machine does in a second.

    By this thread's own time: the clock would count what other processes do meanwhile. And with matrices so small that
    no second thread takes part, for which this one would wait.
    """
    square, large = numpy.ones((64, 64), numpy.float32), numpy.ones(1 << 20, numpy.float32)
    product = numpy.empty_like(square)

    def best(work: Callable[[], object], times: int) -> float:
        seconds = []
        for _ in range(9):
            began = time.thread_time()
            for _ in range(times):
                work()
            seconds.append((time.thread_time() - began) / times)
        return max(min(seconds), 1e-9)

    flops = 2 * square.size * 64 / best(lambda: numpy.matmul(square, square, out=product), 200)
    return Rates(flops, 2 * large.nbytes / best(lambda: large + 1, 1), DISK_RATE)


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


def estimate(spec: RunSpec, past: list[Past], processes: int = 1) -> Estimate:
    """Estimate one run: each stage as earlier runs took for it, times what the two should take by the models' shapes.

    Args:
        spec: what will run.
        past: at least one earlier run of the same pair and task. Those that as many processes have trained know best.
        processes: that share its training.
    """
    everything, past = past, [p for p in past if processes_of(p.result) == processes] or past
    sizes = _sizes(spec, past[0])
    guess = _guess(spec, processes, sizes)
    own = _weights(spec, guess, sizes)
    ratios: dict[str, list[float]] = {name: [] for name in own}
    starts, disks, peaks = [], [], []
    for p in past:
        took, start = _own_seconds(p)
        before = _sizes_of(p)
        like = _guess(p.spec, processes_of(p.result), before)
        weights = _weights(p.spec, like, before)
        for name in own.keys() & took.keys() & weights.keys():
            ratios[name] += [took[name] / weights[name]] if weights[name] else []
        starts.append(start)
        disks.append(p.disk * spec.factorisation.rank / p.spec.factorisation.rank)
        if peak := float(p.result.get("peak_memory_bytes") or 0):
            peaks.append(max(0.0, peak + guess.memory - like.memory) if guess and like else peak)
    rest = median([ratio for found in ratios.values() for ratio in found] or [0.0]) if guess else 0.0
    seconds = sum(weight * median(ratios[name] or [rest]) for name, weight in own.items())
    start = _of_a_start(starts)
    seconds += sum(shared_seconds(spec, everything).values()) + start
    memory = max(peaks, default=0.0)
    disk = guess.disk if guess else median(disks)
    return Estimate(seconds, disk, memory, len(past), _in_all(spec, memory, processes), start)


def _weights(spec: RunSpec, guess: Guess | None, sizes: Mapping[str, int]) -> dict[str, float]:
    """Return what the stages of a run, without what it shares, should take beside those of other runs.

    In seconds; of a model that is not here, in what they grow with.
    """
    if guess is not None:
        return {name: need.seconds for name, need in guess.stages.items() if name != "sensitivity"}
    stages = {"prepare": 1.0, "injection": 1.0, "export": 1.0, "fine-tuning": float(trained_examples(spec, sizes))}
    return stages | ({"evaluation": float(sizes.get("test") or 1)} if spec.until == "evaluation" else {})


def _own_seconds(past: Past) -> tuple[dict[str, float], float]:
    """Return what an earlier run took for stages that it shares with no other one, and what its process's start took.

    How much longer the first stage took than it need tells how slow the start was.
    """
    timings = {name: value for name, value in _timings(past).items() if name not in ("sensitivity", "references")}
    factor = min(SLOWEST_START, max(0.0, timings.get("prepare", 0.0) - PREPARE_SECONDS) / COLD_SECONDS["prepare"])
    for name in COLD_SECONDS.keys() & timings.keys():
        timings[name] -= min(factor * COLD_SECONDS[name], COLD_PART * timings[name])
    return timings, factor * sum(COLD_SECONDS.values())


def shared_seconds(spec: RunSpec, past: list[Past]) -> dict[Hashable, float]:
    """Return what a run will spend on what other runs share; nothing on what was done before."""
    scoring, asked = 0.0, _shared_keys(spec, 0.0, 1.0)
    alike = [p for p in past if p.spec.until == "evaluation"]
    if spec.until == "evaluation" and not any(asked.keys() == _shared_keys(p.spec, 0.0, 1.0).keys() for p in alike):
        pairs = [(_timings(p).get("references", 0.0), _guess(p.spec, 1, _sizes_of(p))) for p in alike]
        ratios = [took / guess.references for took, guess in pairs if took and guess and guess.references]
        guess = _guess(spec, 1, _sizes(spec, past[0])) if ratios else None
        scoring = guess.references * median(ratios) if guess else 0.0
    return _shared_keys(spec, sensitivity_seconds(spec, past), scoring)


def sensitivity_seconds(spec: RunSpec, past: list[Past]) -> float:
    """Return what measuring the teacher will take: nothing where that was done before."""
    if not METHODS[spec.method].needs_teacher:
        return 0.0
    measured = [p for p in past if METHODS[p.spec.method].needs_teacher]
    if any(p.spec.sensitivity == spec.sensitivity and p.spec.task.template == spec.task.template for p in measured):
        return 0.0
    rates = [_timings(p).get("sensitivity", 0.0) / p.spec.sensitivity.samples for p in measured]
    return max(rates, default=0.0) * spec.sensitivity.samples


def trained_examples(spec: RunSpec, sizes: Mapping[str, int]) -> int:
    """Return how many examples the optimiser steps of a spec take in all, of a train split of this size."""
    recipe: FinetuningSpec = spec.finetuning
    if recipe.max_steps is not None:
        return recipe.max_steps * recipe.batch_size
    return math.ceil(recipe.epochs * (sizes.get("train") or 1000))


def _sizes_of(past: Past) -> dict[str, int]:
    """Return how many examples the splits of an earlier run had, as its result says."""
    sizes = (past.result.get("task") or {}).get("sizes") or {}
    tested = {"test": _tested(past)} if past.result.get("scores") else {}
    return {name: size for name, size in sizes.items() if isinstance(size, int)} | tested


def _sizes(spec: RunSpec, past: Past) -> dict[str, int]:
    """Return how many examples the splits of a run will have, judging by an earlier one."""
    limits = dict(past.spec.task.sizes)
    asked = dict(spec.task.sizes)
    return {name: _there_are(asked.get(name), size, limits.get(name)) for name, size in _sizes_of(past).items()}


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
