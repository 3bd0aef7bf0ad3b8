"""Questions about a whole run before it starts: what it will take, and whether its examples fit its models."""

import shutil
from dataclasses import asdict, dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

from paraknow_core.catalogue import METHODS
from paraknow_core.context import Context
from paraknow_core.errors import DataError, ModelError, RunError
from paraknow_core.memory import available_bytes
from paraknow_core.paths import Workspace
from paraknow_core.sensitivity.plan import Rates, batch_tokens, plan_sensitivity, sizes_of
from paraknow_core.settings import Settings
from paraknow_core.tasks.glance import LOOKED_AT, glance_of
from paraknow_core.tasks.templates import encode_split
from paraknow_core.training.estimates import (
    PROCESS,
    answering_of,
    estimate_evaluation,
    estimate_finetuning,
    estimate_injection,
    fixed_factors,
    trained_parameters,
    training_of,
    whole_head,
)
from paraknow_core.training.preparation import check_examples
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.desk.kinds.known import run_context

DISK_RATE = 1.5e9  # bytes a second, assumed: as when a measurement is planned
LIBRARIES = 0.30e9  # anonymous bytes of a process that has loaded torch and transformers: measured on Linux
LARGE = 2048  # side of a matrix that fits no cache
MOST_FITTED = 2000  # examples of a split that are looked at for whether they fit
WAYS = {"auto": "auto", "always": "streamed", "never": "resident"}
KEEPS = {"full": True, "reductions": False, "auto": None}


def fit(place: Workspace, settings: Settings, question: requests.Fit) -> dict[str, Any]:
    """Return why the run would be refused, and what it would leave out.

    It is what the run itself checks in "prepare", on the first examples of each split.
    """
    context = run_context(question.spec, settings, place)
    needs_teacher = METHODS[question.spec.method].needs_teacher
    try:
        notes = check_examples(context, needs_teacher=needs_teacher, most=MOST_FITTED)
    except (DataError, ModelError) as error:
        return {"problem": str(error), "notes": [], "left_out": {}}
    return {"problem": "", "notes": notes, "left_out": context.left_out}


@dataclass(frozen=True)
class Machine:
    """What a run would compute on: `budget` is the memory [bytes] that may be used."""

    device: str
    dtype: str
    budget: int

    def rates(self, tokens: int, hidden: int, inner: int, sample: int | None = None) -> Rates:
        """Return what it does in a second: of products of `tokens` states with a (hidden, inner) weight."""
        return _rates(self.device, self.dtype, tokens, hidden, inner, sample)


def _machine(settings: Settings) -> Machine:
    import torch

    from paraknow_core.models.load import pick_device

    device, dtype = pick_device(settings.device), "float32" if settings.dtype == "auto" else settings.dtype
    free = settings.memory_budget or (torch.cuda.mem_get_info()[0] if device == "cuda" else available_bytes())
    return Machine(device, dtype, free)


def estimate(place: Workspace, settings: Settings, question: requests.Estimate) -> dict[str, Any]:
    """Return memory, disk and seconds of every stage, before any weight is loaded."""
    context, machine = run_context(question.spec, settings, place), _machine(settings)
    place.root.mkdir(parents=True, exist_ok=True)
    return {
        **asdict(machine),
        "free_disk": shutil.disk_usage(place.root).free,
        "process": PROCESS,
        "sensitivity": _sensitivity(context, settings, machine),
        "student": _student(context, machine),
        "left_out": context.left_out,
    }


def _sensitivity(context: Context, settings: Settings, machine: Machine) -> dict[str, Any]:
    encoded, teacher = context.encode(context.seed_samples, context.teacher, context.seed_task), context.teacher.anatomy
    if not encoded:
        raise DataError(f"{context.seed_task.name}: no seed sample has a token to predict; give longer examples")
    lengths = [len(sample.input_ids) for sample in encoded]
    supervised = sum(label != -100 for sample in encoded for label in sample.labels)
    together = batch_tokens(sizes_of(teacher), lengths)
    rates = machine.rates(together, teacher.hidden_size, teacher.intermediate_size, round(fmean(lengths)))
    numbers = {"samples": len(lengths), "tokens": sum(lengths), "supervised": supervised}
    numbers |= {"flops": rates.flops, "bytes": rates.bytes}
    try:
        plan = plan_sensitivity(
            teacher,
            lengths,
            supervised,
            **asdict(machine),
            base=0 if machine.device == "cuda" else round(LIBRARIES),
            way=WAYS[settings.streaming],
            full=KEEPS[settings.keep],
            rates=rates,
        )
    except RunError as error:
        return numbers | {"problem": str(error), "plan": None}
    return numbers | {"problem": "", "plan": plan.to_dict()}


def _student(context: Context, machine: Machine) -> dict[str, Any]:
    spec, task, teacher, student = context.spec, context.task, context.teacher.anatomy, context.student.anatomy
    limit, roles, rank = student.max_position_embeddings, spec.extraction.roles, spec.factorisation.rank
    train, test = (
        encode_split(task.split(name)[:LOOKED_AT], task, context.student.tokenizer, limit) for name in ("train", "test")
    )
    if not train:
        raise DataError(f"{task.name}: no training example has a token to predict; give longer examples")
    lengths = ([(len(e.labels) - e.labels.count(-100), len(e.input_ids)) for e in part] for part in (train, test))
    seen = glance_of(task, *([(whole - learnt, learnt) for learnt, whole in part] for part in lengths))
    training = training_of(spec, seen, machine.device)
    answering = answering_of(student, seen, 1 + len(spec.references))
    own = machine.rates(min(training.tokens, 2048), student.hidden_size, student.intermediate_size)
    # What is moved here are the states of many tokens, larger than any cache: measured on a matrix that is, too.
    rates = Rates(own.flops, machine.rates(64, LARGE, LARGE).bytes, DISK_RATE)
    adapters, fixed, head = trained_parameters(student, spec), fixed_factors(student, spec), whole_head(student, roles)
    width = 4 if machine.dtype == "float32" else 2
    stages = {
        "injection": estimate_injection(teacher, student, roles, rank, rates),
        "fine-tuning": estimate_finetuning(student, adapters, training, rates, width, head, fixed),
        "evaluation": estimate_evaluation(student, answering, rates, width),
    }
    return {
        "stages": {name: asdict(need) for name, need in stages.items()},
        "adapters": adapters,
        "training": asdict(training),
        "answering": asdict(answering),
        "flops": rates.flops,
        "bytes": rates.bytes,
    }


@lru_cache(maxsize=64)
def _rates(device: str, dtype: str, tokens: int, hidden: int, inner: int, sample: int | None) -> Rates:
    """Measure this machine for a second.

    Once with the threads there are and once with one: beside a run that takes all cores, threads that wait for each
    other would make this machine look hundreds of times slower than it is.
    """
    import torch

    from paraknow_core.ops.speed import measure_speed

    threads, speeds = torch.get_num_threads(), []
    try:
        for number in {threads, 1} if device == "cpu" else {threads}:
            torch.set_num_threads(number)
            speeds.append(measure_speed(getattr(torch, dtype), device, tokens, hidden, inner, sample))
    finally:
        torch.set_num_threads(threads)
    return Rates(max(speed.flops for speed in speeds), max(speed.bytes for speed in speeds), DISK_RATE)
