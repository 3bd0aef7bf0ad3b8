"""Questions about a whole run before it starts: what it will take, and whether its examples fit its models."""

import math
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from paraknow_core.catalogue import METHODS
from paraknow_core.context import Context
from paraknow_core.errors import DataError, ModelError, RunError
from paraknow_core.memory import available_bytes
from paraknow_core.models.anatomy import Anatomy
from paraknow_core.paths import Workspace
from paraknow_core.sensitivity.plan import Rates, batch_tokens, plan_sensitivity, sizes_of
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.tasks.scorers import GENERATIVE
from paraknow_core.tasks.task import Task
from paraknow_core.tasks.templates import Encoded, encode_split
from paraknow_core.training.estimates import (
    PROCESS,
    Answering,
    Training,
    adapter_parameters,
    estimate_evaluation,
    estimate_finetuning,
    estimate_injection,
    whole_head,
)
from paraknow_core.training.preparation import check_examples
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.desk.kinds.known import anatomy_of, run_context, tokenizer_of

DISK_RATE = 1.5e9  # bytes a second, assumed: as when a measurement is planned
LIBRARIES = 0.30e9  # anonymous bytes of a process that has loaded torch and transformers: measured on Linux
LOOKED_AT = 300  # examples of a split whose lengths stand for all of it
LARGE = 2048  # side of a matrix that fits no cache
BATCH = 32  # test examples at once
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


def estimate(place: Workspace, settings: Settings, question: requests.Estimate) -> dict[str, Any]:
    """Return memory, disk and seconds of every stage, before any weight is loaded."""
    import shutil

    spec = question.spec
    pair = [anatomy_of(model, settings) for model in (spec.teacher, spec.student)]
    context = run_context(spec, settings, place)
    task = context.task
    device = _device(settings)
    place.root.mkdir(parents=True, exist_ok=True)
    return {
        "device": device,
        "dtype": _dtype(settings),
        "free_disk": shutil.disk_usage(place.root).free,
        "budget": _budget(settings, device),
        "process": PROCESS,
        "sensitivity": _sensitivity(pair[0], context, settings, device),
        "student": _student(spec, pair, task, settings, device),
        "left_out": context.left_out,
    }


def _sensitivity(teacher: Anatomy, context: Context, settings: Settings, device: str) -> dict[str, Any]:
    encoded = context.encode(context.seed_samples, context.teacher)
    if not encoded:
        raise DataError(f"{context.task.name}: no seed sample has a token to predict; give longer examples")
    lengths = [len(each.input_ids) for each in encoded]
    supervised = sum(label != -100 for each in encoded for label in each.labels)
    dtype = _dtype(settings)
    together = batch_tokens(sizes_of(teacher), lengths)
    rates = _rates(
        dtype, device, together, teacher.hidden_size, teacher.intermediate_size, round(sum(lengths) / len(lengths))
    )
    facts = {
        "samples": len(lengths),
        "tokens": sum(lengths),
        "supervised": supervised,
        "flops": rates.flops,
        "bytes": rates.bytes,
    }
    try:
        plan = plan_sensitivity(
            teacher,
            lengths,
            supervised,
            device=device,
            dtype=dtype,
            budget=_budget(settings, device),
            base=0 if device == "cuda" else round(LIBRARIES),
            way=WAYS[settings.streaming],
            full=KEEPS[settings.keep],
            rates=rates,
        )
    except RunError as error:
        return facts | {"problem": str(error), "plan": None}
    return facts | {"problem": "", "plan": plan.to_dict()}


