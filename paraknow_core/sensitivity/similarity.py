"""How alike the layers of a pair are on its seed samples: worked out once, kept in the workspace, read by mappings.

Hidden states are compared token by token where both models make the same tokens of a sample, else at the characters
where a token of each ends. The first token of a text is left out: many models keep huge numbers there, which say
nothing of the text. At most `MOST_TOKENS` of the rest are taken, evenly spaced, so that the n x n products of a student
of 32 layers take 1 GB, whatever the widths.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from paraknow_core.context import Context, Model
from paraknow_core.errors import DataError, without_panic
from paraknow_core.files.json_file import write_json
from paraknow_core.sensitivity.saved_similarity import KINDS, VERSION, saved_similarity
from paraknow_core.tasks.fitting import check_rows
from paraknow_core.tasks.templates import render

if TYPE_CHECKING:
    from torch import Tensor

    from paraknow_core.tasks.task import Example

MOST_TOKENS, FEWEST_TOKENS = 2048, 16


@dataclass(frozen=True)
class Reading:
    """The seed samples as both models read them.

    Attributes:
        teacher, student: token ids of each sample.
        pairs: of each sample, (teacher's position, student's position) of the tokens that are compared.
    """

    teacher: tuple[tuple[int, ...], ...]
    student: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[tuple[int, int], ...], ...]

    @cached_property
    def tokens(self) -> int:
        return sum(map(len, self.pairs))

    def halves(self) -> list[bool]:
        """Say of each pair whether it is of the first half: every other sample, or of one sample its beginning."""
        owner = [number for number, pairs in enumerate(p for p in self.pairs if p) for _ in pairs]
        if owner[-1] == 0:
            return [place < self.tokens // 2 for place in range(self.tokens)]
        return [number % 2 == 0 for number in owner]


def read_samples(context: Context) -> Reading:
    """Have both models read the seed samples, and find the tokens that can be compared.

    Raises:
        DataError: they read other texts, or a tokenizer does not tell where its tokens end, or there are too few.
    """
    samples = context.seed_samples
    texts = [[_read(example, context, model) for example in samples] for model in (context.teacher, context.student)]
    every = [_matched(*two, context) for two in zip(*texts, strict=True)]
    count = sum(map(len, every))
    if count < FEWEST_TOKENS:
        raise DataError(
            f"layer similarity: the two models have {count} tokens of the seed samples in common, and {FEWEST_TOKENS} "
            "are needed; give more or longer seed samples (sensitivity.samples), or another mapping.strategy"
        )
    kept = _evenly(count, MOST_TOKENS)
    places = iter(range(count))
    pairs = tuple(tuple(pair for pair in of_text if next(places) in kept) for of_text in every)
    return Reading(*(tuple(tuple(ids) for _, ids, _ in side) for side in texts), pairs)


def similarity(context: Context) -> dict[str, Any]:
    """Return how alike the layers of the context's pair are, from the workspace if it was worked out before.

    Returns:
        `key`, and what `saved_similarity` says.

    Raises:
        DataError: the samples cannot be compared.
    """
    import torch

    from paraknow_core.ops.similarity import RIDGE, layer_similarities

    reading = read_samples(context)
    key = similarity_key(context, reading)
    saved = saved_similarity(context.place, key)
    if saved is not None:
        return saved
    half = torch.tensor(reading.halves())
    student = _states(context, context.student, reading.student, [[s for _, s in p] for p in reading.pairs])
    teacher = _states(context, context.teacher, reading.teacher, [[t for t, _ in p] for p in reading.pairs])
    compared = layer_similarities(teacher, student, half)
    for model in (context.teacher, context.student):
        model.refuse_replaced()
    content = {
        "version": VERSION,
        "teacher": context.teacher.source.label,
        "student": context.student.source.label,
        "task": context.seed_task.name,
        "samples": len(reading.pairs),
        "tokens": reading.tokens,
        "ridge": RIDGE,
        **{kind: [[round(number, 6) for number in row] for row in compared[kind].tolist()] for kind in KINDS},
    }
    context.place.similarity.mkdir(parents=True, exist_ok=True)
    write_json(context.place.similarity / f"{key}.json", content)
    return {"key": key, **content}


def similarity_key(context: Context, reading: Reading | None = None) -> str:
    """Return the name of a pair's similarity: all that its numbers depend on, hashed."""
    reading = reading or read_samples(context)
    models = [[model.fingerprint, model.dtype] for model in (context.teacher, context.student)]
    upstream = [VERSION, models, reading.teacher, reading.student, reading.pairs]
    return hashlib.sha256(json.dumps(upstream).encode()).hexdigest()[:32]


