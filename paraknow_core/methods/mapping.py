"""Layer mapping: for each student layer, the teacher layer it receives.

To add a strategy, write its row in `catalogue.STRATEGIES` and its function here:

    strategy(spec, pair, store) -> LayerMapping

It may look at whatever of the two models it needs: their anatomies, weights, and (loaded) their activations on the
pair's seed samples. Most strategies keep some teacher layers in their order; `_in_order` makes a mapping of them.
"""

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from paraknow_core.catalogue import STRATEGIES, implementation
from paraknow_core.errors import ShapeError
from paraknow_core.spec import MappingSpec

if TYPE_CHECKING:
    from paraknow_core.context import Context, Model
    from paraknow_core.sensitivity.store import SensitivityStore

LayerMapping = list[int | None]


class Pair(Protocol):
    """Two models: what of a run's `Context` a strategy sees."""

    teacher: "Model"
    student: "Model"


Strategy = Callable[[MappingSpec, Pair, "SensitivityStore | None"], LayerMapping]


def map_layers(spec: MappingSpec, pair: Pair, store: "SensitivityStore | None" = None) -> LayerMapping:
    """Choose a teacher layer for each student layer, by the strategy of the spec.

    Args:
        spec: the strategy and its settings.
        pair: the two models.
        store: the teacher's sensitivity, for the strategies that need it.

    Returns:
        One entry a student layer; None: that student layer receives nothing.

    Raises:
        ShapeError: the strategy lacks what it needs, or a manual mapping does not fit the two models.

    Source:
        Zhong et al., ICLR 2024, arXiv:2310.11451 (strategies of its Figure 5a).
    """
    strategy: Strategy = implementation(STRATEGIES[spec.strategy])
    return strategy(spec, pair, store)


def reads_states(spec: MappingSpec) -> bool:
    """Tell whether the strategy compares hidden states: costly, and kept in the workspace once it was done."""
    return "activations" in STRATEGIES[spec.strategy].needs


def by_sensitivity(_spec: MappingSpec, pair: Pair, store: "SensitivityStore | None") -> LayerMapping:
    """Keep the layers with the highest scores (the paper); on ties the lower one."""
    layers = pair.teacher.anatomy.num_hidden_layers
    scores = store.layer_scores() if store else None
    if scores is None or len(scores) != layers:
        given = "no" if scores is None else len(scores)
        raise ShapeError(f"mapping: {given} layer scores for {layers} teacher layers; give one a layer")
    best = sorted(range(layers), key=lambda layer: (-scores[layer], layer))
    return _in_order(best[: _kept(pair)], pair)


def top(_spec: MappingSpec, pair: Pair, _store: "SensitivityStore | None") -> LayerMapping:
    """Keep the first layers."""
    return _in_order(range(_kept(pair)), pair)


def last(_spec: MappingSpec, pair: Pair, _store: "SensitivityStore | None") -> LayerMapping:
    """Keep the last layers."""
    layers = pair.teacher.anatomy.num_hidden_layers
    return _in_order(range(layers - _kept(pair), layers), pair)


def at_random(spec: MappingSpec, pair: Pair, _store: "SensitivityStore | None") -> LayerMapping:
    """Keep any layers, drawn with the mapping's seed."""
    layers = pair.teacher.anatomy.num_hidden_layers
    return _in_order(random.Random(spec.seed).sample(range(layers), _kept(pair)), pair)


def by_cka(_spec: MappingSpec, pair: "Context", _store: "SensitivityStore | None") -> LayerMapping:
    """Match layers in order, so that the sum of their linear CKA on the seed samples is largest."""
    return _by_similarity("cka", pair)


def by_stitch(_spec: MappingSpec, pair: "Context", _store: "SensitivityStore | None") -> LayerMapping:
    """Match layers in order, so that the teacher's hidden states predict the student's best; see `stitch_r2`."""
    return _by_similarity("stitch", pair)


def _by_similarity(kind: str, pair: "Context") -> LayerMapping:
    from paraknow_core.sensitivity.similarity import similarity

    return matched_layers(similarity(pair)[kind])


def matched_layers(table: list[list[float]]) -> LayerMapping:
    """Return the mapping of a table of similarities, one row a student layer; see `ordered_assignment`."""
    import torch

    from paraknow_core.ops.similarity import ordered_assignment

    return ordered_assignment(torch.tensor(table, dtype=torch.float64))


def uniform(_spec: MappingSpec, pair: Pair, _store: "SensitivityStore | None") -> LayerMapping:
    """Keep evenly spaced layers, the first and the last among them."""
    layers, kept = pair.teacher.anatomy.num_hidden_layers, _kept(pair)
    return _in_order([round(i * (layers - 1) / max(kept - 1, 1)) for i in range(kept)], pair)


def manual(spec: MappingSpec, pair: Pair, _store: "SensitivityStore | None") -> LayerMapping:
    """Take the mapping that the spec lists."""
    layers, expected = pair.teacher.anatomy.num_hidden_layers, pair.student.anatomy.num_hidden_layers
    if len(spec.layers) != expected:
        raise ShapeError(
            f"mapping.layers: {len(spec.layers)} entries, but the student has {expected} layers; give one each or null"
        )
    for layer in spec.layers:
        if layer is not None and layer >= layers:
            raise ShapeError(f"mapping.layers: teacher layer {layer} does not exist; choose 0 to {layers - 1}")
    return list(spec.layers)


def _kept(pair: Pair) -> int:
    """Return how many teacher layers find a student layer."""
    return min(pair.teacher.anatomy.num_hidden_layers, pair.student.anatomy.num_hidden_layers)


def _in_order(layers: Iterable[int], pair: Pair) -> LayerMapping:
    """Give the student's first layers these teacher layers, in the teacher's order, and the rest none."""
    kept = sorted(layers)
    return [*kept, *[None] * (pair.student.anatomy.num_hidden_layers - len(kept))]
