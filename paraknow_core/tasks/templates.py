"""Templates and label masks: examples to text, to tokens, to labels.

`tokenizer` is a transformers tokenizer throughout; this module itself imports neither torch nor transformers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from paraknow_core.errors import DataError, without_panic
from paraknow_core.tasks.chat import chat_parts
from paraknow_core.tasks.task import Example, Task

IGNORED = -100


class TooLongError(DataError):
    """An example does not fit the limit of its task, or of a model."""


@dataclass(frozen=True)
class Rendered:
    """An example as text: one definition of its answer, for learning, writing and scoring.

    Attributes:
        prompt: what is given.
        answer: what is learnt, up to the end mark.
        tail: of the answer, what the template writes between its words and the end mark; usually nothing.
        mark: of the answer, the end mark: writing stops there.
        rewritten: the chat template would change the answer's words.
    """

    prompt: str
    answer: str
    tail: str = ""
    mark: str = ""
    rewritten: bool = False


@dataclass(frozen=True)
class Encoded:
    """An example as tokens.

    Attributes:
        id: of the example (of a window: of the example it lies in).
        input_ids: all tokens; labels: the same, with -100 where nothing is learnt.
        prompt_length: tokens of the prompt.
        prefix_ok: the tokens are those of the text as a whole; otherwise one of those would span the border, and prompt
            and answer were tokenised one by one.
        bytes: UTF-8 bytes of the supervised text, special marks not counted.
        rewritten: the chat template would change the answer's words.
    """

    id: str
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    prompt_length: int
    prefix_ok: bool = True
    bytes: int = 0
    rewritten: bool = False


def render(example: Example, template: str, tokenizer: Any) -> Rendered:
    """Write an example out as prompt and answer.

    "tulu": each turn is `<|role|>` and its content on lines of their own; user and system turns end in a blank line,
    assistant turns in the end-of-sequence mark. "chat": the tokenizer's own chat template; see `chat`. "plain":
    contents only. Only the last answer is supervised. Of a text example, the prompt is empty.

    Raises:
        DataError: the template is "chat" and the tokenizer has none, or refuses the turns.

    Source:
        "tulu" as in Zhong et al., ICLR 2024, arXiv:2310.11451: `<|user|>\\n{q}\\n\\n<|assistant|>\\n{a}{eos}`.
    """
    if example.text is not None:
        return Rendered("", example.text)
    if template == "chat":
        return _render_chat(example, tokenizer)
    end = tokenizer.eos_token or ""
    if template == "plain":
        prompt = "".join(f"{turn.content}\n" for turn in example.prompt)
        return Rendered(prompt, example.reference + end, mark=end)
    ends = {"assistant": end}
    turns = "".join(f"<|{turn.role}|>\n{turn.content}{ends.get(turn.role, '')}\n\n" for turn in example.prompt)
    return Rendered(f"{turns}<|assistant|>\n", example.reference + end, mark=end)


def encode(
    example: Example, template: str, tokenizer: Any, max_length: int, *, of_model: bool = False, apart: bool = False
) -> Encoded:
    """Turn an example into tokens and labels.

    The tokens are those of the whole text, with the tokenizer's own special tokens, if the prompt's own tokens are the
    first of them. Otherwise a token would span the border, and they are those of the prompt, which writing starts from
    too, and then those of the answer. The prompt's labels are masked; then both are cut at the end to `max_length`.

    Args:
        max_length: tokens that are kept; of_model: whether the model's context sets it, and not the task.
        apart: tokenise prompt and answer one by one in any case.

    Raises:
        TooLongError: no label is left after the cut: the loss of such an example would be NaN.
    """
    rendered = render(example, template, tokenizer)
    prompt, whole, prefix_ok = _whole_tokens(rendered, template, tokenizer, apart)
    count, kept = len(prompt), whole[:max_length]
    labels = [IGNORED] * min(count, len(kept)) + kept[count:]
    if all(label == IGNORED for label in labels[1:]):  # the first token is never predicted
        longer = "the model's context sets it: take a model with a longer one" if of_model else "raise task.max_length"
        raise TooLongError(
            f"example {example.id}: its prompt alone has {count} tokens and nothing of the answer is left, "
            f"the limit is {max_length}; {longer}, shorten the example, or choose others"
        )
    uncut = len(kept) == len(whole)
    answer = rendered.answer.removesuffix(rendered.mark) if uncut else _decode(kept[count:], tokenizer)
    size = len(answer.encode(errors="replace"))
    return Encoded(example.id, tuple(kept), tuple(labels), count, prefix_ok, size, rendered.rewritten)


def encode_prompt(
    example: Example, template: str, tokenizer: Any, max_length: int, room: int, *, of_model: bool = False
) -> list[int]:
    """Return the tokens that generation starts from: those of the prompt part of `encode`.

    Args:
        max_length: tokens that prompt and answer may take together.
        room: tokens that must be left for the answer.
        of_model: whether the model's context sets `max_length`, and not the task.

    Raises:
        TooLongError: the prompt is too long to leave that room; it is never cut.
    """
    tokens = _prompt_tokens(render(example, template, tokenizer), template, tokenizer)
    _check_room(f"example {example.id}: its prompt", tokens, max_length, room, of_model)
    return tokens


def encode_raw(text: str, tokenizer: Any, max_length: int, room: int, *, of_model: bool = False) -> list[int]:
    """Return the tokens of a text that is to be continued as it is, without a template.

    Raises:
        DataError: nothing is left of it, or it is too long; see `encode_prompt`.
    """
    tokens = _prompt_tokens(Rendered(text, ""), "plain", tokenizer)
    if not tokens:
        raise DataError("prompt: this tokenizer makes no token of it; write at least one word")
    _check_room("prompt:", tokens, max_length, room, of_model)
    return tokens


def _check_room(what: str, tokens: Sequence[int], max_length: int, room: int, of_model: bool) -> None:
    if len(tokens) + room > max_length:
        limit = f"{max_length}, the model's context" if of_model else str(max_length)
        remedy = "take a model with a longer one" if of_model else "raise task.max_length"
        raise TooLongError(
            f"{what} has {len(tokens)} tokens and {room} more are needed for the answer, the limit is {limit}; "
            f"shorten the prompt, or {remedy}"
        )


def windows(examples: Iterable[Example], tokenizer: Any, length: int) -> list[Encoded]:
    """Cut text examples into consecutive windows of at most `length` tokens; every token is predicted once.

    A window starts with the beginning-of-sequence token if the tokenizer adds one. Otherwise it starts with the last
    token of the window before, as context; then the first token of an example is predicted by nothing.
    """
    if length < 2:
        raise DataError(f"task.max_length: {length} is too short for a window of text; give 2 or more")
    return [window for example in examples for window in _windows_of(example, tokenizer, length)]


def encode_split(
    examples: Sequence[Example], task: Task, tokenizer: Any, max_length: int | None = None
) -> list[Encoded]:
    """Encode examples of a task for a loss: windows of a text task, else one entry an example.

    Args:
        max_length: the model's context length where it is shorter than the task's.
    """
    length = min(task.max_length, max_length or task.max_length)
    if task.is_text:
        return windows(examples, tokenizer, length)
    of_model = length < task.max_length
    return [encode(example, task.template, tokenizer, length, of_model=of_model) for example in examples]


def answer_ends(rendered: Rendered, tokenizer: Any) -> set[int]:
    """Return the token of the end mark, if it is one: chat templates often end a turn otherwise than a text."""
    if not rendered.mark:
        return set()
    return {tokenizer.convert_tokens_to_ids(rendered.mark)} - {None, tokenizer.unk_token_id}


def _render_chat(example: Example, tokenizer: Any) -> Rendered:
    parts = chat_parts(example, tokenizer)
    marks = [mark for mark in _end_marks(tokenizer) if mark in parts.after]
    if marks:  # what follows the first end mark is never written, and so not learnt
        mark = min(marks, key=lambda text: (parts.after.find(text), -len(text)))
        tail = parts.after.partition(mark)[0]
    else:
        tail, mark = parts.after.rstrip(), tokenizer.eos_token or ""
    return Rendered(parts.prompt, parts.content + tail + mark, tail.strip(), mark, parts.rewritten)


def _end_marks(tokenizer: Any) -> set[str]:
    """Return the special tokens that may end an answer, as text."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    marks = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    return {mark for mark in marks if mark.strip()}


