"""Stage extraction: for each student module, the block of the mapped teacher module that it receives."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paraknow_core.errors import ModelError
from paraknow_core.models.anatomy import LogicalModule
from paraknow_core.models.compat import Pairing, compatibility
from paraknow_core.models.logical import logical_weight
from paraknow_core.ops.metrics import cosine
from paraknow_core.ops.structure import Selection, WindowSelection, neuron, random_weights, row_column, submatrix
from paraknow_core.ops.window import random_window
from paraknow_core.sensitivity_store import SensitivityStore
from paraknow_core.stages.context import Context
from paraknow_core.stages.mapping import LayerMapping, map_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from paraknow_core.models.compat import CompatibilityReport


@dataclass(frozen=True)
class Block:
    """Teacher weights cut for one student module.

    Attributes:
        student, teacher: the two modules.
        weight: the block in the student's full shape (out, in) or (vocabulary, hidden); zero where nothing arrived.
        received: same shape, bool; False where the student has no teacher counterpart.
        record: what extraction.json says about it.
    """

    student: LogicalModule
    teacher: LogicalModule
    weight: Tensor
    received: Tensor
    record: dict[str, Any]


def layer_mapping(context: Context, store: SensitivityStore | None) -> LayerMapping:
    """Return the spec's layer mapping for this pair."""
    scores = store.layer_scores() if store else None
    teacher, student = context.teacher.anatomy, context.student.anatomy
    return map_layers(context.spec.mapping, teacher.num_hidden_layers, student.num_hidden_layers, scores)


def pairings(context: Context, mapping: LayerMapping | None = None) -> "CompatibilityReport":
    """Return what each student module receives under this mapping (None: not known yet), or why nothing."""
    roles = context.spec.extraction.roles
    alignment = context.alignment if {"embed", "head"} & set(roles) else None
    return compatibility(context.teacher.anatomy, context.student.anatomy, alignment, mapping, roles)


def refuse_incompatible(context: Context) -> None:
    """Refuse a pair of which nothing can be transferred, before anything costly starts.

    Raises:
        ModelError: says why.
    """
    blocking = pairings(context).blocking
    if blocking:
        raise ModelError(f"{context.teacher.source.label} -> {context.student.source.label}: {blocking[0]}")


def extract_blocks(
    context: Context,
    store: SensitivityStore,
    mapping: LayerMapping,
    teacher_parameters: "Mapping[str, Tensor]",
    student_parameters: "Mapping[str, Tensor]",
    *,
    random_offset: bool = False,
) -> Iterator[Block]:
    """Cut one block after the other, so that only one lives at a time.

    Args:
        context: the run's.
        store: saved sensitivity with full tensors.
        mapping: for each student layer, the teacher layer.
        teacher_parameters, student_parameters: parameter name to weight, stored orientation.
        random_offset: place the window anywhere instead of at the most sensitive place (a control).
    """
    teacher, student = context.teacher.anatomy, context.student.anatomy
    todo = [pair for pair in pairings(context, mapping).pairings if pair.action != "skip"]
    for pair in context.follow(todo, "cutting blocks"):
        source, target = teacher.module(pair.teacher_module), student.module(pair.student_module)
        weight = logical_weight(teacher_parameters[source.parameter].detach(), source).float()
        score = logical_weight(store.full(source.parameter, "pt"), source).to(weight.device)
        own = logical_weight(student_parameters[target.parameter].detach(), target).float().to(weight.device)
        yield _cut(context, pair, source, target, weight, score, own, random_offset)


def _cut(
    context: Context, pair: Pairing, source: LogicalModule, target: LogicalModule,
    weight: Tensor, score: Tensor, own: Tensor, random_offset: bool,
) -> Block:  # fmt: skip
    shared = None
    if target.group == "embedding":
        weight, score, shared = _to_student_vocabulary(context, weight, score, target.shape[0])
    height, width = min(weight.shape[0], own.shape[0]), min(weight.shape[1], own.shape[1])
    generator = torch.Generator().manual_seed(_module_seed(context.spec.extraction.seed, target.name))
    selection = _select(context.spec.extraction.structure, score, height, width, generator, random_offset)
    block, received = torch.zeros_like(own), torch.zeros(own.shape, dtype=torch.bool, device=own.device)
    block[:height, :width] = selection.take(weight)
    received[:height, :width] = True
    if shared is not None:
        received[~shared] = False
        block[~shared] = 0
    total, inside = score.sum(dtype=torch.float64).item(), selection.sum(score)
    record = {
        "teacher_module": source.name, "role": target.role, "layer": target.layer, "teacher_layer": source.layer,
        "action": pair.action, "reason": pair.reason, "top_left": selection.describe().get("top_left"),
        "shape": [height, width], "selection": selection.describe(), "window_sum": inside,
        "captured_mass": inside / total if total else 0.0,
        "area_fraction": height * width / score.numel(), "student_shape": list(own.shape),
        "cosine_with_student": float(cosine(block[received], own[received])),
    }  # fmt: skip
    return Block(target, source, block, received, record)


def _select(
    structure: str, score: Tensor, height: int, width: int, generator: torch.Generator, random_offset: bool
) -> Selection:
    if random_offset:
        return WindowSelection(random_window(tuple(score.shape), height, width, generator))
    if structure == "submatrix":
        return submatrix(score, height, width)
    if structure == "row_column":
        return row_column(score, height, width)
    if structure == "neuron":
        return neuron(score, height, width)
    return random_weights(tuple(score.shape), height, width, generator)


def _to_student_vocabulary(
    context: Context, weight: Tensor, score: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Bring (teacher vocabulary, hidden) tensors to (student vocabulary, hidden); rows of unshared tokens are zero."""
    alignment = context.alignment
    if alignment.identical and weight.shape[0] == size:
        return weight, score, None
    teacher_ids = torch.as_tensor(alignment.teacher_ids, dtype=torch.long, device=weight.device)
    student_ids = torch.as_tensor(alignment.student_ids, dtype=torch.long, device=weight.device)
    # A tokenizer may know more tokens than the embedding has rows (and the other way round).
    there = (teacher_ids < weight.shape[0]) & (student_ids < size)
    teacher_ids, student_ids = teacher_ids[there], student_ids[there]
    shared = torch.zeros(size, dtype=torch.bool, device=weight.device)
    shared[student_ids] = True
    aligned = [torch.zeros(size, weight.shape[1], dtype=t.dtype, device=t.device) for t in (weight, score)]
    for new, old in zip(aligned, (weight, score), strict=True):
        new[student_ids] = old[teacher_ids]
    return aligned[0], aligned[1], shared


def _module_seed(seed: int, name: str) -> int:
    """Mix seed and module name, so that every module draws its own numbers whatever else is extracted."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:6], "big")
