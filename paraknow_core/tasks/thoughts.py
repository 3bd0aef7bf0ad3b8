"""Thoughts: what a model writes between think tags is no part of its answer. Text only, no heavy imports."""

import re

# As open models' chat templates write them; what stands between them is never judged.
TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<thought>", "</thought>"), ("[THINK]", "[/THINK]"))
_OPEN = "|".join(re.escape(opening) for opening, _ in TAGS)
_EMPTY = "|".join(rf"{re.escape(opening)}\s*{re.escape(closing)}" for opening, closing in TAGS)


def without_thoughts(text: str) -> str:
    """Return what comes after the last closing tag; where a later thought is not closed, there is no answer.

    A closing tag counts without its opening one too: many chat templates write that at the end of the prompt.
    """
    for _, closing in TAGS:
        if closing in text:
            text = text.rpartition(closing)[2].lstrip()
    return "" if any(opening in text for opening, _ in TAGS) else text


def starts_with_thought(text: str) -> bool:
    """True if a text begins with a thought that is closed, and an answer follows."""
    return bool(re.match(rf"\s*(?:{_OPEN})", text)) and bool(without_thoughts(text).strip())


def split_thoughts(text: str) -> list[str]:
    """Return the texts before, between and after all think tags."""
    return re.split("|".join(re.escape(tag) for pair in TAGS for tag in pair), text)


def judged(output: str, reference: str) -> tuple[str, str]:
    """Return what is compared of an output and its reference: both without thoughts.

    A reference that speaks of the tags themselves is compared as it is, and so is the output.
    """
    against = without_thoughts(reference) if starts_with_thought(reference) else reference
    if any(tag in against for pair in TAGS for tag in pair):
        return output, against
    return without_thoughts(output), against


def cut_thought_block(prompt: str) -> str:
    """Return a prompt without the empty, or the begun, think block at its end."""
    return re.sub(rf"(?:{_EMPTY}|{_OPEN})\s*\Z", "", prompt)


def is_empty_block(text: str) -> bool:
    """True of a think block without a thought, white space around it included."""
    return bool(re.fullmatch(rf"\s*(?:{_EMPTY})\s*", text))
