"""What a transfer would put into one student module, before any run: cut as the run would cut it, for looking at."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paraknow_core.adapters.update import to_linear
from paraknow_core.context import Context
from paraknow_core.methods.seeking.blocks import Block, lay_out
from paraknow_core.methods.seeking.choice import Choice, Cut
from paraknow_core.models.modules import logical_weight
from paraknow_core.ops.metrics import profile, sum_of_squares
from paraknow_core.ops.offsets import OffsetDistribution, offset_distribution
from paraknow_core.ops.spectrum import Spectrum, spectrum
from paraknow_core.ops.window import random_window
from paraknow_core.sensitivity.store import SensitivityStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from paraknow_core.models.compat import Pairing

_WORK = 2e8  # multiplications that the random blocks beside the chosen one may take: about a second


@dataclass(frozen=True)
class Preview:
    """One block as a run would cut it, and what it was cut from.

    Attributes:
        block: the block, its place and its record; see `blocks.Block`.
        choice: which entries, and what they hold of the sensitivity.
        weight: (rows, cols) of the teacher, rows in the student's vocabulary for an embedding.
        own: the student's weight, in the block's shape.
        score: sensitivity of `weight`, or None where only reductions were kept.
    """

    block: Block
    choice: Choice
    weight: Tensor
    own: Tensor
    score: Tensor | None

    @cached_property
    def offsets(self) -> OffsetDistribution | None:
        """What a window of the block's size holds at every offset, and where the block stands; None without S."""
        if self.score is None or self.choice.inside is None:
            return None
        return offset_distribution(self.score, *self.choice.selection.shape, self.choice.inside)

    @property
    def places(self) -> int:
        """How many offsets a window of the block's size has."""
        height, width = self.choice.selection.shape
        return (self.weight.shape[0] - height + 1) * (self.weight.shape[1] - width + 1)

    def random_cosines(self, most: int = 200) -> Tensor:
        """Return cosines of blocks at random offsets with the student's weight, float64; empty if there is one place.

        Args:
            most: how many to draw; fewer of large weights, at least 4.
        """
        height, width = self.choice.selection.shape
        if self.places == 1:
            return torch.empty(0, dtype=torch.float64)
        own = (self.own * self.block.received)[:height, :width]
        norm = math.sqrt(sum_of_squares(own))
        generator = torch.Generator().manual_seed(0)
        cosines = []
        for _ in range(max(4, min(most, int(_WORK / (height * width))))):
            other = self.weight[random_window(tuple(self.weight.shape), height, width, generator).slices]
            scale = norm * math.sqrt(sum_of_squares(other))
            cosines.append((other * own).sum(dtype=torch.float64).item() / scale if scale else 0.0)
        return torch.tensor(cosines, dtype=torch.float64)

    def target(self, mode: str) -> Tensor:
        """Return what the factors approximate, in LoRA's orientation: block, or block minus student (difference).

        In residual and additive mode B A approximates it, in difference mode scaling * B A does.
        """
        weight = self.block.weight
        if mode == "difference":
            weight = (weight - self.own).mul(self.block.received)
        return to_linear(weight, self.block.student)

    def spectrum(self, mode: str, rank: int) -> Spectrum:
        """Return the singular values of the target; see `ops.spectrum`."""
        target = self.target(mode)
        return spectrum(target, min(rank, *target.shape))

    def looks(self) -> dict[str, Tensor]:
        """Return what is drawn of the choice: sums and block means of S if known, and which entries were taken."""
        reductions: dict[str, Tensor] = {}
        if self.score is not None:
            reductions = dict(zip(("rows", "cols", "map"), profile(self.score), strict=True))
        return reductions | self.choice.selection.marks(tuple(self.weight.shape))


def preview(
    context: Context,
    store: SensitivityStore,
    structure: str,
    pairing: "Pairing",
    teacher_parameters: "Mapping[str, Tensor]",
    student_parameters: "Mapping[str, Tensor]",
) -> Preview:
    """Cut the block of one pairing as a run would.

    Args:
        context: the pair and the extraction's seed.
        store: saved sensitivity.
        structure: one of `catalogue.STRUCTURES`.
        pairing: one that is not skipped.
        teacher_parameters, student_parameters: parameter name to weight, stored orientation.

    Raises:
        DataError: of the sensitivity only reductions were kept, and not this choice.
    """
    teacher, student = context.teacher.anatomy, context.student.anatomy
    cut = Cut(context, structure, teacher.module(pairing.teacher_module), student.module(pairing.student_module))
    weight = logical_weight(teacher_parameters[cut.source.parameter], cut.source).float()
    own = logical_weight(student_parameters[cut.target.parameter], cut.target).float().to(weight.device)
    choice, score = cut.decide(store, weight.device)
    block = lay_out(cut, pairing, choice, weight, own)
    return Preview(block, choice, cut.aligned(weight)[0], own, None if score is None else cut.aligned(score)[0])


def facts(preview: Preview) -> dict[str, Any]:
    """Return a preview's numbers as plain data: the record of the block and its place among all offsets."""
    record, offsets, total = preview.block.record, preview.offsets, preview.choice.total
    copied = ("teacher_module", "role", "layer", "teacher_layer", "action", "reason", "top_left", "shape")
    copied += ("student_shape", "captured_mass", "area_fraction")
    shares = None
    if offsets is not None and total:
        shares = {name: getattr(offsets, name) / total for name in ("lowest", "highest", "mean", "median")}
        shares["at_most"] = offsets.at_most
    return {
        **{key: record[key] for key in copied},
        "student_module": preview.block.student.name,
        "teacher_shape": list(preview.weight.shape),
        "kind": record["selection"]["kind"],
        "cosine": record["cosine_with_student"],
        "positions": preview.places,
        "total": total,
        "offsets": shares,
    }
