"""What a glance tells of a task, against its examples encoded by the student's own tokenizer."""

import json
import math

import pytest

from paraknow_core.context import Context
from paraknow_core.models.source import resolve_model
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec, TaskSpec
from paraknow_core.tasks import glance as glances
from paraknow_core.tasks.glance import glance, glance_of
from paraknow_core.tasks.task import Example, Message, Task
from paraknow_core.tasks.templates import encode_split

SIZES = {"train": 40, "validation": 8, "test": 12}


@pytest.fixture
def tokenizer():
    return resolve_model("bundled:stranger").folder / "tokenizer.json"


def encoded(spec: TaskSpec, place):
    """Return the task, and prompt and answer tokens of its examples as a run reads them."""
    context = Context(RunSpec(task=spec), Settings(), place)
    task, reader = context.task, context.student.tokenizer
    parts = [encode_split(task.split(name), task, reader, 512) for name in ("train", "test")]
    lengths = [[(len(e.labels) - e.labels.count(-100), len(e.input_ids)) for e in part] for part in parts]
    return task, [[(whole - learnt, learnt) for learnt, whole in part] for part in lengths]


@pytest.mark.parametrize("name", ["word_problems", "multiple_choice", "instructions"])
def test_a_glance_counts_what_a_run_reads(name, tokenizer, workspace):
    spec = TaskSpec(source=f"bundled:{name}", sizes=SIZES)
    seen, (task, lengths) = glance(spec, tokenizer, 512), encoded(spec, workspace)
    exact = glance_of(task, *lengths)
    assert seen.sizes == exact.sizes == SIZES
    assert sum(seen.tokens) == pytest.approx(sum(exact.tokens), rel=0.03)
    assert seen.tokens[-1] == pytest.approx(exact.tokens[-1], abs=2)
    assert seen.supervised == pytest.approx(exact.supervised, abs=0.02)
    assert seen.answer == pytest.approx(exact.answer, abs=1)
    assert (seen.writes, seen.rows, seen.limit) == (exact.writes, exact.rows, task.max_new_tokens)
    assert seen.seen


def test_plain_text_is_read_in_windows(tmp_path, tokenizer, workspace):
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(f"{n} and {n + 1} apples " * 40 for n in range(30)))
    spec = TaskSpec(source=str(file), format="text", max_length=64)
    seen, (task, lengths) = glance(spec, tokenizer, 512), encoded(spec, workspace)
    assert task.is_text
    assert max(seen.tokens) == 64
    assert (seen.supervised, seen.writes) == (1.0, False)
    assert seen.sizes["train"] == pytest.approx(glance_of(task, *lengths).sizes["train"], rel=0.1)


def test_longer_choices_are_a_row_each():
    def task(*choices):
        turns = (Message("user", "Which?"), Message("assistant", choices[0]))
        examples = tuple(Example(f"e{n}", turns, choices=choices) for n in range(4))
        return Task("t", "T", {"train": examples, "validation": (), "test": examples}, ("multiple_choice",))

    lengths = [[(5, 3)] * 4] * 2
    assert glance_of(task("it is one", "it is two", "it is three"), *lengths).rows == 3
    assert glance_of(task("A", "B", "C"), *lengths).rows == 1


def test_what_is_elsewhere_large_or_damaged_is_not_looked_at(tmp_path, tokenizer, monkeypatch):
    spec = TaskSpec(sizes=SIZES)
    damaged = tmp_path / "tokenizer.json"
    damaged.write_text('{"version": "9.9", "model": {"type": "Nothing"}}')
    assert glance(spec, damaged, 512) is None  # the run itself says so
    assert glance(spec, tmp_path / "none.json", 512) is None
    assert glance(TaskSpec(source="hub:openai/gsm8k"), tokenizer, 512) is None
    assert glance(TaskSpec(source=str(tmp_path / "nothing.jsonl")), tokenizer, 512) is None
    assert glance(TaskSpec(test_source=str(tmp_path / "nothing.jsonl")), tokenizer, 512) is None
    folder = tmp_path / "split"
    folder.mkdir()
    for name in ("train", "test"):
        lines = [{"question": f"{name} {n} and 1?", "answer": str(n + 1)} for n in range(9)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert glance(TaskSpec(source=str(folder)), tokenizer, 512).sizes["test"] == 9
    lines = [{"question": f"more {n} and 1?", "answer": str(n + 1)} for n in range(7)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))  # an edit in place is noticed
    assert glance(TaskSpec(source=str(folder)), tokenizer, 512).sizes["test"] == 7
    monkeypatch.setattr(glances, "MOST_BYTES", 100)
    assert glance(TaskSpec(source=str(folder)), tokenizer, 512) is None


def test_a_home_folder_is_found(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    lines = [{"question": f"{n} and 1?", "answer": str(n + 1)} for n in range(20)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)))
    seen = glance(TaskSpec(source="~/sums.jsonl"), tokenizer, 512)
    assert math.isclose(sum(seen.sizes.values()), 20)
    monkeypatch.setattr(glances, "MOST_BYTES", 100)
    assert glance(TaskSpec(source="~/sums.jsonl"), tokenizer, 512) is None
