"""Where models come from, and what is said when they are not there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paraknow_core.errors import ModelError
from paraknow_core.models import source as module
from paraknow_core.models.source import bundled_names, resolve_model


@pytest.fixture
def bundle(tmp_path, monkeypatch, tiny_copy):
    """A folder of bundled models with one model, `tutor`."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    tiny_copy("llama").rename(folder / "tutor")
    monkeypatch.setattr(module, "BUNDLED_FOLDER", folder)
    return folder


def test_a_local_folder(tiny, monkeypatch):
    folder = tiny("llama")
    source = resolve_model(f" {folder} ")
    assert (source.kind, source.folder, source.label, source.revision) == ("local", folder, str(folder), None)
    assert source.config()["model_type"] == "llama" and "lm_head.weight" in source.headers()
    assert [path.name for path in source.weight_files()] == ["model.safetensors"]
    monkeypatch.chdir(folder.parent)
    assert resolve_model(folder.name).kind == "local"  # an existing folder wins over everything else
    assert resolve_model(f"./{folder.name}").folder == folder


def test_the_home_folder_is_expanded(tiny, monkeypatch):
    monkeypatch.setenv("HOME", str(tiny("llama").parent))
    assert resolve_model(f"~/{tiny('llama').name}").folder == tiny("llama")


def test_a_bundled_model(bundle):
    source = resolve_model("bundled:tutor")
    assert (source.kind, source.folder, source.label) == ("bundled", bundle / "tutor", "bundled:tutor")
    assert bundled_names() == ["tutor"]


@pytest.mark.parametrize(
    "given, words",
    [
        ("bundled:pupil", "no bundled model of that name; choose from tutor"),
        ("bundled:../bundle/tutor", "no bundled model"),
        ("bundled:", "no bundled model"),
        ("tutor", "did you mean bundled:tutor"),
        ("gpt2", "nor a hub id like owner/name"),
        ("a/b/c", "nor a hub id"),
        ("", "nor a hub id"),
        ("./nowhere", "there is no such folder"),
        ("/nowhere/at all", "there is no such folder"),
        ("~nobody/x", "there is no such folder"),
        ("../a\0b", "no such folder"),
        ("a\0b", "nor a hub id"),
        ("./" + "x" * 5000, "no such folder"),
        ("x" * 5000, "nor a hub id"),
    ],
)
def test_what_is_not_there(bundle, given, words):
    with pytest.raises(ModelError, match=words):
        resolve_model(given)


def test_an_address_is_refused_without_repeating_it():
    for given in ("https://me:secret@example.org/a/b", "git@example.org:secret/b"):
        with pytest.raises(ModelError) as caught:
            resolve_model(given)
        assert "secret" not in str(caught.value)


def test_a_revision_is_only_for_hub_models(bundle, tiny):
    for given in ("bundled:tutor", str(tiny("llama"))):
        with pytest.raises(ModelError, match="only hub models have one"):
            resolve_model(given, "main")


def test_a_file_is_not_a_folder(tiny):
    with pytest.raises(ModelError, match="is a file; give the folder"):
        resolve_model(str(tiny("llama") / "model.safetensors"))


@pytest.mark.parametrize(
    "files, words",
    [
        ({}, r"has no config\.json"),
        ({"adapter_config.json": "{}"}, "holds an adapter"),
        ({"a.gguf": ""}, "holds a GGUF file"),
        ({"config.json": "no"}, "not a JSON object"),
        ({"config.json": "[1]"}, "not a JSON object"),
        ({"config.json": "[" * 100_000}, "not a JSON object"),
        ({"config.json": '{"a": "' + "x" * 10_000_001 + '"}'}, "larger than 10 MB"),
    ],
)
def test_a_folder_without_a_usable_config(tmp_path, files, words):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=words):
        resolve_model(str(tmp_path)).config()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_inspecting_needs_neither_torch_nor_much_memory(tiny):
    folders = [str(tiny(family)) for family in ("llama", "gpt_neox")]
    code = f"""
import sys, json, pathlib
from paraknow_core.models import anatomy, compat, fingerprint, source, tokenizer
found = [source.resolve_model(folder) for folder in {folders!r}]
compat.compatibility(*map(anatomy.read_anatomy, found), tokenizer.align_tokens(*map(tokenizer.vocabulary, found)))
heavy = [name for name in ("torch", "transformers", "peft", "huggingface_hub") if name in sys.modules]
status = pathlib.Path("/proc/self/status").read_text()  # ru_maxrss would be that of the parent
print(json.dumps([heavy, int(status.split("VmHWM:")[1].split()[0])]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, kilobytes = json.loads(done.stdout)
    assert heavy == [] and kilobytes < 100_000
