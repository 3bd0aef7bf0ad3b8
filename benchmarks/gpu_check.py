"""What a GPU has to prove, in at most eight minutes: same results as the processor, and how near to its own limits.

Run: python -m benchmarks.gpu_check [--only PART] [--budget SECONDS]; without a GPU: --device cpu --small

Parts are independent. Each says what it lacks; with torch alone the ceilings, every kernel and the extraction by
kernels are measured. Rows are printed as they end, and the file is written after every part.
"""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._common import arguments, write
from paraknow_core.ops import coherent, initialisation, low_rank, metrics, structure
from paraknow_core.ops.adapted import adapted_linear
from paraknow_core.ops.chunks import require_matrix, row_chunks, value_range
from paraknow_core.ops.folding import batchable, fold_outer_, folding, numbers_at_once, weigh_, zeros_like
from paraknow_core.ops.haar import rotated, shuffled
from paraknow_core.ops.offsets import offset_distribution
from paraknow_core.ops.products import StripProducts
from paraknow_core.ops.sensitivity import accumulate_sensitivity
from paraknow_core.ops.similarity import layer_similarities, linear_cka, ordered_assignment, stitch_r2
from paraknow_core.ops.spectrum import spectrum
from paraknow_core.ops.svd import factorise, split_factors, trailing_svd, truncated_svd
from paraknow_core.ops.vocabulary_loss import OutputLayer, sliced_cross_entropy
from paraknow_core.ops.window import Window, best_window, sum_strips, window_sum

BUDGET = 480.0  # seconds for everything
TARGET = 60.0  # seconds for sensitivity and extraction, 13B -> 7B
RANK = 16
PROJECT = tuple(
    "pydantic yaml numpy scipy psutil filelock regex jinja2 safetensors tokenizers accelerate peft transformers".split()
)
OWN = ("paraknow_core", "benchmarks")
REQUIRED = Path(__file__).parents[1] / "requirements.txt"
NOTES = [
    "Ceilings are measured here, not taken from a data sheet; shares are of them. Copies count bytes read and written.",
    "Differences: largest absolute difference over the largest value, GPU against processor, on the same inputs.",
    "Sensitivity: 8 operations a layer weight and token (forward, forward again, two products backward), 6 a weight of",
    "the output layer; gradients are taken sample by sample. Folding: 16 bytes a weight and sample (gradient written,",
    "read and written as |gradient|, read and added to a float32 sum). Training: operations counted by torch.",
    "13B -> 7B: the shapes of Llama 2, random bfloat16 weights: pure noise, the hardest for the decomposition.",
]


class Lacking(Exception):
    """What a part needs and does not find here; it is skipped, with these words."""


class TimeOver(BaseException):
    """The time for everything is over in the middle of a part: no `except Exception` on the way may hold it up."""


@dataclass
class Check:
    """One check: where it runs, how large, until when, and the rows so far."""

    device: torch.device
    small: bool
    deadline: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    ceilings: dict[str, float] = field(default_factory=dict)  # TFLOP/s by number format, GB/s by way

    @property
    def left(self) -> float:
        """Seconds until everything has to be over."""
        return self.deadline - time.monotonic()

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Return when the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], repeats: int = 3) -> float:
        """Best time of a few calls, after one that loads what the first loads."""
        work()
        best = float("inf")
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            best = min(best, time.perf_counter() - start)
        return best

    @contextmanager
    def timed(self, spent: dict[str, float], name: str) -> Iterator[None]:
        """Add the time inside the `with` block to `spent[name]`."""
        self.wait()
        start = time.perf_counter()
        yield
        self.wait()
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

    def share(self, value: float, ceiling: str) -> float | None:
        """What part of a measured ceiling a rate is; None where that was not measured."""
        return value / self.ceilings[ceiling] if self.ceilings.get(ceiling) else None

    def require_memory(self, count: float) -> None:
        """Refuse a part for which the device has too little free memory, in bytes."""
        free = torch.cuda.mem_get_info()[0] if self.on_gpu else float("inf")
        if free < count:
            raise Lacking(f"{count / 1e9:.0f} GB of device memory, {free / 1e9:.0f} are free")


@dataclass(frozen=True)
class Part:
    """One part: its name, about how many seconds on one H200, the packages it needs beside torch, and its rows."""

    name: str
    estimate: float
    needs: Sequence[str]
    measure: Callable[[Check], Iterator[dict[str, Any]]]


def run_parts(check: Check, parts: Sequence[Part], after: Callable[[], object] = lambda: None) -> None:
    """Run parts in order; every row, also that of a part which is skipped or fails, is printed at once and kept."""
    for part in parts:
        missing = [name for name in part.needs if find_spec(name) is None]
        began = time.monotonic()
        try:
            if missing:
                raise Lacking(f"{', '.join(missing)} (pip install -r requirements.txt)")
            estimate = 0.0 if check.small else part.estimate
            if check.left <= estimate:
                raise Lacking(f"about {estimate:.0f} s, {max(0.0, check.left):.0f} s are left")
            with _ends(check.left):
                for row in part.measure(check):
                    _add(check, part.name, row)
        except Lacking as lacking:
            _add(check, part.name, {"state": f"skipped: needs {lacking}"})
        except TimeOver:
            _add(check, part.name, {"state": f"skipped: needs more than the {time.monotonic() - began:.0f} s it had"})
        except Exception as error:  # noqa: BLE001 - a part that fails must not keep the others from running
            _add(check, part.name, _failure(error))
        gc.collect()
        if check.on_gpu:
            torch.cuda.empty_cache()
        after()


def _add(check: Check, part: str, row: Mapping[str, Any]) -> None:
    row = {"part": part, "case": "", "state": "ok", **row}
    check.rows.append(row)
    figures = "  ".join(f"{key} {_written(v)}" for key, v in row.items() if key not in ("part", "case", "state"))
    print(f"{row['part']:<11} {row['case']:<46} {row['state']}  {figures}".rstrip(), flush=True)


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _failure(error: Exception) -> dict[str, Any]:
    """Say an error in one line, and which versions are not those that the project asks for; no traceback."""
    text, other = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", _other_versions()
    if isinstance(error, ImportError) and (other or (error.name or "").partition(".")[0] not in OWN):
        installed = f"; {', '.join(other)} installed" if other else ""
        return {"state": f"skipped: needs what requirements.txt asks for ({text}{installed})"}
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    where = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    said = f" (installed are {', '.join(other)}; requirements.txt asks for others)" if other else ""
    return {"state": f"failed: {text}{said}", "where": where}


