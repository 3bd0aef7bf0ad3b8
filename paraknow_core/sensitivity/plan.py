"""Before a sensitivity is measured: what it will take in memory, disk and time, and which way suits this machine.

Pure arithmetic on an anatomy and a few measured rates; needs no torch, so that a page can show it too.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from paraknow_core.display import memory
from paraknow_core.errors import RunError
from paraknow_core.models.anatomy import Anatomy
from paraknow_core.models.modules import stored_shapes

F32 = 4
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}
BATCH_TOKENS = 512  # of the samples that go through a large layer together, filling included: products of full speed
BATCH_WEIGHTS = 1 << 20  # smaller weights gain little, and sample by sample their results are exact to the bit
GROUP_LOGITS = 1 << 24  # of the samples whose logits are in memory together: 64 MB, or one sample's
GROUP_WEIGHTS = 1 << 24  # of an output layer whose samples are taken together
_LOGIT_COPIES = 5  # the logits, their logarithms, and gradients
_LOGIT_STRIP = 8 << 20  # the same of some tokens at a time: so many bytes each, beside the logits
_HELD_BACK = 1.15  # what the C library has not given back yet, as a factor: measured on Llama shapes from 3M to 7B
_SMALL = 30e6  # code that is loaded late, small buffers
RELEASE_BEYOND = 190_000_000  # bytes over its start; up to there freed memory stays, which saves a seventh of the time
_HELD_BACK_SMALL = 1.5  # and the factor for a teacher so small that all its layers can stay within that
MAP_SIZE = 256  # largest side of a module's map
_BESIDE_PRODUCTS = 1.15  # attention, norms and activations, in time: measured on Llama shapes
_CALL_SECONDS = 0.003  # one batch through one layer, forward and back, however small
_START_SECONDS = 0.5  # opening the files, code that is loaded late
_ALONE = 1.3  # how much slower the products of one sample are than those of a batch
_MARGIN = 0.9  # of the budget, for choosing to hold the whole teacher


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second: measured by `ops.speed`, or assumed for an estimate.

    Attributes:
        flops: operations of the model's own matrix products.
        bytes: read and written by plain passes over memory.
        disk: bytes read from the weights' files.
        fresh: bytes of memory written for the first time, which the system has to find first.
    """

    flops: float
    bytes: float
    disk: float
    fresh: float = math.inf


@dataclass(frozen=True)
class Need:
    """What one way of measuring takes: bytes of memory of its own, bytes of disk, seconds (None: rates unknown)."""

    memory: int
    disk: int
    seconds: float | None


@dataclass(frozen=True)
class SensitivityPlan:
    """The way to measure, why, and what both ways would take."""

    way: Literal["resident", "streamed"]
    device: str
    reason: str
    budget: int
    needs: dict[str, Need]

    @property
    def need(self) -> Need:
        return self.needs[self.way]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Sizes:
    """The parameter counts a measurement depends on.

    Attributes:
        all, layers, largest_layer, largest_in_layer, vocabulary: parameters of the model, of all layers, of the
            largest layer, of the largest weight of a layer, and of one embedding.
        embedding_size, hidden_size, intermediate_size, num_hidden_layers: as the config has them.
        reductions: bytes of all maps, row sums and column sums.
    """

    all: int
    layers: int
    largest_layer: int
    largest_in_layer: int
    vocabulary: int
    embedding_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    reductions: int


def sizes_of(anatomy: Anatomy) -> Sizes:
    """Count what matters for a plan."""
    by_layer: dict[int, int] = defaultdict(int)
    counts = {name: rows * cols for name, (rows, cols) in stored_shapes(anatomy.modules).items()}
    for name, count in counts.items():
        if anatomy.layer_of[name] is not None:
            by_layer[anatomy.layer_of[name]] += count
    embed, shapes = anatomy.find("embed", None), [module.shape for module in anatomy.modules]
    return Sizes(
        all=anatomy.parameters,
        layers=sum(by_layer.values()),
        largest_layer=max(by_layer.values()),
        largest_in_layer=max(count for name, count in counts.items() if anatomy.layer_of[name] is not None),
        vocabulary=embed.shape[0] * embed.shape[1],
        embedding_size=embed.shape[1],
        hidden_size=anatomy.hidden_size,
        intermediate_size=anatomy.intermediate_size,
        num_hidden_layers=anatomy.num_hidden_layers,
        reductions=F32 * sum(min(rows, MAP_SIZE) * min(cols, MAP_SIZE) + rows + cols for rows, cols in shapes),
    )