def _whole_tokens(rendered: Rendered, template: str, tokenizer: Any, apart: bool) -> tuple[list[int], list[int], bool]:
    """Return the tokens of the prompt, of prompt and answer, and whether the latter are the whole's own."""
    prompt = _prompt_tokens(rendered, template, tokenizer)
    whole = _tokens(rendered.prompt + rendered.answer, template, tokenizer)
    eos = tokenizer.eos_token
    if eos and rendered.answer.endswith(eos) and whole[-2:] == [tokenizer.eos_token_id] * 2:
        whole = whole[:-1]  # this tokenizer appends its own mark after the template's
    if whole[: len(prompt)] == prompt and not apart:
        return prompt, whole, True
    return prompt, prompt + _answer_tokens(rendered.answer, prompt, whole, tokenizer), False


def _answer_tokens(answer: str, prompt: list[int], whole: list[int], tokenizer: Any) -> list[int]:
    """Return the tokens of an answer behind the prompt's, such that both together read like the whole.

    Some tokenizers put a space before whatever they are given: then the answer is read behind a character that it does
    not merge with, whose own tokens are left out again.
    """

    def read(tokens: list[int]) -> str:
        return tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    as_whole, candidates = read(whole), []
    for lead in ("", "\n", ".", "a", "0"):
        before = _ids(lead, tokenizer, special=False) if lead else []
        tokens = _ids(lead + answer, tokenizer, special=False)
        if tokens[: len(before)] == before:
            candidates.append(tokens[len(before) :])
            if read(prompt + candidates[-1]) == as_whole:
                return candidates[-1]
    return candidates[0] if candidates else []


