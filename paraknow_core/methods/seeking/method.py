"""The paper's method: LoRA starts from the most sensitive block of the mapped teacher module.

Its control `random_offset` is the same with another structure; its row in the catalogue says which.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from paraknow_core.adapters.update import Update, to_linear
from paraknow_core.methods.base import Method, MethodInputs
from paraknow_core.methods.plan import Plan
from paraknow_core.methods.seeking.blocks import Block, extract_blocks
from paraknow_core.methods.seeking.choice import choices_to_keep
from paraknow_core.models.modules import logical_weight
from paraknow_core.ops.svd import factorise
from paraknow_core.sensitivity.build import Request


class Seeking(Method):
    """Sensitivity-guided blocks of teacher weights, factorised into LoRA.

    Source:
        Zhong et al., ICLR 2024, arXiv:2310.11451 (injection mode residual); additive and difference are ours.
    """

    def wanted(self, plan: Plan) -> Sequence[Request]:
        """Ask for the places of the blocks."""
        return choices_to_keep(plan.context)

    def start(self, inputs: MethodInputs) -> Iterator[Update]:
        """Yield factors of each extracted block."""
        spec = inputs.context.spec
        for block in extract_blocks(inputs):
            target = self._target(block, inputs)
            factors = factorise(to_linear(target, block.student), spec.factorisation.rank, spec.factorisation.split)
            record = {
                **block.record,
                "singular_values": factors.singular_values.tolist(),
                "retained_energy": factors.retained_energy,
            }
            yield Update(block.student, factors.a, factors.b, spec.injection.mode == "residual", record)

    def _target(self, block: Block, inputs: MethodInputs) -> Tensor:
        """What scaling * B @ A should be close to (difference), or what B @ A should (residual, additive)."""
        if inputs.context.spec.injection.mode != "difference":
            return block.weight
        own = logical_weight(inputs.student_parameters[block.student.parameter].detach(), block.student).float()
        # The injected student is W + scaling * B @ A, so that the scaling has to be taken out here.
        return (block.weight - own.to(block.weight.device)).mul(block.received) / inputs.scaling