def plan_sensitivity(
    anatomy: Anatomy,
    lengths: Sequence[int],
    supervised: int,
    *,
    device: str,
    dtype: str,
    budget: int,
    base: int,
    way: Literal["auto", "resident", "streamed"] = "auto",
    full: bool | None = None,
    rates: Rates | None = None,
) -> SensitivityPlan:
    """Choose between holding the whole teacher in memory and streaming its layers.

    Args:
        anatomy: the teacher's.
        lengths: tokens of each seed sample.
        supervised: supervised tokens of all samples together.
        device: where to compute; `budget` is its memory.
        dtype: what is computed in; weights stored in it are used from their files.
        budget: bytes of memory that may be used.
        base: bytes this process has already, libraries included.
        way: auto, or the way that was asked for.
        full: keep S whole; None: where it is held whole anyway.
        rates: for the time.

    Raises:
        RunError: not even streaming fits the budget; says what is needed.
    """
    size, count = sizes_of(anatomy), _BYTES[dtype]
    converted = 0 if anatomy.dtype == dtype and device == "cpu" else count
    needs = {
        "resident": Need(
            base + _resident_memory(size, count, lengths),
            F32 * size.all if full is not False else size.reductions,
            rates and _resident_seconds(size, lengths, rates, anatomy.bytes, full is not False),
        ),
        "streamed": Need(
            base + _streamed_memory(size, count, converted, lengths),
            _streamed_disk(anatomy, size, count, lengths) + (F32 * size.all if full else 0),
            rates and _streamed_seconds(size, lengths, supervised, rates, anatomy.bytes, bool(full)),
        ),
    }
    if way != "auto":
        chosen, reason = way, "asked for"
    elif needs["resident"].memory <= _MARGIN * budget:
        chosen, reason = "resident", f"the whole teacher takes {memory(needs['resident'].memory)} of memory"
    else:
        chosen = "streamed"
        reason = (
            f"the whole teacher would take {memory(needs['resident'].memory)} of the {memory(budget)} "
            f"of memory that may be used"
        )
    if chosen == "streamed" and needs["streamed"].memory > budget:
        raise RunError(
            f"memory budget: {memory(budget)} given, but {anatomy.label} needs {memory(needs['streamed'].memory)}"
            " even one layer at a time; raise --memory-budget, or compute with a dtype of 16 bits"
        )
    if chosen == "resident" and way == "resident" and needs["resident"].memory > budget:
        raise RunError(
            f"memory budget: {memory(budget)} given, but {anatomy.label} as a whole needs "
            f"{memory(needs['resident'].memory)}; leave out --streaming never, or raise --memory-budget"
        )
    return SensitivityPlan(chosen, device, reason, budget, needs)


def batch_tokens(size: Sizes, lengths: Sequence[int]) -> int:
    """Return how many tokens go through a layer together."""
    return max(max(lengths), min(sum(lengths), BATCH_TOKENS) if size.largest_in_layer >= BATCH_WEIGHTS else 0)


def _activation_bytes(size: Sizes, count: int, tokens: int) -> int:
    """What autograd keeps of one layer: about ten hidden and five intermediate states."""
    return count * tokens * (10 * size.hidden_size + 5 * size.intermediate_size)


def _logit_bytes(size: Sizes, lengths: Sequence[int], vocabulary: int) -> int:
    together = vocabulary * max(lengths)
    if size.vocabulary >= GROUP_WEIGHTS:
        together = max(together, min(GROUP_LOGITS, vocabulary * sum(lengths)))
    return F32 * together + (_LOGIT_COPIES - 1) * min(_LOGIT_STRIP, F32 * vocabulary * max(lengths))


def _streamed_memory(size: Sizes, count: int, converted: int, lengths: Sequence[int]) -> int:
    tokens, vocabulary = batch_tokens(size, lengths), size.vocabulary // size.embedding_size
    layer = (converted + F32) * size.largest_layer + _activation_bytes(size, count, tokens)
    output = F32 * size.vocabulary + _logit_bytes(size, lengths, vocabulary)
    embedding = F32 * size.vocabulary + _activation_bytes(size, count, max(lengths))
    most = max(layer, output, embedding, size.reductions)
    return round(max(_HELD_BACK * most, min(_HELD_BACK_SMALL * most, 1.6 * RELEASE_BEYOND)) + _SMALL)


def _resident_memory(size: Sizes, count: int, lengths: Sequence[int]) -> int:
    longest, vocabulary = max(lengths), size.vocabulary // size.embedding_size
    kept = size.num_hidden_layers * _activation_bytes(size, count, longest)
    logits = _LOGIT_COPIES * F32 * longest * vocabulary
    return round((count + F32) * size.all + kept + logits + _SMALL)


def _streamed_disk(anatomy: Anatomy, size: Sizes, count: int, lengths: Sequence[int]) -> int:
    states = (size.num_hidden_layers + 3) * sum(lengths) * size.hidden_size * count
    tied = F32 * (size.vocabulary + sum(lengths) * size.hidden_size) if anatomy.tied else 0
    return states + tied + size.reductions


def _streamed_seconds(
    size: Sizes, lengths: Sequence[int], supervised: int, rates: Rates, stored: int, full: bool
) -> float:
    # Forward, forward again, and two products backward; the output layer's logits and two products.
    flops = 8 * size.layers * sum(lengths) * _BESIDE_PRODUCTS + 6 * size.vocabulary * supervised
    # Twice read and converted; sums written and read for their reductions, those of the vocabulary also cleared, added
    # to and weighed.
    passes = size.layers * (2 * 6 + 4 * F32) + size.vocabulary * (8 * F32 + 2 * F32 * len(lengths))
    disk = 2 * stored + F32 * size.all * full
    batches = max(1, len(lengths) * max(lengths) // batch_tokens(size, lengths))
    calls = _CALL_SECONDS * size.num_hidden_layers * batches
    return _START_SECONDS + calls + flops / rates.flops + passes / rates.bytes + disk / rates.disk


def _resident_seconds(size: Sizes, lengths: Sequence[int], rates: Rates, stored: int, full: bool) -> float:
    slower = _ALONE if batch_tokens(size, lengths) > max(lengths) else 1.0
    flops = slower * 6 * (size.layers * _BESIDE_PRODUCTS + size.vocabulary) * sum(lengths)
    passes = size.all * (6 + 8 * F32)
    fresh = 2 * F32 * size.all  # weights and sums; a streamed layer's go where the last one's were
    disk = stored + F32 * size.all * full
    calls = _CALL_SECONDS * size.num_hidden_layers * len(lengths)
    moving = passes / rates.bytes + fresh / rates.fresh + disk / rates.disk
    return _START_SECONDS + calls + flops / rates.flops + moving