def _other_versions() -> list[str]:
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return []
    found = []
    for line in filter(None, (line.partition("#")[0].strip() for line in REQUIRED.read_text().splitlines())):
        requirement = Requirement(line)
        try:
            if not requirement.specifier.contains(version(requirement.name).partition("+")[0]):
                found.append(f"{requirement.name} {version(requirement.name)}")
        except PackageNotFoundError:
            pass
    return found


@contextmanager
def _ends(seconds: float) -> Iterator[None]:
    """Raise TimeOver inside the `with` block when so many seconds are over (where there are such signals)."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise TimeOver

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- a) what the machine can do -------------------------------------------------------------------------------------


def ceilings(check: Check) -> Iterator[dict[str, Any]]:
    """Measure matrix products and copies."""
    n = 256 if check.small else 8192
    for name, dtype, precision in (
        ("float32", torch.float32, "highest"),
        ("tf32", torch.float32, "high"),
        ("bfloat16", torch.bfloat16, "highest"),
    ):
        if name == "tf32" and not check.on_gpu:
            yield {"case": "products tf32", "state": "skipped: needs CUDA"}
            continue
        a, b = (torch.randn(n, n, device=check.device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        times = 10 if name != "float32" else 3
        torch.set_float32_matmul_precision(precision)
        try:
            spent = check.seconds(lambda: [torch.mm(a, b, out=out) for _ in range(times)])  # noqa: B023 - called here
        finally:
            torch.set_float32_matmul_precision("highest")
        check.ceilings[name] = 2 * n**3 * times / spent / 1e12
        yield {"case": f"products {n} {name}", "tflops": check.ceilings[name]}
    size = 1 << 22 if check.small else 1 << 31
    first = torch.ones(size, dtype=torch.uint8, device=check.device)
    second = torch.empty_like(first)
    check.ceilings["copy"] = 2 * size / check.seconds(partial(second.copy_, first)) / 1e9
    yield {"case": "copy on the device", "gb_per_s": check.ceilings["copy"]}
    del first, second
    yield from _transfers(check, size // 2)
    yield from _disk(check, size // 2)


def _transfers(check: Check, size: int) -> Iterator[dict[str, Any]]:
    there = torch.empty(size, dtype=torch.uint8, device=check.device)
    for name, pinned in (("pinned", True), ("pageable", False)):
        if pinned and not check.on_gpu:
            yield {"case": "copy to the device, pinned", "state": "skipped: needs CUDA"}
            continue
        here = torch.ones(size, dtype=torch.uint8, pin_memory=pinned)
        for way, target, source in (("to", there, here), ("from", here, there)):
            rate = size / check.seconds(partial(target.copy_, source)) / 1e9
            check.ceilings[f"{way} {name}"] = rate
            yield {"case": f"copy {way} the device, {name}", "gb_per_s": rate}


def _disk(check: Check, size: int) -> Iterator[dict[str, Any]]:
    """Read a safetensors file: what the disk gives, and what is already in the system's memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            block = os.urandom(1 << 20)
            for _ in range(size >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for name in ("from disk", "again"):
            start = time.perf_counter()
            with path.open("rb", buffering=0) as file:
                room = bytearray(1 << 24)
                while file.readinto(room):
                    pass
            rate = size / (time.perf_counter() - start) / 1e9
            yield {"case": f"read a safetensors file, {name}", "gb_per_s": rate}
        if find_spec("safetensors") is None:
            yield {"case": "safetensors file to the device", "state": "skipped: needs safetensors"}
            return
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            rate = size / check.seconds(lambda: file.get_tensor("w").to(check.device, copy=True), 1) / 1e9
        yield {"case": "safetensors file to the device", "gb_per_s": rate}


# --- b) every kernel against the processor --------------------------------------------------------------------------


class Inputs:
    """Inputs of a kernel: drawn on the processor, the same every time, and moved to a device."""

    def __init__(self, device: torch.device | str, small: bool) -> None:
        self.device, self.small = device, small
        self.rows, self.cols = (700, 600) if small else (5120, 4096)
        self.tokens = 48 if small else 512
        self.generator = torch.Generator().manual_seed(0)

    def _drawn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device="cpu")

    def normal(self, *shape: int) -> Tensor:
        return self._drawn(*shape).to(self.device)

    def score(self, rows: int = 0, cols: int = 0) -> Tensor:
        """Positive and heavy-tailed, rows and columns of different strength."""
        rows, cols = rows or self.rows, cols or self.cols
        scale = self._drawn(rows, 1).abs() * self._drawn(cols).abs()
        return (self._drawn(rows, cols).square() * scale).to(self.device)

    def decaying(self, rows: int = 0, cols: int = 0) -> Tensor:
        """A weight whose singular values fall by a quarter each, until noise."""
        rows, cols = rows or self.rows, cols or self.cols
        strengths = 0.75 ** torch.arange(40.0, device="cpu")
        left, right = self._drawn(rows, 40), self._drawn(cols, 40)
        return ((left * strengths) @ right.T + 1e-4 * self._drawn(rows, cols)).to(self.device)

    def ints(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device="cpu").to(self.device)


@dataclass(frozen=True)
class Kernel:
    """Functions of `ops` on some inputs.

    Attributes:
        covers: their names.
        tolerance: largest difference allowed between devices; 0: exactly the same.
        run: makes inputs and calls them; the numbers in its result are compared.
        needs: packages that the functions need on the processor, beside torch.
    """

    covers: str
    tolerance: float
    run: Callable[[Inputs], Any]
    needs: tuple[str, ...] = ()


class Norm(nn.Module):
    """The norm of a Llama layer."""

    def __init__(self, size: int, **place: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, **place))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-5).to(x.dtype) * self.weight