def _student(spec: RunSpec, pair: list[Anatomy], task: Task, settings: Settings, device: str) -> dict[str, Any]:
    teacher, student = pair
    tokenizer = tokenizer_of(spec.student, settings)
    context, roles, dtype = student.max_position_embeddings, spec.extraction.roles, _dtype(settings)
    train, validation, test = (
        encode_split(task.split(name)[:LOOKED_AT], task, tokenizer, context) for name in ("train", "validation", "test")
    )
    if not train:
        raise DataError(f"{task.name}: no training example has a token to predict; give longer examples")
    training = _training(spec, task, train, validation, device)
    answering = _answering(spec, task, test)
    own = _rates(dtype, device, min(training.tokens, 2048), student.hidden_size, student.intermediate_size, None)
    # What is moved here are the states of many tokens, larger than any cache: measured on a matrix that is, too.
    rates = Rates(own.flops, _rates(dtype, device, 64, LARGE, LARGE, None).bytes, DISK_RATE)
    adapters = adapter_parameters(student, roles, spec.factorisation.rank)
    count = 4 if dtype == "float32" else 2
    stages = {
        "injection": estimate_injection(teacher, student, roles, spec.factorisation.rank, rates),
        "fine-tuning": estimate_finetuning(student, adapters, training, rates, count, whole_head(student, roles)),
        "evaluation": estimate_evaluation(student, answering, rates, count),
    }
    return {
        "stages": {name: asdict(need) for name, need in stages.items()},
        "adapters": adapters,
        "training": asdict(training),
        "answering": asdict(answering),
        "flops": rates.flops,
        "bytes": rates.bytes,
    }


def _training(spec: RunSpec, task: Task, train: list[Encoded], validation: list[Encoded], device: str) -> Training:
    from paraknow_core.training.batches import micro_batch_size, total_steps

    recipe, lengths = spec.finetuning, [len(each.input_ids) for each in train]
    share = len(train) / max(1, min(LOOKED_AT, len(task.split("train"))))  # windows an example of plain text gives
    examples = round(share * len(task.split("train")))
    micro = micro_batch_size(recipe, max(lengths), device)
    steps = total_steps(recipe, examples)
    size = min(micro, examples)
    tokens = size * _filled(lengths, size)
    held_out = round(
        len(validation) / max(1, min(LOOKED_AT, len(task.split("validation")))) * len(task.split("validation"))
    )
    measured = recipe.validations + 1 if held_out and recipe.validations and steps else 0
    validation_tokens = held_out * _filled([len(each.input_ids) for each in validation], micro) if held_out else 0
    return Training(steps, recipe.batch_size // micro, tokens, measured, validation_tokens)


def _filled(lengths: list[int], together: int) -> int:
    """Return the tokens an example takes in a batch: about as many as the longest of those beside it."""
    ordered = sorted(lengths)
    return ordered[min(len(ordered) - 1, math.floor(len(ordered) * together / (together + 1)))]


def _answering(spec: RunSpec, task: Task, test: list[Encoded]) -> Answering:
    written = any(scorer in GENERATIVE for scorer in task.scorers)
    lengths = [each.prompt_length if written else len(each.input_ids) for each in test] or [1]
    examples = len(task.split("test"))
    rows = examples * max(1, max((len(e.choices) for e in task.split("test")[:1]), default=1) if not written else 1)
    return Answering(
        models=1 + len(spec.references),
        batches=math.ceil(rows / BATCH),
        batch=min(BATCH, rows),
        prompt_tokens=round(sum(lengths) / len(lengths) * rows),
        longest=max(lengths),
        new_tokens=task.max_new_tokens if written else 0,
    )


@lru_cache(maxsize=64)
def _rates(dtype: str, device: str, tokens: int, hidden: int, inner: int, sample: int | None) -> Rates:
    """Measure this machine for a second.

    Once with the threads there are and once with one: beside a run that takes all cores, threads that wait for each
    other would make this machine look hundreds of times slower than it is.
    """
    import torch

    from paraknow_core.ops.speed import measure_speed

    threads, found = torch.get_num_threads(), []
    try:
        for number in {threads, 1} if device == "cpu" else {threads}:
            torch.set_num_threads(number)
            found.append(measure_speed(getattr(torch, dtype), device, tokens, hidden, inner, sample))
    finally:
        torch.set_num_threads(threads)
    return Rates(max(each.flops for each in found), max(each.bytes for each in found), DISK_RATE)


def _device(settings: Settings) -> str:
    from paraknow_core.models.load import pick_device

    return pick_device(settings.device)


def _dtype(settings: Settings) -> str:
    return "float32" if settings.dtype == "auto" else settings.dtype


def _budget(settings: Settings, device: str) -> int:
    if settings.memory_budget:
        return settings.memory_budget
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    return available_bytes()
