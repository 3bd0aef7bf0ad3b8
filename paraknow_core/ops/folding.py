"""Fold the gradients of samples into sums of their absolute values while a backward pass is going on.

A batch may hold several samples, which makes its matrix products larger and so faster, as long as every parameter's
gradient is still taken sample by sample. That is what the functions here see to: for the weights of linear layers and
for vectors (biases, norms), which together are all there is in a decoder layer. Autograd's own gradients, a sample
after the other, take 1.4 times as long and two to four times the extra memory (`python -m benchmarks.kernels`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_CACHED, _CHUNK = 1 << 20, 1 << 24  # numbers in work at once: what a processor's cache holds, what occupies a GPU
_STRIP = 1 << 22  # numbers of a sum that take a product at once: 16 MB; narrower products are slow
_STRIP_ON_GPU = 1 << 25  # fewer would be calls that take longer than their work


@contextmanager
def folding(
    parameters: Mapping[str, Tensor],
    module: nn.Module | None = None,
    samples: int = 1,
    sums: dict[str, Tensor] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """While open, each gradient that autograd finishes is added to a sum as |gradient| and dropped.

    Args:
        parameters: name to leaf tensor, any shapes; each once. They require a gradient while this is open.
        module: what holds them. The weight gradients of its linear layers are then never there as a whole, which
            saves their memory and most of the traffic; each layer must be called once a backward pass.
        samples: how many are in a batch, along the first dimension of what the module is called with; more than one
            only for a module that is `batchable`.
        sums: to add to; None: new ones.

    Yields:
        Name to sum of |gradient|, float32, of the parameter's shape.
    """
    sums = zeros_like(parameters) if sums is None else sums
    required = {name: p.requires_grad for name, p in parameters.items()}
    with ExitStack() as patches:
        for name, parameter in parameters.items():
            patches.callback(parameter.requires_grad_, required[name])
            parameter.requires_grad_(True)
            parameter.grad = None
            patches.callback(parameter.register_post_accumulate_grad_hook(partial(_fold, sums[name])).remove)
        if module is not None:
            _patch(module, {id(p): sums[name] for name, p in parameters.items()}, samples, patches)
        yield sums


def zeros_like(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a float32 sum of zero for each parameter."""
    return {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}


def batchable(module: nn.Module) -> bool:
    """Return whether gradients of several samples can be told apart in this module: its kinds of layers are known."""
    layers = [layer for layer in module.modules() if list(layer.parameters(recurse=False))]
    return all(
        _is_linear(layer) or isinstance(layer, nn.LayerNorm) or _is_vector_norm(layer) for layer in layers
    ) and all(count == 1 for count in _uses(module).values())


