"""The build runs from end to end, goes on where it stopped, and the shipped models are what the manifest says."""

import json
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer

from paraknow_core.demo.build import MODELS, load, sha256
from paraknow_core.demo.recipes import RECIPES
from paraknow_core.demo.scoring import score
from paraknow_core.demo.tasks import TASKS

NAMES = ("teacher", "kin", "stranger")
MANIFEST = json.loads((MODELS / "manifest.json").read_text("utf-8"))


def run_quick(out):
    return subprocess.run(
        [sys.executable, "-m", "paraknow_core.demo.build", "--quick", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_quick_build_makes_all_models_and_then_keeps_them(tmp_path):
    out = tmp_path / "models"
    done = run_quick(out)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert set(manifest["models"]) == set(NAMES)
    assert manifest["quick"] is True
    assert manifest["models"]["teacher"]["parent_sha256"] == manifest["models"]["kin"]["sha256"]
    for name in NAMES:
        assert manifest["models"][name]["scores"]["word_problems"]["n"] == 8
        assert load(out / name).dtype is torch.float32
    assert sorted(p.name for p in out.iterdir()) == sorted([*NAMES, "manifest.json"])
    made = {name: (out / name / "model.safetensors").stat().st_mtime_ns for name in NAMES}
    (out / "stranger" / "model.safetensors").write_bytes(b"damaged")
    again = run_quick(out)
    assert again.returncode == 0, again.stderr
    for name in ("teacher", "kin"):
        assert (out / name / "model.safetensors").stat().st_mtime_ns == made[name]
    assert sha256(out / "stranger" / "model.safetensors") == manifest["models"]["stranger"]["sha256"]


@pytest.mark.slow
def test_a_quick_build_never_replaces_the_bundled_models():
    done = subprocess.run(
        [sys.executable, "-m", "paraknow_core.demo.build", "--quick"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "--out" in done.stderr


@pytest.fixture(scope="module")
def models():
    return {name: load(MODELS / name) for name in NAMES}


def test_the_manifest_describes_the_shipped_files(models):
    assert MANIFEST["quick"] is False
    assert set(MANIFEST["models"]) == set(NAMES)
    for name, entry in MANIFEST["models"].items():
        weights = MODELS / name / "model.safetensors"
        assert sha256(weights) == entry["sha256"]
        assert weights.stat().st_size == entry["bytes"]
        assert sum(p.numel() for p in models[name].parameters()) == entry["parameters"]
        for task, info in TASKS.items():
            assert entry["scores"][task]["n"] == info.sizes["test"]
    assert MANIFEST["models"]["teacher"]["parent_sha256"] == MANIFEST["models"]["kin"]["sha256"]


def test_the_manifest_follows_the_recipes():
    assert {r.name: r.as_dict() for r in RECIPES} == {n: e["recipe"] for n, e in MANIFEST["models"].items()}


def test_the_models_are_small():
    assert sum(f.stat().st_size for f in MODELS.rglob("*") if f.is_file()) < 30e6


@pytest.mark.parametrize(("task", "metric"), [("word_problems", "number_match"), ("multiple_choice", "accuracy")])
def test_the_teacher_is_better_than_both_students(models, task, metric):
    tokenizer = Tokenizer.from_file(str(MODELS / "teacher" / "tokenizer.json"))
    reached = {name: score(model, tokenizer, task, "test", 60)[metric] for name, model in models.items()}
    assert reached["teacher"] > max(reached["kin"], reached["stranger"]) + 0.2
