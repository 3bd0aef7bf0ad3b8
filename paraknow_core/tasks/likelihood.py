"""Log-probabilities of given tokens under a model, in batches: what multiple choice, perplexity and a judge need."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from os.path import commonprefix
from typing import Any

from paraknow_core.errors import NumericError
from paraknow_core.tasks.generation import cached_bytes, keeps_logits, new_cache, read_once, spares_enough
from paraknow_core.tasks.task import Example
from paraknow_core.tasks.templates import IGNORED, Encoded, TooLongError, encode

MOST_LOGITS = 2**27  # of one forward pass: 512 MB in float32
MOST_CACHED = 2**30  # bytes of the keys and values of one, in float32
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

    Rows of one example that follow one another have a beginning in common: where that spares enough, it is read once
    and they go on from its keys and values, which gives the same sums up to rounding. Rows are run longest first, as
    many at once as `batch_size` and memory allow.

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
            indices = [index for bundle in batch for index in bundle.rows]
            part = dict(zip(indices, _run(model, rows, batch), strict=True))
            sums |= part
            if on_batch:
                on_batch(part)
    return [sums[index] for index in range(len(rows))]


@dataclass(frozen=True)
class _Bundle:
    """Rows that are run together.

    Attributes:
        rows: their indices.
        longest: tokens of the longest one.
        shared: tokens that all of them begin with and that are read once; 0: a single row, read as a whole.
    """

    rows: tuple[int, ...]
    longest: int
    shared: int = 0


def _batches(model: Any, rows: Sequence[Row], batch_size: int) -> list[list[_Bundle]]:
    """Return what is run at once: bundles of like length, which all share a beginning, or none of them does."""
    batches: list[list[_Bundle]] = []
    for bundle in sorted(_bundles(model, rows, batch_size), key=lambda each: (each.shared > 0, -each.longest)):
        last = batches[-1] if batches else []
        alike = last and (last[0].shared > 0) == (bundle.shared > 0)
        if alike and _fit([*last, bundle], model, batch_size):
            last.append(bundle)
        else:
            batches.append([bundle])
    return batches


def _bundles(model: Any, rows: Sequence[Row], batch_size: int) -> Iterator[_Bundle]:
    """Put the rows of one example together where what they share can be read once, and that is worth it."""
    from paraknow_core.models.rotary import table_of, tables_of_their_own

    makers, can_share = tables_of_their_own(model), new_cache(model) is not None
    for _, run in groupby(range(len(rows)), key=lambda index: rows[index].id):
        indices = tuple(run)
        lengths = [len(rows[index].tokens) for index in indices]
        bundle = _Bundle(indices, max(lengths), _in_common([rows[index] for index in indices]) if can_share else 0)
        of_one_table = len({table_of(makers, length) for length in (bundle.shared, *lengths)}) == 1  # as keys must be
        if bundle.shared and of_one_table and _fit([bundle], model, batch_size):
            yield bundle
        else:
            yield from (_Bundle((index,), length) for index, length in zip(indices, lengths, strict=True))


def _fit(bundles: Sequence[_Bundle], model: Any, batch_size: int) -> bool:
    """Tell whether bundles, the longest first, may be run at once, and are rather than as whole rows if they share.

    Their rows are few enough, and so are their logits and, if they share, what is cached. What is then read, padding
    included, is so much less than whole rows would take that the second pass is worth it.
    """
    vocabulary = model.get_output_embeddings().weight.shape[0] if hasattr(model, "get_output_embeddings") else 1
    count, shared = sum(len(bundle.rows) for bundle in bundles), max(bundle.shared for bundle in bundles)
    rest = max(bundle.longest - bundle.shared for bundle in bundles)
    if count > batch_size or count * rest * vocabulary > MOST_LOGITS:
        return False
    read, whole = len(bundles) * shared + count * rest, count * bundles[0].longest
    return not shared or (spares_enough(read, whole) and count * (shared + rest) * cached_bytes(model) <= MOST_CACHED)


def _in_common(rows: Sequence[Row]) -> int:
    """Return how many tokens all rows begin with, up to the first one behind which something is asked."""
    first = min((at for row in rows for group in row.asked for at, _ in group), default=0)
    return min(first, len(commonprefix([row.tokens for row in rows])))


def _run(model: Any, rows: Sequence[Row], batch: Sequence[_Bundle]) -> list[list[float]]:
    import torch

    from paraknow_core.models.rotary import lengths_matter

    device, sharing = next(model.parameters()).device, batch[0].shared > 0
    read = [(rows[index], bundle.shared) for bundle in batch for index in bundle.rows]
    rests = [row.tokens[shared:] for row, shared in read]
    width = max(map(len, rests))
    ids = torch.tensor([[*rest, *[0] * (width - len(rest))] for rest in rests], device=device)
    mask = torch.tensor([[1] * len(rest) + [0] * (width - len(rest)) for rest in rests], device=device)
    asked = [
        (r, at - shared, token) for r, (row, shared) in enumerate(read) for group in row.asked for at, token in group
    ]
    first = min(at for _, at, _ in asked)
    options: dict[str, Any] = {"logits_to_keep": width - first} if keeps_logits(model) else {}
    if sharing:
        beginnings = [rows[bundle.rows[0]].tokens[: bundle.shared] for bundle in batch]
        of_row = [number for number, bundle in enumerate(batch) for _ in bundle.rows]
        options["past_key_values"], before = read_once(model, beginnings, of_row)
        mask = torch.cat([before, mask], dim=1)
    if sharing or lengths_matter(model):  # what a row is filled up with is no part of its length
        options["position_ids"] = ((mask.cumsum(-1) - 1) * mask)[:, -width:]
    logits = model(input_ids=ids, attention_mask=mask, use_cache=sharing, **options).logits
    offset = width - logits.shape[1]
    at_row, position, token = (torch.tensor(column, device=device) for column in zip(*asked, strict=True))
    values = _gather(logits, at_row, position - offset, token)
    bad = (~torch.isfinite(values)).nonzero()
    if len(bad):
        row, _ = read[int(at_row[bad[0, 0]])]
        raise NumericError(
            f"example {row.id}: the model gives a log-probability that is not a number; check its weights, or "
            "compute in float32"
        )
    rest = iter(values.tolist())
    return [[sum(next(rest) for _ in group) for group in row.asked] for row, _ in read]


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
