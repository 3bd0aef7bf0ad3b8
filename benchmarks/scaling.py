"""How the cost of a streamed sensitivity grows: twice the layers, the width, the samples, against the arithmetic.

Run: python -m benchmarks.scaling [--small]
"""

import math
import tempfile
from pathlib import Path

import torch

from benchmarks import streaming
from benchmarks._common import arguments, machine, publish

# hidden, intermediate, layers, heads: doubled one at a time
BASE, SMALL = (1024, 2816, 6, 8), (128, 352, 2, 4)
NOTES = [
    "Streamed, random weights, samples of 128 tokens; seconds without loading code. Exponent: log2 of the growth when",
    "one thing is doubled. Arithmetic: the same of the operations of layers and output layer; what is done once a",
    "layer or once a sample, and products that are small, keep the measured ones apart from it. Best of two.",
]


def cases(small: bool) -> dict[str, tuple[tuple[int, int, int, int], int]]:
    """Return what is doubled -> the sizes and the number of samples."""
    hidden, inner, layers, heads = SMALL if small else BASE
    samples = 2 if small else 4
    return {
        "base": ((hidden, inner, layers, heads), samples),
        "2x layers": ((hidden, inner, 2 * layers, heads), samples),
        "2x width": ((2 * hidden, 2 * inner, layers, heads), samples),
        "2x samples": ((hidden, inner, layers, heads), 2 * samples),
    }


def operations(size: tuple[int, int, int, int], samples: int) -> int:
    """Count the operations of layers (8 a weight and token) and output layer (6)."""
    hidden, inner, layers, _ = size
    tokens = samples * streaming.TOKENS
    return tokens * (8 * layers * (4 * hidden * hidden + 3 * hidden * inner) + 6 * streaming.VOCABULARY * hidden)


def measure(name: str, size: tuple[int, int, int, int], samples: int, folder: Path) -> float:
    """Return the best seconds of two measurements of one case."""
    streaming.SIZES[name], streaming.SAMPLES = size, samples
    streaming.build(folder / name, name)
    best = math.inf
    for _ in range(2):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            threads = torch.get_num_threads()
            case = {"model": str(folder / name), "way": "streamed", "threads": threads, "work": work}
            best = min(best, streaming.child(case)["seconds"])
    return best


def main() -> None:
    """Print the table and write results/scaling.json."""
    options = arguments(__doc__.splitlines()[0])
    facts, rows = machine(), []
    with tempfile.TemporaryDirectory() as folder:
        for name, (size, samples) in cases(options.small).items():
            seconds = measure(name, size, samples, Path(folder))
            rows.append({"case": name, "seconds": seconds, "operations": operations(size, samples)})
    for row in rows[1:]:
        row["exponent"] = math.log2(row["seconds"] / rows[0]["seconds"])
        row["arithmetic"] = math.log2(row["operations"] / rows[0]["operations"])
    columns = {
        "case": str,
        "seconds": "{:.2f}".format,
        "operations": "{:.2e}".format,
        "exponent": "{:.2f}".format,
        "arithmetic": "{:.2f}".format,
    }
    publish(options, "scaling", "Growth of a streamed sensitivity", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
