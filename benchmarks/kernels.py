"""The kernels of `ops` that are there for speed or memory, each against torch's plain way of the same: time, memory.

Run: python -m benchmarks.kernels [--small] [--only NAME]
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._common import arguments, child_extra_bytes, extra_bytes, machine, publish
from benchmarks.window import score_of
from paraknow_core.ops.folding import fold_outer_, folding, zeros_like
from paraknow_core.ops.low_rank import product_norm
from paraknow_core.ops.metrics import cosine, profile, row_sums
from paraknow_core.ops.structure import neuron
from paraknow_core.ops.vocabulary_loss import OutputLayer, sliced_cross_entropy

SHAPES = [(2048, 5632), (4096, 11008)]  # the largest weight in a layer of 1.1B and of 7B parameters
VOCABULARY = {(2048, 5632): (32000, 2048), (4096, 11008): (32000, 4096)}
SMALL = [(256, 704)]
SAMPLES, TOKENS, BLOCKS, ROUNDS = 4, 128, 64, 5
NOTES = [
    "Both ways in turn, the fastest of five calls each. CPU: seconds of all threads together, which other work on the",
    "machine disturbs less. Ratio: the plain way's CPU time over ours. Extra memory: resident high-water mark above",
    f"the resident memory before, in a process of its own, in MB. Folding and loss: {SAMPLES} samples of {TOKENS}",
    "tokens. The window search and the decomposition have benchmarks of their own (window, svd).",
]


@dataclass(frozen=True)
class Kernel:
    """One kernel; `own` and `plain` are called with what `inputs` makes of a shape, and `said` tells the plain way."""

    said: str
    inputs: Callable[[int, int], tuple]
    own: Callable[..., Any]
    plain: Callable[..., Any]


def _matrix(rows: int, cols: int) -> tuple[Tensor]:
    return (score_of((rows, cols)),)


def _plain_profile(matrix: Tensor) -> tuple[Tensor, ...]:
    wide = matrix.double()
    return wide.sum(1), wide.sum(0), wide.view(BLOCKS, len(wide) // BLOCKS, BLOCKS, -1).mean((1, 3))


def _plain_neuron(score: Tensor) -> Tensor:
    order = score.flatten().sort(descending=True, stable=True).indices[: score.numel() // 4]
    mask = torch.zeros(score.shape, dtype=torch.bool)
    mask.view(-1)[order] = True
    return mask


class FeedForward(nn.Module):
    """The feed-forward part of a Llama layer."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(hidden, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, tokens, hidden) to the same shape."""
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def _layer(hidden: int, inner: int) -> tuple:
    layer = FeedForward(hidden, inner)
    return layer, zeros_like(dict(layer.named_parameters())), torch.randn(SAMPLES, TOKENS, hidden)


def _own_folding(layer: nn.Module, sums: dict[str, Tensor], x: Tensor) -> None:
    with folding(dict(layer.named_parameters()), layer, SAMPLES, sums):
        layer(x.clone().requires_grad_()).square().sum().backward()


def _plain_folding(layer: nn.Module, sums: dict[str, Tensor], x: Tensor) -> None:
    for sample in x:
        layer.zero_grad()
        layer(sample.clone().requires_grad_()).square().sum().backward()
        for name, parameter in layer.named_parameters():
            sums[name] += parameter.grad.abs()


def _output_layer(rows: int, cols: int) -> tuple:
    vocabulary, width = VOCABULARY.get((rows, cols), (4 * rows, rows))
    labels = torch.randint(0, vocabulary, (SAMPLES, TOKENS)).tolist()
    hidden = list(torch.randn(SAMPLES, TOKENS, width))
    return torch.randn(vocabulary, width), torch.zeros(vocabulary, width), hidden, labels


def _own_loss(weight: Tensor, total: Tensor, hidden: list[Tensor], labels: list[list[int]]) -> None:
    layer = OutputLayer(lambda rows: weight[rows], len(weight))
    sliced_cross_entropy(hidden, labels, layer, lambda rows, errors, states: fold_outer_(total[rows], errors, states))


