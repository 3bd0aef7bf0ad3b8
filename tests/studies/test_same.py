"""What makes two runs ask the same, at every distance."""

import pytest

from paraknow_core.catalogue import METHODS, asks_judge, unread
from paraknow_core.demo.tasks import TASKS
from paraknow_core.runs.table import flat_settings, settings_of
from paraknow_core.spec import RunSpec
from paraknow_core.studies import same


def test_other_settings_count_only_where_both_methods_read_them():
    one = RunSpec().with_changes({"injection.mode": "difference", "finetuning.epochs": 2})
    other = RunSpec().with_changes({"method": "default_lora", "seed": 3, "name": "x"})
    own, others, default = map(same.effective, (one, other, RunSpec()))
    assert same.differing(own, others) == ["finetuning.epochs"]
    assert same.differing(own, default) == ["finetuning.epochs", "injection.mode"]


@pytest.mark.parametrize(
    ("base", "changes", "alike"),
    [
        ({"method": "default_lora"}, {"extraction.structure": "random", "mapping.strategy": "top"}, True),
        ({"method": "pissa"}, {"factorisation.split": "sqrt", "teacher.source": "bundled:kin"}, True),
        ({"method": "olora"}, {"extraction.origin": ["ffn"]}, False),
        ({"method": "random_offset"}, {"extraction.structure": "neuron"}, True),
        ({"method": "random_offset"}, {"extraction.seed": 1}, False),
        ({}, {"extraction.structure": "neuron"}, False),
        ({}, {"extraction.seed": 1, "mapping.seed": 2, "sensitivity.seed": 3}, True),
        ({"mapping.strategy": "random"}, {"mapping.seed": 2}, False),
        ({"extraction.structure": "random"}, {"extraction.seed": 2}, False),
        ({"sensitivity.selection": "random"}, {"sensitivity.seed": 2}, False),
        ({"finetuning.max_steps": 5}, {"finetuning.epochs": 9}, True),
        ({}, {"finetuning.epochs": 9}, False),
        ({}, {"name": "x", "finetuning.micro_batch_size": 8}, True),
        ({}, {"until": "extraction"}, False),
        ({"method": "default_lora"}, {"seed": 1}, False),
        ({"method": "default_lora", "task.source": "bundled:open_writing"}, {"teacher.source": "bundled:kin"}, False),
    ],
)
def test_what_a_run_computes_depends_on_what_it_reads(base, changes, alike):
    one = RunSpec().with_changes(base)
    other = one.with_changes(changes)
    assert (same.computes(one) == same.computes(other)) == alike


def test_tasks_that_the_teacher_judges_are_known():
    judged = [f"bundled:{name}" for name, info in TASKS.items() if asks_judge([info.scorer])]
    assert list(same._JUDGED) == judged


@pytest.mark.parametrize(
    ("parts", "changes", "same_there"),
    [
        (same.PAIR_AND_TASK, {"method": "pissa", "finetuning.epochs": 9, "seed": 3}, True),
        (same.PAIR_AND_TASK, {"task.sizes.test": 9}, False),
        (same.LOOKS_ALIKE, {"task.sizes.test": 9}, True),
        (same.LOOKS_ALIKE, {"task.source": "bundled:instructions"}, False),
        (same.COST, {"task.sizes.test": 9, "task.template": "plain"}, True),
        (same.COST, {"task.subset": "main"}, False),
        (same.MEASUREMENT, {"sensitivity.seed": 4, "mapping.strategy": "top"}, True),  # the first examples have no seed
        (same.MEASUREMENT, {"sensitivity.samples": 4}, False),
    ],
)
def test_two_runs_ask_the_same_in_the_parts_that_they_share(parts, changes, same_there):
    spec = RunSpec()
    other = spec.with_changes(changes)
    assert (same.asked(spec, parts) == same.asked(other, parts)) == same_there
    apart_from = tuple(changes)
    assert same.asked(spec, parts, apart_from) == same.asked(other, parts, apart_from)


def test_the_question_is_the_same_whatever_the_method_and_how_it_cuts():
    spec = RunSpec().with_changes({"finetuning.max_steps": 5})
    alike = {"method": "olora", "factorisation.split": "sqrt", "injection.mode": "additive", "finetuning.epochs": 9}
    assert same.question(spec) == same.question(spec.with_changes(alike))
    for changes in ({"factorisation.rank": 4}, {"finetuning.max_steps": 6}, {"teacher.source": "bundled:kin"}):
        assert same.question(spec) != same.question(spec.with_changes({"method": "pissa", **changes}))


def test_a_run_stands_for_another_only_with_the_references_that_are_asked_for():
    spec = RunSpec().with_changes({"method": "pissa", "references": ["student", "teacher"]})
    assert same.shows(spec, spec.with_changes({"references": ["student"]}))
    assert not same.shows(spec.with_changes({"references": ["student"]}), spec)
    assert not same.shows(spec.with_changes({"teacher.source": "bundled:kin"}), spec)  # another one was scored


def test_content_counts_where_both_runs_name_it_and_read_it():
    result = {"fingerprints": {"teacher": "t", "train": "a"}}
    assert same.content(RunSpec(), result) == {"teacher": "t", "train": "a"}
    assert same.content(RunSpec().with_changes({"method": "pissa"}), result) == {"train": "a"}
    assert same.content(RunSpec(), None) == {}
    assert same.other_content({"train": "a", "test": "x"}, {"train": "b", "student": "s"}) == ["train"]


@pytest.mark.parametrize("method", METHODS)
def test_method_and_seed_always_count(method):
    spec = RunSpec(method=method)
    assert {"method", "seed"} <= same.effective(spec).keys()
    assert same.computes(spec) != same.computes(spec.model_copy(update={"seed": 1}))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"seed": 1, "name": "x"}, {"finetuning.max_steps": 5, "references": []}, {"task.columns": {"text": "a"}}]
    + [{"task.scorers": ["win_rate"]}, {"task.judge": {"source": "bundled:kin"}}, {"factorisation.lora_alpha": 8}],
)
def test_what_counts_of_a_spec_is_the_same_part_by_part_as_of_the_whole(method, changes):
    spec = RunSpec().with_changes({"method": method, **changes})
    whole = flat_settings(spec.model_dump(mode="json"))
    assert list(settings_of(spec).items()) == list(whole.items())
    without = {*unread(whole), *same._NO_EFFECT} | (
        {"finetuning.epochs"} if "finetuning.max_steps" in changes else set()
    )
    if same.judged_by_teacher(spec):
        without -= {"teacher.source", "teacher.revision", "teacher.untrained"}
    counts = {key: value for key, value in whole.items() if key not in without}
    assert list(same.effective(spec).items()) == list(counts.items())
    until, parts = same.computes(spec)
    assert (until, frozenset().union(*parts)) == (spec.until, same._hashable(counts))
    asked = {key: value for key, value in whole.items() if key.split(".")[0] in same.PAIR_AND_TASK}
    assert same.asked(spec, same.PAIR_AND_TASK) == same._hashable(asked)
