"""The window search against the plain ways: time, and peak memory on top of the score itself.

Run: python -m benchmarks.window [--small]
"""

import json
from collections.abc import Callable
from typing import Any

import torch

from benchmarks._common import arguments, child_extra_bytes, extra_bytes, machine, publish, seconds
from paraknow_core.ops.window import Window, best_window, window_sum

SIZES = [((5120, 5120), (4096, 4096)), ((13824, 5120), (11008, 4096))]
SMALL = [((640, 640), (512, 512)), ((1728, 640), (1376, 512))]
_LOOP_POSITIONS = 20_000
_TIES = 40
NOTES = [
    "All ways start from the same float32 score and include building their table. Times are the best of three.",
    f"The two loops are timed on {_LOOP_POSITIONS:,} positions and extrapolated to all of them; their table is built",
    "as in the vectorised way. Ratio: that way's time over the sliding search's. Extra memory: resident high-water",
    "mark above the resident memory before, in a process of its own, as a share of the score's bytes. First of ties:",
    f"share of {_TIES} scores with repeating rows, whose row offsets are all equally good in real arithmetic, in which",
    "a way returns the first one.",
]


def score_of(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Make a sensitivity-like score: positive, heavy-tailed, rows and columns of different strength."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.randn(shape, generator=generator).square_()
    return score.mul_(torch.rand(shape[0], 1, generator=generator)).mul_(torch.rand(shape[1], generator=generator))


def summed_area_table(score: torch.Tensor) -> torch.Tensor:
    """Build the (rows + 1, cols + 1) float64 table of sums above and to the left."""
    table = torch.zeros(score.shape[0] + 1, score.shape[1] + 1, dtype=torch.float64)
    table[1:, 1:] = score.double().cumsum(0).cumsum(1)
    return table


def vectorised(score: torch.Tensor, height: int, width: int) -> Window:
    """Search by differences of the whole table."""
    t = summed_area_table(score)
    sums = t[height:, width:] - t[:-height, width:] - t[height:, :-width] + t[:-height, :-width]
    return Window(*divmod(int(sums.argmax()), sums.shape[1]), height, width)


def first_of_ties(search: Callable[[torch.Tensor, int, int], Window]) -> float:
    """Return in what share of scores with repeating rows, all row offsets of which are equal, the first is found."""
    period = 100
    scores = [score_of((period, 4 * period), seed).repeat(4, 1) for seed in range(_TIES)]
    return sum(search(score, 3 * period, 3 * period).row == 0 for score in scores) / _TIES


def loop_seconds(table: Any, offsets: tuple[int, int], height: int, width: int) -> float:
    """Time a double loop over some positions of a table, in seconds a position."""
    rows = max(1, min(offsets[0], _LOOP_POSITIONS // offsets[1]))

    def loop() -> None:
        best = -1.0
        for i in range(rows):
            for j in range(offsets[1]):
                total = table[i + height, j + width] - table[i, j + width] - table[i + height, j] + table[i, j]
                if total > best:
                    best = total

    return seconds(loop) / (rows * offsets[1])


def measure(shape: tuple[int, int], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Measure one size in every way."""
    score, case = score_of(shape), {"shape": shape, "size": size}
    offsets = (shape[0] - size[0] + 1, shape[1] - size[1] + 1)
    table = summed_area_table(score)
    building = seconds(lambda: summed_area_table(score))
    by_position = {
        "Python loop, torch table": loop_seconds(table, offsets, *size),
        "Python loop, NumPy table": loop_seconds(table.numpy(), offsets, *size),
    }
    del table
    times = {way: building + each * offsets[0] * offsets[1] for way, each in by_position.items()}
    times["vectorised float64 table"] = seconds(lambda: vectorised(score, *size))
    times["sliding (best_window)"] = seconds(lambda: best_window(score, *size))
    found, plain = best_window(score, *size), vectorised(score, *size)
    bytes_of = {
        "vectorised float64 table": child_extra_bytes("benchmarks.window", case | {"way": "table"}),
        "sliding (best_window)": child_extra_bytes("benchmarks.window", case | {"way": "sliding"}),
    }
    ties = {"vectorised float64 table": vectorised, "sliding (best_window)": best_window}
    name = f"{shape[0]}x{shape[1]} -> {size[0]}x{size[1]}"
    return [
        {
            "case": name,
            "way": way,
            "seconds": time,
            "ratio": time / times["sliding (best_window)"],
            "extra_memory": None if bytes_of.get(way) is None else bytes_of[way] / (4 * score.numel()),
            "extrapolated": way in by_position,
            "same_window": found == plain,
            "first_of_ties": first_of_ties(ties[way]) if way in ties else None,
            "sum_over_plain": window_sum(score, found) / window_sum(score, plain),
        }
        for way, time in times.items()
    ]


def child(case: dict[str, Any]) -> int:
    """Measure the extra memory of one search in this process."""
    search = vectorised if case["way"] == "table" else best_window
    search(score_of((40, 40)), 20, 20)  # loads what the first call loads
    score = score_of(tuple(case["shape"]))
    return extra_bytes(lambda: search(score, *case["size"]))


def main() -> None:
    """Print the table and write results/window.json."""
    options = arguments(__doc__.splitlines()[0])
    if options.child:
        print(child(json.loads(options.child)))
        return
    facts, rows = machine(), []
    for shape, size in SMALL if options.small else SIZES:
        rows += measure(shape, size)
    columns = {
        "case": str,
        "way": str,
        "seconds": "{:.3f}".format,
        "ratio": "{:.1f}x".format,
        "extra_memory": "{:.2f}x".format,
        "same_window": lambda same: "yes" if same else "no",
        "first_of_ties": "{:.0%}".format,
    }
    publish(options, "window", "Window search", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
