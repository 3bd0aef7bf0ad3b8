"""Zoom, window and kept layers are those of plain slices and of extraction itself, for every way a weight is stored."""

import json

import numpy
import pytest
import torch

from paraknow_core.errors import DataError, ParaknowError, ShapeError
from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.modules import logical_weight
from paraknow_core.models.source import resolve_model
from paraknow_core.paths import Workspace
from paraknow_core.sensitivity.build import StoreBuilder, full_layout
from paraknow_core.sensitivity.store import REDUCTIONS, TOTALS
from paraknow_core.settings import Settings
from paraknow_core.spec import ModelSpec, RunSpec
from paraknow_core.workbench.desk import serve
from paraknow_core.workbench.desk.kinds.sensitivity import kept_layers, sensitivity_window, zoom
from paraknow_core.workbench.desk.requests import KeptLayers, SensitivityWindow, Zoom
from tests.tiny_models import build_tiny

SETTINGS = Settings(offline=True)


def store_of(place: Workspace, folder, *, full: bool = True) -> dict[str, torch.Tensor]:
    """Write a store with random S for a model folder; return S by parameter."""
    anatomy = read_anatomy(resolve_model(str(folder), None, offline=True))
    random = torch.Generator().manual_seed(5)
    sums = {name: torch.rand(shape, generator=random) for name, (_, shape) in full_layout(anatomy).items()}
    builder = StoreBuilder(place.sensitivity / "key", anatomy, full=full)
    builder.add("all", sums)
    builder.finish({"key": "key", "samples": 3})
    return sums


@pytest.fixture
def place(tmp_path) -> Workspace:
    return Workspace(tmp_path / "cache")


def draft(teacher, student, **changes) -> dict:
    """What every question about a draft holds."""
    pair = {"teacher.source": str(teacher), "student.source": str(student)}
    return {"store": "key", "spec": RunSpec().with_changes({**pair, **changes})}


def zoomed(place, teacher, module, region):
    question = Zoom(store="key", module=module, teacher=ModelSpec(source=str(teacher)), region=region)
    return zoom(place, SETTINGS, question)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "phi3"])  # plain, transposed, interleaved, fused
def test_zoom_is_a_slice_of_the_logical_weight(place, tmp_path, family):
    folder = build_tiny(family, tmp_path / family)
    sums = store_of(place, folder)
    for module in read_anatomy(resolve_model(str(folder), None, offline=True)).modules:
        whole = logical_weight(sums[module.parameter], module).double().numpy()
        rows, cols = module.shape
        region = [rows // 3, 1, max(1, rows // 2), cols - 2]
        value, arrays = zoomed(place, folder, module.name, region)
        part = whole[region[0] : region[0] + region[2], 1 : cols - 1]
        assert value["sum"] == pytest.approx(part.sum())
        numpy.testing.assert_allclose(arrays["rows"], part.sum(axis=1))
        numpy.testing.assert_allclose(arrays["cols"], part.sum(axis=0))
        assert max(arrays["map"].shape) <= 256
        if max(part.shape) <= 256:
            numpy.testing.assert_allclose(arrays["map"], part, rtol=1e-6)


@pytest.mark.parametrize("region", [[-1, 0, 2, 2], [0, 0, 0, 2], [0, 0, 1, 33], [31, 0, 2, 2], [10**9, 0, 1, 1]])
def test_a_region_outside_is_refused(place, tmp_path, region):
    folder = build_tiny("llama", tmp_path / "llama")
    store_of(place, folder)
    with pytest.raises(ShapeError, match="choose a region inside it"):
        zoomed(place, folder, "model.layers.0.self_attn.q_proj", region)


def test_what_cannot_be_zoomed_is_a_sentence(place, tmp_path):
    folder = build_tiny("llama", tmp_path / "llama")
    store_of(place, folder, full=False)
    module, region = "model.layers.0.mlp.up_proj", [0, 0, 4, 4]
    with pytest.raises(DataError, match="only reductions were kept"):
        zoomed(place, folder, module, region)
    with pytest.raises(DataError, match="has no module"):
        zoomed(place, folder, "nothing", region)
    other = build_tiny("llama", tmp_path / "other", intermediate_size=60)
    with pytest.raises(DataError, match="has changed since"):
        zoomed(place, other, module, region)
    elsewhere = Zoom(store="../elsewhere", module=module, teacher=ModelSpec(source=str(folder)), region=region)
    with pytest.raises(ParaknowError):
        serve.work_out(place, elsewhere)


def test_window_is_the_one_that_extraction_takes(place, tmp_path):
    teacher, student = (
        build_tiny("llama", tmp_path / "t"),
        build_tiny("llama", tmp_path / "s", hidden_size=16, intermediate_size=24, num_hidden_layers=1),
    )
    sums = store_of(place, teacher)
    name = "model.layers.1.mlp.down_proj"
    score = sums[f"{name}.weight"].double().numpy()  # (32, 56), a window of (16, 24)
    best = max((score[i : i + 16, j : j + 24].sum(), i, j) for i in range(17) for j in range(33))
    found = sensitivity_window(place, SETTINGS, SensitivityWindow(module=name, **draft(teacher, student)))
    assert (found["kind"], found["window"]) == ("window", [best[1], best[2], 16, 24])
    assert found["inside"] == pytest.approx(best[0] / score.sum())
    assert found["area"] == pytest.approx(16 * 24 / (32 * 56))
    layers = json.loads((place.sensitivity / "key" / TOTALS).read_text())["layers"]
    [kept] = kept_layers(place, SETTINGS, KeptLayers(**draft(teacher, student)))["layers"]
    assert kept == layers.index(max(layers))
    assert found["serves"] == (0 if kept == 1 else None)


def test_window_of_other_structures_and_of_what_is_left_out(place, tmp_path):
    teacher, student = build_tiny("llama", tmp_path / "t"), build_tiny("llama", tmp_path / "s", hidden_size=16)
    sums = store_of(place, teacher)
    name = "model.layers.0.self_attn.q_proj"

    def found(module=name, **extraction) -> dict:
        changes = {f"extraction.{key}": value for key, value in extraction.items()}
        question = SensitivityWindow(module=module, **draft(teacher, student, **changes))
        return sensitivity_window(place, SETTINGS, question)

    grid = found(structure="row_column")
    score = sums[f"{name}.weight"].numpy()
    chosen = [i for low, high in grid["rows"] for i in range(low, high + 1)]
    assert grid["kind"] == "grid"
    assert set(chosen) == set(numpy.argsort(-score.sum(axis=1))[: len(chosen)])
    assert found(structure="neuron")["kind"] == "weights"
    assert "leaves q out" in found(origin=["ffn"])["note"]
    rows, cols = sums["model.embed_tokens.weight"].shape
    embedding = found("model.embed_tokens")
    assert embedding["window"][::2] == [0, rows]
    assert embedding["window"][3] == 16 < cols


def test_reductions_know_only_what_was_asked_for(place, tmp_path):
    teacher, student = build_tiny("llama", tmp_path / "t"), build_tiny("llama", tmp_path / "s", hidden_size=16)
    store_of(place, teacher, full=False)
    question = SensitivityWindow(module="model.layers.0.mlp.up_proj", **draft(teacher, student))
    found = sensitivity_window(place, SETTINGS, question)
    assert found["kind"] == "none"
    assert "not measured for this student" in found["note"]
    assert not (place.sensitivity / "key" / "sensitivity.safetensors").exists()
    assert (place.sensitivity / "key" / REDUCTIONS).exists()
