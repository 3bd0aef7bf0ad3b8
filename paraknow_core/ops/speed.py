"""How fast this machine computes, measured in a fraction of a second on products of a model's own shape."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from paraknow_core.ops.folding import fold_outer_

_SECONDS = 0.12  # for each kind of product
_FRESH = 1 << 26  # bytes: so many that the C library asks the system for them, each time anew


@dataclass(frozen=True)
class Speed:
    """What is done in a second: operations of matrix products, bytes of passes over memory, bytes of fresh memory."""

    flops: float
    bytes: float
    fresh: float


def measure_speed(
    dtype: torch.dtype, device: str, tokens: int, in_features: int, out_features: int, sample: int | None = None
) -> Speed:
    """Time the three products of a linear layer (forward, to the input, to the weight) and passes over memory.

    Args:
        dtype: of the numbers.
        device: where.
        tokens: rows of the input.
        sample: how many of them are one sample, whose product to the weight is folded by itself (default: all).
        in_features, out_features: of the linear layer; sizes beyond 4096 are measured at 4096.
    """
    in_features, out_features, tokens = min(in_features, 4096), min(out_features, 4096), min(tokens, 2048)
    x = torch.randn(tokens, in_features, device=device).to(dtype)
    weight = torch.randn(out_features, in_features, device=device).to(dtype)
    y = torch.randn(tokens, out_features, device=device).to(dtype)
    total = torch.zeros(out_features, in_features, device=device)
    samples = max(1, tokens // (sample or tokens))
    outs, ins = (t[: samples * (tokens // samples)].view(samples, -1, t.shape[1]) for t in (y, x))
    forward = _best(lambda: x @ weight.T, device)
    back = _best(lambda: y @ weight, device)
    fold = _best(lambda: fold_outer_(total, outs, ins), device)
    # A streamed layer takes the first product twice: once forward, once again before its gradient.
    flops = 2 * tokens * in_features * out_features * 4 / (2 * forward + back + fold)
    passing = _best(lambda: total.add_(weight.abs()), device)
    fresh = _best(lambda: torch.ones(_FRESH, dtype=torch.uint8, device=device), device)
    moved = (2 * dtype.itemsize + 4 + 4 + dtype.itemsize) * out_features * in_features
    return Speed(flops, moved / passing, _FRESH / fresh)


def faster_dtype(device: str, tokens: int, in_features: int, out_features: int) -> str:
    """Return "bfloat16" where its products are at least 1.2 times as fast as float32's here, else "float32".

    Processors without instructions for it are several times slower in it.
    """
    speeds = [
        measure_speed(dtype, device, tokens, in_features, out_features).flops
        for dtype in (torch.float32, torch.bfloat16)
    ]
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
