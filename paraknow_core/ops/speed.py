"""How fast this machine computes, measured in a fraction of a second on products of a model's own shape."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from paraknow_core.ops.folding import fold_outer_

_SECONDS = 0.12  # for each kind of product


@dataclass(frozen=True)
class Speed:
    """Operations a second of matrix products, and bytes a second of plain passes over memory."""

    flops: float
    bytes: float


def measure_speed(
    dtype: torch.dtype, device: str, tokens: int, width: int, inner: int, sample: int | None = None
) -> Speed:
    """Time the three products of a linear layer (forward, to the input, to the weight) and a pass over memory.

    Args:
        dtype: of the numbers.
        device: where.
        tokens: rows of the input.
        sample: how many of them are one sample, whose product to the weight is folded by itself (default: all).
        width, inner: input and output features; sizes beyond 4096 are measured at 4096.
    """
    width, inner, tokens = min(width, 4096), min(inner, 4096), min(tokens, 2048)
    x = torch.randn(tokens, width, device=device).to(dtype)
    weight = torch.randn(inner, width, device=device).to(dtype)
    y = torch.randn(tokens, inner, device=device).to(dtype)
    total = torch.zeros(inner, width, device=device)
    samples = max(1, tokens // (sample or tokens))
    outer, inner_ = (t[: samples * (tokens // samples)].view(samples, -1, t.shape[1]) for t in (y, x))
    forward = _best(lambda: x @ weight.T, device)
    back = _best(lambda: y @ weight, device)
    fold = _best(lambda: fold_outer_(total, outer, inner_), device)
    # A streamed layer takes the first product twice: once forward, once again before its gradient.
    flops = 2 * tokens * width * inner * 4 / (2 * forward + back + fold)
    passing = _best(lambda: total.add_(weight.abs()), device)
    return Speed(flops, (2 * dtype.itemsize + 4 + 4 + dtype.itemsize) * inner * width / passing)


def faster_dtype(device: str, tokens: int, width: int, inner: int) -> str:
    """Return "bfloat16" where its products are at least 1.2 times as fast as float32's here, else "float32".

    Processors without instructions for it are several times slower in it.
    """
    speeds = [measure_speed(dtype, device, tokens, width, inner).flops for dtype in (torch.float32, torch.bfloat16)]
    return "bfloat16" if speeds[1] > 1.2 * speeds[0] else "float32"


def _best(work: Callable[[], object], device: str) -> float:
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < _SECONDS or best == float("inf"):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
