"""Seed samples of another task: a control that changes what the teacher is measured on, and nothing else."""

import json

import pytest

from paraknow_core.context import Context
from paraknow_core.errors import DataError
from paraknow_core.sensitivity.measure import seed_key
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.tasks.examples import load_task
from paraknow_core.tasks.templates import encode
from paraknow_core.training.preparation import check_examples


@pytest.fixture
def other(tmp_path):
    """A data file of six short examples and a long one, the last."""
    file = tmp_path / "other.jsonl"
    rows = [{"question": f"what is number {n}", "answer": f"the number {n}"} for n in range(6)]
    rows.append({"question": "long " * 100, "answer": "yes"})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def context_of(workspace, changes):
    return Context(RunSpec().with_changes(changes), Settings(offline=True, dtype="float32"), workspace)


def test_samples_are_the_other_tasks_and_the_run_keeps_its_own(workspace, other):
    context = context_of(workspace, {"sensitivity.task": other, "sensitivity.samples": 4})
    own = context_of(workspace, {"sensitivity.samples": 4})
    assert [sample.question for sample in context.seed_samples] == [f"what is number {n}" for n in range(4)]
    assert context.seed_task.name == "other"
    assert context.task.splits == own.task.splits
    encoded, key = seed_key(context)
    twins = [encode(sample, "tulu", context.teacher.tokenizer, 512) for sample in context.seed_samples]
    assert [entry.input_ids for entry in encoded] == [twin.input_ids for twin in twins]
    assert key != seed_key(own)[1]


def test_the_same_samples_share_a_measurement_whatever_task_they_come_from(workspace):
    named = context_of(
        workspace, {"task.source": "bundled:multiple_choice", "sensitivity.task": "bundled:word_problems"}
    )
    assert seed_key(named)[1] == seed_key(context_of(workspace, {}))[1]


def test_too_few_samples_are_refused_by_the_other_tasks_name(workspace, other):
    context = context_of(workspace, {"sensitivity.task": other, "sensitivity.samples": 8})
    with pytest.raises(DataError, match="8 seed samples asked for, but the train split of task other has 7"):
        context.seed_samples  # noqa: B018


def test_a_file_that_is_not_there_is_refused(workspace):
    with pytest.raises(DataError, match="nowhere"):
        context_of(workspace, {"sensitivity.task": "nowhere.jsonl"}).seed_samples  # noqa: B018


@pytest.mark.parametrize("too_long", ["refuse", "leave_out"])
def test_samples_that_are_too_long(workspace, other, too_long):
    changes = {"sensitivity.task": other, "sensitivity.samples": 6, "task.too_long": too_long}
    changes |= {"task.max_length": 100, "task.sizes": {"train": 2, "validation": 0, "test": 1}}
    changes |= {"until": "sensitivity"}
    if too_long == "leave_out":
        context = context_of(workspace, changes)
        assert len(context.seed_samples) == 6
        assert context.left_out["seed samples"] == 1
    else:
        context = context_of(workspace, changes | {"sensitivity.samples": 7})
        with pytest.raises(DataError, match=r"1 of the 7 seed samples|this one of the seed samples"):
            check_examples(context, needs_teacher=True)


def test_text_beside_questions_is_read_as_text(workspace, tmp_path):
    text = tmp_path / "plain.txt"
    text.write_text("A dog ran. " * 300)
    context = context_of(workspace, {"sensitivity.task": str(text), "sensitivity.samples": 1})
    encoded, _ = seed_key(context)
    assert load_task(RunSpec().task).is_text is False
    assert encoded and encoded[0].labels[1] != -100


def test_a_note_says_so(workspace, other):
    changes = {"sensitivity.task": other, "sensitivity.samples": 2, "until": "sensitivity"}
    notes = check_examples(context_of(workspace, changes), needs_teacher=True)
    assert "the seed samples are of the task other, not of the run's own" in notes
    assert check_examples(context_of(workspace, {"until": "sensitivity"}), needs_teacher=True) == []
