"""Small operations on short word lists, in the manner of Super-NaturalInstructions."""

import random
from collections.abc import Callable

WORDS = (
    "air arm bag bird boat bone cake chair cloud corn door dust farm fire frog gate gold hand hill house ice ink iron "
    "jam leaf lion map moon mud night oak oil park path pig rain road rock rope rose salt sand seed ship sky snow "
    "star stone sun tail tent time toad tower tree vase wall wind wolf yard"
).split()

# name -> (wordings of the instruction, what to do with the words)
OPERATIONS: dict[str, tuple[tuple[str, ...], Callable[[list[str]], str]]] = {
    "repeat": (("Repeat the words: {w}", "Say this again: {w}"), " ".join),
    "reverse": (
        ("Reverse the order of the words: {w}", "Write these words backwards: {w}"),
        lambda words: " ".join(reversed(words)),
    ),
    "first": (("What is the first word? {w}", "Give only the first word: {w}"), lambda words: words[0]),
    "last": (("What is the last word? {w}", "Give only the last word: {w}"), lambda words: words[-1]),
    "count": (("Count the words: {w}", "How many words are here? {w}"), lambda words: str(len(words))),
    "sort": (("Sort the words: {w}", "Put these words in order: {w}"), lambda words: " ".join(sorted(words))),
    "upper": (("Write in capital letters: {w}", "Make this uppercase: {w}"), lambda words: " ".join(words).upper()),
    "ends": (
        ("Give the first and the last word: {w}", "Keep only the two outer words: {w}"),
        lambda words: f"{words[0]} {words[-1]}",
    ),
    "without_first": (
        ("Remove the first word: {w}", "Leave out the first word: {w}"),
        lambda words: " ".join(words[1:]),
    ),
    "without_last": (("Remove the last word: {w}", "Leave out the last word: {w}"), lambda words: " ".join(words[:-1])),
}


def draw(rng: random.Random, split: str = "train") -> tuple[str, str]:  # noqa: ARG001
    """Draw one instruction on two to five different words.

    Args:
        rng: source of chance.
        split: unused, as every split gives the same kind of instruction.

    Returns:
        (instruction, the only right answer).
    """
    wordings, operate = OPERATIONS[rng.choice(list(OPERATIONS))]
    words = rng.sample(WORDS, rng.randint(2, 5))
    return rng.choice(wordings).format(w=" ".join(words)), operate(words)
