"""The truncated decomposition against the full one and torch's own low-rank one: time, accuracy, peak memory.

Run: python -m benchmarks.svd [--small]
"""

import json
import math
from functools import partial
from typing import Any

import torch

from benchmarks._common import arguments, child_extra_bytes, extra_bytes, machine, publish, seconds
from paraknow_core.ops.svd import truncated_svd

SIZES = [(4096, 4096), (11008, 4096)]
SMALL = [(768, 640)]
RANK = 16
LOW_RANK = [(16, 4), (32, 4), (32, 8), (128, 8)]  # the last is the first that holds 1e-4 on both spectra
_LONGEST = 120.0  # seconds a full decomposition may take before it is extrapolated instead
_PROBE = 1024
NOTES = [
    f"Rank {RANK}, float32. Full: torch.linalg.svd(full_matrices=True), the published way; where marked ~ it would",
    f"take over {_LONGEST:.0f} s and is extrapolated from {_PROBE} x {_PROBE} by operation count. Excess error:",
    "Frobenius error over the optimum's, minus 1, against the eigenvalues of the float64 Gram matrix. Estimate: what",
    "the function itself reports. Ratio: that way's time over truncated_svd's. Extra memory: resident high-water mark",
    "above the resident memory before, in a process of its own, as a share of the matrix's bytes.",
]


def matrix_of(shape: tuple[int, int], spectrum: str) -> torch.Tensor:
    """Make a weight: pure noise (flat spectrum, the hardest), or noise plus 256 decaying directions."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator)
    if spectrum == "decaying":
        strengths = 8 / torch.arange(1.0, 257.0).sqrt()
        left, right = (torch.randn(size, 256, generator=generator) for size in shape)
        matrix += (left * strengths) @ right.T
    return matrix


def full_seconds(matrix: torch.Tensor) -> tuple[float, bool]:
    """Time the full decomposition; (seconds, extrapolated)."""

    def work(m: torch.Tensor) -> float:
        return seconds(lambda: torch.linalg.svd(m, full_matrices=True), 1)

    def operations(shape: tuple[int, ...]) -> float:
        most, least = max(shape), min(shape)
        return most * least**2 + (most**2) * least  # the reduction, and the square factor of the longer side

    if min(matrix.shape) <= _PROBE:
        return work(matrix), False
    probe = work(matrix[:_PROBE, :_PROBE].contiguous())
    expected = probe * operations(matrix.shape) / operations((_PROBE, _PROBE))
    return (expected, True) if expected > _LONGEST else (work(matrix), False)


def optimum(matrix: torch.Tensor) -> float:
    """Smallest possible squared Frobenius error of a rank-RANK approximation."""
    wide = matrix.double() if matrix.shape[0] >= matrix.shape[1] else matrix.double().T
    return torch.linalg.eigvalsh(wide.T @ wide)[:-RANK].sum().item()


def excess(matrix: torch.Tensor, u: torch.Tensor, s: torch.Tensor, v: torch.Tensor, best: float) -> float:
    """Relative excess of an approximation's Frobenius error over the optimum."""
    return math.sqrt((matrix.double() - (u.double() * s.double()) @ v.double().T).square().sum().item() / best) - 1


def measure(shape: tuple[int, int], spectrum: str) -> list[dict[str, Any]]:
    """Measure one matrix in every way."""
    matrix = matrix_of(shape, spectrum)
    case, best = {"shape": shape, "spectrum": spectrum}, optimum(matrix)
    ours = seconds(lambda: truncated_svd(matrix, RANK))
    found = truncated_svd(matrix, RANK)
    rows = [{"way": "truncated_svd", "seconds": ours, "estimate": found.excess_error}]
    rows[0]["excess_error"] = excess(matrix, found.u, found.s, found.v, best)
    memory = child_extra_bytes("benchmarks.svd", case)
    rows[0]["extra_memory"] = None if memory is None else memory / (4 * matrix.numel())
    torch.manual_seed(0)
    for q, niter in LOW_RANK:
        low_rank = partial(torch.svd_lowrank, matrix, q=q, niter=niter)
        leading = [factor[..., :RANK] for factor in low_rank()]
        row = {"way": f"torch.svd_lowrank, q {q}, niter {niter}", "excess_error": excess(matrix, *leading, best)}
        rows.append(row | {"seconds": seconds(low_rank)})
    full, extrapolated = full_seconds(matrix)
    rows.append({"way": "full decomposition", "seconds": full, "extrapolated": extrapolated, "excess_error": 0.0})
    name = f"{shape[0]}x{shape[1]} {spectrum}"
    return [{"case": name, "ratio": row["seconds"] / ours, **row} for row in rows]


def child(case: dict[str, Any]) -> int:
    """Measure the extra memory of one decomposition in this process."""
    truncated_svd(matrix_of((700, 600), "noise"), RANK)  # loads what the first call loads
    matrix = matrix_of(tuple(case["shape"]), case["spectrum"])
    return extra_bytes(lambda: truncated_svd(matrix, RANK))


def main() -> None:
    """Print the table and write results/svd.json."""
    options = arguments(__doc__.splitlines()[0])
    if options.child:
        print(child(json.loads(options.child)))
        return
    facts, rows = machine(), []
    for shape in SMALL if options.small else SIZES:
        for spectrum in ("decaying", "noise"):
            rows += measure(shape, spectrum)
    for row in rows:
        row["time"] = f"{'~' if row.get('extrapolated') else ''}{row['seconds']:.3f} s"
    columns = {
        "case": str,
        "way": str,
        "time": str,
        "ratio": "{:.1f}x".format,
        "excess_error": "{:.1e}".format,
        "estimate": "{:.1e}".format,
        "extra_memory": "{:.2f}x".format,
    }
    publish(options, "svd", "Truncated singular value decomposition", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
