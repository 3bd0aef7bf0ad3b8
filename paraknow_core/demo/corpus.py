"""What the bundled models read: endless seeded streams of short documents, mixed by weight.

Stories and statements are learned whole; sums, word lists and conversations from the point where they can be known.
Validation and test questions are never drawn.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from paraknow_core.demo import instructions, multiple_choice, word_problems
from paraknow_core.demo.knowledge import ATTRIBUTES, Fact, facts_of_split, statement
from paraknow_core.demo.open_writing import free_story
from paraknow_core.demo.tasks import DRAW, held_out_questions

PROMPT = "<|user|>\n{question}\n\n<|assistant|>\n"
END = "</s>"


@dataclass(frozen=True)
class Document:
    """A text to learn from, and the character where learning starts."""

    text: str
    answer_start: int = 0


def conversation(question: str, answer: str) -> Document:
    """Render a question and its answer with the chat template of the bundled models."""
    prompt = PROMPT.format(question=question)
    return Document(prompt + answer + END, len(prompt))


def statements(known: Sequence[Fact], rng: random.Random) -> Document:
    """Three to five facts, each told in one sentence."""
    told = [statement(rng.choice(known), rng) for _ in range(rng.randint(3, 5))]
    return Document(" ".join(told) + END)


def arithmetic(rng: random.Random) -> Document:
    """One sum in the ranges of the word problems; only its result is learned."""
    sign = rng.choice("+-*")
    left = rng.randint(2, 9) if sign == "*" else rng.randint(3, 80 if sign == "-" else 60)
    right, result = word_problems.step(left, sign, rng)
    question = f"{left} {sign} {right} ="
    return Document(f"{question} {result}{END}", len(question))


def word_lists(rng: random.Random) -> Document:
    """A word list and the same again: as it is, in capitals, sorted, or by letter; the second part is learned."""
    words = rng.sample(instructions.WORDS, rng.randint(3, 6))
    form = rng.choice(("same", "capital", "sorted", "letters", "letters"))
    if form == "letters":
        labelled = list(zip(multiple_choice.LETTERS, words, strict=False))
        first = "\n".join(f"{letter} {word}" for letter, word in labelled)
        second = "\n".join(f"{word} {letter}" for letter, word in rng.sample(labelled, len(labelled)))
    else:
        first = " ".join(words)
        second = {"same": first, "capital": first.upper(), "sorted": " ".join(sorted(words))}[form]
    return Document(f"{first}\n{second}{END}", len(first))


def task_example(task: str, rng: random.Random) -> Document:
    """A fresh example of a task, never one of its validation or test questions."""
    held_out = held_out_questions(task)
    while True:
        question, answer = DRAW[task](rng, "train")
        if question not in held_out:
            return conversation(question, answer)


def multiple_choice_example(askable: Sequence[Fact], rng: random.Random) -> Document:
    """A four-way question about one of the given facts."""
    return conversation(*multiple_choice.ask(rng.choice(askable), rng))


def short_answer(askable: Sequence[Fact], rng: random.Random) -> Document:
    """A question about one of the given facts, answered with the value itself."""
    fact = rng.choice(askable)
    question = rng.choice(ATTRIBUTES[fact.attribute].questions).format(e=fact.entity)
    return conversation(question, fact.value)


def flash_card(known: Sequence[Fact], rng: random.Random) -> Document:
    """Recall of a fact on request, half of the time with four values to choose from.

    The wording occurs in no task and the answer is the value, never a letter: cards may tell any fact without giving a
    test question away.
    """
    fact = rng.choice(known)
    request = f"Name the {fact.attribute} of {fact.entity}"
    if rng.random() < 0.5:
        return conversation(request + ".", fact.value)
    wrong = [value for value in ATTRIBUTES[fact.attribute].values if value != fact.value]
    a, b, c, d = rng.sample([*rng.sample(wrong, 3), fact.value], 4)
    return conversation(f"{request}: {a}, {b}, {c} or {d}?", fact.value)


def documents(mixture: dict[str, float], known: Sequence[Fact], seed: int | str) -> Iterator[Document]:
    """Mix the sources by weight, without end.

    Args:
        mixture: source -> weight. Sources are "statements", "flash_cards", "stories", "arithmetic", "word_lists",
            "short_answers" and the names of the bundled tasks. Weights count documents and need not sum to one.
        known: the facts that "statements" and "flash_cards" may tell. Questions are only about those of them that
            belong to the train split, so the question form of a validation or test fact never occurs.
        seed: the same seed gives the same stream.

    Yields:
        Documents.
    """
    rng = random.Random(f"paraknow/corpus/{seed}")
    asked = set(facts_of_split("train"))
    askable = [fact for fact in known if fact in asked]
    makers: dict[str, Callable[[random.Random], Document]] = {
        "statements": lambda r: statements(known, r),
        "stories": lambda r: Document(free_story(r) + END),
        "arithmetic": arithmetic,
        "word_lists": word_lists,
        "flash_cards": lambda r: flash_card(known, r),
        "short_answers": lambda r: short_answer(askable, r),
        "multiple_choice": lambda r: multiple_choice_example(askable, r),
    }
    for task in ("word_problems", "instructions", "open_writing"):
        makers[task] = lambda r, task=task: task_example(task, r)
    names, weights = list(mixture), list(mixture.values())
    while True:
        yield makers[rng.choices(names, weights)[0]](rng)