def _plain_loss(weight: Tensor, total: Tensor, hidden: list[Tensor], labels: list[list[int]]) -> None:
    for state, tokens in zip(hidden, labels, strict=True):
        leaf, theta = state.clone().requires_grad_(), weight.detach().requires_grad_()
        nn.functional.cross_entropy((leaf @ theta.T)[:-1], torch.tensor(tokens[1:])).backward()
        total += theta.grad.abs()


KERNELS = {
    "row sums": Kernel("sum(dtype=float64)", _matrix, row_sums, lambda m: m.sum(1, dtype=torch.float64)),
    "cosine": Kernel(
        "cosine_similarity of float64 copies",
        lambda rows, cols: _matrix(rows, cols) + _matrix(rows, cols),
        cosine,
        lambda a, b: nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), 0).item(),
    ),
    "profile": Kernel("sums of a float64 copy", _matrix, lambda m: profile(m, BLOCKS), _plain_profile),
    "neuron": Kernel("stable sort", _matrix, lambda s: neuron(s, s.shape[0] // 2, s.shape[1] // 2).mask, _plain_neuron),
    "product norm": Kernel(
        "norm of B @ A",
        lambda rows, cols: (torch.randn(rows, 16), torch.randn(16, cols)),
        product_norm,
        lambda b, a: torch.linalg.matrix_norm(b.double() @ a.double()).item(),
    ),
    "folding": Kernel("a gradient a sample by autograd, then abs", _layer, _own_folding, _plain_folding),
    "vocabulary loss": Kernel("whole logits, autograd, then abs", _output_layer, _own_loss, _plain_loss),
}


def measure(name: str, shape: tuple[int, int]) -> list[dict[str, Any]]:
    """Measure one kernel at one shape in both ways."""
    kernel = KERNELS[name]
    inputs, ways = kernel.inputs(*shape), {"own": kernel.own, kernel.said: kernel.plain}
    rows = {way: {"case": f"{name} {shape[0]}x{shape[1]}", "way": way} for way in ways}
    best = dict.fromkeys(ways, (math.inf, math.inf))
    for _ in range(ROUNDS):
        for way, work in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            work(*inputs)
            spent = (time.perf_counter() - wall, time.process_time() - processor)
            best[way] = tuple(map(min, best[way], spent))
    del inputs
    for way, row in rows.items():
        row["seconds"], row["cpu"] = best[way]
        row["ratio"] = best[way][1] / best["own"][1]
        row["extra_bytes"] = child_extra_bytes("benchmarks.kernels", {"kernel": name, "shape": shape, "way": way})
    return list(rows.values())


def child(case: dict[str, Any]) -> int:
    """Measure the extra memory of one call in this process."""
    kernel = KERNELS[case["kernel"]]
    work = kernel.own if case["way"] == "own" else kernel.plain
    work(*kernel.inputs(128, 256))  # loads what the first call loads
    inputs = kernel.inputs(*case["shape"])
    return extra_bytes(lambda: work(*inputs))


def main() -> None:
    """Print the table and write results/kernels.json."""
    options = arguments(
        __doc__.splitlines()[0],
        extra=lambda parser: parser.add_argument("--only", choices=list(KERNELS), help="only this kernel"),
    )
    if options.child:
        print(child(json.loads(options.child)))
        return
    names = [options.only] if options.only else list(KERNELS)
    facts = machine()
    rows = [row for name in names for shape in (SMALL if options.small else SHAPES) for row in measure(name, shape)]
    columns = {
        "case": str,
        "way": str,
        "seconds": "{:.3f}".format,
        "cpu": "{:.3f}".format,
        "ratio": "{:.1f}x".format,
        "extra_bytes": lambda size: f"{size / 2**20:.0f} MB",
    }
    publish(options, "kernels", "Kernels against torch's plain way", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