def _states(
    context: Context, model: Model, texts: Sequence[Sequence[int]], places: Sequence[Sequence[int]]
) -> "Iterator[Tensor]":
    from paraknow_core.models.load import pick_device
    from paraknow_core.models.states import layer_states

    who = "teacher" if model is context.teacher else "student"
    device = pick_device(context.settings.device)
    states = layer_states(model.source, model.anatomy, texts, places, dtype=model.dtype, device=device)
    layers = range(model.anatomy.num_hidden_layers)
    for _ in context.follow(layers, f"comparing layers: hidden states of the {who}"):
        yield next(states)


Text = tuple[str, list[int], list[int] | None]  # a text, its tokens, and after which character each of them ends


def _read(example: "Example", context: Context, model: Model) -> Text:
    """Return a sample as a model reads it, cut where its context or the task's limit ends."""
    task, tokenizer = context.seed_task, model.tokenizer
    rendered = render(example, task.template, tokenizer)
    text = rendered.prompt + rendered.answer
    more = {"add_special_tokens": task.template != "chat" or task.is_text, "return_offsets_mapping": tokenizer.is_fast}
    try:
        with without_panic():
            entry = tokenizer(text, truncation=False, verbose=False, **more)
    except RuntimeError as error:
        raise DataError(
            f"tokenizer: cannot take a text ({str(error)[:100]}); get the model's tokenizer again"
        ) from None
    limit = min(task.max_length, model.anatomy.max_position_embeddings)
    ids = list(entry["input_ids"])[:limit]
    check_rows(ids, model.anatomy.vocab_size, tokenizer, f"example {example.id}", model.anatomy.label)
    ends = [end for _, end in entry["offset_mapping"]][:limit] if tokenizer.is_fast else None
    return text, ids, ends


def _matched(teacher: Text, student: Text, context: Context) -> list[tuple[int, int]]:
    """Return the positions in both readings of a text at which the same of it has been read, the first left out."""
    (text, ids, ends), (own_text, own_ids, own_ends) = teacher, student
    if context.alignment.identical and text == own_text:
        both = min(len(ids), len(own_ids))
        if ids[:both] == own_ids[:both]:
            return [(place, place) for place in range(1, both)]
    if ends is None or own_ends is None:
        raise DataError(
            "layer similarity: the tokenizers differ, and one of them does not tell which characters its tokens are; "
            "take models with a tokenizer.json, or another mapping.strategy"
        )
    shared = len(commonprefix([text, own_text]))
    if 2 * shared < min(len(text), len(own_text)):
        raise DataError(
            "layer similarity: the two models' chat templates write the same sample differently, so that their tokens "
            "cannot be compared; take task.template tulu or plain, or another mapping.strategy"
        )
    at = {end: place for place, end in enumerate(ends) if place and 0 < end <= shared}
    own_at = {end: place for place, end in enumerate(own_ends) if place and 0 < end <= shared}
    return [(at[end], own_at[end]) for end in sorted(at.keys() & own_at.keys())]


def _evenly(count: int, most: int) -> set[int]:
    return set(range(count)) if count <= most else {i * count // most for i in range(most)}
