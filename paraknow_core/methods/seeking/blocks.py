"""Stage extraction: for each student module, the block of the mapped teacher module that it receives."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paraknow_core.context import Context
from paraknow_core.errors import ModelError
from paraknow_core.methods.seeking.choice import Choice, choose, recall, to_student_vocabulary
from paraknow_core.methods.seeking.mapping import LayerMapping, map_layers
from paraknow_core.models.anatomy import LogicalModule
from paraknow_core.models.compat import Pairing, compatibility
from paraknow_core.models.modules import logical_weight
from paraknow_core.ops.metrics import cosine
from paraknow_core.sensitivity.store import SensitivityStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from paraknow_core.models.compat import CompatibilityReport


@dataclass(frozen=True)
class Block:
    """Teacher weights cut for one student module.

    Attributes:
        student, teacher: the two modules.
        weight: the block in the student's full shape (out, in) or (vocabulary, hidden), in the teacher's dtype; zero
            where nothing arrived. May be a view of the teacher's weight: do not write to it.
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
        store: saved sensitivity: with full tensors, or with the choices that were made when it was measured.
        mapping: for each student layer, the teacher layer.
        teacher_parameters, student_parameters: parameter name to weight, stored orientation.
        random_offset: place the window anywhere instead of at the most sensitive place (a control).
    """
    teacher, student = context.teacher.anatomy, context.student.anatomy
    structure = "random_offset" if random_offset else context.spec.extraction.structure
    todo = [pair for pair in pairings(context, mapping).pairings if pair.action != "skip"]
    for pair in context.follow(todo, "cutting blocks"):
        source, target = teacher.module(pair.teacher_module), student.module(pair.student_module)
        weight = logical_weight(teacher_parameters[source.parameter].detach(), source)
        if store.has_full:
            score = logical_weight(store.full(source.parameter, "pt"), source).to(weight.device)
            choice = choose(context, structure, source, target, score)
        else:
            choice = recall(context, store, structure, source, target)
        own = logical_weight(student_parameters[target.parameter].detach(), target).to(weight.device)
        yield cut(context, pair, source, target, weight, choice, own)


def cut(
    context: Context,
    pair: Pairing,
    source: LogicalModule,
    target: LogicalModule,
    weight: Tensor,
    choice: Choice,
    own: Tensor,
) -> Block:
    """Take the chosen entries of one teacher weight and lay them out in the student's shape.

    Args:
        context: the run's.
        pair: what the record says about the two modules.
        source, target: the teacher's and the student's module.
        weight, own: their weights in logical orientation, on one device, in any floating dtype.
        choice: which entries.
    """
    weight, shared = to_student_vocabulary(context, target, weight)
    selection, (height, width) = choice.selection, choice.selection.shape
    taken, replaced = selection.take(weight), own[:height, :width]
    if shared is not None:
        taken, replaced = (each.masked_fill(~shared[:height, None], 0) for each in (taken, replaced))
    alike = cosine(taken, replaced)  # before the block is laid out: it has no entries that did not arrive
    block, received = _laid_out(taken, own.shape, shared)
    captured = None if choice.inside is None else choice.inside / choice.total if choice.total else 0.0
    record = {
        "teacher_module": source.name,
        "role": target.role,
        "layer": target.layer,
        "teacher_layer": source.layer,
        "action": pair.action,
        "reason": pair.reason,
        "top_left": selection.describe().get("top_left"),
        "shape": [height, width],
        "selection": selection.describe(),
        "window_sum": choice.inside,
        "captured_mass": captured,
        "area_fraction": height * width / weight.numel(),
        "student_shape": list(own.shape),
        "cosine_with_student": alike,
    }
    return Block(target, source, block, received, record)


def _laid_out(taken: Tensor, shape: torch.Size, shared: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the block in the student's shape and which entries of it arrived; what fits already is not copied."""
    height, width = taken.shape
    if taken.shape == shape and shared is None:
        return taken, torch.ones((), dtype=torch.bool, device=taken.device).expand(shape)
    block = taken.new_zeros(shape)
    received = torch.zeros(shape, dtype=torch.bool, device=taken.device)
    block[:height, :width] = taken
    received[:height, :width] = True if shared is None else shared[:height, None]
    return block, received
