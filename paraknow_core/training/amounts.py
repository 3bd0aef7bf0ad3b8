"""How many steps and passes a recipe makes of so many examples. Needs no torch."""

import math

from paraknow_core.spec import FinetuningSpec

# Padded tokens of one forward pass: enough to fill the cores (more passes a step: less padding), or a GPU.
TOKENS_PER_PASS, TOKENS_PER_GPU_PASS = 2_048, 16_384


def total_steps(spec: FinetuningSpec, examples: int) -> int:
    """Return the number of optimiser steps; the last batch of an epoch may be smaller."""
    if spec.max_steps is not None:
        return spec.max_steps
    return math.ceil(spec.epochs * math.ceil(examples / spec.batch_size))


def micro_batch_size(spec: FinetuningSpec, longest: int, device: str) -> int:
    """Return how many examples one forward pass takes: the spec's, else the largest divisor of the batch that fits."""
    if spec.micro_batch_size:
        return spec.micro_batch_size
    most = TOKENS_PER_PASS if device == "cpu" else TOKENS_PER_GPU_PASS
    return next((d for d in range(spec.batch_size, 0, -1) if spec.batch_size % d == 0 and d * longest <= most), 1)
