"""What rows begin with, read once: the prompt of choices, of a judge's two answers, of all answers that are written.

Run: python -m benchmarks.shared_prompts [--small]
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import arguments, machine, publish
from paraknow_core.context import Context
from paraknow_core.demo.instructions import WORDS
from paraknow_core.demo.multiple_choice import LETTERS
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.tasks import generation
from paraknow_core.tasks.generation import generate, rows_at_once
from paraknow_core.tasks.likelihood import Row, choice_rows, label_row, log_probabilities
from paraknow_core.tasks.model_scores import AT_ONCE
from paraknow_core.tasks.task import Example, Message
from paraknow_core.tasks.templates import encode
from paraknow_core.training.amounts import threads_of

EXAMPLES, ROUNDS = 200, 5
SMALL_EXAMPLES, SMALL_ROUNDS = 12, 1
LIMIT, NEW = 512, 24  # tokens
NOTES = [
    "bundled:stranger, the template tulu, on examples made of random words: prompts of 60 to 100 tokens, with four",
    "choices of 15 to 25 tokens, with four letters, or with two answers of 30 to 50 tokens, as a judge reads them; and",
    "24 tokens written behind prompts of 30 to 50 tokens, the same again behind 50 that all prompts begin with. Whole",
    "rows are the project's own way with sharing switched off. Read: tokens that the model reads, padding included,",
    "for each example. CPU seconds of all examples, the ways in turn, the median of the rounds; the ratio is that of",
    "whole rows to this way. Difference: the largest relative one between the sums of the two ways. Moved: examples",
    "with another likeliest choice, or another answer.",
]
Values = list[list[float]]


class Words:
    """Texts of random words."""

    def __init__(self, tokenizer: Any, seed: int = 0) -> None:
        self.tokenizer, self.chance = tokenizer, random.Random(seed)

    def text(self, least: int, most: int) -> str:
        """Return a text of about so many tokens."""
        wanted, text = self.chance.randint(least, most), self.chance.choice(WORDS)
        while len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) < wanted:
            text += f" {self.chance.choice(WORDS)}"
        return text

    def example(self, name: str, choices: tuple[str, ...]) -> Example:
        """Return an example; the template's own marks take some tokens of its prompt."""
        turns = (Message("user", self.text(45, 85)), Message("assistant", choices[0]))
        return Example(name, turns, choices)


def cases(model: Any, tokenizer: Any, count: int) -> Iterator[tuple[str, "partial[Values]"]]:
    """Yield what is measured, and what gives the numbers of each example: sums of its rows, or tokens."""
    words = Words(tokenizer)
    long = [words.example(f"l{at}", tuple(words.text(14, 24) for _ in range(4))) for at in range(count)]
    yield "4 choices of 20 tokens", partial(score, model, [choice_rows(e, "tulu", tokenizer, LIMIT) for e in long])
    letters = [words.example(f"a{at}", LETTERS) for at in range(count)]
    yield "4 letters", partial(score, model, [choice_rows(e, "tulu", tokenizer, LIMIT) for e in letters])
    judged = [(words.example(f"j{at}", ("",)), [words.text(29, 49) for _ in range(2)]) for at in range(count)]
    pairs = [[encode(e.with_answer(text), "tulu", tokenizer, LIMIT) for text in texts] for e, texts in judged]
    yield "2 answers to a judge", partial(score, model, [[label_row(entry) for entry in pair] for pair in pairs])
    begun = tokenizer(words.text(50, 50))["input_ids"][:50]
    prompts = [tokenizer(words.text(30, 50))["input_ids"] for _ in range(count)]
    yield "24 tokens written", partial(write, model, prompts)
    yield "the same behind 50 shared", partial(write, model, [begun + prompt for prompt in prompts])


@contextmanager
def whole_rows() -> Iterator[None]:
    """Switch sharing off."""
    worth, generation.WORTH = generation.WORTH, 2.0
    try:
        yield
    finally:
        generation.WORTH = worth


def score(model: Any, examples: list[list[Row]]) -> Values:
    """Return the sums of each example's choices, asked for as an evaluation does."""
    sums: Values = []
    for start in range(0, len(examples), AT_ONCE):
        part = examples[start : start + AT_ONCE]
        found = iter(log_probabilities(model, [row for rows in part for row in rows], AT_ONCE))
        sums += [[value for _ in rows for value in next(found)] for rows in part]
    return sums


def write(model: Any, prompts: list[list[int]]) -> Values:
    """Return the tokens that are written behind each prompt, as many prompts at once as in an evaluation."""
    ordered = sorted(range(len(prompts)), key=lambda at: -len(prompts[at]))
    at_once, written = rows_at_once(model, len(prompts[ordered[0]]) + NEW, AT_ONCE), {}
    for start in range(0, len(ordered), at_once):
        part = ordered[start : start + at_once]
        answers = generate(model, [prompts[at] for at in part], max_new_tokens=NEW, limit=LIMIT, ends=())
        written |= {at: list(answer.tokens) for at, answer in zip(part, answers, strict=True)}
    return [written[at] for at in range(len(prompts))]


def tokens_read(model: Any, work: Callable[[], object]) -> int:
    """Count the tokens that a model reads during a call, padding included."""
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(lambda *call: sizes.append(call[-1]["input_ids"].numel()), with_kwargs=True)
    try:
        work()
    finally:
        hook.remove()
    return sum(sizes)


def measure(count: int, rounds: int) -> list[dict[str, Any]]:
    """Measure every case in both ways, in turn."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        student = Context(RunSpec(), Settings(), Workspace(Path(folder))).student
        torch.set_num_threads(threads_of(student.anatomy.parameters))  # as a run does
        model = student.load().eval()
        for case, work in cases(model, student.tokenizer, count):
            rows += compare(case, model, work, count, rounds)
    return rows


def compare(case: str, model: Any, shared: "partial[Values]", count: int, rounds: int) -> list[dict[str, Any]]:
    """Measure one case in both ways; return a row for each."""

    def whole() -> Values:
        with whole_rows():
            return shared()

    ways = {"whole rows": whole, "shared": shared}
    read = {way: tokens_read(model, work) / count for way, work in ways.items()}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    values: dict[str, Values] = {}
    for number in range(rounds):
        for way in list(ways) if number % 2 else reversed(ways):
            busy = time.process_time()
            values[way] = ways[way]()
            spent[way].append(time.process_time() - busy)
    least, writes = statistics.median(spent["whole rows"]), shared.func is write
    rows = []
    for way, taken in spent.items():
        pairs = list(zip(values[way], values["whole rows"], strict=True))
        apart = [abs(a / b - 1) for new, old in pairs for a, b in zip(new, old, strict=True)] if not writes else []
        same = [new == old if writes else new.index(max(new)) == old.index(max(old)) for new, old in pairs]
        rows.append(
            {
                "case": case,
                "way": way,
                "read": read[way],
                "cpu_seconds": statistics.median(taken),
                "ratio": least / statistics.median(taken),
                "difference": max(apart, default=None),
                "moved": same.count(False),
            }
        )
    return rows


def main() -> None:
    """Print the table and write results/shared_prompts.json."""
    options = arguments(__doc__.splitlines()[0])
    facts = machine()
    rows = measure(SMALL_EXAMPLES, SMALL_ROUNDS) if options.small else measure(EXAMPLES, ROUNDS)
    columns = {
        "case": str,
        "way": str,
        "read": "{:.0f}".format,
        "cpu_seconds": "{:.2f}".format,
        "ratio": "{:.2f}x".format,
        "difference": "{:.0e}".format,
        "moved": str,
    }
    publish(options, "shared_prompts", "Shared prompts", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
