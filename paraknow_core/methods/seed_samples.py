"""Controls that use no teacher, but ask the student about the seed samples first: LoRA-GA, LoRA-One, CorDA, EVA.

Same modules, rank and scaling as the method. What they learn is turned into factors at once, a group of modules after
the other, each with a pass over the samples, so that the sums never take more memory than is free.

An embedding reads one-hot vectors: its second moments are how often each token comes, and nothing beside the diagonal.
A module that the samples tell nothing about (its inputs, or its gradient, are zero) starts as LoRA does by default; its
record in extraction.json says so.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from paraknow_core.adapters.update import Update, to_linear
from paraknow_core.errors import DataError
from paraknow_core.methods.base import Method, MethodInputs
from paraknow_core.methods.collected import free_room, in_groups, input_moments, mean_gradients
from paraknow_core.methods.controls import random_factors
from paraknow_core.models.modules import LogicalModule, logical_weight
from paraknow_core.ops.initialisation import descent_factors, gradient_factors, input_directions, weighted_factors

if TYPE_CHECKING:
    from paraknow_core.tasks.templates import Encoded

    Samples = Iterable[Encoded]

Collected = Mapping[str, Tensor]
Start = tuple[Tensor, Tensor, dict[str, Any]]  # A (rank, in), B (out, rank), and what the record says besides


class _OfSeedSamples(Method):
    """Base of the arms here: `learn` collects and computes, `start` hands out.

    Attributes:
        lacks: what of a module may be zero.
        subtract: whether the product is taken off the student's weight.
    """

    lacks: ClassVar[str]
    subtract: ClassVar[bool] = True
    updates: list[Update]  # since `learn`

    def learn(self, inputs: MethodInputs) -> None:
        """Collect what the method needs of the seed samples and compute all factors.

        Raises:
            DataError: no sample has a token to learn.
        """
        context, self.updates = inputs.context, []
        samples = context.encode(context.seed_samples, context.student, context.seed_task)
        if not samples:
            raise DataError(f"{context.seed_task.name}: no seed sample has a token to predict; give longer examples")
        sizes = {module: self.size(module) for module in context.student_modules}
        groups = list(in_groups(sizes, free_room(context.settings, inputs.student.device)))
        for number, group in enumerate(groups, start=1):
            part = f", part {number} of {len(groups)}" if len(groups) > 1 else ""
            read = context.follow(samples, f"the student reads the seed samples{part}")
            known = self.collect(inputs, group, read)
            for module in context.follow(group, f"factors from what it read{part}"):
                update = self._update(inputs, module, self.of_module(known, module))
                self.updates.append(replace(update, record=update.record | {"seed_samples": len(samples)}))

    def start(self, inputs: MethodInputs) -> Iterator[Update]:  # noqa: ARG002
        """Yield the factors of each student module."""
        yield from self.updates

    def _update(self, inputs: MethodInputs, module: LogicalModule, data: Tensor) -> Update:
        spec, record = inputs.context.spec, {"role": module.role, "layer": module.layer}
        if not data.any():
            a, b = random_factors(module, spec.factorisation.rank, spec.seed)
            return Update(module, a, torch.zeros_like(b), False, record | {"start": f"default: {self.lacks} zero"})
        a, b, more = self.factors(inputs, module, data)
        return Update(module, a.float(), b.float(), self.subtract, record | more)

    def size(self, module: LogicalModule) -> int:
        """Return how many bytes what is collected of a module takes."""
        raise NotImplementedError

    def collect(self, inputs: MethodInputs, modules: Sequence[LogicalModule], samples: "Samples") -> Collected:
        """Return what is needed of some modules."""
        raise NotImplementedError

    def of_module(self, known: Collected, module: LogicalModule) -> Tensor:
        """Return a module's own part of what was collected."""
        raise NotImplementedError

    def factors(self, inputs: MethodInputs, module: LogicalModule, data: Tensor) -> Start:
        """Return the factors of one module."""
        raise NotImplementedError