class Layer(nn.Module):
    """A Llama layer without its rotary positions, which are no product; random weights."""

    def __init__(self, hidden: int, inner: int, heads: int, **place: Any) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = Norm(hidden, **place), Norm(hidden, **place)
        self.q, self.k, self.v, self.o = (nn.Linear(hidden, hidden, bias=False, **place) for _ in range(4))
        self.gate, self.up = (nn.Linear(hidden, inner, bias=False, **place) for _ in range(2))
        self.down = nn.Linear(inner, hidden, bias=False, **place)

    def forward(self, x: Tensor) -> Tensor:
        """Map (samples, tokens, hidden) to the same shape."""
        y = self.before(x)
        q, k, v = (f(y).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(x.shape))
        y = self.between(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


def _layer(i: Inputs) -> tuple[Layer, dict[str, nn.Parameter]]:
    hidden = 64 if i.small else 512
    layer = Layer(hidden, 3 * hidden, 4, device="cpu")
    for parameter in layer.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=i.generator, device="cpu") * hidden**-0.5)
    layer = layer.to(i.device)
    return layer, dict(layer.named_parameters())


def _folded(i: Inputs) -> Any:
    layer, parameters = _layer(i)
    sums, x = zeros_like(parameters), i.normal(3, 24, layer.q.in_features)
    if not batchable(layer):
        raise RuntimeError("a Llama layer should be batchable")
    with folding(parameters, layer, len(x), sums):
        layer(x.requires_grad_()).square().mean().backward()
    total = torch.zeros(40, 30, device=i.device)
    fold_outer_(total, i.normal(3, 24, 40), i.normal(3, 24, 30))
    weigh_(total, i.normal(40, 30))
    if numbers_at_once(total) < total.numel():
        raise RuntimeError("so few numbers go at once")
    return sums, total


def _accumulated(i: Inputs) -> Any:
    layer, parameters = _layer(i)
    samples = i.normal(3, 1, 24, layer.q.in_features)
    return accumulate_sensitivity(parameters, samples, lambda x: layer(x).square().mean(), module=layer)


def _loss(i: Inputs) -> Any:
    vocabulary, width = (600, 64) if i.small else (9000, 512)
    weight, total = i.normal(vocabulary, width) / width**0.5, torch.zeros(vocabulary, width, device=i.device)
    hidden, labels = [i.normal(24, width) for _ in range(3)], i.ints(vocabulary, 3, 24).tolist()
    layer = OutputLayer(lambda rows: weight[rows], vocabulary)
    found = sliced_cross_entropy(hidden, labels, layer, lambda rows, e, s: fold_outer_(total[rows], e, s))
    return found, total


