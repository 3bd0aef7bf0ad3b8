"""Multiple choice and a judge: the prompt of an example read once, against once for each of its rows.

Run: python -m benchmarks.choices [--small]
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from paraknow_core.tasks.likelihood import Row, choice_rows, label_row, log_probabilities
from paraknow_core.tasks.model_scores import AT_ONCE
from paraknow_core.tasks.task import Example, Message
from paraknow_core.tasks.templates import encode
from paraknow_core.training.amounts import threads_of

EXAMPLES, ROUNDS = 200, 5
SMALL_EXAMPLES, SMALL_ROUNDS = 12, 1
LIMIT = 512
NOTES = [
    "bundled:stranger, the template tulu, on examples made of random words: prompts of 60 to 100 tokens, with four",
    "choices of 15 to 25 tokens, with four letters, or with two answers of 30 to 50 tokens, as a judge reads them. The",
    "way of a row each is the project's own with sharing switched off. Read: tokens that the model reads, padding",
    "included, for each example. CPU seconds of all rows, the ways in turn, the median of the rounds; the ratio is",
    "that of a row each to this way. Difference: the largest relative one between the sums of the two ways. Moved:",
    "examples whose likeliest choice is another one.",
]


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


def cases(tokenizer: Any, count: int) -> Iterator[tuple[str, list[list[Row]]]]:
    """Yield what is asked, and the rows of each example."""
    words = Words(tokenizer)
    long = [words.example(f"l{at}", tuple(words.text(14, 24) for _ in range(4))) for at in range(count)]
    yield "4 choices of 20 tokens", [choice_rows(e, "tulu", tokenizer, LIMIT) for e in long]
    letters = [words.example(f"a{at}", LETTERS) for at in range(count)]
    yield "4 letters", [choice_rows(e, "tulu", tokenizer, LIMIT) for e in letters]
    judged = [(words.example(f"j{at}", ("",)), [words.text(29, 49) for _ in range(2)]) for at in range(count)]
    pairs = [[encode(e.with_answer(text), "tulu", tokenizer, LIMIT) for text in texts] for e, texts in judged]
    yield "2 answers to a judge", [[label_row(entry) for entry in pair] for pair in pairs]


@contextmanager
def row_each() -> Iterator[None]:
    """Switch sharing off."""
    worth, generation.WORTH = generation.WORTH, 2.0
    try:
        yield
    finally:
        generation.WORTH = worth


def score(model: Any, examples: list[list[Row]]) -> list[list[float]]:
    """Return the sums of each example's choices, asked for as an evaluation does."""
    sums: list[list[float]] = []
    for start in range(0, len(examples), AT_ONCE):
        part = examples[start : start + AT_ONCE]
        found = iter(log_probabilities(model, [row for rows in part for row in rows], AT_ONCE))
        sums += [[value for _ in rows for value in next(found)] for rows in part]
    return sums


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
    """Score every case in both ways, in turn."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        student = Context(RunSpec(), Settings(), Workspace(Path(folder))).student
        torch.set_num_threads(threads_of(student.anatomy.parameters))  # as a run does
        model = student.load().eval()
        for case, examples in cases(student.tokenizer, count):
            rows += compare(case, model, examples, rounds)
    return rows


def compare(case: str, model: Any, examples: list[list[Row]], rounds: int) -> list[dict[str, Any]]:
    """Score one case in both ways; return a row for each."""

    def shared() -> list[list[float]]:
        return score(model, examples)

    def alone() -> list[list[float]]:
        with row_each():
            return score(model, examples)

    ways = {"a row each": alone, "shared": shared}
    read = {way: tokens_read(model, work) / len(examples) for way, work in ways.items()}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    sums: dict[str, list[list[float]]] = {}
    for number in range(rounds):
        for way in list(ways) if number % 2 else reversed(ways):
            busy = time.process_time()
            sums[way] = ways[way]()
            spent[way].append(time.process_time() - busy)
    before = sums["a row each"]
    least = statistics.median(spent["a row each"])
    return [
        {
            "case": case,
            "way": way,
            "read": read[way],
            "cpu_seconds": statistics.median(taken),
            "ratio": least / statistics.median(taken),
            "difference": max(
                abs(a / b - 1)
                for new, old in zip(sums[way], before, strict=True)
                for a, b in zip(new, old, strict=True)
            ),
            "moved": sum(
                new.index(max(new)) != old.index(max(old)) for new, old in zip(sums[way], before, strict=True)
            ),
        }
        for way, taken in spent.items()
    ]


def main() -> None:
    """Print the table and write results/choices.json."""
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
    publish(options, "choices", "Multiple choice", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
