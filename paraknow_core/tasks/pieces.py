"""What each token of an encoded example stands for, as text that a person can read."""

from collections.abc import Sequence
from typing import Any

from paraknow_core.tasks.task import Example
from paraknow_core.tasks.templates import render


def marks(tokenizer: Any) -> set[int]:
    """Return the tokens that stand for no text of their own: special ones, and those added for turns of a talk."""
    return set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", ()))


def token_texts(example: Example, template: str, tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Return the piece of text behind each token of an example.

    Args:
        example, template, tokenizer: what was encoded, and how.
        ids: the tokens, as `encode` gives them without a limit (or a window of a text).

    Returns:
        One text a token; joined they are the example where the tokenizer tells positions. A token that is only part
        of a character, and a special token, is shown by its own name.
    """
    special = marks(tokenizer)
    names = tokenizer.convert_ids_to_tokens(list(ids))
    spans = _spans(example, template, tokenizer, ids)
    texts = []
    for index, (token, name) in enumerate(zip(ids, names, strict=True)):
        if token in special:
            texts.append(name)
        elif spans is not None:
            texts.append(spans[index] or name)
        else:
            texts.append(_own_text(name, tokenizer))
    return texts


def _spans(example: Example, template: str, tokenizer: Any, ids: Sequence[int]) -> list[str] | None:
    """Return the text at each token's position, or None where the tokenizer does not tell or the tokens differ."""
    if not tokenizer.is_fast or example.text is not None:
        return None
    rendered = render(example, template, tokenizer)
    text = rendered.prompt + rendered.answer
    entry = tokenizer(
        text, add_special_tokens=template != "chat", truncation=False, verbose=False, return_offsets_mapping=True
    )
    if list(entry["input_ids"])[: len(ids)] != list(ids):
        return None
    texts, reached = [], 0
    for start, end in entry["offset_mapping"][: len(ids)]:
        texts.append(text[max(start, reached) : end])  # parts of one character all claim it: the first one has it
        reached = max(reached, end)
    return texts


def _own_text(name: str, tokenizer: Any) -> str:
    text = tokenizer.convert_tokens_to_string([name])
    if not text or "\N{REPLACEMENT CHARACTER}" in text:
        return name
    return f" {text}" if name.startswith("▁") and not text.startswith(" ") else text
