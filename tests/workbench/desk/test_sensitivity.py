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
from paraknow_core.sensitivity.build import StoreBuilder, full_layout, no_choices
from paraknow_core.sensitivity.store import REDUCTIONS, TOTALS
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk import serve
from paraknow_core.workbench.desk.kinds import kept_layers, sensitivity_window, zoom
from tests.tiny_models import build_tiny

SETTINGS = Settings(offline=True)


def store_of(place: Workspace, folder, *, full: bool = True, chooser=no_choices) -> dict[str, torch.Tensor]:
    """Write a store with random S for a model folder; return S by parameter."""
    anatomy = read_anatomy(resolve_model(str(folder), None, offline=True))
    random = torch.Generator().manual_seed(5)
    sums = {name: torch.rand(shape, generator=random) for name, (_, shape) in full_layout(anatomy).items()}
    builder = StoreBuilder(place.sensitivity / "key", anatomy, full=full, chooser=chooser)
    builder.add("all", sums)
    builder.finish({"key": "key", "samples": 3})
    return sums


@pytest.fixture
def place(tmp_path) -> Workspace:
    return Workspace(tmp_path / "cache")


def draft(teacher, student, **parts) -> dict:
    return {
        "store": "key",
        "teacher": {"source": str(teacher)},
        "student": {"source": str(student)},
        "mapping": {"strategy": "sensitivity"},
        "extraction": {"structure": "submatrix"},
        **parts,
    }


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "phi3"])  # plain, transposed, interleaved, fused
def test_zoom_is_a_slice_of_the_logical_weight(place, tmp_path, family):
    folder = build_tiny(family, tmp_path / family)
    sums = store_of(place, folder)
    for module in read_anatomy(resolve_model(str(folder), None, offline=True)).modules:
        whole = logical_weight(sums[module.parameter], module).double().numpy()
        rows, cols = module.shape
        region = [rows // 3, 1, max(1, rows // 2), cols - 2]
        value, arrays = zoom.answer(
            place,
            SETTINGS,
            {"store": "key", "module": module.name, "teacher": {"source": str(folder)}, "region": region},
        )
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
        zoom.answer(
            place,
            SETTINGS,
            {
                "store": "key",
                "module": "model.layers.0.self_attn.q_proj",
                "teacher": {"source": str(folder)},
                "region": region,
            },
        )


def test_what_cannot_be_zoomed_is_a_sentence(place, tmp_path):
    folder = build_tiny("llama", tmp_path / "llama")
    store_of(place, folder, full=False)
    request = {
        "store": "key",
        "module": "model.layers.0.mlp.up_proj",
        "teacher": {"source": str(folder)},
        "region": [0, 0, 4, 4],
    }
    with pytest.raises(DataError, match="only reductions were kept"):
        zoom.answer(place, SETTINGS, request)
    with pytest.raises(DataError, match="has no module"):
        zoom.answer(place, SETTINGS, {**request, "module": "nothing"})
    other = build_tiny("llama", tmp_path / "other", intermediate_size=60)
    with pytest.raises(DataError, match="has changed since"):
        zoom.answer(place, SETTINGS, {**request, "teacher": {"source": str(other)}})
    with pytest.raises(ParaknowError):
        serve.work_out(place, "zoom", {**request, "store": "../elsewhere"})


def test_window_is_the_one_that_extraction_takes(place, tmp_path):
    teacher, student = (
        build_tiny("llama", tmp_path / "t"),
        build_tiny("llama", tmp_path / "s", hidden_size=16, intermediate_size=24, num_hidden_layers=1),
    )
    sums = store_of(place, teacher)
    name = "model.layers.1.mlp.down_proj"
    score = sums[f"{name}.weight"].double().numpy()  # (32, 56), a window of (16, 24)
    best = max((score[i : i + 16, j : j + 24].sum(), i, j) for i in range(17) for j in range(33))
    found = sensitivity_window.answer(place, SETTINGS, {**draft(teacher, student), "module": name})
    assert (found["kind"], found["window"]) == ("window", [best[1], best[2], 16, 24])
    assert found["inside"] == pytest.approx(best[0] / score.sum())
    assert found["area"] == pytest.approx(16 * 24 / (32 * 56))
    layers = json.loads((place.sensitivity / "key" / TOTALS).read_text())["layers"]
    [kept] = kept_layers.answer(place, SETTINGS, draft(teacher, student))["layers"]
    assert kept == layers.index(max(layers))
    assert found["serves"] == (0 if kept == 1 else None)


def test_window_of_other_structures_and_of_what_is_left_out(place, tmp_path):
    teacher, student = build_tiny("llama", tmp_path / "t"), build_tiny("llama", tmp_path / "s", hidden_size=16)
    sums = store_of(place, teacher)
    name = "model.layers.0.self_attn.q_proj"

    def found(module=name, **extraction) -> dict:
        request = draft(teacher, student, extraction=extraction)
        return sensitivity_window.answer(place, SETTINGS, {**request, "module": module})

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
    found = sensitivity_window.answer(
        place, SETTINGS, {**draft(teacher, student), "module": "model.layers.0.mlp.up_proj"}
    )
    assert found["kind"] == "none"
    assert "not measured for this student" in found["note"]
    assert not (place.sensitivity / "key" / "sensitivity.safetensors").exists()
    assert (place.sensitivity / "key" / REDUCTIONS).exists()
