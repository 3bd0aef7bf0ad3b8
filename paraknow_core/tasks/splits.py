"""Splits: cut one list of examples into train, validation and test, and keep them apart."""

import hashlib
import random
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from paraknow_core.spec import SplitSizes
from paraknow_core.tasks.characters import nfc
from paraknow_core.tasks.task import SPLITS, Example, Message, Task, fingerprint

# Shares of a file that holds only one split: the most that is held out of it, and what is, if no size is given.
MOST_TEST, MOST_VALIDATION, SHARE = 0.3, 0.1, 0.1
TEXT_SHARE = 0.05

Splits = Mapping[str, tuple[Example, ...]]


def split_by_shuffle(examples: Sequence[Example], sizes: SplitSizes, seed: int) -> Splits:
    """Shuffle once with a seed, then hold out test, then validation; the rest is train.

    Test gets its size but at most 30 % of the examples, validation at most 10 %; 10 % each when no size is given.
    """
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)
    test = _held_out(len(examples), sizes.test, MOST_TEST)
    train = test + _held_out(len(examples), sizes.validation, MOST_VALIDATION)
    parts = {"train": shuffled[train:], "validation": shuffled[test:train], "test": shuffled[:test]}
    return {name: tuple(part) for name, part in parts.items()}


def cut_validation(train: Sequence[Example], sizes: SplitSizes, seed: int) -> tuple[tuple[Example, ...], ...]:
    """Take a validation split out of train by chance; both keep their order. Returns (train, validation)."""
    count = _held_out(len(train), sizes.validation, MOST_VALIDATION)
    chosen = set(random.Random(seed).sample(range(len(train)), count))
    kept = tuple(example for index, example in enumerate(train) if index not in chosen)
    return kept, tuple(example for index, example in enumerate(train) if index in chosen)


def split_by_position(examples: Sequence[Example]) -> Splits:
    """Split a text in its own order: the last 5 % of its characters are test, the 5 % before validation.

    An example that crosses a border stays on the earlier side, so that test holds nothing of the first 95 %; only of a
    text of few examples the last one is test whatever its size.
    """
    total = sum(len(example.text or "") for example in examples)
    borders = {"train": (1 - 2 * TEXT_SHARE) * total, "validation": (1 - TEXT_SHARE) * total, "test": float("inf")}
    splits: dict[str, list[Example]] = {name: [] for name in SPLITS}
    position = 0
    for example in examples:
        splits[next(name for name in SPLITS if position < borders[name])].append(example)
        position += len(example.text or "")
    if not splits["test"] and len(examples) > 1:  # a short text, whose last piece crosses the border
        splits["test"].append((splits["validation"] or splits["train"]).pop())
    return {name: tuple(part) for name, part in splits.items()}


def interleave(files: Sequence[Sequence[Example]]) -> tuple[Example, ...]:
    """Take the files' examples in turns, so that a size limit keeps some of every file."""
    return tuple(example for turn in zip_longest(*files) for example in turn if example is not None)


def separate(splits: Splits) -> tuple[Splits, list[str]]:
    """Drop from train what also is, word for word (in NFC), in test or validation.

    Returns:
        The splits and a sentence for each split that shared examples with train.
    """
    train, notes = splits["train"], []
    for name in ("test", "validation"):
        held_out = {_content(example) for example in splits[name]}
        kept = tuple(example for example in train if _content(example) not in held_out)
        if len(kept) < len(train):
            notes.append(
                f"{len(train) - len(kept)} training examples also occur in {name}; they were left out of train"
            )
        train = kept
    return {**splits, "train": train}, notes


def limit(splits: Splits, sizes: SplitSizes) -> Splits:
    """Keep the first examples of each split, as many as its size allows."""
    return {name: splits[name][: getattr(sizes, name)] for name in SPLITS}  # no limit where it is None


def leakage(task: Task) -> list[str]:
    """Say which held-out splits hold prompts that also occur in train, up to case, white space and Unicode form."""
    train = {_normalised_prompt(example) for example in task.splits["train"]}
    sentences = []
    for name in ("validation", "test"):
        part = task.splits[name]
        shared = [example for example in part if _normalised_prompt(example) in train]
        if shared:
            sentences.append(
                f"{len(shared)} of {len(part)} {name} prompts also occur in train (first: {shared[0].id}); "
                f"the {name} score may be too high"
            )
    return sentences


def _held_out(total: int, size: int | None, most: float) -> int:
    if total < 3:  # too few for three parts; the caller says so where it matters
        return 0
    return max(1, round(SHARE * total)) if size is None else min(size, max(1, int(most * total)))


def _content(example: Example) -> str:
    messages = tuple(Message(message.role, nfc(message.content)) for message in example.messages)
    text = None if example.text is None else nfc(example.text)
    return fingerprint([Example("", messages, tuple(map(nfc, example.choices)), text)])


def _normalised_prompt(example: Example) -> bytes:
    prompt = "\n".join(message.content for message in example.prompt) if example.messages else example.text or ""
    plain = " ".join(unicodedata.normalize("NFKC", nfc(prompt)).casefold().split())
    return hashlib.sha256(plain.encode()).digest()
