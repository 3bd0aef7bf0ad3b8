"""What a run began with, and what it may go on with."""

import pytest

from paraknow_core.context import Context
from paraknow_core.errors import RunError
from paraknow_core.runs.table import flat_settings
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.training.inputs import more_fingerprints, other_circumstances, pinned, refuse_changed


def noted(**changes):
    """What a prepare notes, with dotted changes of the spec."""
    spec = RunSpec().with_changes({"name": "a", **changes})
    return {
        "fingerprints": {"train": "1" * 64, "test": "2" * 64, "teacher": "3" * 64, "student": "4" * 64},
        "inputs": {"teacher_tokenizer": "5" * 64, "generation": "none"},
        "machine": {"device": "cpu", "dtype": "float32", "student_bits": None},
        "versions": {"torch": "2.0"},
        "settings": flat_settings(spec.model_dump(mode="json")),
    }


def test_the_same_goes_on_and_so_does_what_an_earlier_version_did_not_note():
    now = noted()
    refuse_changed(noted(), now, reads_teacher=True)
    refuse_changed({"fingerprints": {"train": "1" * 64}}, now, reads_teacher=True)
    refuse_changed({"inputs": None, "machine": None}, now, reads_teacher=True)
    assert other_circumstances({"fingerprints": {}}, now) == ""


@pytest.mark.parametrize(
    ("part", "name", "words"),
    [
        ("fingerprints", "train", "the training examples (99999999 then, 11111111 now)"),
        ("fingerprints", "student", "the student's weights"),
        ("fingerprints", "teacher", "the teacher's weights"),
        ("fingerprints", "validation", "the validation examples (99999999 then, none now)"),
        ("inputs", "generation", "generation_config.json (99999999 then, none now)"),
        ("inputs", "teacher_tokenizer", "the teacher's tokenizer"),
    ],
)
def test_what_was_replaced_is_named(part, name, words):
    before = noted()
    before[part][name] = "9" * 64
    with pytest.raises(RunError, match="put back what it began with") as refused:
        refuse_changed(before, noted(), reads_teacher=True)
    assert words in str(refused.value)
    if name.startswith("teacher"):
        refuse_changed(before, noted(), reads_teacher=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("finetuning.learning_rate", 0.5),
        ("finetuning.max_steps", 7),
        ("seed", 3),
        ("method", "default_lora"),
        ("task.max_new_tokens", 9),
    ],
)
def test_a_spec_that_a_hand_has_changed_is_refused(key, value):
    with pytest.raises(RunError, match="settings are frozen") as refused:
        refuse_changed(noted(), noted(**{key: value}), reads_teacher=True)
    assert key in str(refused.value)


@pytest.mark.parametrize(("key", "value"), [("name", "other"), ("task.source", "./moved.jsonl"), ("references", [])])
def test_names_and_places_may_change(key, value):
    refuse_changed(noted(), noted(**{key: value}), reads_teacher=True)


@pytest.mark.parametrize(("name", "value"), [("dtype", "bfloat16"), ("student_bits", 4)])
def test_another_precision_is_refused_and_another_device_is_said(name, value):
    now = noted()
    now["machine"][name] = value
    with pytest.raises(RunError, match=f"computes with {name}"):
        refuse_changed(noted(), now, reads_teacher=True)
    now = noted()
    now["machine"]["device"] = "cuda"
    refuse_changed(noted(), now, reads_teacher=True)
    assert "device cpu before, cuda now" in other_circumstances(noted(), now)


def test_a_hub_model_goes_on_at_the_commit_it_began_with():
    spec = RunSpec().with_changes({"student.source": "owner/name", "task.source": "hub:owner/data"})
    before = {"revisions": {"student": "a" * 40, "teacher": None, "task": "b" * 40}}
    found = pinned(spec, before)
    assert (found.student.revision, found.teacher.revision, found.task.revision) == ("a" * 40, None, "b" * 40)
    assert pinned(found, {"revisions": {"student": "c" * 40}}) == found
    for nothing in ({}, {"revisions": None}, {"revisions": {}}):
        assert pinned(spec, nothing) == spec


@pytest.mark.parametrize(("method", "reads"), [("seeking", True), ("lora_ga", True), ("default_lora", False)])
def test_seed_samples_of_another_task_are_noted_for_whoever_reads_them(method, reads, workspace):
    spec = RunSpec().with_changes({"method": method, "sensitivity.task": "bundled:multiple_choice"})
    assert ("seed_task" in more_fingerprints(Context(spec, Settings(offline=True), workspace))) == reads
