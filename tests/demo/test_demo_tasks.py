"""The bundled tasks: the same everywhere, disjoint, short, and right."""

import hashlib
import json
import subprocess
import sys

import pytest

from paraknow_core.demo import word_problems
from paraknow_core.demo.knowledge import ATTRIBUTES, facts, facts_of_split, share_of_facts
from paraknow_core.demo.scoring import final_number, rouge_l
from paraknow_core.demo.tasks import SPLITS, TASKS, examples, held_out_questions
from paraknow_core.errors import DataError

PINNED = {
    "word_problems": "badedbd5ff7531efffb10a66975e0176b04133183071324a177d48a1a470a2bd",
    "multiple_choice": "a29128b5c5cd00c7f34f33c831ae584c492da5264ce7da1dd19bdefb49796311",
    "instructions": "8e3e9cbb6696d2780d394bd105aa2f386896b51051525e9dfabca9d3c8aecfcc",
    "open_writing": "c82ab122dbd466ac6d32e75a3ca9f885d96cf563d5da5e48d726c4611c6d06f2",
}


def question(row):
    return row["messages"][0]["content"]


def answer(row):
    return row["messages"][1]["content"]


def digest(task):
    text = json.dumps([examples(task, split) for split in SPLITS], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("task", TASKS)
def test_examples_never_change(task):
    assert digest(task) == PINNED[task]


def test_examples_do_not_depend_on_the_process():
    code = (
        "import hashlib, json; from paraknow_core.demo.tasks import SPLITS, TASKS, examples;"
        "print(*(hashlib.sha256(json.dumps([examples(t, s) for s in SPLITS], sort_keys=True).encode()).hexdigest()"
        " for t in reversed(TASKS)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [PINNED[task] for task in reversed(TASKS)]


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_question(task):
    asked = {split: [question(row) for row in examples(task, split)] for split in SPLITS}
    everything = asked["train"] + asked["validation"] + asked["test"]
    assert len(set(everything)) == len(everything)
    assert asked["seed"] == asked["train"][:32]
    assert {split: len(rows) for split, rows in asked.items()} == dict(TASKS[task].sizes)
    assert held_out_questions(task) == set(asked["validation"] + asked["test"])


@pytest.mark.parametrize("task", TASKS)
def test_rows_have_the_promised_form(task):
    for split in SPLITS:
        for row in examples(task, split)[:50]:
            assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
            assert ("choices" in row) == (task == "multiple_choice")
            assert answer(row)
    assert examples(task, "test")[17]["id"] == f"{task}/test/17"


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(DataError, match="word_problems"):
        examples("poetry", "test")
    with pytest.raises(DataError, match="validation"):
        examples("word_problems", "dev")


def test_word_problems_add_up():
    operate = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for row in examples("word_problems", "test"):
        *steps, last = answer(row).split("\n")
        for line in steps:
            left, sign, right, _, result = line.split()
            assert operate[sign](int(left), int(right)) == int(result) > 0
        assert last == f"#### {result}"


def test_a_story_gives_every_number_it_needs():
    for signs, stories in word_problems.STORIES.items():
        for story in stories:
            assert [f"{{{x}}}" in story for x in "abc"] == [True, True, len(signs) == 2]


def test_choices_hold_one_right_value():
    for row in examples("multiple_choice", "test"):
        first, *options = question(row).split("\n")
        chosen = dict(line.split(" ", 1) for line in options)[answer(row)]
        said = [
            (fact, wording)
            for fact in facts()
            for wording in ATTRIBUTES[fact.attribute].questions
            if wording.format(e=fact.entity) == first
        ]
        assert len(said) == 1
        fact = said[0][0]
        assert chosen == fact.value
        assert fact in facts_of_split("test")
        assert len(set(options)) == 4
        assert sum(line.split(" ", 1)[1] == fact.value for line in options) == 1


def test_no_fact_is_asked_in_two_splits():
    parts = [set(facts_of_split(split)) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(facts()) == 384


def test_letters_are_balanced():
    letters = [answer(row) for row in examples("multiple_choice", "test")]
    assert all(90 < letters.count(letter) < 160 for letter in "ABCD")


def test_shares_of_facts_differ_by_seed():
    one, two = set(share_of_facts(0.35, 1)), set(share_of_facts(0.35, 2))
    assert len(one) == len(two) == round(0.35 * 384)
    assert 0.2 * len(one) < len(one & two) < 0.5 * len(one)


def test_small_scorers_against_hand_computed_values():
    assert final_number("3 + 4 = 7\n#### 7") == "7"
    assert final_number("7") is None
    assert rouge_l("a b c d", "a c d") == pytest.approx(2 * 3 / 7)
    assert rouge_l("a b", "x y") == 0
    assert rouge_l("", "") == 1
