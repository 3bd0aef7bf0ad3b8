"""Fold the gradients of samples into sums of their absolute values while a backward pass is going on.

A batch may hold several samples, which makes its matrix products larger and so faster, as long as every parameter's
gradient is still taken sample by sample. That is what the functions here see to: for the weights of linear layers and
for vectors (biases, norms), which together are all there is in a decoder layer.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from paraknow_core.ops.products import multiply

_CACHED, _CHUNK = 1 << 20, 1 << 24  # numbers in work at once: what a processor's cache holds, what occupies a GPU
_TILE, _TILE_ON_GPU = (1024, 1024), (4096, 4096)  # of a sum: products of few tokens are slow where one is narrow


@contextmanager
def folding(
    parameters: Mapping[str, Tensor],
    module: nn.Module | None = None,
    samples: int = 1,
    sums: dict[str, Tensor] | None = None,
    *,
    first: bool = False,
    last: bool = False,
) -> Iterator[dict[str, Tensor]]:
    """While open, each gradient that autograd finishes is added to a sum as |gradient| and dropped.

    A sum is as large as its parameter, so that every pass over it counts. Clearing and weighing cost none where they
    are done here, a tile at a time, while that is in the cache anyway.

    Args:
        parameters: name to leaf tensor, any shapes; each once. They require a gradient while this is open.
        module: what holds them. The weight gradients of its linear layers are then never there as a whole, which
            saves their memory and most of the traffic; each layer must be called once a backward pass.
        samples: how many are in a batch, along the first dimension of what the module is called with; more than one
            only for a module that is `batchable`.
        sums: to add to; None: new ones.
        first: whatever the sums hold is to be forgotten. One backward pass while this is open.
        last: the sums become S when this closes: multiplied by |parameter|. One backward pass while this is open.

    Yields:
        Name to sum of |gradient|, float32, of the parameter's shape.
    """
    sums = zeros_like(parameters) if sums is None else sums
    required = {name: p.requires_grad for name, p in parameters.items()}
    with _Patches() as patches:
        try:
            for name, parameter in parameters.items():
                parameter.requires_grad_(True)
                parameter.grad = None
                patches.undo.append(parameter.register_post_accumulate_grad_hook(_fold_into(sums[name])).remove)
            pairs = {id(p): (sums[name], p) for name, p in parameters.items()}
            totals = {key: total for key, (total, _) in pairs.items()}
            by_layers = set() if module is None else _patch(module, totals, samples, patches, first, last)
            others = pairs.keys() - by_layers
            for key in others if first else ():
                totals[key].zero_()
            yield sums
            for key in by_layers if first else ():  # a layer that no gradient has reached
                totals[key].zero_()
            for key in others | by_layers if last else ():
                weigh_(*pairs[key])
        finally:
            for name, parameter in parameters.items():
                parameter.requires_grad_(required[name])


@contextmanager
def sliced(module: nn.Module) -> Iterator[None]:
    """While open, the linear layers in a module multiply with `multiply`: faster, and without a gradient."""
    with _Patches() as patches:
        for holder in module.modules():
            if _is_linear(holder):
                patches.forward(holder, partial(_output, holder))
        yield


def zeros_like(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a float32 sum of zero for each parameter."""
    return {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}


def batchable(module: nn.Module) -> bool:
    """Return whether gradients of several samples can be told apart in this module: its kinds of layers are known."""
    holders = [holder for holder in module.modules() if list(holder.parameters(recurse=False))]
    return all(
        _is_linear(holder) or isinstance(holder, nn.LayerNorm) or _is_vector_norm(holder) for holder in holders
    ) and all(count == 1 for count in _uses(module).values())


def fold_outer_(
    total: Tensor,
    outer: Sequence[Tensor] | Tensor,
    inner: Sequence[Tensor] | Tensor,
    *,
    first: bool = False,
    weight: Tensor | None = None,
) -> None:
    """Add |outer.T @ inner| of every sample to a sum, in place and a tile at a time.

    Args:
        total: (rows, cols) float32.
        outer: (tokens, rows) of each sample; inner: (tokens, cols) of each.
        first: forget what `total` holds.
        weight: (rows, cols); in the end `total` is multiplied by |weight|.
    """
    height, width = _TILE if total.device.type == "cpu" else _TILE_ON_GPU
    height, width = min(height, total.shape[0]), min(width, total.shape[1])
    room = torch.empty(height * width, dtype=outer[0].dtype, device=total.device)
    for top, left in product(range(0, total.shape[0], height), range(0, total.shape[1], width)):
        place = slice(top, top + height), slice(left, left + width)
        tile = total[place]  # stays in the cache for all samples
        buffer = room[: tile.numel()].view(tile.shape)
        for number, (own, other) in enumerate(zip(outer, inner, strict=True)):
            gradient = torch.mm(own[:, place[0]].T, other[:, place[1]], out=buffer).abs_()
            if first and number == 0:
                tile.copy_(gradient)
            else:
                tile.add_(gradient)
        if weight is not None:
            tile.mul_(torch.abs(weight[place], out=buffer))


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


class _Turn(NamedTuple):
    """One backward pass of a linear layer: how many samples, whether its sum is cleared and weighed, whom to tell."""

    samples: int
    first: bool
    last: bool
    done: Callable[[], object]