def _windows(i: Inputs) -> Any:
    score, (height, width) = i.score(), (i.rows * 4 // 5, i.cols * 4 // 5)
    ties = i.score(i.rows // 4).repeat(4, 1)  # many windows are exactly as good
    return best_window(score, height, width), best_window(ties, i.rows // 2, width)


def _sums(i: Inputs) -> Any:
    score, (height, width) = i.score(), (i.rows * 4 // 5, i.cols * 4 // 5)
    return window_sum(score, Window(3, 5, height, width)), list(sum_strips(score, height, width))[-1][-1]


def _structures(i: Inputs) -> Any:
    score, size = i.score(), (i.rows // 2, i.cols // 2)
    picks = [structure.submatrix, structure.least_sensitive, structure.row_column]
    made = [pick(score, *size) for pick in picks]
    for selection in made:
        tensors, record = selection.pack()
        again = structure.unpack(tensors, {**record, "shape": list(selection.shape)})
        if not again.take(score).equal(selection.take(score)):
            raise RuntimeError(f"a packed {selection.kind} takes other entries")
    rows, cols = structure.highest(metrics.row_sums(score), 9), structure.highest(metrics.col_sums(score), 7)
    crossed = structure.crossing(rows, cols).take(score)
    return [s.take(score) for s in made], structure.index_ranges(rows), cols, crossed


def _neuron(i: Inputs) -> Any:
    score = i.score()
    selection = structure.neuron(score, i.rows // 2, i.cols // 2)
    tensors, record = selection.pack()
    again = structure.unpack(tensors, {**record, "shape": list(selection.shape)})
    return selection.take(score), again.take(score)


def _coherent(i: Inputs) -> Any:
    teacher, student = coherent.Heads(4, 2, 16), coherent.Heads(2, 2, 8)
    scores = {r: i.score(1, 4 * (2 if r in "qo" else 1) * 16)[0] for r in "qkvo"}
    picks = (coherent.contiguous, coherent.scattered)
    whole = [coherent.whole_heads(scores, teacher, student, pick, rotary=True) for pick in picks]
    return whole, [pick(i.score(1)[0], 50) for pick in picks]


def _svds(i: Inputs) -> Any:
    """Compare products: vectors of close values may be turned among themselves."""
    weight = i.decaying()
    svd, factors = truncated_svd(weight, RANK), factorise(weight, RANK)
    a, b = split_factors(svd.u, svd.s, svd.v, "sqrt")
    values = spectrum(weight, RANK)
    return svd.s, (svd.u * svd.s) @ svd.v.T, factors.b @ factors.a, factors.retained_energy, b @ a, values.values


def _last(i: Inputs) -> Any:
    svd = trailing_svd(i.normal(i.rows // 2, i.cols // 2), RANK)
    return svd.s, (svd.u * svd.s) @ svd.v.T


def _starts(i: Inputs) -> Any:
    weight, x = i.decaying(i.rows // 2, i.cols // 2), i.normal(i.cols, i.cols // 2).double()
    moments = x.T @ x / len(x) + torch.diag(torch.linspace(0.1, 3, x.shape[1], device=i.device, dtype=x.dtype))
    pairs = [
        initialisation.minor_factors(i.normal(300, 200), 8, 2.0),
        initialisation.gradient_factors(weight, 8),
        initialisation.descent_factors(weight, 8),
        initialisation.weighted_factors(weight, moments, 8, 2.0),
        initialisation.weighted_factors(weight, moments.diagonal(), 8, 2.0),
    ]
    low = i.decaying(x.shape[1], 60)
    directions, share = initialisation.input_directions(low @ low.T, 8)
    return (
        [b @ a for a, b in pairs],
        (directions.T @ directions, share),
        initialisation.input_directions(moments.diagonal(), 8),
    )


def _low_rank(i: Inputs) -> Any:
    b, a = i.normal(i.rows, RANK), i.normal(RANK, i.cols)
    basis = low_rank.column_basis(i.normal(i.rows, 40))
    twin_b, twin_a = low_rank.random_twin(b, a, torch.Generator().manual_seed(1))
    return (
        low_rank.product_norm(b, a),
        low_rank.product_cosine(b, a, (b @ a) + i.normal(i.rows, i.cols)),
        basis[:50] @ basis.T,
        low_rank.captured_share(b, a, basis, "out"),
        low_rank.mean_cosine(b, i.normal(i.rows, 20)),
        low_rank.product_norm(twin_b, twin_a),
    )


def _adapted(i: Inputs) -> Any:
    x, a, b = i.normal(64, i.cols), i.normal(RANK, i.cols), i.normal(i.rows, RANK)
    for tensor in (x, a, b):
        tensor.requires_grad_(True)
    out = adapted_linear(x, i.normal(i.rows, i.cols) / i.cols**0.5, i.normal(i.rows), a, b, 0.5)
    return (out.detach(), *torch.autograd.grad(out.square().mean(), (x, a, b)))


def _turned(i: Inputs) -> Any:
    return torch.linalg.svdvals(rotated(i.normal(300, 200), torch.Generator().manual_seed(1)))


def _metrics(i: Inputs) -> Any:
    score, weight = i.score(), i.normal(i.rows, i.cols)
    return (
        metrics.row_sums(score),
        metrics.col_sums(score),
        metrics.total(score),
        metrics.profile(score),
        metrics.sum_of_squares(weight),
        metrics.cosine(weight, weight + i.normal(i.rows, i.cols)),
        metrics.retained_energy(score[0], 2 * score[0].double().square().sum().item()),
    )


def _chunks(i: Inputs) -> Any:
    weight = require_matrix("check", i.normal(i.rows, i.cols))
    return value_range("check", weight), torch.cat([part[:, :8].clone() for _, part in row_chunks(weight)])


def _strips(i: Inputs) -> Any:
    products = StripProducts(i.normal(i.rows, i.cols).bfloat16(), torch.float32)
    vectors, images = i.normal(i.cols, RANK), i.normal(i.rows, RANK)
    room = torch.empty_like(images)
    return products.there(vectors), products.back(images), products.there_and_back(vectors, room), room


def _similar(i: Inputs) -> Any:
    n = i.tokens
    half = torch.arange(n, device=i.device) < n // 2
    first, second = ([i.normal(n, width) for _ in range(3)] for width in (40, 30))
    tables = layer_similarities(first, second, half)
    cka, stitch = linear_cka(first[0], second[0]), stitch_r2(first[0], first[0] @ i.normal(40, 9), half)
    return tables, cka, stitch, ordered_assignment(tables["cka"])


def _offsets(i: Inputs) -> Any:
    score, (height, width) = i.score(), (i.rows * 4 // 5, i.cols * 4 // 5)
    return offset_distribution(score, height, width, window_sum(score, Window(0, 0, height, width)))


KERNELS = (
    Kernel("best_window", 0, _windows),
    Kernel("window_sum sum_strips", 1e-10, _sums),
    Kernel("submatrix least_sensitive row_column highest crossing unpack index_ranges", 0, _structures),
    Kernel("neuron", 0, _neuron, ("numpy",)),
    Kernel("contiguous scattered whole_heads", 0, _coherent),
    Kernel("offset_distribution", 1e-3, _offsets),
    Kernel("truncated_svd factorise split_factors spectrum", 2e-4, _svds),
    Kernel("truncated_svd", 5e-3, lambda i: truncated_svd(i.normal(i.rows, i.cols), RANK).s),  # noise
    Kernel("trailing_svd", 1e-5, _last, ("scipy",)),
    Kernel(
        "minor_factors gradient_factors descent_factors weighted_factors input_directions", 2e-3, _starts, ("scipy",)
    ),
    Kernel("product_norm product_cosine column_basis captured_share mean_cosine random_twin", 1e-5, _low_rank),
    Kernel("adapted_linear", 1e-4, _adapted),
    Kernel("rotated", 1e-4, _turned),
    Kernel("shuffled", 0, lambda i: shuffled(i.normal(300, 200), torch.Generator().manual_seed(1))),
    Kernel("row_sums col_sums total profile sum_of_squares cosine retained_energy", 1e-10, _metrics),
    Kernel("row_chunks require_matrix value_range", 0, _chunks),
    Kernel("StripProducts", 1e-5, _strips),
    Kernel("folding zeros_like batchable fold_outer_ weigh_ numbers_at_once", 1e-4, _folded),
    Kernel("accumulate_sensitivity", 1e-4, _accumulated),
    Kernel("sliced_cross_entropy", 1e-4, _loss),
    Kernel("layer_similarities linear_cka stitch_r2 ordered_assignment", 1e-6, _similar),
)


def kernels(check: Check) -> Iterator[dict[str, Any]]:
    """Call every kernel on the processor and on the device."""
    for kernel in KERNELS:
        row: dict[str, Any] = {"case": kernel.covers if len(kernel.covers) < 46 else f"{kernel.covers[:43]}..."}
        missing = [name for name in kernel.needs if find_spec(name) is None]
        if missing:
            yield row | {"state": f"skipped: needs {', '.join(missing)}"}
            continue
        try:
            expected, of_cpu = _called(check, kernel, "cpu")
            found, of_device = _called(check, kernel, check.device)
        except Exception as error:  # noqa: BLE001 - the others are to be compared all the same
            yield row | _failure(error)
            continue
        off = difference(found, expected)
        row |= {"difference": off, "allowed": kernel.tolerance, "cpu_seconds": of_cpu, "seconds": of_device}
        yield (
            row if off <= kernel.tolerance else row | {"state": f"failed: {off:.2g} off, {kernel.tolerance:g} allowed"}
        )


def _called(check: Check, kernel: Kernel, device: torch.device | str) -> tuple[list[Tensor], float]:
    torch.manual_seed(0)
    start = time.perf_counter()
    found = numbers(kernel.run(Inputs(device, check.small)))
    return found, time.perf_counter() - start  # inputs drawn and results fetched, which waits for them


def numbers(result: Any) -> list[Tensor]:
    """Return every number in a result, float64, on the processor."""
    if isinstance(result, Tensor):
        return [result.detach().cpu().double()]
    if isinstance(result, bool | int | float):
        return [torch.tensor(float(result), dtype=torch.float64, device="cpu")]
    if is_dataclass(result):
        return numbers(vars(result))
    if isinstance(result, Mapping):
        return numbers(list(result.values()))
    return [n for part in result for n in numbers(part)] if isinstance(result, Sequence | Iterator) else []


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference of two results, relative to the largest value of each tensor; inf if they are none.

    What is not a number differs from everything.
    """
    if not expected or [t.shape for t in found] != [t.shape for t in expected]:
        return float("inf")
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        off = ((a - b).abs().max() / (b.abs().max() or 1.0)).item() if b.numel() else 0.0
        worst = max(worst, off if off == off else float("inf"))
    return worst


# --- d) 13B -> 7B ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes."""

    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int = 32000

    @property
    def layer_weights(self) -> int:
        return 4 * self.hidden**2 + 3 * self.hidden * self.inner

    @property
    def weights(self) -> int:
        return self.layers * self.layer_weights + 2 * self.vocabulary * self.hidden

    def block(self, student: "Shape", role: str) -> tuple[int, int]:
        """The shape of a student's weight of this role."""
        del self
        return {"gate": (student.inner, student.hidden), "up": (student.inner, student.hidden)}.get(
            role, (student.hidden, student.inner if role == "down" else student.hidden)
        )


PAIR = (Shape(5120, 13824, 40, 40), Shape(4096, 11008, 32, 32))
SMALL_PAIR = (Shape(96, 224, 3, 3, 300), Shape(64, 160, 2, 2, 300))
ROLES = ("q", "k", "v", "o", "gate", "up", "down")


def _task(check: Check) -> tuple[Shape, Shape, int, int, torch.dtype]:
    """Return teacher, student, samples, tokens, number format."""
    if check.small:
        return *SMALL_PAIR, 4, 24, torch.float32
    return *PAIR, 32, 256, torch.bfloat16


def extraction_by_kernels(check: Check) -> Iterator[dict[str, Any]]:
    """Run the streamed measurement's arithmetic and the extraction's, all weights and states on the device."""
    teacher, student, count, tokens, dtype = _task(check)
    check.require_memory(2 * teacher.weights + 2 * (teacher.layers + 4) * count * tokens * teacher.hidden + 8e9)
    if check.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    place = {"device": check.device, "dtype": dtype}
    layers = [Layer(teacher.hidden, teacher.inner, teacher.heads, **place) for _ in range(teacher.layers)]
    head = torch.randn(teacher.vocabulary, teacher.hidden, **place) * teacher.hidden**-0.5
    hidden = [torch.randn(count, tokens, teacher.hidden, **place)]
    together = max(1, 512 // tokens)  # samples that go through a layer at a time, as in a streamed measurement
    batches = [slice(first, min(first + together, count)) for first in range(0, count, together)]
    spent: dict[str, float] = {}
    windows: dict[tuple[int, str], Window] = {}
    with check.timed(spent, "sensitivity"):
        with torch.no_grad():
            for layer in layers:
                hidden.append(torch.cat([layer(hidden[-1][batch]) for batch in batches]))
        losses, gradient = _output_sums(head, hidden.pop(), batches)
    for i in reversed(range(teacher.layers)):
        with check.timed(spent, "sensitivity"):
            sums = _layer_sums(layers[i], hidden.pop(), gradient, batches)
        with check.timed(spent, "reductions and windows"):
            for role in ROLES:
                score, size = sums[f"{role}.weight"], teacher.block(student, role)
                metrics.profile(score)
                windows[i, role] = best_window(score, *size)
                structure.row_column(score, *size)  # what a measurement keeps besides
    kept = []
    with check.timed(spent, "blocks and factors"), torch.no_grad():
        for i in range(student.layers):
            source = round(i * (teacher.layers - 1) / max(1, student.layers - 1))
            for role in ROLES:
                block = getattr(layers[source], role).weight.detach()[windows[source, role].slices]
                metrics.cosine(block, block.roll(1, 0))  # in a run, with the student's weight
                kept.append(factorise(block, RANK).retained_energy)
    work = 8 * teacher.layers * teacher.layer_weights + 6 * teacher.vocabulary * teacher.hidden
    tflops = work * count * tokens / spent["sensitivity"] / 1e12
    folded = 16 * teacher.layers * teacher.layer_weights * count / spent["sensitivity"] / 1e9
    shares = {
        "tflops": tflops,
        "of_products": check.share(tflops, str(dtype).removeprefix("torch.")),
        "folding_gb_per_s": folded,
        "of_copy": check.share(folded, "copy"),
        "loss": sum(losses) / count,
    }
    for name, seconds in spent.items():
        yield {"case": name, "seconds": seconds, **(shares if name == "sensitivity" else {})}
    if not (all(0 < energy < 1 for energy in kept) and all(loss > 0 for loss in losses)):
        raise RuntimeError(f"losses {losses[:3]}, energies {kept[:3]}: not those of random weights")
    yield _judged(check, f"all, {count} samples of {tokens} tokens", sum(spent.values()))


def _output_sums(head: Tensor, states: Tensor, batches: Sequence[slice]) -> tuple[list[float], Tensor]:
    """Take every sample's loss on random tokens, and S of the output layer; return the losses and their gradients."""
    labels = torch.randint(len(head), states.shape[:2], device="cpu").tolist()
    total, layer = torch.zeros(head.shape, device=head.device), OutputLayer(lambda rows: head[rows], len(head))

    def fold(rows: slice, errors: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        fold_outer_(total[rows], errors, inputs)

    found = [sliced_cross_entropy(list(states[batch]), labels[batch], layer, fold) for batch in batches]
    weigh_(total, head)
    return [loss for each in found for loss in each.losses], torch.stack([g for each in found for g in each.gradients])


def _layer_sums(layer: Layer, states: Tensor, gradient: Tensor, batches: Sequence[slice]) -> dict[str, Tensor]:
    """Return S of a layer's parameters; the gradient to its output becomes, in place, that to its input."""
    parameters = dict(layer.named_parameters())
    sums = zeros_like(parameters)
    for batch in batches:
        leaf = states[batch].detach().requires_grad_()
        with folding(parameters, layer, len(leaf), sums):
            layer(leaf).backward(gradient[batch])
        gradient[batch] = leaf.grad
    for name, total in sums.items():
        weigh_(total, parameters[name])
    return sums


def _judged(check: Check, case: str, seconds: float) -> dict[str, Any]:
    """Return the row of a total, with the memory it took, which fails where the target is missed on a full size."""
    row: dict[str, Any] = {"case": case, "seconds": seconds, "target": TARGET}
    if check.on_gpu:
        row["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    if seconds > TARGET and not check.small:
        row["state"] = f"failed: {seconds:.0f} s, at most {TARGET:.0f} are wanted"
    return row


def extraction_by_the_product(check: Check) -> Iterator[dict[str, Any]]:
    """Measure and extract as a run does: from files on disk to a student with its adapter."""
    teacher, student, *_, dtype = _task(check)
    needed = dtype.itemsize * (teacher.weights + student.weights) * 1.15
    if shutil.disk_usage(tempfile.gettempdir()).free < needed:
        raise Lacking(f"{needed / 1e9:.0f} GB for temporary files (TMPDIR says where)")
    check.require_memory(1.5 * dtype.itemsize * student.weights)
    spent: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        with check.timed(spent, "random weights to disk, not counted"):
            write_llama(Path(name, "teacher"), teacher, dtype, check.device)
            write_llama(Path(name, "student"), student, dtype, check.device)
        for case, seconds in spent.items():
            yield {"case": case, "seconds": seconds}
        for streaming in ("always", "never") if check.small else ("auto",):
            yield from _extracted(check, Path(name), streaming)


def _extracted(check: Check, folder: Path, streaming: str) -> Iterator[dict[str, Any]]:
    """Measure a teacher in one way and extract; a row a stage, then one for all."""
    from paraknow_core.context import Context, Silent
    from paraknow_core.methods import method
    from paraknow_core.methods.plan import plan_transfer
    from paraknow_core.methods.seeking.choice import choices_to_keep
    from paraknow_core.methods.start import start_adapter
    from paraknow_core.paths import Workspace
    from paraknow_core.sensitivity.measure import measure, plan_for
    from paraknow_core.sensitivity.store import SensitivityStore
    from paraknow_core.settings import Settings
    from paraknow_core.spec import RunSpec
    from paraknow_core.tasks.templates import Encoded

    teacher, student, count, tokens, dtype = _task(check)
    kind = str(dtype).removeprefix("torch.")
    spec = RunSpec().with_changes(
        {
            "teacher.source": str(folder / "teacher"),
            "student.source": str(folder / "student"),
            "extraction.origin": ["attention", "ffn"],
            "factorisation.rank": RANK,
            "factorisation.lora_alpha": RANK,
        }
    )
    settings = Settings(device=check.device.type, dtype=kind, keep="reductions", streaming=streaming)
    place = folder / streaming
    context = Context(spec, settings, Workspace(place / "workspace"))
    ids = torch.randint(teacher.vocabulary, (count, tokens), generator=torch.Generator().manual_seed(1)).tolist()
    encoded = [Encoded(str(j), tuple(each), tuple(each), 0) for j, each in enumerate(ids)]
    for name in ("work", "run"):
        (place / name).mkdir(parents=True)
    if check.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    spent: dict[str, float] = {}
    with check.timed(spent, "plan"):
        plan = plan_for(context.teacher, settings, encoded, full=False)
    with check.timed(spent, "sensitivity, windows and reductions"):
        requests = choices_to_keep(context)
        measure(context.teacher, encoded, place / "work", Silent(), {}, plan=plan, full=False, requests=requests)
    gc.collect()
    if check.on_gpu:
        torch.cuda.empty_cache()
    store = SensitivityStore(place / "work" / "store")
    with check.timed(spent, "student read"):
        loaded = context.student.load()
    with check.timed(spent, "blocks, factors, injection"):
        best = sorted(range(teacher.layers), key=lambda i: -store.layer_scores()[i])[: student.layers]
        transfer = plan_transfer(context, sorted(best))
        start_adapter(context, method("seeking"), store, transfer, place / "run", loaded)
    if len(transfer.pairings) != len(ROLES) * student.layers:
        raise RuntimeError(f"{len(transfer.pairings)} modules were extracted")
    # Of the whole measurement: reading weights, windows and reductions included.
    work = (8 if plan.way == "streamed" else 6) * teacher.layers * teacher.layer_weights
    work = (work + 6 * teacher.vocabulary * teacher.hidden) * count * tokens
    for case, seconds in spent.items():
        row: dict[str, Any] = {"case": case, "seconds": seconds}
        if case.startswith("sensitivity"):
            tflops = work / seconds / 1e12
            row |= {"way": plan.way, "tflops": tflops, "of_products": check.share(tflops, kind)}
            row |= {"predicted_seconds": plan.need.seconds, "total": store.totals["total"]}
        yield row
    yield _judged(check, f"all, {count} samples of {tokens} tokens", sum(spent.values()))


def write_llama(folder: Path, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
    """Write a random Llama as files, drawn on the device a layer at a time."""
    from paraknow_core.files.tensor_file import write_in_order

    kind = str(dtype).removeprefix("torch.")
    folder.mkdir(parents=True)
    hidden, inner = shape.hidden, shape.inner
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": kind,
    }
    (folder / "config.json").write_text(json.dumps(config))
    ends = {f"{name}.weight": (shape.vocabulary, hidden) for name in ("model.embed_tokens", "lm_head")}
    files: dict[str, dict[str, tuple[int, ...]]] = {"ends": {**ends, "model.norm.weight": (hidden,)}}
    for i in range(shape.layers):
        layer = {f"self_attn.{x}_proj": (hidden, hidden) for x in "qkvo"}
        layer |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
        layer |= {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
        files[f"layer-{i:03}"] = {f"model.layers.{i}.{name}.weight": size for name, size in layer.items()}
    torch.manual_seed(0)

    def drawn(shapes: dict[str, tuple[int, ...]], name: str) -> Tensor:
        size = shapes[name]
        if len(size) == 1:
            return torch.ones(size, dtype=dtype)
        return torch.randn(size, dtype=dtype, device=device).mul_(size[1] ** -0.5).cpu()

    for file, shapes in files.items():
        layout = {name: (dtype, size) for name, size in shapes.items()}
        write_in_order(folder / f"{file}.safetensors", layout, partial(drawn, shapes))
    index = {name: f"{file}.safetensors" for file, shapes in files.items() for name in shapes}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


# --- c) training and whole runs -------------------------------------------------------------------------------------


def _spec(check: Check, steps: int, **more: Any) -> Any:
    """Return a spec on the bundled pair, with the same passes on every device."""
    from paraknow_core.spec import RunSpec

    changes = {
        "finetuning.max_steps": steps,
        "finetuning.validations": 0,
        "finetuning.batch_size": 8 if check.small else 64,
        "finetuning.micro_batch_size": 8 if check.small else 64,
        "task.sizes": {"train": 40, "validation": 0, "test": 4}
        if check.small
        else {"train": 1000, "validation": 0, "test": 40},
        "sensitivity.samples": 2 if check.small else 32,
        "factorisation.rank": 4 if check.small else RANK,
        "references": [],
    }
    return RunSpec().with_changes(changes | more)


def training(check: Check) -> Iterator[dict[str, Any]]:
    """Train the bundled student on the processor and on the device, from the same start, in float32 without tf32."""
    from torch.utils.flop_counter import FlopCounterMode

    from paraknow_core.training.batches import Collator
    from paraknow_core.training.losses import Losses

    steps = 3 if check.small else 20
    with tempfile.TemporaryDirectory() as folder:
        losses, start = {}, None
        for name in ("cpu", check.device.type):
            context, model, encoded = _student(check, Path(folder) / f"{name}-{len(losses)}", name, steps)
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            start = start or {n: p.detach().cpu().clone() for n, p in trained.items()}
            with torch.no_grad():
                for n, parameter in trained.items():
                    parameter.copy_(start[n])
            losses[len(losses)], rate = _trained(context, model, encoded)
        batch = Collator(context.student.tokenizer.pad_token_id, model)(encoded[: context.spec.finetuning.batch_size])
        with FlopCounterMode(display=False) as counter:
            Losses(model).nats(batch).backward()
        of_token = counter.get_total_flops() / batch["input_ids"].numel()
    off = [abs(b - a) / a for a, b in zip(*losses.values(), strict=True)]
    row = {
        "case": f"{steps} steps, float32",
        "first_steps_off": max(off[:5]),
        "allowed": 1e-4,
        "all_steps_off": max(off),
    }
    if not row["first_steps_off"] <= row["allowed"]:
        row["state"] = "failed: losses are not those of the processor"
    yield row
    tflops = of_token * rate / 1e12
    yield {
        "case": "bundled student, batch of 64" if not check.small else "bundled student, batch of 8",
        "tokens_per_s": rate,
        "tflops": tflops,
        "of_products": check.share(tflops, "float32"),
        "mflop_a_token": of_token / 1e6,
    }


def _student(check: Check, folder: Path, device: str, steps: int) -> tuple[Any, Any, Any]:
    """Return a context, the student with an untrained adapter on a device, and the training examples."""
    from paraknow_core.adapters.inject import inject
    from paraknow_core.context import Context
    from paraknow_core.paths import Workspace
    from paraknow_core.settings import Settings

    spec = _spec(check, steps, method="default_lora")
    context = Context(spec, Settings(device=device), Workspace(folder))
    loaded, anatomy = context.student.load(), context.student.anatomy
    model = inject(loaded, anatomy, list(anatomy.modules), spec.factorisation, (), spec.seed)
    return context, model, context.encode(context.task.split("train"), context.student)


def _trained(context: Any, model: Any, encoded: Sequence[Any]) -> tuple[list[float], float]:
    """Train; return the loss of every step, and tokens a second of all but the first."""
    from dataclasses import replace

    from paraknow_core.runs.lifecycle import create_run
    from paraknow_core.runs.writer import RunWriter
    from paraknow_core.training.batches import seen_after
    from paraknow_core.training.finetuning import finetune
    from paraknow_core.training.loop import Training

    run, recipe = create_run(context.place, context.spec), context.spec.finetuning
    with RunWriter(run) as writer:
        finetune(Training(replace(context, report=writer), model, encoded, [], run.file("checkpoints")))
    lines = run.metrics()
    first, last = (seen_after(n, encoded, recipe.batch_size, context.spec.data_seed).tokens for n in (1, len(lines)))
    return [line["loss"] for line in lines], (last - first) / max(1e-9, lines[-1]["time"] - lines[0]["time"])


def resume(check: Check) -> Iterator[dict[str, Any]]:
    """Run from start to scores, once unbroken and once stopped in the middle of training and resumed."""
    from paraknow_core.paths import Workspace
    from paraknow_core.pipeline import execute
    from paraknow_core.runs.lifecycle import create_run
    from paraknow_core.settings import Settings

    steps = 4 if check.small else 20
    spec = _spec(check, steps, method="seeking")
    with tempfile.TemporaryDirectory() as folder:
        place, settings = Workspace(Path(folder)), Settings(device=check.device.type)
        spent: dict[str, float] = {}
        whole, broken = create_run(place, spec), create_run(place, spec)
        with check.timed(spent, "unbroken"):
            first = execute(whole, place, settings)

        def stop(status: Any) -> None:
            if status.state == "running" and status.stage == "fine-tuning" and status.done >= steps // 2:
                broken.file("stop").touch()

        if execute(broken, place, settings, stop) is not None:
            raise RuntimeError("the run did not stop")
        stopped_at = broken.metrics()[-1]["step"]
        second = execute(broken, place, settings)
        losses = [[line["loss"] for line in run.metrics()] for run in (whole, broken)]
    off = max(abs(b - a) / a for a, b in zip(*losses, strict=True))
    scores = [[score["value"] for score in result["scores"]] for result in (first, second)]
    row = {
        "case": f"stopped after step {stopped_at} of {steps}",
        "losses_off": off,
        "allowed": 1e-5,
        "same_bits": first["training"]["weights"] == second["training"]["weights"],
        "scores": scores[0],
        "scores_resumed": scores[1],
        "seconds": spent["unbroken"],
        **first["timings"],
    }
    if not off <= row["allowed"] or not second["training"]["resumed"]:
        row["state"] = "failed: the resumed run has other numbers"
    yield row


# --- e) packed training ---------------------------------------------------------------------------------------------


def packed(check: Check) -> Iterator[dict[str, Any]]:
    """Train runs packed, and one after the other."""
    from paraknow_core import pipeline
    from paraknow_core.packs import execute_packed
    from paraknow_core.paths import Workspace
    from paraknow_core.runs.lifecycle import create_run
    from paraknow_core.settings import Settings

    count, steps = (2, 3) if check.small else (12, 48)  # as many as by default: the first few choose the faster way
    specs = [_spec(check, steps, method="default_lora", until="training", seed=seed) for seed in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        place, settings = Workspace(Path(folder)), Settings(device=check.device.type)
        pipeline.execute(create_run(place, specs[0]), place, settings)  # loads what the first run loads
        alone, together = ([create_run(place, spec) for spec in specs] for _ in range(2))
        spent: dict[str, float] = {}
        with check.timed(spent, "alone"):
            tokens = sum(pipeline.execute(run, place, settings)["budget"]["tokens"] for run in alone)
        with check.timed(spent, "packed"):
            outcomes = execute_packed(together, place, settings)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        said = [event.get("message") for event in together[0].events() if event.get("event") == "packed"]
        lines = [[run.metrics() for run in runs] for runs in (alone, together)]
    off = max(
        abs(a["loss"] - b["loss"]) / a["loss"]
        for one, other in zip(*lines, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    apart = sum(run[-1]["time"] - run[0]["time"] for run in lines[0])
    at_once = max(run[-1]["time"] for run in lines[1]) - min(run[0]["time"] for run in lines[1])
    share = (steps - 1) / steps  # of the tokens: the first step of a run ends where its time begins
    ratio = apart / max(1e-9, at_once)
    row = {
        "case": f"{count} runs of {steps} steps",
        "ratio": ratio,
        "target": 4.0,
        "ratio_with_start": spent["alone"] / spent["packed"],
        "tokens_per_s_alone": share * tokens / max(1e-9, apart),
        "tokens_per_s_packed": share * tokens / max(1e-9, at_once),
        "losses_off": off,
        "allowed": 1e-5,
        "said": said,
    }
    if not off <= row["allowed"]:
        row["state"] = "failed: losses are not those of the runs alone"
    elif ratio < row["target"] and not check.small:
        row["state"] = f"failed: {ratio:.1f} times as fast, {row['target']:g} are wanted"
    yield row


PARTS = (
    Part("ceilings", 25, (), ceilings),
    Part("kernels", 40, (), kernels),
    Part("training", 40, PROJECT, training),
    Part("extraction", 60, (), extraction_by_kernels),
    Part("product", 130, PROJECT, extraction_by_the_product),
    Part("resume", 60, PROJECT, resume),
    Part("packed", 90, PROJECT, packed),
)


def facts_of(check: Check) -> dict[str, Any]:
    """Facts that a figure depends on; nothing that names the machine."""
    facts: dict[str, Any] = {"device": check.device.type, "torch": torch.__version__, "cores": os.cpu_count()}
    facts["python"] = ".".join(map(str, sys.version_info[:3]))
    for name in ("transformers", "peft", "accelerate", "pydantic"):
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = None
    if check.on_gpu:
        properties = torch.cuda.get_device_properties(0)
        facts |= {"chip": properties.name, "memory_gb": properties.total_memory / 1e9, "cuda": torch.version.cuda}
        facts["driver"] = _driver()
    return facts


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def main() -> int:
    """Run all parts that time allows; 0 where nothing failed."""
    began = time.monotonic()
    options = arguments(
        __doc__.splitlines()[0],
        extra=lambda parser: (
            parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only with --small"),
            parser.add_argument(
                "--only", choices=[part.name for part in PARTS], action="append", help="only this part"
            ),
            parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything"),
        ),
    )
    if options.device == "cpu" and not options.small:
        print("gpu_check: the full sizes take a GPU; on a processor give --device cpu --small")
        return 2
    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"gpu_check: torch {torch.__version__} finds no CUDA device; on a processor give --device cpu --small")
        return 2
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}  # before a library reads them
    warnings.simplefilter("ignore")  # of libraries, about each other
    torch.set_float32_matmul_precision("highest")
    check = Check(torch.device(options.device), options.small, began + options.budget)
    facts = facts_of(check)
    print("  ".join(f"{key} {_written(value)}" for key, value in facts.items()), flush=True)
    name = "gpu_check_small" if options.small else "gpu_check"

    def keep() -> None:
        write(options.out, name, facts | {"seconds": round(time.monotonic() - began, 1)}, check.rows)

    run_parts(check, [part for part in PARTS if part.name in (options.only or [part.name])], keep)
    print("\n".join(NOTES))
    failed = sum(row["state"].startswith("failed") for row in check.rows)
    skipped = sum(row["state"].startswith("skipped") for row in check.rows)
    took = time.monotonic() - began
    print(f"{len(check.rows)} rows, {failed} failed, {skipped} skipped, {took:.0f} s. Wrote {name}.json.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
