"""Which entries of a teacher weight become a student module's block: decided from its sensitivity, or read back.

Where a sensitivity is larger than what may be kept, the choice is made while it is in memory and only the choice is
saved: the corner of a window, some rows and columns, or one bit a weight. The weights themselves are on disk anyway, so
that rank, split and injection mode can still be changed afterwards.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paraknow_core.context import Context
from paraknow_core.models.compat import compatibility
from paraknow_core.models.modules import LogicalModule
from paraknow_core.ops.metrics import total
from paraknow_core.ops.structure import (
    GridSelection,
    Selection,
    WeightsSelection,
    WindowSelection,
    neuron,
    random_weights,
    row_column,
    submatrix,
)
from paraknow_core.ops.window import Window, random_window
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.spec import GROUP_OF_ROLE, ROLES

if TYPE_CHECKING:
    from paraknow_core.models.tokenizer import TokenAlignment

RANDOM_OFFSET = "random_offset"
_SHARED = ("submatrix", "row_column")  # cheap to decide and to keep: always asked for, so that arms share a measurement
_DECIDERS = {"submatrix": submatrix, "row_column": row_column, "neuron": neuron}


@dataclass(frozen=True)
class Choice:
    """A selection, and what it holds of the sensitivity (None where that is not known any more)."""

    selection: Selection
    inside: float | None
    total: float | None


@dataclass(frozen=True)
class Request:
    """A choice to make for every teacher module of a role: for student modules like `target`, by one structure."""

    role: str
    structure: str
    target: LogicalModule


def choose(context: Context, structure: str, source: LogicalModule, target: LogicalModule, score: Tensor) -> Choice:
    """Decide from the sensitivity.

    Args:
        context: the run's.
        structure: one of the spec's STRUCTURES, or `random_offset`.
        source, target: the teacher's and the student's module.
        score: (rows, cols) sensitivity of the teacher module.
    """
    score = to_student_vocabulary(context, target, score)[0]
    height, width = block_shape(target, tuple(score.shape))
    if structure in _DECIDERS:
        selection = _DECIDERS[structure](score, height, width)
    else:
        selection = drawn(context, structure, source, target)
    return Choice(selection, selection.sum(score), total(score))


def recall(
    context: Context, store: SensitivityStore, structure: str, source: LogicalModule, target: LogicalModule
) -> Choice:
    """Read a choice back from a store that holds no full sensitivity; a random one is drawn again.

    Raises:
        DataError: the store was measured for other students or structures.
    """
    if structure not in _DECIDERS:
        return Choice(drawn(context, structure, source, target), None, None)
    arrays, record = store.choice(source.name, choice_key(context, structure, target))
    return Choice(_unpacked(arrays, record), record["inside"], record["total"])


def requests(context: Context) -> list[Request]:
    """List the choices to make for this pair while the sensitivity is in memory, whatever the layer mapping will be."""
    if context.spec.until == "sensitivity" and context.spec.teacher == context.spec.student:
        return []  # nobody is there to receive anything
    teacher, student, spec = context.teacher.anatomy, context.student.anatomy, context.spec.extraction
    roles = [role for role in ROLES if GROUP_OF_ROLE[role] != "embedding" or role in spec.roles]
    alignment = context.alignment if {"embed", "head"} & set(roles) else None
    everywhere = [0] * student.num_hidden_layers
    found: dict[tuple, Request] = {}
    for pair in compatibility(teacher, student, alignment, everywhere, roles).pairings:
        if pair.action == "skip":
            continue
        source, target = teacher.module(pair.teacher_module), student.module(pair.student_module)
        for structure in dict.fromkeys((*_SHARED, *(s for s in (spec.structure,) if s in _DECIDERS))):
            found[source.role, choice_key(context, structure, target)] = Request(source.role, structure, target)
    return list(found.values())


def choice_key(context: Context, structure: str, target: LogicalModule) -> str:
    """Name a choice by all it depends on beside the teacher module's sensitivity."""
    key = f"{structure} {target.shape[0]}x{target.shape[1]}"
    return f"{key} tokens {_digest(context.alignment)}" if target.group == "embedding" else key