def fold_outer_(total: Tensor, outer: Sequence[Tensor] | Tensor, inner: Sequence[Tensor] | Tensor) -> None:
    """Add |outer.T @ inner| of every sample to a sum, in place and some rows at a time.

    Args:
        total: (rows, cols) float32.
        outer: (tokens, rows) of each sample; inner: (tokens, cols) of each.
    """
    strip_size = _STRIP if total.device.type == "cpu" else _STRIP_ON_GPU
    strips = total.split(max(1, strip_size // total.shape[1]))
    room = torch.empty(strips[0].shape, dtype=outer[0].dtype, device=total.device)
    start = 0
    for strip in strips:
        rows, start = slice(start, start + len(strip)), start + len(strip)
        for above, below in zip(outer, inner, strict=True):
            strip.add_(torch.mm(above[:, rows].T, below, out=room[: len(strip)]).abs_())


def weigh_(total: Tensor, parameter: Tensor, dtype: torch.dtype | None = None) -> None:
    """Turn a sum of |gradient| into S in place: multiply by |theta|.

    Args:
        total: contiguous float32 sum.
        parameter: of the same shape, also on another device.
        dtype: what the parameter was computed in, if that is not what it is stored in.
    """
    flat, weights = total.view(-1), parameter.detach().reshape(-1)
    step = numbers_at_once(total)
    for start in range(0, len(flat), step):  # a whole |theta| would be as large as the parameter
        part = weights[start : start + step].to(device=total.device, dtype=dtype or weights.dtype)
        flat[start : start + step].mul_(part.abs())


def numbers_at_once(tensor: Tensor) -> int:
    """Return how many numbers to work on at a time on a tensor's device."""
    return _CACHED if tensor.device.type == "cpu" else _CHUNK


def _fold(total: Tensor, parameter: Tensor) -> None:
    if parameter.grad is not None:  # else it was folded by the layer itself
        total.add_(parameter.grad.abs_())
        parameter.grad = None


def _patch(module: nn.Module, totals: Mapping[int, Tensor], samples: int, patches: ExitStack) -> None:
    """Let layers fold their own gradients; what has a second use (a tied output layer) is left to autograd.

    Args:
        totals: id of a parameter -> its sum.
        patches: undoes the changes when it closes.
    """
    uses = _uses(module)
    for layer in module.modules():
        own = {name: totals.get(id(p)) for name, p in layer.named_parameters(recurse=False)}
        if not own or None in own.values() or any(uses[id(p)] > 1 for p in layer.parameters(recurse=False)):
            continue
        if _is_linear(layer):
            layer.forward = partial(_linear, layer, own, samples)
        elif samples > 1 and isinstance(layer, nn.LayerNorm):
            layer.forward = partial(_layer_norm, layer, own, samples)
        elif samples > 1 and _is_vector_norm(layer):
            layer.forward = partial(_vector_norm, layer, type(layer).forward, own["weight"], samples)
        else:
            continue
        patches.callback(delattr, layer, "forward")  # the class's own again


def _uses(module: nn.Module) -> Counter:
    return Counter(id(p) for layer in module.modules() for p in layer._parameters.values() if p is not None)  # noqa: SLF001


def _is_linear(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear or type(layer).__name__ == "Conv1D"  # transformers' linear layer of GPT-2


def _is_vector_norm(layer: nn.Module) -> bool:
    """Return whether this is a root mean square norm, of whatever family: one vector, called `weight`."""
    own = dict(layer.named_parameters(recurse=False))
    return list(own) == ["weight"] and own["weight"].ndim == 1 and not isinstance(layer, nn.LayerNorm)


def _linear(layer: nn.Module, totals: Mapping[str, Tensor], samples: int, x: Tensor) -> Tensor:
    transposed = type(layer) is not nn.Linear
    return _FoldedLinear.apply(x, layer.weight, layer.bias, totals["weight"], totals.get("bias"), transposed, samples)


def _layer_norm(layer: nn.LayerNorm, totals: Mapping[str, Tensor], samples: int, x: Tensor) -> Tensor:
    plain = nn.functional.layer_norm(x, layer.normalized_shape, None, None, layer.eps)
    shape = (samples, 1, x.shape[-1])
    out = plain.reshape(samples, -1, x.shape[-1]) * _PerSample.apply(layer.weight, totals["weight"], shape)
    if layer.bias is not None:
        out = out + _PerSample.apply(layer.bias, totals["bias"], shape)
    return out.reshape(x.shape)


def _vector_norm(layer: nn.Module, forward: Callable[..., Tensor], total: Tensor, samples: int, x: Tensor) -> Tensor:
    shape = (samples, *[1] * (x.ndim - 2), x.shape[-1])
    # Hides the parameter for the length of the call: the family's own formula is applied to a copy for each sample.
    layer.__dict__["weight"] = _PerSample.apply(layer._parameters["weight"], total, shape)  # noqa: SLF001
    try:
        return forward(layer, x)
    finally:
        del layer.__dict__["weight"]


class _PerSample(torch.autograd.Function):
    """A vector, once for each sample of a batch, so that each has a gradient of its own, which is folded."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, total: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.total = total
        return vector.expand(shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        for of_sample in gradient.reshape(-1, gradient.shape[-1]):
            ctx.total.add_(of_sample.abs())
        return None, None, None


class _FoldedLinear(torch.autograd.Function):
    """A linear layer whose gradients are folded sample by sample, some rows at a time, while they are in the cache."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        total: Tensor,
        bias_total: Tensor | None,
        transposed: bool,
        samples: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.totals, ctx.transposed, ctx.samples = (total, bias_total), transposed, samples
        return nn.functional.linear(x, weight.T if transposed else weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        total, bias_total = ctx.totals
        outs, ins = (t.reshape(ctx.samples, -1, t.shape[-1]) for t in (gradient, x))
        fold_outer_(total, *((ins, outs) if ctx.transposed else (outs, ins)))
        if bias_total is not None:
            for out in outs:
                bias_total.add_(out.sum(dim=0).abs_())
        to_input = None
        if ctx.needs_input_grad[0]:
            to_input = gradient @ (weight.T if ctx.transposed else weight)
        return to_input, None, None, None, None, None, None
