"""Layer mapping: for each student layer, the teacher layer it receives."""

import random
from collections.abc import Sequence

from paraknow_core.catalogue import STRATEGIES, implementation
from paraknow_core.errors import ShapeError
from paraknow_core.spec import MappingSpec

LayerMapping = list[int | None]


def map_layers(
    spec: MappingSpec, teacher_layers: int, student_layers: int, scores: Sequence[float] | None = None
) -> LayerMapping:
    """Choose a teacher layer for each student layer.

    Args:
        spec: its strategy is a row of `catalogue.STRATEGIES`, whose function below does it.
        teacher_layers, student_layers: how many each model has.
        scores: (teacher_layers,) layer scores, only for strategy sensitivity; on ties the lower layer wins.

    Returns:
        One entry a student layer; None where the teacher has too few layers: that student layer receives nothing.

    Raises:
        ShapeError: a manual mapping has the wrong length or names a layer that is not there.

    Source:
        Zhong et al., ICLR 2024, arXiv:2310.11451 (strategies of its Figure 5a).
    """
    return implementation(STRATEGIES[spec.strategy])(spec, teacher_layers, student_layers, scores)


def by_sensitivity(
    spec: MappingSpec,  # noqa: ARG001 - as all strategies
    teacher_layers: int,
    student_layers: int,
    scores: Sequence[float] | None,
) -> LayerMapping:
    """Keep the highest-scored layers (the paper)."""
    if scores is None or len(scores) != teacher_layers:
        given = "no" if scores is None else len(scores)
        raise ShapeError(f"mapping: {given} layer scores for {teacher_layers} teacher layers; give one a layer")
    best = sorted(range(teacher_layers), key=lambda layer: (-scores[layer], layer))
    return _in_order(best[:student_layers], student_layers)


def top(_: MappingSpec, teacher_layers: int, student_layers: int, __: Sequence[float] | None) -> LayerMapping:
    """Keep the first layers."""
    return _in_order(range(min(teacher_layers, student_layers)), student_layers)


def last(_: MappingSpec, teacher_layers: int, student_layers: int, __: Sequence[float] | None) -> LayerMapping:
    """Keep the last layers."""
    return _in_order(range(teacher_layers)[-student_layers:], student_layers)


def at_random(spec: MappingSpec, teacher_layers: int, student_layers: int, _: Sequence[float] | None) -> LayerMapping:
    """Keep any layers."""
    kept = min(teacher_layers, student_layers)
    return _in_order(random.Random(spec.seed).sample(range(teacher_layers), kept), student_layers)


def uniform(_: MappingSpec, teacher_layers: int, student_layers: int, __: Sequence[float] | None) -> LayerMapping:
    """Keep evenly spaced layers, the first and the last among them."""
    kept = min(teacher_layers, student_layers)
    return _in_order([round(i * (teacher_layers - 1) / max(kept - 1, 1)) for i in range(kept)], student_layers)


def manual(spec: MappingSpec, teacher_layers: int, student_layers: int, _: Sequence[float] | None) -> LayerMapping:
    """Take the layers that the spec lists."""
    if len(spec.layers) != student_layers:
        raise ShapeError(
            f"mapping.layers: {len(spec.layers)} entries, but the student has {student_layers} layers; "
            "give one each or null"
        )
    for layer in spec.layers:
        if layer is not None and layer >= teacher_layers:
            raise ShapeError(f"mapping.layers: teacher layer {layer} does not exist; choose 0 to {teacher_layers - 1}")
    return list(spec.layers)


def _in_order(chosen: Sequence[int], student_layers: int) -> LayerMapping:
    return [*sorted(chosen), *[None] * (student_layers - len(chosen))]
