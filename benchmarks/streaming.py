"""Streamed sensitivity against the whole model in memory: time, memory seen from outside, share of the GEMM rate.

Run: python -m benchmarks.streaming [--small] [--size 0.2B|1.1B|7B] [--threads N]
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks._common import arguments, machine, publish

VOCABULARY = 32000
SIZES = {  # hidden, intermediate, layers, heads: those of Llama models of that size
    "tiny": (256, 688, 4, 4),
    "0.2B": (768, 2048, 18, 12),
    "1.1B": (2048, 5632, 22, 32),
    "7B": (4096, 11008, 32, 32),
}
WAYS = {
    "tiny": ("streamed", "resident", "published"),
    "0.2B": ("streamed", "resident", "published"),
    "1.1B": ("streamed", "resident"),
    "7B": ("streamed",),
}
SAMPLES, TOKENS = 4, 128
REPEATS = {"0.2B": 3}  # of what takes seconds
RATE_S = 1.5  # of products before and after every run
NOTES = [
    f"Random weights in bfloat16 shards, float32 arithmetic, {SAMPLES} samples of {TOKENS} tokens, all supervised.",
    "Memory: peak anonymous memory (RssAnon) of a process of its own, polled from outside every 20 ms. Bound: 1.25 x",
    "(8 bytes x largest layer + 4 bytes x largest tensor) + 0.5 GB. Rate: 8 operations a layer weight and token",
    "(forward, forward again, two products backward; 6 where nothing is computed again) and 6 a weight of the output",
    "layer, over the seconds of the whole measurement: start, reading and reducing included. The machine's rate:",
    "plain torch products for 1.5 seconds before and after every run. Square: 2048 x 4096 x 4096. Shapes: those of the",
    "layer's own, all tokens together forward (twice) and to the input, but to the weight one sample at a time,",
    "because |gradient| is taken sample by sample. The share of the rate is that of the fastest run (0.2B: of three)",
    "in the rate of the fastest product; and, because a shared machine's speed changes from second to second, that of",
    "the average run in the average rate. Memory: the largest of them. Published: a gradient and a product for",
    "each parameter of each sample, as the method's released script does. Predicted: what was said before the start.",
]


def build(folder: Path, size: str) -> None:
    """Write a random Llama of this size, a layer at a time, so that it may be larger than memory."""
    hidden, inner, layers, heads = SIZES[size]
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    place: dict[str, str] = {}

    def shard(file: str, shapes: dict[str, tuple[int, ...]]) -> None:
        tensors = {
            name: torch.ones(shape, dtype=torch.bfloat16)
            if len(shape) == 1
            else torch.randn(shape, generator=generator).mul_(shape[1] ** -0.5).bfloat16()
            for name, shape in shapes.items()
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        place.update(dict.fromkeys(tensors, file))

    for i in range(layers):
        shard(
            f"layer-{i:03}.safetensors",
            {
                **{f"model.layers.{i}.self_attn.{x}_proj.weight": (hidden, hidden) for x in "qkvo"},
                **{f"model.layers.{i}.mlp.{x}_proj.weight": (inner, hidden) for x in ("gate", "up")},
                f"model.layers.{i}.mlp.down_proj.weight": (hidden, inner),
                f"model.layers.{i}.input_layernorm.weight": (hidden,),
                f"model.layers.{i}.post_attention_layernorm.weight": (hidden,),
            },
        )
    ends = {"model.embed_tokens.weight": (VOCABULARY, hidden), "lm_head.weight": (VOCABULARY, hidden)}
    shard("ends.safetensors", {**ends, "model.norm.weight": (hidden,)})
    index = {"metadata": {}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def child(case: dict[str, Any]) -> dict[str, Any]:
    """Measure one way in this process."""
    from paraknow_core.context import Model, Silent
    from paraknow_core.paths import Workspace
    from paraknow_core.sensitivity.measure import measure, plan_for
    from paraknow_core.settings import Settings
    from paraknow_core.spec import ModelSpec
    from paraknow_core.tasks.templates import Encoded

    torch.set_num_threads(case["threads"])
    ids = torch.randint(0, VOCABULARY, (SAMPLES, TOKENS), generator=torch.Generator().manual_seed(1)).tolist()
    if case["way"] == "published":
        return _published(Path(case["model"]), ids)
    streaming = {"streamed": "always", "resident": "never"}[case["way"]]
    settings = Settings(device="cpu", streaming=streaming, keep="reductions", threads=case["threads"])
    teacher = Model(ModelSpec(source=case["model"]), settings, Workspace(Path(case["work"])))
    encoded = [Encoded(str(j), tuple(each), tuple(each), 0) for j, each in enumerate(ids)]
    plan = plan_for(teacher, settings, encoded)
    work = Path(case["work"])
    measure(teacher, encoded, work, Silent(), {}, plan=plan, full=False)
    totals = json.loads((work / "store" / "sensitivity.json").read_text())
    return {"total": totals["total"], "predicted": plan.to_dict()["needs"][plan.way], **totals["measured"]}


def _published(model_folder: Path, ids: list[list[int]]) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for each in ids:
        model.zero_grad()
        tokens = torch.tensor([each])
        model(input_ids=tokens, labels=tokens).loss.backward()
        for name, p in model.named_parameters():
            found[name] += (p * p.grad).abs().detach()
    total = sum(each.sum(dtype=torch.float64).item() for each in found.values())
    return {"total": total, "seconds": time.perf_counter() - began, "predicted": None}


def measure_case(case: dict[str, Any]) -> dict[str, Any]:
    """Run one way in a process of its own and watch its anonymous memory from outside."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--child", json.dumps(case)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, status = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            line = next((x for x in status.read_text().splitlines() if x.startswith("RssAnon:")), "")
            peak = max(peak, int(line.split()[1]) * 1024) if line else peak
        except OSError:
            pass
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{case['way']} of {case['model']} ended with {process.returncode}")
    return json.loads(process.stdout.read().strip().splitlines()[-1]) | {"outside": peak or None}


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB"