class _Patches:
    """What was changed on a module, to be undone."""

    def __init__(self) -> None:
        self.undo: list[Callable[[], object]] = []

    def __enter__(self) -> "_Patches":
        return self

    def __exit__(self, *_: object) -> None:
        for undo in reversed(self.undo):
            undo()

    def forward(self, module: nn.Module, forward: Callable[..., Tensor]) -> None:
        module.forward = forward
        self.undo.append(lambda: delattr(module, "forward"))  # the class's own again


def _fold_into(total: Tensor) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        if parameter.grad is None:  # folded already, by the layer itself
            return
        total.add_(parameter.grad.abs_())
        parameter.grad = None

    return hook


def _patch(
    module: nn.Module, total_of: Mapping[int, Tensor], samples: int, patches: _Patches, first: bool, last: bool
) -> set[int]:
    """Let layers fold their own gradients; what has a second use (a tied output layer) is left to autograd.

    Returns:
        The ids of the weights whose sums are yet to be cleared (first) and weighed (last) where they are folded.
    """
    uses, by_layers = _uses(module), set()
    for holder in module.modules():
        own = {name: total_of.get(id(p)) for name, p in holder.named_parameters(recurse=False)}
        if not own or None in own.values() or any(uses[id(p)] > 1 for p in holder.parameters(recurse=False)):
            continue
        if _is_linear(holder):
            by_layers.add(id(holder.weight))
            done = partial(by_layers.discard, id(holder.weight))
            patches.forward(holder, partial(_linear, holder, own, _Turn(samples, first, last, done)))
        elif samples > 1 and isinstance(holder, nn.LayerNorm):
            patches.forward(holder, partial(_layer_norm, holder, own, samples))
        elif samples > 1 and _is_vector_norm(holder):
            patches.forward(holder, partial(_vector_norm, holder, type(holder).forward, own["weight"], samples))
    return by_layers


def _uses(module: nn.Module) -> Counter:
    return Counter(id(p) for holder in module.modules() for p in holder._parameters.values() if p is not None)  # noqa: SLF001


def _is_linear(holder: nn.Module) -> bool:
    return type(holder) is nn.Linear or type(holder).__name__ == "Conv1D"  # transformers' linear layer of GPT-2


def _is_vector_norm(holder: nn.Module) -> bool:
    """Return whether this is a root mean square norm, of whatever family: one vector, called `weight`."""
    own = dict(holder.named_parameters(recurse=False))
    return list(own) == ["weight"] and own["weight"].ndim == 1 and not isinstance(holder, nn.LayerNorm)


def _output(holder: nn.Module, x: Tensor) -> Tensor:
    return multiply(x, holder.weight.T if type(holder) is nn.Linear else holder.weight, holder.bias)


def _linear(holder: nn.Module, totals: Mapping[str, Tensor], turn: _Turn, x: Tensor) -> Tensor:
    transposed = type(holder) is not nn.Linear
    return _FoldedLinear.apply(x, holder.weight, holder.bias, totals["weight"], totals.get("bias"), transposed, turn)


def _layer_norm(holder: nn.LayerNorm, totals: Mapping[str, Tensor], samples: int, x: Tensor) -> Tensor:
    plain = nn.functional.layer_norm(x, holder.normalized_shape, None, None, holder.eps)
    shape = (samples, 1, x.shape[-1])
    out = plain.reshape(samples, -1, x.shape[-1]) * _PerSample.apply(holder.weight, totals["weight"], shape)
    if holder.bias is not None:
        out = out + _PerSample.apply(holder.bias, totals["bias"], shape)
    return out.reshape(x.shape)


def _vector_norm(holder: nn.Module, forward: Callable[..., Tensor], total: Tensor, samples: int, x: Tensor) -> Tensor:
    shape = (samples, *[1] * (x.ndim - 2), x.shape[-1])
    # Hides the parameter for the length of the call: the family's own formula is applied to a copy for each sample.
    holder.__dict__["weight"] = _PerSample.apply(holder._parameters["weight"], total, shape)  # noqa: SLF001
    try:
        return forward(holder, x)
    finally:
        del holder.__dict__["weight"]


class _PerSample(torch.autograd.Function):
    """A vector, once for each sample of a batch, so that each has a gradient of its own, which is folded."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, total: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.total = total
        return vector.expand(shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        for each in gradient.reshape(-1, gradient.shape[-1]):
            ctx.total.add_(each.abs())
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
        turn: _Turn,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.totals, ctx.transposed, ctx.turn = (total, bias_total), transposed, turn
        return multiply(x, weight if transposed else weight.T, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        total, bias_total = ctx.totals
        turn: _Turn = ctx.turn
        outs, ins = (t.reshape(turn.samples, -1, t.shape[-1]) for t in (gradient, x))
        outer, inner = (ins, outs) if ctx.transposed else (outs, ins)
        fold_outer_(total, outer, inner, first=turn.first, weight=weight if turn.last else None)
        turn.done()
        if bias_total is not None:
            for out in outs:
                bias_total.add_(out.sum(dim=0).abs_())
        to_input = None
        if ctx.needs_input_grad[0]:
            to_input = multiply(gradient, weight.T if ctx.transposed else weight)
        return to_input, None, None, None, None, None, None
