"""Fingerprints follow content, not place, name or time."""

import hashlib
import json
import os
import time

import pytest

from paraknow_core.errors import ModelError
from paraknow_core.models import fingerprint as module
from paraknow_core.models.fingerprint import folder_stamp, tokenizer_fingerprint, weights_fingerprint
from paraknow_core.models.source import resolve_model


@pytest.fixture
def model(tiny_copy):
    """A model whose files are an hour old."""
    folder = tiny_copy("llama", shard_size="20KB")
    age(folder)
    return folder


def age(folder) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)


def test_by_hand(tmp_path, tiny):
    folder = tiny("llama")
    lines = [
        f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n"
        for name in ("config.json", "model.safetensors")
    ]
    assert weights_fingerprint(resolve_model(str(folder))) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_one_changed_bit_changes_it(model):
    source = resolve_model(str(model))
    before = weights_fingerprint(source)
    path = model / "model-00004-of-00006.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert weights_fingerprint(source) != before
    data[-1] ^= 1
    path.write_bytes(data)
    assert weights_fingerprint(source) == before
    (model / "config.json").write_text(json.dumps(source.config() | {"rms_norm_eps": 0.1}))
    assert weights_fingerprint(source) != before


def test_the_memo_saves_reading_and_never_serves_a_changed_file(model, tmp_path, monkeypatch):
    source, memo = resolve_model(str(model)), tmp_path / "memo.json"
    first = weights_fingerprint(source, memo)
    assert len(json.loads(memo.read_text())) == 7
    reads = []
    monkeypatch.setattr(module.hashlib, "sha256", lambda real=hashlib.sha256: reads.append(1) or real())
    assert weights_fingerprint(source, memo) == first
    assert len(reads) == 1  # only the hash over the hashes
    path = model / "model-00001-of-00006.safetensors"
    data, stamp = bytearray(path.read_bytes()), path.stat().st_mtime_ns
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stamp, stamp))  # same size, same modification time: the change time gives it away
    assert weights_fingerprint(source, memo) != first


def test_a_file_just_written_is_not_remembered(model, tmp_path):
    memo = tmp_path / "memo.json"
    os.utime(model / "config.json")
    weights_fingerprint(resolve_model(str(model)), memo)
    assert len(json.loads(memo.read_text())) == 6


@pytest.mark.parametrize("content", ["", "[]", "3", '{"a": 3}', "torn {"])
def test_a_damaged_memo_is_ignored(model, tmp_path, content):
    memo = tmp_path / "memo.json"
    memo.write_text(content)
    source = resolve_model(str(model))
    assert weights_fingerprint(source, memo) == weights_fingerprint(source)


def test_a_file_that_changes_while_it_is_read(model, monkeypatch):
    stamps = iter(range(1000))
    monkeypatch.setattr(module, "_identity", lambda path: str(next(stamps)))
    with pytest.raises(ModelError, match="changed while it was read"):
        weights_fingerprint(resolve_model(str(model)))


def test_a_file_that_cannot_be_read(model):
    (model / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        weights_fingerprint(resolve_model(str(model)))


def test_the_tokenizer(tiny, tiny_copy, tmp_path):
    same, other = tiny("qwen3"), tiny("llama", extra_tokens=("x",))
    prints = [tokenizer_fingerprint(resolve_model(str(folder))) for folder in (tiny("llama"), same, other, tmp_path)]
    assert prints[0] == prints[1] != prints[2]
    assert prints[3] == "none"


def test_a_folders_stamp_changes_with_every_file_and_is_none_while_one_is_young(model, monkeypatch):
    assert folder_stamp(model) is None  # it has just been copied
    assert folder_stamp(model / "nowhere") is None
    moment = time.time()
    monkeypatch.setattr(module.time, "time", lambda: moment + 60)
    before = folder_stamp(model)
    assert before is not None and folder_stamp(model) == before
    content = (model / "config.json").read_bytes()
    (model / "config.json").write_bytes(content[::-1])
    age(model)  # same size, same time
    after = folder_stamp(model)
    (model / "adapter_config.json").write_text("{}")
    assert len({before, after, folder_stamp(model)}) == 3
