"""What pairs of published models would take, by the planner: their configs, and folders that hold no weight."""

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from paraknow_core.display import counted, duration, memory
from paraknow_core.models.anatomy import Anatomy, read_anatomy
from paraknow_core.models.source import resolve_model
from paraknow_core.sensitivity.plan import Rates, plan_sensitivity
from paraknow_core.spec import RunSpec
from paraknow_core.training.estimates import (
    Answering,
    Training,
    estimate_evaluation,
    estimate_finetuning,
    estimate_injection,
    run_bytes,
    trained_parameters,
)

# The values of config.json at huggingface.co/NAME: hidden and intermediate size, layers, heads, key-value heads,
# vocabulary, model type. None of them ties its embeddings; all are stored in 16 bits.
CONFIGS: dict[str, tuple[int, int, int, int, int, int, str]] = {
    "meta-llama/Llama-3.1-70B": (8192, 28672, 80, 64, 8, 128256, "llama"),
    "meta-llama/Llama-3.1-8B": (4096, 14336, 32, 32, 8, 128256, "llama"),
    "meta-llama/Llama-2-13b-hf": (5120, 13824, 40, 40, 40, 32000, "llama"),
    "meta-llama/Llama-2-7b-hf": (4096, 11008, 32, 32, 32, 32000, "llama"),
    "Qwen/Qwen2.5-72B": (8192, 29568, 80, 64, 8, 152064, "qwen2"),
    "Qwen/Qwen2.5-7B": (3584, 18944, 28, 28, 4, 152064, "qwen2"),
}
PAIRS = {
    "Llama 3.1, 70B to 8B": ("meta-llama/Llama-3.1-70B", "meta-llama/Llama-3.1-8B"),
    "Llama 2, 13B to 7B": ("meta-llama/Llama-2-13b-hf", "meta-llama/Llama-2-7b-hf"),
    "Qwen2.5, 72B to 7B": ("Qwen/Qwen2.5-72B", "Qwen/Qwen2.5-7B"),
}
SAMPLES, TOKENS = 32, 256  # seed samples, and tokens of each; of a training example, too
STEPS, BATCH, PASS, RANK = 300, 64, 8, 16
TESTED, WRITTEN = 1319, 256  # test examples, and tokens written for each
RUNS = 1_000
# Assumed, not measured: half of what the maker names for an H200, and a local disk.
GPU = Rates(flops=400e12, bytes=2.4e12, disk=2e9)


@dataclass(frozen=True)
class Row:
    """What one pair takes, for the table."""

    what: str
    values: tuple[str, ...]


def anatomy(name: str) -> Anatomy:
    """Return the anatomy of a published model from its config: a file of the right size that holds nothing is read."""
    with tempfile.TemporaryDirectory(prefix="paraknow-published-") as folder:
        _write(Path(folder), *CONFIGS[name])
        return read_anatomy(resolve_model(folder), tokenizer=False)


def _write(
    folder: Path, hidden: int, inner: int, layers: int, heads: int, key_value: int, vocabulary: int, kind: str
) -> None:
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM" if kind == "llama" else "Qwen2ForCausalLM"],
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    head = hidden // heads
    sizes = {"q": heads * head, "k": key_value * head, "v": key_value * head}
    shapes: dict[str, list[int]] = {"model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden]}
    shapes["lm_head.weight"] = [vocabulary, hidden]
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": [rows, hidden] for name, rows in sizes.items()}
        shapes[f"{at}.self_attn.o_proj.weight"] = [hidden, heads * head]
        shapes |= {f"{at}.mlp.{name}_proj.weight": [inner, hidden] for name in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = [hidden, inner]
        shapes |= {f"{at}.{name}_layernorm.weight": [hidden] for name in ("input", "post_attention")}
        if kind == "qwen2":
            shapes |= {f"{at}.self_attn.{name}_proj.bias": [rows] for name, rows in sizes.items()}
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)  # a hole: it takes no room


@cache
def _anatomies() -> dict[str, Anatomy]:
    return {name: anatomy(name) for name in CONFIGS}


def _pair(teacher: Anatomy, student: Anatomy) -> dict[str, str]:
    """Return what is said of one pair, in words; every number is the planner's."""
    spec = RunSpec().with_changes({"factorisation.rank": RANK, "task.sizes": {"train": None, "test": TESTED}})
    lengths, plenty = [TOKENS] * SAMPLES, 10**15
    plan = plan_sensitivity(
        teacher,
        lengths,
        sum(lengths) // 2,
        device="cuda",
        dtype="bfloat16",
        budget=plenty,
        base=0,
        way="streamed",
        full=True,
        rates=GPU,
    )
    maps = plan_sensitivity(
        teacher, lengths, 1, device="cuda", dtype="bfloat16", budget=plenty, base=0, way="streamed", full=False
    )
    adapters = trained_parameters(student, spec)
    training = Training(STEPS, BATCH // PASS, PASS * TOKENS, 0, 0)
    answering = Answering(1, -(-TESTED // 32), 32, TESTED * TOKENS // 2, TOKENS // 2, WRITTEN)
    injection = estimate_injection(teacher, student, spec.extraction.roles, RANK, GPU)
    tuning = estimate_finetuning(student, adapters, training, GPU, 2)
    scoring = estimate_evaluation(student, answering, GPU, 2)
    run_s = injection.seconds + tuning.seconds + scoring.seconds
    folder, streamed = run_bytes(student, spec), plan.needs["streamed"]
    all_s = RUNS * run_s + (streamed.seconds or 0)
    return {
        "parameters": f"{teacher.parameters / 1e9:.1f} and {student.parameters / 1e9:.1f} billion",
        "weights on disk": f"{memory(teacher.bytes)} and {memory(student.bytes)}",
        "measuring whole: memory": memory(plan.needs["resident"].memory),
        "measuring layer by layer: memory": memory(streamed.memory),
        "measuring layer by layer: time": duration(streamed.seconds),
        "S kept whole: disk": memory(streamed.disk),
        "S kept as maps: disk": memory(maps.needs["streamed"].disk),
        f"rank {RANK}: trained parameters": f"{adapters / 1e6:.0f} million",
        "cutting and factorising: memory": memory(injection.memory),
        "fine-tuning: memory": memory(tuning.memory),
        "one run: time": f"{duration(run_s)}, of which training {duration(tuning.seconds)}",
        "one run: its folder": memory(folder),
        f"{counted(RUNS, 'run')}: time on one GPU": f"{all_s / 86_400:.1f} days",
        f"{counted(RUNS, 'run')}: disk": memory(RUNS * folder + streamed.disk),
    }


def table() -> str:
    """Return the table of `docs/scale.md`."""
    models = _anatomies()
    columns = {name: _pair(models[teacher], models[student]) for name, (teacher, student) in PAIRS.items()}
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    first = next(iter(columns.values()))
    lines += [f"| {what} | {' | '.join(column[what] for column in columns.values())} |" for what in first]
    return "\n".join(lines)
