"""Splits: nothing lost, nothing twice, nothing leaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paraknow_core.errors import DataError
from paraknow_core.spec import SensitivitySpec, SplitSizes
from paraknow_core.tasks.splits import (
    cut_validation,
    interleave,
    leakage,
    limit,
    separate,
    split_by_position,
    split_by_shuffle,
)
from paraknow_core.tasks.task import Example, fingerprint
from tests.tasks.conftest import ask, make_task

SIZE = st.one_of(st.none(), st.integers(1, 400))


def numbered(count):
    return [ask(f"q{i}", "a", str(i)) for i in range(count)]


@given(st.integers(0, 300), SIZE, SIZE, st.integers(0, 5))
def test_shuffle_keeps_every_example_once(count, validation, test, seed):
    examples = numbered(count)
    splits = split_by_shuffle(examples, SplitSizes(validation=validation, test=test), seed)
    assert sorted((e for part in splits.values() for e in part), key=lambda e: int(e.id)) == examples
    assert splits == split_by_shuffle(examples, SplitSizes(validation=validation, test=test), seed)
    if count >= 3:
        assert all(splits.values())
        assert len(splits["test"]) <= max(1, 0.3 * count, test or 0)
        assert len(splits["train"]) >= 0.6 * count - 2


def test_shuffle_by_hand():
    assert [len(p) for p in split_by_shuffle(numbered(1000), SplitSizes(), 0).values()] == [600, 100, 300]
    null = SplitSizes(train=None, validation=None, test=None)
    assert [len(p) for p in split_by_shuffle(numbered(1000), null, 0).values()] == [800, 100, 100]
    assert split_by_shuffle(numbered(50), null, 0) != split_by_shuffle(numbered(50), null, 1)


def test_validation_cut_keeps_order_and_can_be_none():
    train, validation = cut_validation(numbered(100), SplitSizes(validation=7), 3)
    assert (len(train), len(validation)) == (93, 7)
    assert [int(e.id) for e in train] == sorted(int(e.id) for e in train)
    assert cut_validation(numbered(100), SplitSizes(validation=0), 3)[1] == ()


@given(st.lists(st.integers(1, 50), min_size=3, max_size=80))
def test_text_splits_follow_the_file(lengths):
    examples = [Example(str(i), text="x" * n) for i, n in enumerate(lengths)]
    splits = split_by_position(examples)
    assert [*splits["train"], *splits["validation"], *splits["test"]] == examples
    assert splits["train"] and splits["test"]


def test_text_test_split_is_the_last_twentieth():
    examples = [Example(str(i), text="x" * 10) for i in range(200)]
    splits = split_by_position(examples)
    assert [len(part) for part in splits.values()] == [180, 10, 10]
    assert splits["test"][0].id == "190"


def test_interleave_takes_turns():
    assert interleave([numbered(3), numbered(1)]) == (*numbered(1), *numbered(3))


def test_exact_duplicates_leave_train_only():
    same, near = ask("What is 2+2?", "4", "s"), ask("what is  2+2?", "four", "n")
    splits = {"train": (same, near, ask("other", "x")), "validation": (), "test": (ask("What is 2+2?", "4", "t"),)}
    kept, notes = separate(splits)
    assert [e.id for e in kept["train"]] == ["n", "e"]
    assert kept["test"] == splits["test"]
    assert notes == ["1 training examples also occur in test; they were left out of train"]
    task = make_task([same])
    object.__setattr__(task, "splits", kept)
    (sentence,) = leakage(task)
    assert sentence.startswith("1 of 1 test prompts also occur in train (first: t)")


def test_duplicates_are_found_in_either_unicode_form():
    composed, decomposed = (
        ask("caf\u00e9?", "\u00e9", "c", ("\u00e9", "e")),
        ask("cafe\u0301?", "e\u0301", "d", ("e\u0301", "e")),
    )
    assert fingerprint([composed]) != fingerprint([decomposed])  # of the files as they are
    kept, _ = separate(
        {"train": (composed, ask("10\u00b2", "x")), "validation": (), "test": (decomposed, ask("102", "x"))}
    )
    assert [e.question for e in kept["train"]] == ["10\u00b2"]
    texts = Example("t", text="\u00e9"), Example("u", text="e\u0301")
    assert separate({"train": texts[:1], "validation": (), "test": texts[1:]})[0]["train"] == ()


def test_limit_keeps_the_first():
    splits = {"train": tuple(numbered(9)), "validation": tuple(numbered(9)), "test": tuple(numbered(9))}
    cut = limit(splits, SplitSizes(train=4, validation=0, test=None))
    assert [len(part) for part in cut.values()] == [4, 0, 9]
    assert cut["train"][0].id == "0"


def test_seed_samples():
    task = make_task(numbered(20))
    assert [e.id for e in task.seed_samples(SensitivitySpec(samples=3))] == ["0", "1", "2"]
    drawn = task.seed_samples(SensitivitySpec(samples=5, selection="random", seed=1))
    assert drawn == task.seed_samples(SensitivitySpec(samples=5, selection="random", seed=1))
    assert drawn != task.seed_samples(SensitivitySpec(samples=5, selection="random", seed=2))
    assert len({e.id for e in drawn}) == 5
    chosen = task.seed_samples(SensitivitySpec(selection="manual", ids=("7", "3")))
    assert [e.id for e in chosen] == ["7", "3"]
    for bad, sentence in (
        (SensitivitySpec(samples=21), "21 seed samples asked for, but the train split of task mini has 20"),
        (SensitivitySpec(selection="manual", ids=("x", "1")), "'x' is not in the train split"),
        (SensitivitySpec(selection="manual", ids=("1", "1")), "an id is given twice"),
    ):
        with pytest.raises(DataError, match=sentence):
            task.seed_samples(bad)


def test_fingerprint_is_of_the_content():
    first, second = [ask("q", "a", "1"), ask("r", "b", "2")], [ask("q", "a", "x"), ask("r", "b", "y")]
    assert fingerprint(first) == fingerprint(second) != fingerprint(second[::-1])
    assert fingerprint([ask("q", "ab")]) != fingerprint([ask("qa", "b")])
    assert fingerprint([Example("1", text="q")]) != fingerprint([Example("1", text="r")])
    task = make_task(first)
    assert task.fingerprint("test") == fingerprint(first)
    with pytest.raises(DataError, match="no split 'seed'; choose from train"):
        task.fingerprint("seed")
