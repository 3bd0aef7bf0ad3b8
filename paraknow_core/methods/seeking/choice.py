"""Which entries of a teacher weight become a student module's block: decided from its sensitivity, or read back.

Where a sensitivity is larger than what may be kept, the choice is made while it is in memory and only the choice is
saved: the corner of a window, some rows and columns, or one bit a weight. The weights themselves are on disk anyway, so
that rank, split and injection mode can still be changed afterwards.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from paraknow_core.catalogue import STRUCTURES, implementation
from paraknow_core.context import Context
from paraknow_core.methods.plan import plan_transfer
from paraknow_core.models.modules import LogicalModule
from paraknow_core.ops.metrics import total
from paraknow_core.ops.structure import Selection, unpack
from paraknow_core.sensitivity.build import Request
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.spec import GROUP_OF_ROLE, ROLES

_ALWAYS = ("submatrix", "row_column")  # cheap to decide and to keep: always asked for, so that arms share a measurement


@dataclass(frozen=True)
class Choice:
    """A selection, and what it holds of the sensitivity (None where that is not known any more)."""

    selection: Selection
    inside: float | None
    total: float | None

    @property
    def share(self) -> float | None:
        """What the selection holds of all the sensitivity, 0 to 1."""
        if self.inside is None:
            return None
        return self.inside / self.total if self.total else 0.0


def choose(context: Context, structure: str, source: LogicalModule, target: LogicalModule, score: Tensor) -> Choice:
    """Decide from the sensitivity.

    Args:
        context: the run's.
        structure: one of `catalogue.STRUCTURES`.
        source, target: the teacher's and the student's module.
        score: (rows, cols) sensitivity of the teacher module.
    """
    score = to_student_vocabulary(context, target, score)[0]
    if _is_drawn(structure):
        selection = drawn(context, structure, source, target)
    else:
        selection = implementation(STRUCTURES[structure])(score, *_block_shape(target, score.shape))
    return Choice(selection, selection.sum(score), total(score))


def recall(
    context: Context, store: SensitivityStore, structure: str, source: LogicalModule, target: LogicalModule
) -> Choice:
    """Read a choice back from a store that holds no full sensitivity; a random one is drawn again.

    Raises:
        DataError: the store was measured for other students or structures.
    """
    if _is_drawn(structure):
        return Choice(drawn(context, structure, source, target), None, None)
    tensors, record = store.choice(source.name, choice_key(context, structure, target))
    return Choice(unpack(tensors, record), record["inside"], record["total"])


def requests(context: Context) -> list[Request]:
    """List the choices to make while the sensitivity is in memory, whatever the layer mapping will be."""
    roles = [r for r in ROLES if GROUP_OF_ROLE[r] != "embedding" or r in context.spec.extraction.roles]
    anywhere = plan_transfer(context, [0] * context.student.anatomy.num_hidden_layers, roles)
    structures = [s for s in (*_ALWAYS, context.spec.extraction.structure) if not _is_drawn(s)]
    found: dict[tuple[str, str], Request] = {}
    for pairing, structure in product(anywhere.pairings, structures):
        source, target = anywhere.modules(pairing)
        key = choice_key(context, structure, target)
        found[source.role, key] = Request(source.role, key, partial(_packed, context, structure, target))
    return list(found.values())


def _packed(
    context: Context, structure: str, target: LogicalModule, source: LogicalModule, score: Tensor
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Choose, and return the choice as `recall` needs it: small tensors and a record."""
    choice = choose(context, structure, source, target, score)
    tensors, record = choice.selection.pack()
    return tensors, {"shape": list(choice.selection.shape), "inside": choice.inside, "total": choice.total, **record}


def choice_key(context: Context, structure: str, target: LogicalModule) -> str:
    """Name a choice by all it depends on beside the teacher module's sensitivity."""
    key = f"{structure} {target.shape[0]}x{target.shape[1]}"
    if target.group != "embedding":
        return key
    tokens, digest = context.alignment, "identical"
    if not tokens.identical:
        digest = hashlib.sha256(tokens.teacher_ids.tobytes() + tokens.student_ids.tobytes()).hexdigest()[:16]
    return f"{key} tokens {digest}"


def drawn(context: Context, structure: str, source: LogicalModule, target: LogicalModule) -> Selection:
    """Draw a selection, always the same for this student module and the spec's extraction seed."""
    aligned = _is_aligned(context, target, source.shape[0])
    shape = (target.shape[0] if aligned else source.shape[0], source.shape[1])
    # Seed and module name together, so that every module draws its own numbers whatever else is extracted.
    name = f"{context.spec.extraction.seed}:{target.name}".encode()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:6], "big"))
    return implementation(STRUCTURES[structure])(shape, *_block_shape(target, shape), generator)


def to_student_vocabulary(context: Context, target: LogicalModule, tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    """Bring a (teacher vocabulary, hidden) tensor to (student vocabulary, hidden); rows of unshared tokens are zero.

    Args:
        context: the run's.
        target: the student's module; anything but an embedding leaves the tensor as it is.
        tensor: of a teacher module.

    Returns:
        The tensor, and a bool mask (student vocabulary,) of the shared tokens, or None where all are.
    """
    if not _is_aligned(context, target, tensor.shape[0]):
        return tensor, None
    alignment, device, size = context.alignment, tensor.device, target.shape[0]
    teacher_ids = torch.as_tensor(alignment.teacher_ids, dtype=torch.long, device=device)
    student_ids = torch.as_tensor(alignment.student_ids, dtype=torch.long, device=device)
    # A tokenizer may know more tokens than the embedding has rows (and the other way round).
    inside = (teacher_ids < tensor.shape[0]) & (student_ids < size)
    shared = torch.zeros(size, dtype=torch.bool, device=device)
    shared[student_ids[inside]] = True
    aligned = torch.zeros(size, tensor.shape[1], dtype=tensor.dtype, device=device)
    aligned[student_ids[inside]] = tensor[teacher_ids[inside]]
    return aligned, shared


def _is_drawn(structure: str) -> bool:
    """Tell whether a structure picks by chance, without looking at the sensitivity."""
    return "sensitivity" not in STRUCTURES[structure].needs


def _is_aligned(context: Context, target: LogicalModule, teacher_rows: int) -> bool:
    """Tell whether the teacher's rows have to be brought to the student's tokens."""
    if target.group != "embedding":
        return False
    return not (context.alignment.identical and teacher_rows == target.shape[0])


def _block_shape(target: LogicalModule, shape: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the block: the student's, or the teacher's where that is smaller."""
    return min(shape[0], target.shape[0]), min(shape[1], target.shape[1])
