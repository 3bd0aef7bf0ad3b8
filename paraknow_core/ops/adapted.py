"""A linear layer with a low-rank adapter as one operation: the products alone, no pass over the outputs besides."""

from typing import Any

import torch
from torch import Tensor


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        down = rows @ a.T
        out = rows @ weight.T if bias is None else torch.addmm(bias, rows, weight.T)
        out.addmm_(down, b.T, alpha=scaling)
        ctx.save_for_backward(rows, weight, a, b, down)
        ctx.scaling, ctx.shape = scaling, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b, down = ctx.saved_tensors
        of_x, _, _, of_a, of_b, _ = ctx.needs_input_grad
        gradient = gradient.reshape(-1, gradient.shape[-1])
        up = (gradient @ b).mul_(ctx.scaling) if of_x or of_a else None
        x = (gradient @ weight).addmm_(up, a).view(ctx.shape) if of_x else None
        return (
            x,
            None,
            None,
            up.T @ rows if of_a else None,
            (gradient.T @ down).mul_(ctx.scaling) if of_b else None,
            None,
        )


def adapted_linear(x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Return W x + bias + scaling * B A x, with gradients to x, A and B; W and bias are frozen.

    Args:
        x: (..., in).
        weight, bias: (out, in) and (out,), or None.
        a, b: (R, in) and (out, R).
        scaling: lora_alpha / R.

    Note:
        2 N (in out + R (in + out)) operations for N rows, twice that back. The usual five calls pass over the outputs
        four times more, which takes as long as the thin products where layers are small.
    """
    return _AdaptedLinear.apply(x, weight, bias, a, b, scaling)
