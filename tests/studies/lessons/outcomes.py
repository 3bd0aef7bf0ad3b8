"""Finished runs for every spec of a lesson, with numbers that a test can foresee."""

import json
from pathlib import Path

import numpy

from paraknow_core.files.json_file import write_json
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.studies.lessons import Lesson

ROLES = {"q": "attention", "v": "attention", "up": "ffn", "down": "ffn"}
LAYERS = 6


def sensitivity(place: Workspace, key: str, noise: float, seed: int, tilt: float = 0.0) -> None:
    """Write a saved sensitivity's totals: one true order of modules (per tilt), and noise on it."""
    random = numpy.random.default_rng(seed)
    modules, layers = {}, [0.0] * LAYERS
    for layer in range(LAYERS):
        for number, (role, group) in enumerate(ROLES.items()):
            true = 1.0 + layer + 7 * number + tilt * ((5 * layer + 3 * number) % 11)
            value = float(true * numpy.exp(noise * random.standard_normal()))
            modules[f"model.layers.{layer}.{role}"] = {
                "role": role,
                "group": group,
                "layer": layer,
                "shape": [4, 4],
                "sum": value,
                "mean": value / 16,
                "share": 0.0,
            }
            layers[layer] += value
    total = sum(module["sum"] for module in modules.values())
    groups = {group: sum(m["sum"] for m in modules.values() if m["group"] == group) for group in ("attention", "ffn")}
    write_json(
        Path(place.sensitivity) / key / "sensitivity.json",
        {"modules": modules, "layers": layers, "groups": {**groups, "embedding": 0.0}, "total": total, "samples": 4},
    )


def finish(place: Workspace, lesson: Lesson) -> dict[str, RunFolder]:
    """Make a done run for every spec: what each scores follows from its label."""
    runs = {}
    for number, (label, spec) in enumerate(lesson.specs.items()):
        run = create_run(place, spec)
        result: dict = {"timings": {}}
        if spec.until == "sensitivity":
            key = f"{lesson.number:02d}{number:030d}"
            noise = 0.6 / spec.sensitivity.samples
            sensitivity(place, key, noise, number, tilt=2.0 if "choice" in spec.task.source else 0.0)
            result["sensitivity"] = {"key": key, "samples": spec.sensitivity.samples}
        else:
            _trained(run, label, spec, result)
        write_json(run.file("result.json"), result)
        write_json(run.file("status.json"), {"state": "done", "attempt": 1})
        runs[label] = run
    return runs


def _trained(run: RunFolder, label: str, spec, result: dict, n: int = 60) -> None:  # noqa: ANN001
    good = spec.method == "seeking" and spec.injection.mode == "difference" and spec.extraction.structure == "submatrix"
    stranger = spec.student.source.endswith("stranger") and spec.injection.mode == "difference"
    right = 5 if good and stranger else 50 if good else 20
    lines = [{"scorer": "number_match", "id": f"test/{i}", "score": float(i < right)} for i in range(n)]
    run.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    loss = {"seeking": 0.20, "random_offset": 0.20, "pissa": 0.19, "default_lora": 0.25}[spec.method]
    score = {
        "scorer": "number_match",
        "value": right / n,
        "low": right / n - 0.1,
        "high": right / n + 0.1,
        "n": n,
        "unit": "share",
    }
    result |= {
        "scores": [score],
        "references": {"student": [score]},
        "training": {"last_validation_loss": loss + 0.001 * ((spec.seed * 7 + len(spec.method)) % 3)},
    }
    mass = {"neuron": 0.95, "submatrix": 0.85, "row_column": 0.88, "random": 0.45}[spec.extraction.structure]
    write_json(
        run.file("extraction.json"),
        {
            "modules": {
                f"m{i}": {"captured_mass": mass, "cosine_with_student": 0.0 if stranger else 0.9} for i in range(3)
            }
        },
    )
