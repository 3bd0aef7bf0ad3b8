"""What a run may spend: optimiser steps, examples seen, trainable parameters; and how a study holds them equal.

A factor such as the batch size or the modules changes what a run spends, and with it what its score means. `held`
gives such a run the base run's budget again, where the study's `hold` asks for it: steps and tokens by
`finetuning.max_steps`, parameters by the rank, with alpha in the same ratio. What an arm or a factor sets by itself is
what the study asks about, and is left as it is.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from paraknow_core.files.disk import file_stamp
from paraknow_core.files.naming import named
from paraknow_core.spec import RunSpec, TaskSpec

STEPS, PARAMETERS = ("finetuning.max_steps", "finetuning.epochs"), "factorisation.rank"
MOST_RANK = 65_536
# Equal but for rounding: a rank is a whole number, and batches of other seeds hold other examples.
TOLERANCE = {"steps": 0.0, "tokens": 0.02, "parameters": 0.02}


@dataclass(frozen=True)
class Sizes:
    """What a budget follows from, besides the spec.

    Attributes:
        examples: returns how many entries an epoch of a task has; None where that is not known beforehand.
        test: returns how many examples the test split of a task has.
        width: returns how many parameters an adapter of rank 1 has, for the student and the modules of a spec.
    """

    examples: Callable[[RunSpec], int | None]
    width: Callable[[RunSpec], int]
    test: Callable[[RunSpec], int] = lambda spec: spec.task.sizes.test or 0


def _steps(spec: RunSpec, sizes: Sizes) -> int | None:
    recipe = spec.finetuning
    if recipe.max_steps is not None:
        return recipe.max_steps
    examples = sizes.examples(spec)
    return None if examples is None else recipe.steps(examples)


def held(spec: RunSpec, base: RunSpec, hold: Collection[str], varied: Collection[str], sizes: Sizes) -> RunSpec:
    """Return the spec of a run with the base run's budget, as far as the study holds it equal.

    Args:
        spec: of the run.
        base: of the study.
        hold: `steps`, `tokens`, `parameters`; where steps and tokens cannot both be held, steps are.
        varied: dotted keys that the run's arm or factors set: they are asked about, and not undone.
        sizes: of tasks and students; asked only where something would change the budget.
    """
    changes: dict[str, Any] = {}
    if {"steps", "tokens"} & set(hold) and not _is_set(STEPS, varied) and _trains_otherwise(spec, base):
        steps = _steps(base, sizes)
        if steps is not None and "steps" not in hold:
            steps = max(1, round(steps * base.finetuning.batch_size / spec.finetuning.batch_size)) if steps else 0
        if steps is not None and steps != _steps(spec, sizes):
            changes["finetuning.max_steps"] = steps
    if "parameters" in hold and not _is_set((PARAMETERS,), varied) and _adapts_otherwise(spec, base):
        rank = round(base.factorisation.rank * sizes.width(base) / max(1, sizes.width(spec)))
        rank = min(MOST_RANK, max(1, rank))
        if rank != spec.factorisation.rank:
            changes[PARAMETERS] = rank
            if not _is_set(("factorisation.lora_alpha",), varied):
                scale = spec.factorisation.lora_alpha / spec.factorisation.rank
                changes["factorisation.lora_alpha"] = scale * rank
    return spec.with_changes(changes) if changes else spec


def _is_set(keys: Collection[str], varied: Collection[str]) -> bool:
    """Tell whether one of the keys is varied, by itself or with the part of the spec that it is in."""
    return any(f"{key}.".startswith(f"{own}.") for key in keys for own in varied)


def _trains_otherwise(spec: RunSpec, base: RunSpec) -> bool:
    """Tell whether the number of steps, or of examples seen, may differ from the base's."""
    return spec.task != base.task or spec.finetuning.batch_size != base.finetuning.batch_size


def _adapts_otherwise(spec: RunSpec, base: RunSpec) -> bool:
    return spec.student != base.student or spec.extraction.origin != base.extraction.origin


def _sizes_of(task: TaskSpec) -> tuple[int | None, int]:
    path = named(task.source).path
    return _examples(task.model_dump_json(), None if path is None else file_stamp(path))


@lru_cache(256)
def _examples(task: str, stamp: tuple | None) -> tuple[int | None, int]:
    """Return the entries of an epoch (None: they depend on the tokenizer), and the test examples."""
    del stamp  # a file that has changed is read again
    from paraknow_core.tasks.examples import load_task

    loaded = load_task(TaskSpec.model_validate_json(task))
    return None if loaded.is_text else len(loaded.split("train")), len(loaded.split("test"))


@cache
def _width(source: str, revision: str | None, roles: tuple[str, ...]) -> int:
    from paraknow_core.models.anatomy import read_anatomy
    from paraknow_core.models.source import resolve_model
    from paraknow_core.training.estimates import adapter_parameters

    headers = resolve_model(source, revision, weights=False)
    return adapter_parameters(read_anatomy(headers, tokenizer=False), roles, 1)


# Read from a student's headers and a task's files, each once.
REAL_SIZES = Sizes(
    lambda spec: _sizes_of(spec.task)[0],
    lambda spec: _width(spec.student.source, spec.student.revision, spec.extraction.roles),
    lambda spec: _sizes_of(spec.task)[1],
)


def differences(own: Mapping[str, float | None], other: Mapping[str, float | None]) -> list[str]:
    """Return in which parts two budgets are not equal, in words: `2.0 times the parameters`.

    Args:
        own, other: `steps`, `tokens`, `parameters`; a part that one of them lacks is not compared.
    """
    words = []
    for part in ("steps", "tokens", "parameters"):
        ours, theirs = own.get(part), other.get(part)
        if ours is not None and theirs is not None and abs(ours - theirs) > TOLERANCE[part] * theirs:
            words.append(f"{ours / theirs:.2g} times the {part}" if theirs else f"{ours:,} {part} in place of none")
    return words
