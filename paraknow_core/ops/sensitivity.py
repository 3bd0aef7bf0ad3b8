"""Sensitivity of parameters: S = sum over seed samples j of |theta * dL_j/dtheta|."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from paraknow_core.errors import NumericError

Sample = TypeVar("Sample")
_CACHED, _CHUNK = 1 << 19, 1 << 24  # numbers in work at once: what a processor's cache holds, what occupies a GPU


def accumulate_sensitivity(
    parameters: Mapping[str, Parameter],
    samples: Iterable[Sample],
    loss_of: Callable[[Sample], Tensor],
    on_sample: Callable[[int, float], None] | None = None,
    module: nn.Module | None = None,
) -> tuple[dict[str, Tensor], list[float]]:
    """Sum |theta * gradient| over samples, one backward pass per sample.

    The absolute value is taken per sample: the gradient of a batch would let samples cancel. A gradient is folded
    into its sum and dropped as soon as autograd has finished it, so at most a few live at once. A parameter used
    twice (tied embeddings) gets both gradients added before the absolute value, because autograd hands over their sum.

    Args:
        parameters: name to parameter, any shapes; each parameter once.
        samples: whatever `loss_of` takes.
        loss_of: returns the scalar mean loss of one sample, in nats per supervised token.
        on_sample: called after each sample with its index and loss.
        module: what holds the parameters; see `folding`.

    Returns:
        Name to S in float32, of the parameter's shape (zero where no gradient arrived), and the loss of each sample.

    Raises:
        NumericError: a loss or a sum is not finite, or there is no sample.

    Note:
        Memory beyond the weights: 4 bytes a parameter plus the activations of one sample.
        |theta| is multiplied once at the end: sum_j |theta g_j| = |theta| sum_j |g_j|.

    Source:
        Zhong et al., ICLR 2024, arXiv:2310.11451.
    """
    losses = []
    with folding(parameters, module) as sums:
        for index, sample in enumerate(samples):
            with torch.enable_grad():
                loss = loss_of(sample)
                losses.append(finite_loss(index, loss.item()))
                loss.backward()
            if on_sample:
                on_sample(index, losses[-1])
    if not losses:
        raise NumericError("seed samples: none given; sensitivity needs at least one")
    for name, total in sums.items():
        weigh_(name, total, parameters[name])
    return sums, losses


@contextmanager
def folding(parameters: Mapping[str, Tensor], module: nn.Module | None = None) -> Iterator[dict[str, Tensor]]:
    """While open, each gradient that autograd finishes is added to a sum as |gradient| and dropped.

    Args:
        parameters: name to leaf tensor, any shapes; each once. They require a gradient while this is open.
        module: what holds them. The weight gradients of its linear layers are then never there as a whole, which
            saves their memory and most of the traffic; each layer must be called once a sample.

    Yields:
        Name to sum of |gradient|, float32, of the parameter's shape. One backward pass a sample.
    """
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    required = {name: p.requires_grad for name, p in parameters.items()}
    hooks, patched = [], []

    def fold(total: Tensor) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            if parameter.grad is None:  # folded already, by the linear layer itself
                return
            total.add_(parameter.grad.abs_())
            parameter.grad = None

        return hook

    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(True)
            parameter.grad = None
            hooks.append(parameter.register_post_accumulate_grad_hook(fold(sums[name])))
        for linear, total in _linears(module, parameters, sums):
            linear.forward = partial(_folded_forward, linear, total)
            patched.append(linear)
        yield sums
    finally:
        for linear in patched:
            del linear.forward  # the class's own again
        for hook in hooks:
            hook.remove()
        for name, parameter in parameters.items():
            parameter.requires_grad_(required[name])


def _linears(
    module: nn.Module | None, parameters: Mapping[str, Tensor], sums: Mapping[str, Tensor]
) -> Iterator[tuple[nn.Linear, Tensor]]:
    """Yield the linear layers whose weight has no second use (a tied output layer has), with their sums."""
    holders = list(module.modules()) if module else []
    uses = Counter(id(p) for holder in holders for p in holder._parameters.values())  # noqa: SLF001 - ties included
    total_of = {id(parameter): sums[name] for name, parameter in parameters.items()}
    for holder in holders:
        if type(holder) is nn.Linear and uses[id(holder.weight)] == 1 and id(holder.weight) in total_of:
            yield holder, total_of[id(holder.weight)]


def _folded_forward(linear: nn.Linear, total: Tensor, x: Tensor) -> Tensor:
    return _FoldedLinear.apply(x, linear.weight, linear.bias, total)


class _FoldedLinear(torch.autograd.Function):
    """A linear layer whose weight gradient is folded into a sum some rows at a time, while they are in the cache."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, total: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.total = total
        return nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, out_gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        outer, inner = out_gradient.reshape(-1, out_gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        fold_outer_(ctx.total, outer, inner)
        to_input = out_gradient @ weight if ctx.needs_input_grad[0] else None
        to_bias = outer.sum(dim=0) if ctx.needs_input_grad[2] else None
        return to_input, None, to_bias, None


def fold_outer_(total: Tensor, outer: Tensor, inner: Tensor) -> None:
    """Add |outer.T @ inner| to a sum, in place and some rows at a time.

    Args:
        total: (rows, cols) float32.
        outer: (tokens, rows) and inner: (tokens, cols), of one sample.
    """
    step = max(1, _step(total) // total.shape[1])
    buffer = torch.empty(min(step, len(total)), total.shape[1], dtype=outer.dtype, device=total.device)
    for start in range(0, len(total), step):
        part = outer[:, start : start + step].T
        product = torch.mm(part, inner, out=buffer[: len(part)])
        total[start : start + step].add_(product.abs_())


def weigh_(name: str, total: Tensor, parameter: Tensor, dtype: torch.dtype | None = None) -> None:
    """Turn a sum of |gradient| into S in place: multiply by |theta|.

    Args:
        name: of the parameter, for messages.
        total: contiguous float32 sum.
        parameter: of the same shape, also on another device.
        dtype: what the parameter was computed in, if that is not what it is stored in.

    Raises:
        NumericError: S is not finite.
    """
    flat, weights = total.view(-1), parameter.detach().reshape(-1)
    check = torch.zeros((), dtype=torch.float64, device=total.device)
    step = _step(total)
    for start in range(0, len(flat), step):  # a whole |theta| would be as large as the parameter
        part = weights[start : start + step].to(device=total.device, dtype=dtype or weights.dtype)
        check += flat[start : start + step].mul_(part.abs()).sum()
    if not torch.isfinite(check):
        raise NumericError(f"sensitivity of {name}: not finite; compute in float32 or check the weights")


def _step(tensor: Tensor) -> int:
    return _CACHED if tensor.device.type == "cpu" else _CHUNK


def finite_loss(index: int, loss: float) -> float:
    """Return the loss of a seed sample.

    Raises:
        NumericError: it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise NumericError(
            f"seed sample {index}: its loss is {loss}; check that its answer is not cut off and that the teacher's "
            "weights are sound"
        )
    return loss
