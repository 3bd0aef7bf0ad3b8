"""The paper's method: LoRA starts from the most sensitive block of the mapped teacher module.

Some of its controls are the same with another structure; their rows in the catalogue say which. Others change the
block; see `controls`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from paraknow_core.adapters.update import Update, to_linear
from paraknow_core.methods.base import Method, MethodInputs
from paraknow_core.methods.plan import Plan
from paraknow_core.methods.seeking.blocks import Block, extract_blocks
from paraknow_core.methods.seeking.choice import choices_to_keep
from paraknow_core.models.modules import logical_weight
from paraknow_core.ops.chance import generator_of
from paraknow_core.ops.svd import Factors, factorise
from paraknow_core.sensitivity.build import Request


class Seeking(Method):
    """Sensitivity-guided blocks of teacher weights, factorised into LoRA.

    Attributes:
        always_residual: whether the product is taken off the student's weight in every injection mode.

    Source:
        Zhong et al., ICLR 2024, arXiv:2310.11451 (injection mode residual); additive and difference are ours.
    """

    always_residual: ClassVar[bool] = False

    def wanted(self, plan: Plan) -> Sequence[Request]:
        """Ask for the places of the blocks."""
        return choices_to_keep(plan.context)

    def start(self, inputs: MethodInputs) -> Iterator[Update]:
        """Yield factors of each extracted block."""
        spec = inputs.context.spec
        for block in extract_blocks(inputs):
            factors, record = self.factors(block, inputs)
            record |= {"singular_values": factors.singular_values.tolist(), "retained_energy": factors.retained_energy}
            subtract = self.always_residual or spec.injection.mode == "residual"
            yield Update(block.student, factors.a, factors.b, subtract, record)

    def factors(self, block: Block, inputs: MethodInputs) -> tuple[Factors, dict[str, Any]]:
        """Return the factors that a block gives in the spec's injection mode, and what is said of it. A hook."""
        factorisation = inputs.context.spec.factorisation
        target = to_linear(self._target(block, inputs), block.student)
        return factorise(target, factorisation.rank, factorisation.split), dict(block.record)

    def generator(self, block: Block, inputs: MethodInputs) -> torch.Generator:
        """Return what draws for one module: its own numbers, whatever else is extracted and by which method."""
        return generator_of(inputs.context.spec.extraction.seed, block.student.name, self.row.name)

    def _target(self, block: Block, inputs: MethodInputs) -> Tensor:
        """What scaling * B @ A should be close to (difference), or what B @ A should (residual, additive)."""
        if inputs.context.spec.injection.mode != "difference":
            return block.weight
        own = logical_weight(inputs.student_parameters[block.student.parameter].detach(), block.student).float()
        # The injected student is W + scaling * B @ A, so that the scaling has to be taken out here.
        return (block.weight - own.to(block.weight.device)).mul(block.received) / inputs.scaling
