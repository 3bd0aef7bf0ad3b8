"""Run folders in every state and a saved sensitivity, written as the pipeline would leave them, without computing."""

import json
import math
import time
from dataclasses import asdict
from pathlib import Path

import numpy
from safetensors.numpy import save_file

from paraknow_core.files.json_file import write_json
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.runs.processes import this_process
from paraknow_core.runs.status import Status
from paraknow_core.sensitivity.store import FULL, REDUCTIONS, TOTALS
from paraknow_core.spec import GROUP_OF_ROLE, RunSpec

KEY = "0123456789abcdef0123456789abcdef"
SHAPES = {
    "q": (192, 192),
    "k": (192, 192),
    "v": (192, 192),
    "o": (192, 192),
    "gate": (512, 192),
    "up": (512, 192),
    "down": (192, 512),
}
PATHS = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def store(
    place: Workspace,
    key: str = KEY,
    layers: int = 6,
    teacher: str = "bundled:teacher",
    samples: int = 32,
    sizes: dict = SHAPES,
) -> Path:
    """Write a sensitivity store with plausible numbers; return its folder. `sizes`: role -> shape of a weight."""
    random = numpy.random.default_rng(3)
    shapes = {"model.embed_tokens": ("embed", None, (1536, 192))}
    for layer in range(layers):
        for role, path in PATHS.items():
            shapes[f"model.layers.{layer}.{path}"] = (role, layer, sizes[role])
    reductions, modules = {}, {}
    for name, (role, layer, shape) in shapes.items():
        size = 10 ** random.uniform(-1, 1) * (1 + (layer or 0))
        block = random.gamma(0.4, size, (min(256, shape[0]), min(256, shape[1]))).astype(numpy.float32)
        reductions[f"{name}|map"] = block
        reductions[f"{name}|rows"] = random.gamma(2.0, size, shape[0]).astype(numpy.float32)
        reductions[f"{name}|cols"] = random.gamma(2.0, size, shape[1]).astype(numpy.float32)
        total = float(block.sum())
        modules[name] = {
            "role": role,
            "group": GROUP_OF_ROLE[role],
            "layer": layer,
            "shape": list(shape),
            "sum": total,
            "mean": total / math.prod(shape),
        }
    everything = sum(m["sum"] for m in modules.values())
    groups = dict.fromkeys(("attention", "ffn", "embedding"), 0.0)
    for module in modules.values():
        module["share"] = module["sum"] / everything
        groups[module["group"]] += module["sum"]
    folder = place.sensitivity / key
    folder.mkdir(parents=True)
    save_file(reductions, folder / REDUCTIONS)
    by_layer = [sum(m["sum"] for m in modules.values() if m["layer"] == i) for i in range(layers)]
    write_json(
        folder / TOTALS,
        {
            "version": 1,
            "teacher": teacher,
            "task": "word_problems",
            "template": "tulu",
            "key": key,
            "samples": samples,
            "total": everything,
            "layers": by_layer,
            "groups": {**groups, "other": 0.002 * everything},
            "modules": modules,
        },
    )
    return folder


def whole(folder: Path) -> None:
    """Add S of every module's weight to a store, as if it had been kept whole."""
    random = numpy.random.default_rng(4)
    modules = json.loads((folder / TOTALS).read_text())["modules"]
    save_file(
        {
            f"{name}.weight": random.gamma(0.4, 1.0, module["shape"]).astype(numpy.float32)
            for name, module in modules.items()
        },
        folder / FULL,
    )


