"""The interface of a transfer method: an iterator of initial LoRA factors, module by module."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from paraknow_core.adapters.update import Update
from paraknow_core.context import Context
from paraknow_core.methods.seeking.mapping import LayerMapping
from paraknow_core.models.anatomy import LogicalModule
from paraknow_core.sensitivity.store import SensitivityStore


@dataclass(frozen=True)
class MethodInputs:
    """What a method may look at; teacher, store and mapping only if it needs a teacher."""

    context: Context
    student_parameters: Mapping[str, Tensor]
    teacher_parameters: Mapping[str, Tensor]
    store: SensitivityStore | None
    mapping: LayerMapping

    @property
    def scaling(self) -> float:
        factorisation = self.context.spec.factorisation
        return factorisation.lora_alpha / factorisation.rank

    def student_modules(self) -> list[LogicalModule]:
        """Return the student's modules of the spec's origin."""
        roles = self.context.spec.extraction.roles
        return [m for m in self.context.student.anatomy.modules if m.role in roles]


class Method(Protocol):
    """A way to start the student's adapter. Modules without an update start as default LoRA does (B = 0)."""

    needs_teacher: bool

    def updates(self, inputs: MethodInputs) -> Iterator[Update]:
        """Yield the update of each module that starts elsewhere than default LoRA."""
        ...
