"""The plan of a transfer: what every student module receives from which teacher module, and what is skipped, and why.

It is made before anything is cut, from the two models' headers alone, and handed to all who need it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paraknow_core.context import Context
from paraknow_core.errors import ModelError
from paraknow_core.methods.mapping import LayerMapping
from paraknow_core.models.compat import CompatibilityReport, Pairing, compatibility
from paraknow_core.models.modules import LogicalModule


@dataclass(frozen=True)
class Plan:
    """What goes where in one transfer.

    Attributes:
        context: the spec, both models, and the alignment of their tokens.
        layers: the layer mapping; None: not known yet, `report` pairs the layers in order.
        report: one pairing for every student module, with a reason, and what a user should read about the pair.
        similarity: of a mapping by hidden states, what it was decided from.
    """

    context: Context
    layers: LayerMapping | None
    report: CompatibilityReport
    similarity: dict[str, Any] | None = None

    @property
    def pairings(self) -> list[Pairing]:
        """The pairings of the student modules that receive something."""
        return [pairing for pairing in self.report.pairings if pairing.action != "skip"]

    @property
    def skipped(self) -> dict[str, str]:
        """Student module -> why it receives nothing."""
        return {pair.student_module: pair.reason for pair in self.report.pairings if pair.action == "skip"}

    def modules(self, pairing: Pairing) -> tuple[LogicalModule, LogicalModule]:
        """Return the teacher's and the student's module of a pairing that is not skipped."""
        teacher, student = self.context.teacher.anatomy, self.context.student.anatomy
        return teacher.module(pairing.teacher_module), student.module(pairing.student_module)

    def refuse_blocked(self) -> None:
        """Refuse a pair of which nothing can be transferred, before anything costly starts.

        Raises:
            ModelError: says why.
        """
        if self.report.blocking:
            pair = f"{self.context.teacher.source.label} -> {self.context.student.source.label}"
            raise ModelError(f"{pair}: {self.report.blocking[0]}")


def plan_transfer(context: Context, layers: LayerMapping | None = None, roles: Sequence[str] | None = None) -> Plan:
    """Pair the student's modules with the teacher's.

    Args:
        context: the spec and both models.
        layers: for each student layer, the teacher layer (see `mapping.map_layers`); None: not known yet.
        roles: to pair; None: those of the spec's origin.
    """
    roles = context.spec.extraction.roles if roles is None else roles
    alignment = context.alignment if {"embed", "head"} & set(roles) else None
    report = compatibility(context.teacher.anatomy, context.student.anatomy, alignment, layers, roles)
    return Plan(context, layers, report)