class Rates:
    """How fast plain products are around the runs: all that is measured on a machine that is not always as fast."""

    def __init__(self, size: str) -> None:
        hidden, inner, _, _ = SIZES[size]
        tokens = SAMPLES * TOKENS
        a, b, square = torch.randn(2048, 4096), torch.randn(4096, 4096), torch.empty(2048, 4096)
        x, y, weight = torch.randn(tokens, hidden), torch.randn(tokens, inner), torch.randn(inner, hidden)
        forward, to_input, to_weight = (torch.empty_like(t) for t in (y, x, weight))  # fresh memory takes time too
        samples = list(zip(y.split(TOKENS), x.split(TOKENS), strict=True))
        own = 2 * tokens * hidden * inner
        self._products = {
            "square": (2 * 2048 * 4096 * 4096, lambda: torch.mm(a, b, out=square)),
            "forward": (own, lambda: torch.mm(x, weight.T, out=forward)),
            "to input": (own, lambda: torch.mm(y, weight, out=to_input)),
            "to weight": (own, lambda: [torch.mm(out.T, into, out=to_weight) for out, into in samples]),
        }
        self._times: dict[str, list[float]] = {name: [] for name in self._products}

    def sample(self) -> None:
        """Spend some seconds on products, as many of each kind as take about as long."""
        began = time.perf_counter()
        while time.perf_counter() - began < RATE_S:
            for name, (count, product) in self._products.items():
                for _ in range(max(1, int(2e10 / count))):
                    start = time.perf_counter()
                    product()
                    self._times[name].append((time.perf_counter() - start) / count)

    def of(self, choose: Callable[[list[float]], float]) -> tuple[float, float]:
        """Return operations a second of square products, and of a layer's own (forward twice), given best or mean."""
        times = {name: choose(each) for name, each in self._times.items()}
        return 1 / times["square"], 4 / (2 * times["forward"] + times["to input"] + times["to weight"])


def measure_size(size: str, threads: int, folder: Path) -> list[dict[str, Any]]:
    """Measure all ways that suit one size."""
    hidden, inner, layers, _ = SIZES[size]
    layer = 4 * hidden * hidden + 3 * hidden * inner
    tokens = SAMPLES * TOKENS
    build(folder / size, size)
    rows = []
    for way in WAYS[size]:
        rates, runs = Rates(size), []
        rates.sample()
        for _ in range(REPEATS.get(size, 1)):
            with tempfile.TemporaryDirectory(dir=folder) as work:
                runs.append(measure_case({"model": str(folder / size), "way": way, "threads": threads, "work": work}))
            rates.sample()
        found = min(runs, key=lambda run: run["seconds"])
        (best, best_own), (mean, mean_own) = rates.of(min), rates.of(fmean)
        flops = (8 if way == "streamed" else 6) * layers * layer * tokens + 6 * VOCABULARY * hidden * tokens
        on_average = flops / fmean(run["seconds"] for run in runs)
        predicted = found["predicted"] or {}
        rows.append(
            {
                "case": size,
                "way": way,
                "seconds": found["seconds"],
                "memory": max(run["outside"] or 0 for run in runs) or None,
                "bound": 1.25 * (8 * layer + 4 * max(VOCABULARY, inner) * hidden) + 0.5e9
                if way == "streamed"
                else None,
                "gflops": flops / found["seconds"] / 1e9,
                "of_square": flops / found["seconds"] / best,
                "of_shapes": flops / found["seconds"] / best_own,
                "mean_of_square": on_average / mean,
                "mean_of_shapes": on_average / mean_own,
                "square_gflops": best / 1e9,
                "shapes_gflops": best_own / 1e9,
                "mean_square_gflops": mean / 1e9,
                "mean_shapes_gflops": mean_own / 1e9,
                "predicted_memory": predicted.get("memory"),
                "predicted_seconds": predicted.get("seconds"),
                "total": found["total"],
            }
        )
    return rows


def main() -> None:
    """Print the table and write results/streaming.json."""
    options = arguments(
        __doc__.splitlines()[0],
        extra=lambda parser: (
            parser.add_argument("--size", choices=list(SIZES), action="append", help="only these sizes"),
            parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: all cores)"),
            parser.add_argument("--work", type=Path, default=None, help="folder for the random models (default: /tmp)"),
        ),
    )
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        return
    if options.threads:
        torch.set_num_threads(options.threads)
    facts, rows = machine(), []
    sizes = options.size or (["tiny"] if options.small else ["0.2B", "1.1B"])
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        for size in sizes:
            rows += measure_size(size, torch.get_num_threads(), Path(folder))
    columns = {
        "case": str,
        "way": str,
        "seconds": "{:.1f}".format,
        "predicted_seconds": "{:.1f}".format,
        "memory": _gigabytes,
        "predicted_memory": _gigabytes,
        "bound": _gigabytes,
        "gflops": "{:.0f}".format,
        "of_square": "{:.0%}".format,
        "of_shapes": "{:.0%}".format,
        "mean_of_square": "{:.0%}".format,
        "mean_of_shapes": "{:.0%}".format,
        "total": "{:.6g}".format,
    }
    name = f"streaming_{'_'.join(sizes)}" if options.size else "streaming"
    publish(options, name, "Streamed sensitivity", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
