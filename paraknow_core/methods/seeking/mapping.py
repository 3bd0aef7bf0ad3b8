"""Layer mapping: for each student layer, the teacher layer it receives."""

import random
from collections.abc import Sequence

from paraknow_core.errors import ShapeError
from paraknow_core.spec import MappingSpec

LayerMapping = list[int | None]


def map_layers(
    spec: MappingSpec, teacher_layers: int, student_layers: int, scores: Sequence[float] | None = None
) -> LayerMapping:
    """Choose a teacher layer for each student layer.

    Args:
        spec: the strategy. `sensitivity` keeps the highest-scored layers (the paper); `top` the first, `last` the
            last, `random` any, `uniform` evenly spaced ones; kept layers stay in their order. `manual` is taken as is.
        teacher_layers, student_layers: how many each model has.
        scores: (teacher_layers,) layer scores, only for strategy sensitivity; on ties the lower layer wins.

    Returns:
        One entry a student layer; None where the teacher has too few layers: that student layer receives nothing.

    Raises:
        ShapeError: a manual mapping has the wrong length or names a layer that is not there.

    Source:
        Zhong et al., ICLR 2024, arXiv:2310.11451 (strategies of its Figure 5a).
    """
    if spec.strategy == "manual":
        return _checked_manual(spec.layers, teacher_layers, student_layers)
    kept = min(teacher_layers, student_layers)
    if spec.strategy == "sensitivity":
        if scores is None or len(scores) != teacher_layers:
            given = "no" if scores is None else len(scores)
            raise ShapeError(f"mapping: {given} layer scores for {teacher_layers} teacher layers; give one a layer")
        chosen = sorted(range(teacher_layers), key=lambda layer: (-scores[layer], layer))[:kept]
    elif spec.strategy == "top":
        chosen = list(range(kept))
    elif spec.strategy == "last":
        chosen = list(range(teacher_layers - kept, teacher_layers))
    elif spec.strategy == "random":
        chosen = random.Random(spec.seed).sample(range(teacher_layers), kept)
    else:
        chosen = [round(i * (teacher_layers - 1) / max(kept - 1, 1)) for i in range(kept)]
    return [*sorted(chosen), *[None] * (student_layers - kept)]


def _checked_manual(layers: Sequence[int | None], teacher_layers: int, student_layers: int) -> LayerMapping:
    if len(layers) != student_layers:
        raise ShapeError(
            f"mapping.layers: {len(layers)} entries, but the student has {student_layers} layers; give one each or null"
        )
    for layer in layers:
        if layer is not None and layer >= teacher_layers:
            raise ShapeError(f"mapping.layers: teacher layer {layer} does not exist; choose 0 to {teacher_layers - 1}")
    return list(layers)
