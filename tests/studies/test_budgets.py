"""Budgets that a study holds equal, checked against plain counting."""

import math
from dataclasses import dataclass
from itertools import product

import pytest

from paraknow_core.spec import RunSpec
from paraknow_core.studies.budgets import REAL_SIZES, Sizes, differences, held
from paraknow_core.studies.study import StudySpec, groups_of, spec_of

WIDTHS = {("attention",): 100, ("ffn",): 250, ("all",): 350}
SIZES = Sizes(lambda spec: spec.task.sizes.train, lambda spec: WIDTHS[spec.extraction.origin])
BASE = RunSpec().with_changes({"task.sizes.train": 500, "finetuning.batch_size": 32, "finetuning.epochs": 2})


@dataclass(frozen=True)
class Budget:
    """What a run spends: optimiser steps, examples seen, trainable parameters; None where it is not known."""

    steps: int | None
    examples: int | None
    parameters: int


def budget_of(spec, sizes):
    recipe, examples, steps = spec.finetuning, sizes.examples(spec), spec.finetuning.max_steps
    if steps is None and examples is not None:
        steps = math.ceil(recipe.epochs * math.ceil(examples / recipe.batch_size))
    seen = None if steps is None else steps * recipe.batch_size
    return Budget(steps, seen, spec.factorisation.rank * sizes.width(spec))


def changed(hold, **changes):
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return held(BASE.with_changes(dotted), BASE, hold, dotted, SIZES)


def test_steps_stay_those_of_the_base_whatever_the_batch():
    assert budget_of(BASE, SIZES) == Budget(32, 1024, 16 * 350)
    for batch in (8, 64):
        spec = changed(("steps",), finetuning__batch_size=batch)
        assert spec.finetuning.max_steps == 32
        assert changed((), finetuning__batch_size=batch).finetuning.max_steps is None


@pytest.mark.parametrize("batch", [1, 8, 48, 64, 500])
def test_tokens_stay_those_of_the_base_as_far_as_whole_steps_go(batch):
    spec = changed(("tokens",), finetuning__batch_size=batch)
    seen = budget_of(spec, SIZES).examples
    assert all(abs(seen - 1024) <= abs(steps * batch - 1024) for steps in range(1, 1100))


def test_more_data_is_no_longer_training():
    assert changed(("steps",), task__sizes__train=1000).finetuning.max_steps == 32
    assert changed((), task__sizes__train=1000).finetuning.max_steps is None


@pytest.mark.parametrize(("rank", "origin"), product([1, 4, 16], ["attention", "ffn", "all"]))
def test_parameters_come_as_close_to_the_base_as_a_rank_can(rank, origin):
    base = BASE.with_changes({"factorisation.rank": rank, "factorisation.lora_alpha": 2.0 * rank})
    changes = {"extraction.origin": [origin]}
    spec = held(base.with_changes(changes), base, ("parameters",), changes, SIZES)
    width, target = WIDTHS[(origin,)], rank * 350
    nearest = min(range(1, 100), key=lambda r: (abs(r * width - target), -r))
    assert abs(spec.factorisation.rank * width - target) == abs(nearest * width - target)
    assert spec.factorisation.lora_alpha / spec.factorisation.rank == pytest.approx(2.0)


def test_what_a_factor_sets_is_not_undone():
    assert changed(("steps",), finetuning__max_steps=0).finetuning.max_steps == 0
    assert changed(("steps", "tokens"), finetuning__epochs=1, finetuning__batch_size=8).finetuning.max_steps is None
    spec = changed(("parameters",), factorisation__rank=4, extraction__origin=["attention"])
    assert spec.factorisation.rank == 4


def test_a_run_that_spends_what_the_base_does_keeps_its_spec():
    assert changed(("steps", "tokens", "parameters"), method="pissa", mapping__strategy="last") == BASE.with_changes(
        {"method": "pissa", "mapping.strategy": "last"}
    )


def test_a_text_has_no_steps_that_are_known_beforehand():
    unknown = Sizes(lambda spec: None, SIZES.width)
    changes = {"finetuning.batch_size": 8}
    spec = BASE.with_changes(changes)
    assert held(spec, BASE, ("steps",), changes, unknown) == spec
    assert budget_of(spec, unknown).steps is None


def test_the_bundled_pair_is_measured():
    base = RunSpec()
    steps = math.ceil(3 * math.ceil(1000 / 64))
    assert budget_of(base, REAL_SIZES).steps == steps
    study = StudySpec(
        base=base, arms=("default_lora",), factors={"extraction.origin": (["attention"], ["ffn"])}, hold=("parameters",)
    )
    spent = [budget_of(spec_of(study, group, 0), REAL_SIZES).parameters for group in groups_of(study)]
    assert spent == pytest.approx([budget_of(base, REAL_SIZES).parameters] * 2, rel=0.03)


def test_differences_are_said():
    own = {"steps": 48, "tokens": 9000, "parameters": 2000}
    assert differences(own, {"steps": 48, "tokens": 9010, "parameters": 2010}) == []
    assert differences(own, {"steps": 24, "tokens": None, "parameters": 1000}) == [
        "2 times the steps",
        "2 times the parameters",
    ]
    assert differences({"steps": 5}, {"steps": 0}) == ["5 steps in place of none"]


def test_a_data_file_that_grows_is_counted_again(tmp_path):
    pair = '{{"role": "user", "content": "{0} + {0}?"}}, {{"role": "assistant", "content": "#### {1}"}}'
    line = f'{{{{"messages": [{pair}]}}}}\n'
    file = tmp_path / "sums.jsonl"
    counts = []
    for size in (40, 80):
        file.write_text("".join(line.format(i, 2 * i) for i in range(size)))
        sizes = {"train": None, "validation": 4, "test": 8}
        counts.append(REAL_SIZES.examples(RunSpec().with_changes({"task.source": str(file), "task.sizes": sizes})))
    assert counts[1] - counts[0] == 40


def test_of_a_hub_student_no_weight_is_fetched(monkeypatch):
    from paraknow_core.models import source

    asked = []

    def resolve(name, revision=None, *, offline=False, weights=True):  # noqa: ARG001
        asked.append(weights)
        return real("bundled:kin")

    real = source.resolve_model
    monkeypatch.setattr(source, "resolve_model", resolve)
    assert REAL_SIZES.width(RunSpec().with_changes({"student.source": "owner/large"})) > 0
    assert asked == [False]
