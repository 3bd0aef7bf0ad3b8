"""How many steps and passes a recipe makes of so many examples. Needs no torch."""

from paraknow_core.spec import FinetuningSpec

# Padded tokens of one forward pass: enough to fill a core (more passes a step: less padding, and what a layer makes of
# one stays in the cache), or a GPU.
TOKENS_PER_PASS, TOKENS_PER_GPU_PASS = 1_024, 16_384


def micro_batch_size(spec: FinetuningSpec, longest: int, device: str) -> int:
    """Return how many examples one forward pass takes: the spec's, else the largest divisor of the batch that fits."""
    if spec.micro_batch_size:
        return spec.micro_batch_size
    most = TOKENS_PER_PASS if device == "cpu" else TOKENS_PER_GPU_PASS
    return next((d for d in range(spec.batch_size, 0, -1) if spec.batch_size % d == 0 and d * longest <= most), 1)
