"""Controls that take the method's block and change it before it becomes an adapter: what of it does the work?

Each is the method but for one thing that its row in the catalogue says. What they draw depends on `extraction.seed`
and the student module's name alone.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from paraknow_core.adapters.update import to_linear
from paraknow_core.methods.base import MethodInputs
from paraknow_core.methods.seeking.blocks import Block
from paraknow_core.methods.seeking.method import Seeking
from paraknow_core.models.modules import logical_weight
from paraknow_core.ops.haar import haar_columns, rotated, shuffled
from paraknow_core.ops.low_rank import product_cosine
from paraknow_core.ops.metrics import cosine
from paraknow_core.ops.svd import Factors, factorise, split_factors

Record = dict[str, Any]


class Permuted(Seeking):
    """The block with its rows and its columns in random order: the same entries and spectrum at other places.

    In difference mode the student's weight moves towards the permuted block.
    """

    def factors(self, block: Block, inputs: MethodInputs) -> tuple[Factors, Record]:
        """Factorise the permuted block."""
        generator = self.generator(block, inputs)
        return super().factors(_changed(block, inputs, lambda part: shuffled(part, generator)), inputs)


class SpectrumMatched(Seeking):
    """The block's singular values with random singular vectors (Haar): a matrix of the block's scale and nothing else.

    Of the r values that an adapter of rank r holds; what the block holds beyond them never reaches an adapter. In
    difference mode, where it does through the difference, the whole block gets random vectors.
    """

    def factors(self, block: Block, inputs: MethodInputs) -> tuple[Factors, Record]:
        """Factorise the block and keep its singular values alone."""
        spec, generator = inputs.context.spec, self.generator(block, inputs)
        if spec.injection.mode == "difference":
            return super().factors(_changed(block, inputs, lambda part: rotated(part, generator)), inputs)
        own, done = super().factors(block, inputs)
        places = _arrived(block)
        outs, ins = places if block.student.role != "embed" else reversed(places)
        values = own.singular_values
        u = _directions(len(own.b), outs, len(values), generator).to(values)
        v = _directions(own.a.shape[1], ins, len(values), generator).to(values)
        a, b = split_factors(u, values, v, spec.factorisation.split)
        replaced = to_linear(_own_weight(block, inputs), block.student)[outs[:, None], ins]
        done["cosine_with_student"] = product_cosine(b[outs], a[:, ins], replaced)
        return replace(own, a=a, b=b), done


class NormMatched(Seeking):
    """The method's product at the size of PiSSA's: scaling * B A has the Frobenius norm of W's r largest values."""

    def factors(self, block: Block, inputs: MethodInputs) -> tuple[Factors, Record]:
        """Factorise the block and scale the product."""
        own, done = super().factors(block, inputs)
        norm, goal = inputs.scaling * _norm(own), _norm(_principal(block, inputs))
        scale = goal / norm if norm else 1.0
        return _scaled(own, scale, inputs.context.spec.factorisation.split), done | _said(scale, norm)


class PissaMatched(Seeking):
    """PiSSA at the size of the method's product, which is scaling * B A in the spec's mode; always taken off, as PiSSA.

    A module that receives no block starts as LoRA does by default.
    """

    always_residual = True

    def factors(self, block: Block, inputs: MethodInputs) -> tuple[Factors, Record]:
        """Factorise the student's weight and scale the product."""
        matched, done = super().factors(block, inputs)
        own = _principal(block, inputs)
        norm, goal = _norm(own), inputs.scaling * _norm(matched)
        scale = goal / norm if norm else 1.0
        return _scaled(own, scale / inputs.scaling, "sqrt"), done | _said(scale, norm)


def _said(scale: float, norm: float) -> Record:
    """Say what was done: the Frobenius norm that scaling * B A had, what it was multiplied with, and what it has."""
    return {"own_norm": norm, "scale": scale, "norm": norm * scale}


def _principal(block: Block, inputs: MethodInputs) -> Factors:
    """Return the student's own weight at the adapter's rank, as PiSSA splits it; without LoRA's scaling."""
    weight = to_linear(_own_weight(block, inputs), block.student)
    return factorise(weight, inputs.context.spec.factorisation.rank, "sqrt")


def _norm(factors: Factors) -> float:
    """Frobenius norm of B A; its singular values are known."""
    return factors.singular_values.double().norm().item()


def _scaled(factors: Factors, scale: float, split: str) -> Factors:
    """Return factors of the product times a positive scale, on the sides on which the split puts singular values."""
    left, right = (scale, 1.0) if split == "us_v" else (scale**0.5, scale**0.5)
    return replace(factors, a=factors.a * right, b=factors.b * left, singular_values=factors.singular_values * scale)


def _own_weight(block: Block, inputs: MethodInputs) -> Tensor:
    """Return the student's weight, float32, in the block's shape and on its device."""
    weight = inputs.student_parameters[block.student.parameter].detach()
    return logical_weight(weight, block.student).float().to(block.weight.device)


def _arrived(block: Block) -> tuple[Tensor, Tensor]:
    """Return the rows and the columns of the student's shape that received something: together all that did."""
    rows, cols = (block.received.any(dim=dim).nonzero().flatten() for dim in (1, 0))
    return rows, cols


def _changed(block: Block, inputs: MethodInputs, change: Callable[[Tensor], Tensor]) -> Block:
    """Return a block of which the part that arrived was changed; what did not arrive stays zero."""
    rows, cols = _arrived(block)
    if not len(rows) or not len(cols):
        return block
    part = change(block.weight[rows[:, None], cols])
    weight = torch.zeros(block.weight.shape, dtype=part.dtype, device=part.device)
    weight[rows[:, None], cols] = part
    alike = cosine(part, _own_weight(block, inputs)[rows[:, None], cols])
    return replace(block, weight=weight, record={**block.record, "cosine_with_student": alike})


def _directions(size: int, places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw orthonormal columns (size, count) that are zero but at some places.

    Where there are fewer places than columns, the block has no more singular values either: the other columns, which
    meet zeros, are drawn anywhere, so that training can move what belongs to them.
    """
    fitting = min(count, len(places))
    columns = torch.zeros(size, count)
    columns[places.cpu()[:, None], torch.arange(fitting)] = haar_columns(len(places), fitting, generator).float()
    columns[:, fitting:] = haar_columns(size, count - fitting, generator).float()
    return columns
