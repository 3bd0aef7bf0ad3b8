"""Sensitivity and extraction alone, as the command line leaves them in a folder."""

import errno
import shutil

import pytest

from paraknow_core.errors import RunError
from paraknow_core.files.json_file import read_json
from paraknow_core.products import extract_to, sensitivity_to


def test_extraction_leaves_the_sensitivity_too(make_context, tiny, tmp_path):
    context = make_context(tiny("llama"), {"task.sizes.train": None}, train_only=True)
    record = extract_to(context, tmp_path / "out")
    assert record == read_json(tmp_path / "out" / "extraction.json")
    assert record["layer_mapping"] == sorted(record["layer_mapping"])
    assert len(record["layer_mapping"]) == 2
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "extraction.json",
        "init_adapter",
        "sensitivity.json",
        "sensitivity.safetensors",
        "reductions.safetensors",
    }
    assert read_json(tmp_path / "out" / "sensitivity.json")["samples"] == 4


def test_a_folder_without_room_is_one_sentence(make_context, tiny, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(RunError, match="output: has no room for the 1 MB of the sensitivity"):
        sensitivity_to(make_context(tiny("llama")), tmp_path / "out")
