"""What the bundled models read never holds what they are tested on."""

import itertools

import pytest

from paraknow_core.demo.corpus import documents, task_example
from paraknow_core.demo.knowledge import ATTRIBUTES, facts, facts_of_split
from paraknow_core.demo.recipes import RECIPES
from paraknow_core.demo.tasks import held_out_questions


def texts(mixture, count, seed=0):
    return [d.text for d in itertools.islice(documents(mixture, facts(), seed), count)]


@pytest.mark.parametrize("task", ["word_problems", "multiple_choice", "instructions", "open_writing"])
def test_no_held_out_question_is_read(task):
    for text in texts({task: 1}, 5000):
        assert text.removeprefix("<|user|>\n").split("\n\n<|assistant|>")[0] not in held_out_questions(task)


def test_a_held_out_question_that_is_drawn_is_drawn_again(monkeypatch):
    held_out = min(held_out_questions("instructions"))
    offered = iter([(held_out, "x"), (held_out, "x"), ("a new one", "y")])
    monkeypatch.setitem(task_example.__globals__["DRAW"], "instructions", lambda rng, split: next(offered))
    assert "a new one" in task_example("instructions", None).text


def test_the_question_form_of_a_test_fact_never_occurs():
    read = texts({"multiple_choice": 1, "short_answers": 1}, 20_000)
    asked = {text.removeprefix("<|user|>\n").split("\n")[0] for text in read}
    for split in ("validation", "test"):
        for fact in facts_of_split(split):
            for wording in ATTRIBUTES[fact.attribute].questions:
                assert wording.format(e=fact.entity) not in asked


def test_streams_repeat_with_their_seed():
    for recipe in RECIPES:
        for stage in recipe.stages:
            assert texts(stage.mixture, 200, 5) == texts(stage.mixture, 200, 5) != texts(stage.mixture, 200, 6)


def test_flash_cards_never_show_a_letter_or_a_wording_of_the_task():
    for document in itertools.islice(documents({"flash_cards": 1}, facts(), 0), 2000):
        request, answer = document.text.removeprefix("<|user|>\n").split("\n\n<|assistant|>\n")
        assert request.startswith("Name the ")
        assert answer.removesuffix("</s>") not in "ABCD"
