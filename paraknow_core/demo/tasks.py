"""The four bundled mini tasks: what they are, and their examples, generated the same way everywhere.

Importing this module loads neither torch nor transformers.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import ClassVar

from paraknow_core.demo import instructions, multiple_choice, open_writing, word_problems
from paraknow_core.errors import DataError

SPLITS = ("seed", "train", "validation", "test")


@dataclass(frozen=True)
class TaskInfo:
    """What a person and a program need to know about a bundled task.

    Attributes:
        name: key in `TASKS`.
        title: label for people.
        description: one sentence.
        mirrors: the benchmark of the paper that it stands for.
        scorer: of its main score, a name in `catalogue.SCORERS`.
        secondary_scorers: further scorers that make sense.
        max_new_tokens: enough for every answer, in tokens of the bundled tokenizer.
        sizes: examples in each split.
    """

    name: str
    title: str
    description: str
    mirrors: str
    scorer: str
    secondary_scorers: tuple[str, ...]
    max_new_tokens: int
    sizes: ClassVar[Mapping[str, int]] = MappingProxyType({"seed": 32, "train": 1000, "validation": 200, "test": 500})


TASKS: dict[str, TaskInfo] = {
    info.name: info
    for info in [
        TaskInfo(
            "word_problems",
            "Word problems",
            "Short arithmetic stories with one or two steps; the answer ends in #### and a number.",
            mirrors="GSM8K",
            scorer="number_match",
            secondary_scorers=("exact_match",),
            max_new_tokens=48,
        ),
        TaskInfo(
            "multiple_choice",
            "Multiple choice",
            "Questions with four options about an invented world of places, people and animals.",
            mirrors="MMLU",
            scorer="multiple_choice",
            secondary_scorers=(),
            max_new_tokens=4,
        ),
        TaskInfo(
            "instructions",
            "Instructions",
            "Small operations on a list of words: repeat, reverse, sort, count, pick, remove, uppercase.",
            mirrors="Super-NaturalInstructions",
            scorer="exact_match",
            secondary_scorers=("rouge_l",),
            max_new_tokens=32,
        ),
        TaskInfo(
            "open_writing",
            "Open writing",
            "Requests for a very short story with a given hero, thing and place.",
            mirrors="AlpacaFarm",
            scorer="win_rate",
            secondary_scorers=("perplexity", "rouge_l"),
            max_new_tokens=72,
        ),
    ]
}

DRAW: dict[str, Callable[[random.Random, str], tuple[str, str]]] = {
    "word_problems": word_problems.draw,
    "multiple_choice": multiple_choice.draw,
    "instructions": instructions.draw,
    "open_writing": open_writing.draw,
}


@cache
def _pairs(task: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """Question and answer of every example, split by split; no question occurs twice."""
    asked: set[str] = set()
    drawn: dict[str, tuple[tuple[str, str], ...]] = {}
    for split in ("train", "validation", "test"):
        rng = random.Random(f"paraknow/{task}/{split}")
        pairs: list[tuple[str, str]] = []
        while len(pairs) < TASKS[task].sizes[split]:
            question, answer = DRAW[task](rng, split)
            if question not in asked:
                asked.add(question)
                pairs.append((question, answer))
        drawn[split] = tuple(pairs)
    return drawn


def examples(task: str, split: str) -> list[dict]:
    """The examples of one split of a bundled task.

    Args:
        task: a key of `TASKS`.
        split: "seed", "train", "validation" or "test". The seed samples are the first examples of train, as in the
            paper; train, validation and test share no question.

    Returns:
        Dicts with `id` ("word_problems/test/17"), `messages` (user, assistant) and, for multiple choice, `choices`
        (the candidate answers). The same on every machine and in every process.

    Raises:
        DataError: no such task or split.
    """
    if task not in TASKS:
        raise DataError(f"demo tasks: no task {task!r}; choose one of {', '.join(TASKS)}")
    if split not in SPLITS:
        raise DataError(f"demo task {task}: no split {split!r}; choose one of {', '.join(SPLITS)}")
    source = "train" if split == "seed" else split
    rows = []
    for index, (question, answer) in enumerate(_pairs(task)[source][: TASKS[task].sizes[split]]):
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        row: dict = {"id": f"{task}/{source}/{index}", "messages": messages}
        if TASKS[task].scorer == "multiple_choice":
            row["choices"] = list(multiple_choice.LETTERS)
        rows.append(row)
    return rows


@cache
def held_out_questions(task: str) -> frozenset[str]:
    """The validation and test questions of a task: no model may ever be trained on them."""
    return frozenset(question for split in ("validation", "test") for question, _ in _pairs(task)[split])