def packed(choice: Choice) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a choice as small tensors and a record."""
    selection = choice.selection
    record = {"shape": list(selection.shape), "inside": choice.inside, "total": choice.total}
    if isinstance(selection, WindowSelection):
        return {}, record | {"top_left": [selection.window.row, selection.window.col]}
    if isinstance(selection, GridSelection):
        return {"rows": selection.rows, "cols": selection.cols}, record
    import numpy

    bits = torch.from_numpy(numpy.packbits(selection.mask.cpu().numpy()))
    return {"bits": bits}, record | {"of": list(selection.mask.shape)}


def _unpacked(arrays: dict[str, Tensor], record: dict[str, Any]) -> Selection:
    height, width = record["shape"]
    if "top_left" in record:
        return WindowSelection(Window(*record["top_left"], height, width))
    if "rows" in arrays:
        return GridSelection(arrays["rows"], arrays["cols"])
    import numpy

    rows, cols = record["of"]
    mask = numpy.unpackbits(arrays["bits"].numpy(), count=rows * cols).astype(bool).reshape(rows, cols)
    return WeightsSelection(torch.from_numpy(mask), (height, width))


def block_shape(target: LogicalModule, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the block: the student's, or the teacher's where that is smaller."""
    return min(shape[0], target.shape[0]), min(shape[1], target.shape[1])


def drawn(context: Context, structure: str, source: LogicalModule, target: LogicalModule) -> Selection:
    """Draw a random selection, always the same for this student module and the spec's extraction seed."""
    aligned = target.group == "embedding" and not _same(context, source.shape[0], target.shape[0])
    shape = (target.shape[0] if aligned else source.shape[0], source.shape[1])
    generator = torch.Generator().manual_seed(_module_seed(context.spec.extraction.seed, target.name))
    draw = random_window if structure == RANDOM_OFFSET else random_weights
    found = draw(shape, *block_shape(target, shape), generator)
    return WindowSelection(found) if isinstance(found, Window) else found


def to_student_vocabulary(context: Context, target: LogicalModule, *tensors: Tensor) -> tuple[Tensor | None, ...]:
    """Bring (teacher vocabulary, hidden) tensors to (student vocabulary, hidden); rows of unshared tokens are zero.

    Args:
        context: the run's.
        target: the student's module; anything but an embedding leaves the tensors as they are.
        tensors: of one teacher module.

    Returns:
        The tensors, and last a bool mask (student vocabulary,) of the shared tokens, or None where all are.
    """
    if target.group != "embedding" or _same(context, tensors[0].shape[0], target.shape[0]):
        return (*tensors, None)
    alignment, device, size = context.alignment, tensors[0].device, target.shape[0]
    teacher_ids = torch.as_tensor(alignment.teacher_ids, dtype=torch.long, device=device)
    student_ids = torch.as_tensor(alignment.student_ids, dtype=torch.long, device=device)
    # A tokenizer may know more tokens than the embedding has rows (and the other way round).
    there = (teacher_ids < tensors[0].shape[0]) & (student_ids < size)
    teacher_ids, student_ids = teacher_ids[there], student_ids[there]
    shared = torch.zeros(size, dtype=torch.bool, device=device)
    shared[student_ids] = True
    aligned = [torch.zeros(size, t.shape[1], dtype=t.dtype, device=device) for t in tensors]
    for new, old in zip(aligned, tensors, strict=True):
        new[student_ids] = old[teacher_ids]
    return (*aligned, shared)


def _same(context: Context, teacher_rows: int, student_rows: int) -> bool:
    return context.alignment.identical and teacher_rows == student_rows


def _digest(alignment: "TokenAlignment") -> str:
    if alignment.identical:
        return "identical"
    return hashlib.sha256(alignment.teacher_ids.tobytes() + alignment.student_ids.tobytes()).hexdigest()[:16]


def _module_seed(seed: int, name: str) -> int:
    """Mix seed and module name, so that every module draws its own numbers whatever else is extracted."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:6], "big")
