"""Random weights in place of trained ones: like transformers' own, the same for a seed, made once, whole or not."""

import fcntl
import json
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from paraknow_core.context import Context, Model, Silent
from paraknow_core.errors import RunError
from paraknow_core.files.disk import whole_tensors
from paraknow_core.models import untrained
from paraknow_core.runs.writer import StopRequested
from paraknow_core.settings import Settings
from paraknow_core.spec import ModelSpec, RunSpec
from tests.marking import mostly_slow
from tests.tiny_models import FAMILIES

SETTINGS = Settings(offline=True, dtype="float32", device="cpu")


def model_of(folder, workspace, seed=3, report=Silent()):  # noqa: B008
    return Model(ModelSpec(source=str(folder), untrained=seed), SETTINGS, workspace, "teacher", report)


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, "llama", "gpt2", "gemma2", "phi"))
def test_weights_are_distributed_as_the_architecture_draws_them(family, tiny, workspace):
    folder = tiny(family)
    loaded = dict(model_of(folder, workspace).load().named_parameters())
    torch.manual_seed(0)
    twin = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    theirs = dict(twin.named_parameters())
    assert loaded.keys() == theirs.keys()
    for name, parameter in loaded.items():
        other = theirs[name]
        if other.std() == 0 or other.numel() == 1:  # norms and biases
            assert torch.equal(parameter, other), name
        else:
            assert not torch.equal(parameter, other)
            torch.testing.assert_close(parameter.std(), other.std(), rtol=12 / other.numel() ** 0.5, atol=0, msg=name)
            assert abs(parameter.mean()) < 6 * other.std() / other.numel() ** 0.5, name


def test_a_seed_gives_the_same_weights_and_another_seed_others(tiny, workspace, tmp_path):
    folder = tiny("llama")
    first = model_of(folder, workspace)
    torch.manual_seed(123)  # what else draws numbers does not matter
    again = model_of(folder, type(workspace)(tmp_path / "elsewhere"))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != model_of(folder, workspace, seed=4).fingerprint
    assert first.fingerprint != Model(ModelSpec(source=str(folder)), SETTINGS, workspace).fingerprint
    assert first.source.label == f"{folder} (untrained, seed 3)" == first.anatomy.label


def test_layers_are_not_alike(tiny, workspace):
    weights = model_of(tiny("llama"), workspace).weights()
    q = [name for name in weights if name.endswith("q_proj.weight")]
    assert len({weights[name].sum().item() for name in q}) == len(q) > 1


def test_what_reads_headers_makes_no_weights(tiny, workspace):
    model = model_of(tiny("llama"), workspace)
    trained = Model(ModelSpec(source=model.described.label.partition(" (")[0]), SETTINGS, workspace)
    assert model.anatomy.modules == trained.anatomy.modules
    assert model.tokenizer("a b").input_ids == trained.tokenizer("a b").input_ids
    assert model.tokenizer_fingerprint == trained.tokenizer_fingerprint
    assert not workspace.untrained.exists()


def test_it_is_made_once_and_a_half_written_folder_is_not_looked_at(tiny, workspace, monkeypatch):
    folder = tiny("llama")

    class StopsHalfway(Silent):
        def progress(self, done, total, message=""):
            if "random weights, 2" in message:
                raise StopRequested

    with pytest.raises(StopRequested):
        model_of(folder, workspace, report=StopsHalfway()).source  # noqa: B018
    assert list(workspace.untrained.iterdir()) == []
    final = model_of(folder, workspace).source.folder
    killed = final.with_name(f".{final.name}.0123abcd")  # what a kill leaves
    shutil.copytree(final, killed)
    shutil.rmtree(final)
    (killed / untrained.WEIGHTS).write_bytes(b"half")
    monkeypatch.setattr("paraknow_core.files.atomic._YOUNG_S", 0)
    model = model_of(folder, workspace)
    assert model.source.folder == final and whole_tensors(final / untrained.WEIGHTS)
    assert list(workspace.untrained.iterdir()) == [final]
    monkeypatch.setattr(untrained, "_make", None)  # would be called
    assert model_of(folder, workspace).source.folder == final
    assert json.loads((final / "config.json").read_text()) == json.loads((folder / "config.json").read_text())


def test_who_waits_for_another_process_can_be_stopped(tiny, workspace, monkeypatch):
    folder = tiny("llama")
    final = model_of(folder, workspace).source.folder
    shutil.rmtree(final)
    said = []

    class Waits(Silent):
        def progress(self, done, total, message=""):
            said.append(message)
            raise StopRequested

    with (workspace.untrained / f".{final.name}.lock").open("w") as lock:  # as another process would hold it
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StopRequested):
            model_of(folder, workspace, report=Waits()).source  # noqa: B018
    assert "another process" in said[0]


def test_a_full_disk_is_refused_in_a_sentence(tiny, workspace, monkeypatch):
    monkeypatch.setattr("paraknow_core.models.untrained.shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(RunError, match=r"disk: .* \(untrained, seed 3\) needs .* more than the workspace has; free"):
        model_of(tiny("llama"), workspace).source  # noqa: B018
    assert list(workspace.untrained.iterdir()) == []


def test_a_context_reads_it_like_any_other_teacher(workspace):
    context = Context(RunSpec().with_changes({"teacher.untrained": 5}), SETTINGS, workspace)
    context.teacher.check()
    assert context.teacher.source.folder.parent == workspace.untrained
    assert context.alignment.identical
