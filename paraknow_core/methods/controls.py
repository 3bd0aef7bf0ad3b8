"""Controls that use no teacher, and of the student its weights alone. Same modules, rank and scaling as the method."""

from collections.abc import Iterator

import torch
from torch import Tensor

from paraknow_core.adapters.update import Update, to_linear
from paraknow_core.errors import ShapeError
from paraknow_core.methods.base import Method, MethodInputs
from paraknow_core.models.modules import LogicalModule, logical_weight
from paraknow_core.ops.chance import generator_of
from paraknow_core.ops.initialisation import minor_factors, uniform_factors
from paraknow_core.ops.svd import factorise


class DefaultLora(Method):
    """A random, B = 0, as PEFT starts LoRA by default.

    Source:
        Hu et al., ICLR 2022, arXiv:2106.09685.
    """


class FullFinetuning(Method):
    """Every weight of the modules that others adapt, and no other one: the best that any adapter on them could do.

    Nothing is put in: the row's `whole` has `adapters.inject` give each module the factors of its whole change D, one
    of which is D and trained, the other one the identity and fixed. The gradient of D is the weight's, so AdamW takes
    the steps that it would take on the weight. Weight decay pulls towards the untouched student, as with every adapter.
    """


class _OfStudentWeight(Method):
    """Base of the arms that factorise the student's own weight and take the product off it."""

    def start(self, inputs: MethodInputs) -> Iterator[Update]:
        """Yield factors of each student weight."""
        for module in inputs.context.follow(inputs.context.student_modules, "factorising the student's weights"):
            weight = logical_weight(inputs.student_parameters[module.parameter].detach(), module).float()
            a, b = self.factors(to_linear(weight, module), inputs.context.spec.factorisation.rank, inputs.scaling)
            yield Update(module, a, b, True, {"role": module.role, "layer": module.layer})

    def factors(self, weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
        """Return A (rank, in) and B (out, rank) of a weight (out, in)."""
        raise NotImplementedError


class Pissa(_OfStudentWeight):
    """Principal singular values of the student's own weight, their root on both sides; scaling * B @ A is their part.

    Source:
        Meng et al., NeurIPS 2024, arXiv:2404.02948.
    """

    def factors(self, weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
        """Return A (rank, in) and B (out, rank) of a weight (out, in)."""
        factors = factorise(weight, rank, "sqrt")
        return factors.a / scaling**0.5, factors.b / scaling**0.5


class Milora(_OfStudentWeight):
    """The smallest singular values of the student's own weight, their root on both sides: PiSSA from the other end.

    Source:
        Wang et al., NAACL 2025, arXiv:2406.09044.
    """

    def factors(self, weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
        """Return A (rank, in) and B (out, rank) of a weight (out, in)."""
        a, b = minor_factors(weight, rank, scaling)
        return a.float(), b.float()  # as they are saved: a run that resumes takes the same product off


class InitAB(Method):
    """A and B random, their product taken off: a start with B A != 0 that knows nothing, whatever else has one.

    Source:
        Init[AB] of arXiv:2602.04998; see `uniform_factors` for its size.
    """

    def start(self, inputs: MethodInputs) -> Iterator[Update]:
        """Yield random factors of each student module."""
        spec = inputs.context.spec
        for module in inputs.context.student_modules:
            a, b = random_factors(module, spec.factorisation.rank, spec.seed)
            yield Update(module, a, b, True, {"role": module.role, "layer": module.layer})


def random_factors(module: LogicalModule, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw A (rank, in) and B (out, rank) of a module, always the same for its name and the seed."""
    generator = generator_of(seed, module.name)
    out_features, in_features = reversed(module.shape) if module.role == "embed" else module.shape
    return uniform_factors(out_features, in_features, rank, generator)


class Olora(_OfStudentWeight):
    """B = the first columns of Q, A = the first rows of R of the student weight's QR decomposition, as PEFT does it.

    Source:
        Büyükakyüz, 2024, arXiv:2406.01775.
    """

    def factors(self, weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return A (rank, in) and B (out, rank) of a weight (out, in)."""
        if rank > min(weight.shape):
            raise ShapeError(
                f"factorisation: rank {rank} does not fit a weight of shape {tuple(weight.shape)}; "
                f"choose 1 to {min(weight.shape)}"
            )
        q, r = torch.linalg.qr(weight)
        return r[:rank].contiguous(), q[:, :rank].contiguous()