def run(
    place: Workspace,
    state: str = "done",
    changes: dict | None = None,
    *,
    steps: int = 45,
    key: str | None = KEY,
    value: float = 0.41,
    message: str = "",
) -> RunFolder:
    """Write a run folder in a state: queued, running, stopping, stopped, done, failed or lost."""
    spec = RunSpec().with_changes(changes or {})
    folder = create_run(place, spec)
    if state == "queued":
        return folder
    now = time.time()
    process = {"host": this_process()["host"], "pid": 2**22 - 7, "process_started": 1.0}
    if state in ("running", "stopping"):
        process = this_process()
    training = spec.until == "evaluation"
    working = "step 20" if training else "seed samples"
    status = Status(
        message="" if state == "stopped" else working,
        state="running" if state == "lost" else state,
        stage="fine-tuning" if training else "sensitivity",
        done=20,
        total=45,
        heartbeat=now - 3,
        started=now - 130,
        ended=now - 3 if state in ("done", "failed", "stopped") else 0,
        attempt=1,
        **process,
    )
    if state == "failed":
        status = Status(**{**asdict(status), "message": message or "task: file.jsonl line 3: not JSON; correct it"})
    write_json(folder.file("status.json"), asdict(status))
    folder.file("log.txt").write_text("loading the teacher\rloading the teacher: done\nstep 20\n")
    if training:
        _metrics(folder, steps if state == "done" else min(steps, 20))
    if state == "done":
        result = _result(spec, key, value)
        write_json(folder.file("result.json"), result)
        _predictions(folder, value if training else None)
    return folder


def _metrics(folder: RunFolder, steps: int) -> None:
    lines = [{"event": "started", "time": 1.0, "attempt": 1}, {"event": "stage", "stage": "fine-tuning", "time": 2.0}]
    for step in range(1, steps + 1):
        lines.append(
            {
                "event": "metrics",
                "step": step,
                "epoch": step / 15,
                "loss": 3 * math.exp(-step / 12) + 0.6,
                "learning_rate": 3e-4 * (1 - step / (steps + 1)),
                "grad_norm": 1 + math.sin(step) / 3,
                "tokens_per_s": 5200 + 40 * math.cos(step),
                "memory_bytes": 7e8,
            }
        )
        if step % 7 == 0:
            loss = 3 * math.exp(-step / 12) + 0.75
            lines.append({"event": "metrics", "step": step, "validation_loss": loss})
    folder.file("events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "metr')


def _predictions(folder: RunFolder, value: float | None, n: int = 300) -> None:
    if value is not None:
        right = round(value * n)
        lines = [{"scorer": "number_match", "id": f"test/{i}", "score": float((i * 7) % n < right)} for i in range(n)]
        folder.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _score(value: float, n: int = 300) -> dict:
    value = round(value * n) / n
    half = 1.96 * math.sqrt(value * (1 - value) / n)
    return {
        "scorer": "number_match",
        "value": value,
        "low": max(0.0, value - half),
        "high": value + half,
        "n": n,
        "unit": "share",
        "extra": {"strict": value * 0.9, "extraction_failure_rate": 0.02},
    }


def _result(spec: RunSpec, key: str | None, value: float) -> dict:
    result: dict = {
        "spec_version": 1,
        "warnings": [],
        "timings": {"prepare": 0.4, "sensitivity": 8.2},
        "peak_memory_bytes": 712_000_000,
        "versions": {"torch": "2.13.0"},
    }
    if key is not None:
        result["sensitivity"] = {"key": key, "samples": 32}
    if spec.until != "evaluation":
        return result
    return result | {
        "layer_mapping": [1, 2, 4, 5],
        "step0": {"evaluation": {"max_abs": 3.1e-6, "tolerance": 6e-5, "passed": True}},
        "export_check": {"max_abs": 2.2e-6, "tolerance": 1e-5, "passed": True},
        "trainable_parameters": 118_784,
        "training": {"steps": 45, "first_loss": 3.4, "last_loss": 0.67},
        "timings": {"prepare": 0.4, "sensitivity": 8.2, "injection": 1.4, "fine-tuning": 61.0, "evaluation": 21.7},
        "scores": [_score(value)],
        "references": {"student": [_score(0.081)], "teacher": [_score(0.873)]},
    }
