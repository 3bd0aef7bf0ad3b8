"""Stage extraction: for each student module, the block of the mapped teacher module that it receives."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paraknow_core.context import Context
from paraknow_core.methods.base import MethodInputs
from paraknow_core.methods.seeking.choice import Choice, choose, recall, to_student_vocabulary
from paraknow_core.models.compat import Pairing
from paraknow_core.models.modules import LogicalModule, logical_weight
from paraknow_core.ops.metrics import cosine
from paraknow_core.sensitivity.store import SensitivityStore


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


def extract_blocks(inputs: MethodInputs) -> Iterator[Block]:
    """Cut one block after the other, so that only one lives at a time.

    Args:
        inputs: both models' weights; the plan; a store with full tensors, or with the choices that were made when it
            was measured.
    """
    context, plan = inputs.context, inputs.plan
    for pairing in context.follow(plan.pairings, "cutting blocks"):
        source, target = plan.modules(pairing)
        weight = logical_weight(inputs.teacher_parameters[source.parameter].detach(), source)
        choice, _ = decide(context, inputs.store, context.spec.structure, source, target, weight.device)
        own = logical_weight(inputs.student_parameters[target.parameter].detach(), target).to(weight.device)
        yield cut(context, pairing, source, target, weight, choice, own)


def decide(
    context: Context,
    store: SensitivityStore,
    structure: str,
    source: LogicalModule,
    target: LogicalModule,
    device: torch.device,
) -> tuple[Choice, Tensor | None]:
    """Choose from the full sensitivity, or read back what was chosen; see `choice`.

    Returns:
        The choice, and the (rows, cols) sensitivity of the teacher module on this device, None if it was not kept.
    """
    if not store.has_full:
        return recall(context, store, structure, source, target), None
    score = logical_weight(store.full(source.parameter, "pt"), source).to(device)
    return choose(context, structure, source, target, score), score


def cut(
    context: Context,
    pairing: Pairing,
    source: LogicalModule,
    target: LogicalModule,
    weight: Tensor,
    choice: Choice,
    own: Tensor,
) -> Block:
    """Take the chosen entries of one teacher weight and lay them out in the student's shape.

    Args:
        context: the run's.
        pairing: what the record says about the two modules.
        source, target: the teacher's and the student's module.
        weight, own: their weights in logical orientation, on one device, in any floating dtype.
        choice: which entries.
    """
    weight, shared = to_student_vocabulary(context, target, weight)
    selection, (height, width) = choice.selection, choice.selection.shape
    taken, replaced = selection.take(weight), own[:height, :width]
    if shared is not None:
        taken, replaced = (t.masked_fill(~shared[:height, None], 0) for t in (taken, replaced))
    alike = cosine(taken, replaced)  # before the block is laid out: it has no entries that did not arrive
    block, received = _laid_out(taken, own.shape, shared)
    described = selection.describe()
    record = {
        "teacher_module": source.name,
        "role": target.role,
        "layer": target.layer,
        "teacher_layer": source.layer,
        "action": pairing.action,
        "reason": pairing.reason,
        "top_left": described.get("top_left"),
        "shape": [height, width],
        "selection": described,
        "window_sum": choice.inside,
        "captured_mass": choice.share,
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
