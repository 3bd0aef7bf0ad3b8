"""Four-way questions about the invented world, in the manner of MMLU."""

import random

from paraknow_core.demo.knowledge import ATTRIBUTES, Fact, facts_of_split

LETTERS = ("A", "B", "C", "D")


def ask(fact: Fact, rng: random.Random) -> tuple[str, str]:
    """Turn a fact into a question with four options.

    Args:
        fact: what is asked for.
        rng: chooses the wording, the three wrong values and the order.

    Returns:
        (question with its options, letter of the right one).
    """
    attribute = ATTRIBUTES[fact.attribute]
    options = rng.sample([v for v in attribute.values if v != fact.value], 3) + [fact.value]
    rng.shuffle(options)
    lines = [rng.choice(attribute.questions).format(e=fact.entity)]
    lines += [f"{letter} {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join(lines), LETTERS[options.index(fact.value)]


def draw(rng: random.Random, split: str = "train") -> tuple[str, str]:
    """Draw one question about a fact of the split.

    Args:
        rng: source of chance.
        split: "train", "validation" or "test"; their facts are disjoint.

    Returns:
        (question with its options, letter of the right one).
    """
    return ask(rng.choice(facts_of_split(split)), rng)
