"""Rows that begin alike share the reading of it: against each row alone, unpadded, in one pass without a cache."""

import pytest

from paraknow_core.tasks.likelihood import choice_rows, log_probabilities
from paraknow_core.tasks.task import Example
from tests.marking import mostly_slow
from tests.tasks.conftest import ask
from tests.tasks.test_lengths import KINDS, SWITCH, models, tokens  # noqa: F401 - a fixture
from tests.tasks.test_model_scores import plain_log_prob
from tests.tiny_models import FAMILIES

ENDINGS = ("a red cat", "a red cat and its dog", "the sea", "nothing at all, he said")


def questions(count: int = 5) -> list[Example]:
    """Return examples with four choices of several tokens, and prompts of different lengths."""
    asked = ["What did " + "very " * (at % 4) + f"old man {at} see in the morning?" for at in range(count)]
    return [ask(question, ENDINGS[at % 4], f"c{at}", ENDINGS) for at, question in enumerate(asked)]


def rows_of(tokenizer, examples):
    return [row for example in examples for row in choice_rows(example, "tulu", tokenizer, 128)]


def alone(model, rows):
    """Return what is asked of each row, read by itself; without the numbers of its rotary table's neighbours."""
    return [plain_log_prob(model, [*row.tokens], row.asked[0][0][0] + 1) for row in rows]


class Reading:
    """Notes the size (rows, tokens) of every forward pass of a model inside the `with` block."""

    def __init__(self, model):
        self.model, self.passes = model, []

    def __enter__(self):
        def note(_module, _args, inputs):
            self.passes.append(tuple(inputs["input_ids"].shape))

        self.hook = self.model.register_forward_pre_hook(note, with_kwargs=True)
        return self.passes

    def __exit__(self, *_):
        self.hook.remove()


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, "llama", "gpt2", "gemma2", "gpt_neox", "opt"))
def test_choices_share_their_prompt_and_equal_each_alone(tiny, family):
    model, tokenizer = tiny(family)
    rows = rows_of(tokenizer, questions())
    wanted = alone(model, rows)
    for size, passes in ((32, 2), (8, 6), (1, 20)):
        with Reading(model) as made:
            found = [total for (total,) in log_probabilities(model, rows, size)]
        assert found == pytest.approx(wanted, rel=1e-6)
        assert len(made) == passes
    with Reading(model) as made:
        log_probabilities(model, rows, 32)
    prompt, rest = made
    assert prompt == (5, max(row.asked[0][0][0] for row in rows))
    assert rest == (20, max(len(row.asked[0]) for row in rows) + 1)  # and the prompt's last token
