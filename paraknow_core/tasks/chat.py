"""A tokenizer's own chat template, rendered the same way every day: what it writes before an answer, and after it.

The answer is found by its place: the template is rendered with a mark in place of the answer. What stands before the
mark is given (the role's header and an empty think block included), what stands there is learnt, and so is what
follows up to the end mark.
"""

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.tasks.bounds import OutOfBoundsError, bounded
from paraknow_core.tasks.task import Example
from paraknow_core.tasks.thoughts import cut_thought_block, is_empty_block, split_thoughts, starts_with_thought

# The day that a template is told when it asks: any other would give other numbers tomorrow. It is the one that the
# templates of Llama 3.2 take where nobody tells them the day.
TODAY = datetime(2024, 7, 26)
_CLOCK = re.compile(r"\bstrftime_now\b")
_CHANCE = re.compile(r"\|\s*random\b|\blipsum\b")
_PLACE = "7351924680"  # digits: no template trims, folds or translates them


@dataclass(frozen=True)
class ChatParts:
    """A conversation as a chat template writes it.

    Attributes:
        prompt: what is given.
        content: the answer, as the template writes it.
        after: what the template writes after it.
        opening: what the template writes when it is asked for a generation prompt; None if it refuses.
        rewritten: the template would change the answer's words; they are the data's here.
    """

    prompt: str
    content: str
    after: str
    opening: str | None
    rewritten: bool = False


def chat_parts(example: Example, tokenizer: Any) -> ChatParts:
    """Render a conversation and find its last answer in it.

    An answer that begins with a thought of its own takes the place of the template's empty think block.

    Raises:
        DataError: there is no chat template, or it refuses the turns.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DataError("task.template: chat, but the model's tokenizer has no chat template; choose tulu or plain")
    turns = [{"role": turn.role, "content": turn.content} for turn in example.messages]
    place = _PLACE
    while any(place in turn["content"] for turn in turns):
        place += _PLACE[len(place) % len(_PLACE)]
    try:
        framed = _apply(tokenizer, [*turns[:-1], turns[-1] | {"content": place}])
        whole = _apply(tokenizer, turns)
    except Exception as error:  # a template is a program of the model's author and may raise anything
        raise _refusal(example, error) from None
    try:
        opening = _apply(tokenizer, turns[:-1], add_generation_prompt=True)
    except Exception as error:
        if place not in framed or isinstance(error, OutOfBoundsError):
            raise _refusal(example, error) from None
        opening = None
    return _parts(example, framed.partition(place), whole, opening, place)


def asks_for_the_date(tokenizer: Any) -> bool:
    """True if the tokenizer's chat template calls for the clock."""
    template = getattr(tokenizer, "chat_template", None)
    return bool(template) and bool(_CLOCK.search(str(template)))


def _refusal(example: Example, error: Exception) -> DataError:
    return DataError(
        f"example {example.id}: the model's chat template refuses its turns ({str(error)[:100]}); "
        "choose template tulu or plain"
    )


def _parts(example: Example, framed: tuple[str, str, str], whole: str, opening: str | None, place: str) -> ChatParts:
    before, seen, after = framed
    after = after.partition(place)[0]  # an answer that is written twice is learnt once
    reference = example.reference
    asked = example.prompt[-1].content.strip() if example.prompt else ""
    if opening is not None and (not seen or not before.strip() or asked in opening and asked not in before):
        return ChatParts(opening, reference, after, opening)  # what comes before the answer says nothing of the prompt
    thinks = starts_with_thought(reference)
    head = cut_thought_block(before) if thinks else before
    content, rewritten = reference, True
    if whole.startswith(head) and whole.endswith(after) and len(whole) >= len(head) + len(after):
        middle = whole[len(head) : len(whole) - len(after)]
        same = middle.strip() == reference.strip()
        if same or (thinks and _without_space(middle) == _without_space(reference)):
            content, rewritten = middle, False
    if opening is not None and head.startswith(opening) and not head[len(opening) :].strip():
        head, content = opening, head[len(opening) :] + content  # the white space between belongs to the first word
    elif opening is not None and not thinks and opening.startswith(head) and is_empty_block(opening[len(head) :]):
        head = opening
    return ChatParts(head, content, after, opening, rewritten)


def _without_space(text: str) -> list[str]:
    """Return the parts between think tags, white space aside: a template sets tags on lines of their own."""
    return [part.strip() for part in split_thoughts(text)]


def _apply(tokenizer: Any, turns: list[dict[str, str]], **options: Any) -> str:
    template = tokenizer.get_chat_template()
    told = f"{_clock()}{template}" if _CLOCK.search(template) else template
    with bounded(), _same_chance() if _CHANCE.search(template) else nullcontext():
        return tokenizer.apply_chat_template(turns, chat_template=told, tokenize=False, **options)


@cache
def _clock() -> str:
    """Return a template's own `strftime_now`, which takes the place of the library's: the library passes no functions.

    It knows every letter of strftime, with and without filling zeros, for the one day.
    """
    values = {f"%{letter}": TODAY.strftime(f"%{letter}") for letter in "aAbBcdfHIjmMpSuUVwWxXyYGzZ"}
    values |= {f"%-{name[1]}": str(int(value)) for name, value in values.items() if name[1] in "dHIjmMSyUWV"}
    values |= {"%e": "26", "%D": "07/26/24", "%F": "2024-07-26", "%T": "00:00:00", "%R": "00:00", "%h": "Jul"}
    chain = "".join(f"|replace({name!r}, {value!r})" for name, value in values.items())
    return (
        "{%- macro strftime_now(format) -%}{{ format|replace('%%', '\\x00')" + chain + "|replace('\\x00', '%') }}"
        "{%- endmacro -%}"
    )


@contextmanager
def _same_chance() -> Iterator[None]:
    """Let what a template picks at random be the same every time."""
    before = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(before)
