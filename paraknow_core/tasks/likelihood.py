"""Log-probabilities of given tokens under a model, in batches: what multiple choice, perplexity and a judge need."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paraknow_core.errors import NumericError
from paraknow_core.tasks.generation import keeps_logits
from paraknow_core.tasks.task import Example
from paraknow_core.tasks.templates import IGNORED, Encoded, TooLongError, encode

MOST_LOGITS = 2**27  # of one forward pass: 512 MB in float32
UNCUT = 2**40


@dataclass(frozen=True)
class Row:
    """One sequence to run through the model, and what to ask of it.

    Attributes:
        id: of the example, for messages.
        tokens: the input.
        asked: groups of (position, token): each group's log-probabilities are summed. The model at `position` has read
            the tokens up to and including that position, and predicts the next one.
    """

    id: str
    tokens: tuple[int, ...]
    asked: tuple[tuple[tuple[int, int], ...], ...]


def label_row(entry: Encoded, *, drop_last: int | None = None) -> Row:
    """Return the row that asks for every label of an encoded example.

    Args:
        drop_last: a token (the end mark) that is not asked for where it comes last, unless it is the only one.
    """
    asked = [(at - 1, label) for at, label in enumerate(entry.labels) if label != IGNORED and at > 0]
    if len(asked) > 1 and asked[-1][1] == drop_last:
        asked.pop()
    return Row(entry.id, entry.input_ids, (tuple(asked),))


def choice_rows(example: Example, template: str, tokenizer: Any, limit: int) -> list[Row]:
    """Return the rows that ask for each choice of an example, in the order of its choices.

    Letters (choices of one character that differ in one token) need a single row; what follows them does not count.
    Longer choices take a row each, and their end mark counts, so that a choice which is the beginning of another one
    has no advantage. Where one choice would merge with the end of the prompt, all are tokenised apart from it.

    Raises:
        TooLongError: a choice does not fit the limit.
    """
    answers = [example.with_answer(choice) for choice in example.choices]
    entries = [encode(answer, template, tokenizer, UNCUT) for answer in answers]
    if len({entry.prefix_ok for entry in entries}) > 1:
        entries = [encode(answer, template, tokenizer, UNCUT, apart=True) for answer in answers]
    longest = max(len(entry.input_ids) for entry in entries)
    if longest > limit:
        raise TooLongError(
            f"example {example.id}: prompt and choice have {longest} tokens, the limit is {limit}; shorten the "
            "example, raise task.max_length, or take a model with a longer context"
        )
    start = entries[0].prompt_length
    if all(len(choice) == 1 for choice in example.choices) and len({len(entry.input_ids) for entry in entries}) == 1:
        columns = enumerate(zip(*(entry.input_ids for entry in entries), strict=True))
        if [at for at, tokens in columns if len(set(tokens)) > 1] == [start]:
            asked = tuple(((start - 1, entry.input_ids[start]),) for entry in entries)
            return [Row(example.id, entries[0].input_ids[:start], asked)]
    return [label_row(entry) for entry in entries]


def log_probabilities(
    model: Any, rows: Sequence[Row], batch_size: int, on_batch: Callable[[dict[int, list[float]]], None] | None = None
) -> list[list[float]]:
    """Return the summed log-probability (nats) of every group of every row.

    Rows are run longest first, padded on the right, as many at once as `batch_size` and memory for logits allow.

    Args:
        model: in evaluation mode.
        on_batch: called after each batch with the sums of its rows, by row index.

    Raises:
        NumericError: a log-probability is NaN or infinite.
    """
    import torch

    sums: dict[int, list[float]] = {}
    with torch.inference_mode():
        for batch in _batches(model, rows, batch_size):
            part = dict(zip(batch, _run(model, [rows[index] for index in batch]), strict=True))
            sums |= part
            if on_batch:
                on_batch(part)
    return [sums[index] for index in range(len(rows))]


def _batches(model: Any, rows: Sequence[Row], batch_size: int) -> list[list[int]]:
    vocabulary = model.get_output_embeddings().weight.shape[0] if hasattr(model, "get_output_embeddings") else 1
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].tokens))
    batches: list[list[int]] = []
    for index in order:
        width = len(rows[batches[-1][0]].tokens) if batches else 0
        full = not batches or len(batches[-1]) >= batch_size
        if full or (len(batches[-1]) + 1) * width * vocabulary > MOST_LOGITS:
            batches.append([])
        batches[-1].append(index)
    return batches


def _run(model: Any, rows: Sequence[Row]) -> list[list[float]]:
    import torch

    from paraknow_core.models.rotary import lengths_matter

    device = next(model.parameters()).device
    width = max(len(row.tokens) for row in rows)
    ids = torch.tensor([[*row.tokens, *[0] * (width - len(row.tokens))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row.tokens) + [0] * (width - len(row.tokens)) for row in rows], device=device)
    first = min(at for row in rows for group in row.asked for at, _ in group)
    options: dict[str, Any] = {"logits_to_keep": width - first} if keeps_logits(model) else {}
    if lengths_matter(model):  # what a row is filled up with is no part of its length
        options["position_ids"] = (mask.cumsum(-1) - 1) * mask
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **options).logits
    offset = width - logits.shape[1]
    asked = [(r, at - offset, token) for r, row in enumerate(rows) for group in row.asked for at, token in group]
    at_row, position, token = (torch.tensor(column, device=device) for column in zip(*asked, strict=True))
    values = _gather(logits, at_row, position, token)
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        row = rows[int(at_row[bad[0, 0]])]
        raise NumericError(
            f"example {row.id}: the model gives a log-probability that is not a number; check its weights, or "
            "compute in float32"
        )
    rest = iter(values.tolist())
    return [[sum(next(rest) for _ in group) for group in row.asked] for row in rows]


def _gather(logits: Any, row: Any, position: Any, token: Any, step: int = 4096) -> Any:
    """Log-probabilities at (row, position, token), float64; only the asked positions are normalised, a step at once."""
    import torch

    parts = []
    for start in range(0, len(row), step):
        chosen = slice(start, start + step)
        picked = logits[row[chosen], position[chosen]].float()
        normaliser = torch.logsumexp(picked, dim=-1)
        parts.append(picked.gather(1, token[chosen, None])[:, 0].double() - normaliser.double())
    return torch.cat(parts)
