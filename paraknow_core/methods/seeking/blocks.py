"""Stage extraction: for each student module, the block of the mapped teacher module that it receives."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paraknow_core.methods.base import MethodInputs
from paraknow_core.methods.seeking.choice import Choice, Cut
from paraknow_core.models.compat import Pairing
from paraknow_core.models.modules import LogicalModule, logical_weight
from paraknow_core.ops.metrics import cosine


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
        cut = Cut(context, context.spec.structure, *plan.modules(pairing))
        weight = logical_weight(inputs.teacher_parameters[cut.source.parameter].detach(), cut.source)
        own = logical_weight(inputs.student_parameters[cut.target.parameter].detach(), cut.target).to(weight.device)
        yield lay_out(cut, pairing, cut.decide(inputs.store, weight.device)[0], weight, own)


def lay_out(cut: Cut, pairing: Pairing, choice: Choice, weight: Tensor, own: Tensor) -> Block:
    """Take the chosen entries of one teacher weight and lay them out in the student's shape.

    Args:
        cut, choice: which entries, for whom.
        pairing: what the record says about the two modules.
        weight, own: the teacher's and the student's weight, logical orientation, on one device, any floating dtype.
    """
    source, target = cut.source, cut.target
    weight, shared = cut.aligned(weight)
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
