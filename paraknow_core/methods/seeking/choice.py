"""Which entries of a teacher weight become a student module's block: decided from its sensitivity, or read back.

Where a sensitivity is larger than what may be kept, the choice is made while it is in memory and only the choice is
saved: the corner of a window, some rows and columns, or one bit a weight. The weights themselves are on disk anyway, so
that rank, split and injection mode can still be changed afterwards.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from paraknow_core.catalogue import STRUCTURES, implementation
from paraknow_core.context import Context
from paraknow_core.methods.plan import plan_transfer
from paraknow_core.methods.seeking.coherence import coherence, is_coherent
from paraknow_core.models.modules import LogicalModule, logical_weight
from paraknow_core.ops.chance import generator_of
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


@dataclass(frozen=True)
class Cut:
    """A block that a student module receives from a teacher module: says which entries of the teacher's weight.

    Attributes:
        context: the pair, and the extraction's seed.
        structure: one of `catalogue.STRUCTURES`.
        source, target: the teacher's and the student's module.
    """

    context: Context
    structure: str
    source: LogicalModule
    target: LogicalModule

    @property
    def key(self) -> str:
        """Names a choice by all it depends on beside the sensitivity of the teacher's module."""
        key = f"{self.structure} {self.target.shape[0]}x{self.target.shape[1]}"
        if self.target.group != "embedding":
            return key
        tokens, digest = self.context.alignment, "identical"
        if not tokens.identical:
            digest = hashlib.sha256(tokens.teacher_ids.tobytes() + tokens.student_ids.tobytes()).hexdigest()[:16]
        return f"{key} tokens {digest}"

    def decide(self, store: SensitivityStore, device: torch.device) -> tuple[Choice, Tensor | None]:
        """Choose from the full sensitivity, or read back what was chosen.

        Returns:
            The choice, and the (rows, cols) sensitivity of the teacher's module on this device if that was kept.
        """
        if not store.has_full:
            return self.recall(store), None
        score = logical_weight(store.full(self.source.parameter, "pt"), self.source).to(device)
        return self.choose(score, store), score

    def choose(self, score: Tensor, store: SensitivityStore | None = None) -> Choice:
        """Choose from the (rows, cols) sensitivity of the teacher's module, or of the whole store."""
        score = self.aligned(score)[0]
        if _by_own_score(self.structure):
            selection = implementation(STRUCTURES[self.structure])(score, *self._block_shape(score.shape))
        else:
            selection = self._without_score(store)
        return Choice(selection, selection.sum(score), total(score))

    def recall(self, store: SensitivityStore) -> Choice:
        """Read a choice back from a store that holds no full sensitivity; one that needs none is made again.

        Raises:
            DataError: the store was measured for other students or structures.
        """
        if not _by_own_score(self.structure):
            return Choice(self._without_score(store), None, None)
        tensors, record = store.choice(self.source.name, self.key)
        return Choice(unpack(tensors, record), record["inside"], record["total"])

    def aligned(self, tensor: Tensor) -> tuple[Tensor, Tensor | None]:
        """Bring a (teacher vocabulary, hidden) tensor to (student vocabulary, hidden), 0 in rows of unshared tokens.

        Returns:
            The tensor (of other modules than embeddings as it was), and a bool mask (student vocabulary,) of the
            shared tokens, or None where all are.
        """
        if self._same_rows(tensor.shape[0]):
            return tensor, None
        tokens, size = self.context.alignment, self.target.shape[0]
        teacher_ids = torch.as_tensor(tokens.teacher_ids, dtype=torch.long, device=tensor.device)
        student_ids = torch.as_tensor(tokens.student_ids, dtype=torch.long, device=tensor.device)
        # A tokenizer may know more tokens than the embedding has rows (and the other way round).
        inside = (teacher_ids < tensor.shape[0]) & (student_ids < size)
        shared = torch.zeros(size, dtype=torch.bool, device=tensor.device)
        shared[student_ids[inside]] = True
        aligned = tensor.new_zeros(size, tensor.shape[1])
        aligned[student_ids[inside]] = tensor[teacher_ids[inside]]
        return aligned, shared

    def _without_score(self, store: SensitivityStore | None) -> Selection:
        """Select what does not depend on the module's own score: coherently, by chance, or by the sizes alone.

        Chance draws the same for this student module and the spec's extraction seed, always.
        """
        rows = self.source.shape[0] if self._same_rows(self.source.shape[0]) else self.target.shape[0]
        shape = (rows, self.source.shape[1])
        if is_coherent(self.structure):
            shared = coherence(store, self.structure, self.context.teacher.anatomy, self.context.student.anatomy)
            return shared.selection(self.source, self._block_shape(shape)[0])
        row, size = STRUCTURES[self.structure], self._block_shape(shape)
        if "extraction.seed" not in row.reads:
            return implementation(row)(shape, *size)
        generator = generator_of(self.context.spec.extraction.seed, self.target.name)
        return implementation(row)(shape, *size, generator)

    def _same_rows(self, teacher_rows: int) -> bool:
        """Tell whether the teacher's rows mean what the student's do: they are no tokens, or the same ones."""
        if self.target.group != "embedding":
            return True
        return self.context.alignment.identical and teacher_rows == self.target.shape[0]

    def _block_shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the block: the student's, or the teacher's where that is smaller."""
        return min(shape[0], self.target.shape[0]), min(shape[1], self.target.shape[1])


def choices_to_keep(context: Context) -> list[Request]:
    """List the choices to make while the sensitivity is in memory, whatever the layer mapping will be."""
    roles = [r for r in ROLES if GROUP_OF_ROLE[r] != "embedding" or r in context.spec.extraction.roles]
    anywhere = plan_transfer(context, [0] * context.student.anatomy.num_hidden_layers, roles)
    wanted = dict.fromkeys((*_ALWAYS, context.spec.extraction.structure, context.spec.structure))
    structures = [s for s in wanted if _by_own_score(s)]
    cuts = [Cut(context, s, *anywhere.modules(pairing)) for pairing, s in product(anywhere.pairings, structures)]
    by_key = {(cut.source.role, cut.key): cut for cut in cuts}
    return [Request(role, key, partial(_take, cut)) for (role, key), cut in by_key.items()]


def _take(cut: Cut, source: LogicalModule, score: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Choose in a teacher module of the cut's kind, and return the choice as `Cut.recall` reads it back."""
    choice = replace(cut, source=source).choose(score)
    tensors, record = choice.selection.pack()
    return tensors, {"shape": list(choice.selection.shape), "inside": choice.inside, "total": choice.total, **record}


def _by_own_score(structure: str) -> bool:
    """Tell whether a structure decides from the sensitivity of the module which is cut."""
    return "sensitivity" in STRUCTURES[structure].needs