class _OfGradients(_OfSeedSamples):
    """Base of the arms that start from the mean gradient of the loss to a weight, (out, in)."""

    lacks = "its gradient is"

    def size(self, module: LogicalModule) -> int:
        return 4 * math.prod(module.shape)

    def collect(self, inputs: MethodInputs, modules: Sequence[LogicalModule], samples: "Samples") -> Collected:
        return mean_gradients(inputs.student, {module.parameter for module in modules}, samples)

    def of_module(self, known: Collected, module: LogicalModule) -> Tensor:
        return to_linear(logical_weight(known[module.parameter], module), module)


class LoraGa(_OfGradients):
    """Singular directions of the gradient, the first r in A and the next r in B, as published and not as in PEFT.

    Source:
        Wang et al., NeurIPS 2024, arXiv:2407.05000; see `gradient_factors`.
    """

    directions = 2

    def factors(self, inputs: MethodInputs, module: LogicalModule, data: Tensor) -> Start:  # noqa: ARG002
        """Return the factors of one module."""
        rank = inputs.context.spec.factorisation.rank
        return *gradient_factors(data, rank), {"gradient_norm": data.norm().item()}


class LoraOne(_OfGradients):
    """One step of gradient descent, in its first r singular directions. The student changes: nothing is taken off.

    The paper scales with lora_alpha / sqrt(r); here it is lora_alpha / r as in all arms, and the step is shorter by
    sqrt(r).

    Source:
        Zhang et al., ICML 2025, arXiv:2502.01235; see `descent_factors`.
    """

    subtract = False

    def factors(self, inputs: MethodInputs, module: LogicalModule, data: Tensor) -> Start:  # noqa: ARG002
        """Return the factors of one module."""
        rank = inputs.context.spec.factorisation.rank
        return *descent_factors(data, rank), {"gradient_norm": data.norm().item()}


class _OfInputs(_OfSeedSamples):
    """Base of the arms that start from the second moments of a module's inputs, those of all tokens of the samples."""

    lacks = "its inputs are"
    scaled: ClassVar[bool] = False

    def size(self, module: LogicalModule) -> int:
        return 8 * (module.shape[0] if module.role == "embed" else module.shape[1] ** 2)

    def collect(self, inputs: MethodInputs, modules: Sequence[LogicalModule], samples: "Samples") -> Collected:
        return input_moments(inputs.student, {module.host for module in modules}, samples, scaled=self.scaled)

    def of_module(self, known: Collected, module: LogicalModule) -> Tensor:
        return known[module.host]


class Corda(_OfInputs):
    """The part of the weight that matters most to these inputs: instruction preview, PEFT's `corda` with `ipm`.

    Source:
        Yang et al., NeurIPS 2024, arXiv:2406.05223; see `weighted_factors`.
    """

    scaled = True

    def factors(self, inputs: MethodInputs, module: LogicalModule, data: Tensor) -> Start:
        """Return the factors of one module."""
        weight = to_linear(logical_weight(inputs.student_parameters[module.parameter].detach(), module), module)
        rank = inputs.context.spec.factorisation.rank
        return *weighted_factors(weight, data, rank, inputs.scaling), {"mode": "ipm"}


class Eva(_OfInputs):
    """The directions of most of the inputs in A, B = 0; the same rank everywhere, which is PEFT's `eva` with rho = 1.

    Source:
        Paischer et al., NeurIPS 2025, arXiv:2410.07170; see `input_directions`.
    """

    subtract = False

    def factors(self, inputs: MethodInputs, module: LogicalModule, data: Tensor) -> Start:
        """Return the factors of one module."""
        rank = inputs.context.spec.factorisation.rank
        a, share = input_directions(data, rank)
        out_features = module.shape[1] if module.role == "embed" else module.shape[0]
        return a, a.new_zeros(out_features, rank), {"captured_inputs": share}