def _tokens(text: str, template: str, tokenizer: Any) -> list[int]:
    # A chat template writes its special tokens itself: adding them again would double the first one.
    return _ids(text, tokenizer, special=template != "chat")


def _ids(text: str, tokenizer: Any, *, special: bool) -> list[int]:
    """Return the tokens of a text.

    Raises:
        DataError: the tokenizer's library gave up: its file is damaged.
    """
    try:
        with without_panic():
            return list(tokenizer(text, add_special_tokens=special, truncation=False, verbose=False)["input_ids"])
    except RuntimeError as error:  # its library gave up
        raise DataError(
            f"tokenizer: is damaged and cannot take a text ({str(error)[:100]}); get the model's tokenizer.json again"
        ) from None


def _prompt_tokens(rendered: Rendered, template: str, tokenizer: Any) -> list[int]:
    tokens = _tokens(rendered.prompt, template, tokenizer)
    eos = tokenizer.eos_token
    appended = eos and tokens and tokens[-1] == tokenizer.eos_token_id and not rendered.prompt.rstrip().endswith(eos)
    if appended and tokens[-1] != _first_special(tokenizer):
        return tokens[:-1]  # this tokenizer ends every text with its mark; the answer would come after the end
    return tokens


def _first_special(tokenizer: Any) -> int | None:
    """Return the token that the tokenizer puts before a text, if any (OPT's is its end-of-sequence token)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    return full[0] if len(full) > len(bare) and full[0] != bare[0] else None


def _decode(tokens: Sequence[int], tokenizer: Any) -> str:
    return tokenizer.decode(list(tokens), skip_special_tokens=True)


def _windows_of(example: Example, tokenizer: Any, length: int) -> list[Encoded]:
    text = example.text or ""
    entry = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=tokenizer.is_fast)
    tokens, first = list(entry["input_ids"]), _first_special(tokenizer)
    ends = [end for _, end in entry["offset_mapping"]] if tokenizer.is_fast else None
    start, cut = 0, []
    position = ends[0] if ends and first is None else 0  # characters before it are predicted by nothing
    while start < len(tokens):
        context = [first] if first is not None else tokens[max(0, start - 1) : max(1, start)]
        begin = start if first is not None or start else 1  # without a first token, token 0 is only context
        part = tokens[begin : begin + length - len(context)]
        start = begin + len(part)
        stop = len(text) if start == len(tokens) or ends is None else ends[start - 1]
        piece = text[position:stop] if ends else _decode(part, tokenizer)
        position = max(position, stop)
        if part:
            labels = (IGNORED,) * len(context) + tuple(part)
            cut.append(Encoded(example.id, (*context, *part), labels, len(context), True, len(piece.encode())))
    return cut
