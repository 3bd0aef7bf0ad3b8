"""Headers of whole, sharded, torn and foreign weight files."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paraknow_core.errors import ModelError
from paraknow_core.models.headers import read_file_header, read_headers
from paraknow_core.models.source import ModelSource


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_a_header_by_hand(tmp_path):
    path = write(tmp_path / "model.safetensors", {"__metadata__": {"a": "b"}, "w": entry()}, bytes(24))
    (header,) = read_file_header(path, "mine").values()
    assert (header.name, header.dtype, header.shape, header.file) == ("w", "F32", (2, 3), "model.safetensors")
    assert (header.start, header.end, header.parameters, header.bytes) == (0, 24, 6, 24)


@pytest.mark.parametrize("size", ["1GB", "20KB"])
def test_agrees_with_the_safetensors_library(tiny, size):
    from safetensors import safe_open

    folder = tiny("llama", shard_size=size)
    headers = read_headers(folder, "mine")
    seen = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                part = file.get_slice(name)
                seen[name] = (part.get_dtype(), tuple(part.get_shape()), path.name)
    assert {name: (h.dtype, h.shape, h.file) for name, h in headers.items()} == seen
    assert len(ModelSource("mine", "local", folder).weight_files()) == (1 if size == "1GB" else 6)


def test_offsets_point_at_the_weights(tiny):
    import numpy as np
    from safetensors.numpy import load_file

    path = tiny("llama") / "model.safetensors"
    data = path.read_bytes()
    section = 8 + int.from_bytes(data[:8], "little")
    for name, tensor in load_file(path).items():
        header = read_headers(path.parent, "mine")[name]
        found = np.frombuffer(data[section + header.start : section + header.end], np.float32)
        assert np.array_equal(found.reshape(header.shape), tensor)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda data: b"", "not a whole safetensors file"),
        (lambda data: data[:6], "not a whole safetensors file"),
        (lambda data: data[:40], "not a whole safetensors file"),
        (lambda data: data[:-1], "is cut off"),
        (lambda data: data[: len(data) // 2], "is cut off"),
        (lambda data: b"\xff" * 8 + data[8:], "not a whole safetensors file"),
        (lambda data: b"\x80\x02}q" + data, "not a whole safetensors file"),
        (lambda data: data[:8] + b"!" + data[9:], "not a JSON object"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "not a whole safetensors file"),
    ],
)
def test_a_torn_or_foreign_file(tiny_copy, change, words):
    path = tiny_copy("llama") / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelError, match=words) as caught:
        read_headers(path.parent, "mine")
    assert str(caught.value).startswith("mine: ") and ";" in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        [],
        3,
        {"w": 3},
        {"w": {}},
        {"w": entry() | {"shape": 3}},
        {"w": entry(dtype="X9")},
        {"w": entry(dtype=3)},
        {"w": entry(dtype=[])},
        {"w": entry(shape=(-2, -3))},
        {"w": entry(shape=(2.0, 3))},
        {"w": entry(shape=(True, 6))},
        {"w": entry(offsets=(0,))},
        {"w": entry(offsets=(24, 0))},
        {"w": entry(offsets=(-24, 0))},
        {"w": entry(offsets=(0, 20))},
        {"w": entry(shape=(10**30,))},
        b'{"w": ' * 2000,
        b"\xff\xfe{}",
        b"[" * 100_000,
    ],
)
def test_a_header_that_is_not_one(tmp_path, header):
    with pytest.raises(ModelError, match="^mine: "):
        read_file_header(write(tmp_path / "model.safetensors", header, bytes(24)), "mine")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_a_header_or_a_sentence(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    path.write_bytes(data)
    try:
        read_file_header(path, "mine")
    except ModelError as error:
        assert "mine: " in str(error)


@pytest.mark.parametrize(
    "names, words",
    [
        (["pytorch_model.bin"], r"weights are in pytorch_model\.bin; only safetensors"),
        (["pytorch_model.bin.index.json"], "only safetensors are read"),
        (["consolidated.00.pth"], r"weights are in consolidated\.00\.pth"),
        (["training_args.bin"], "has no weights"),
        (["model.Q4_K.gguf"], "weights are in model.Q4_K.gguf"),
        (["adapter_config.json", "adapter_model.safetensors"], "holds an adapter, not a model"),
        (["weights.safetensors"], r"weights are in weights\.safetensors"),
        ([], "has no weights"),
    ],
)
def test_a_folder_without_safetensors_says_what_it_holds(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelError, match=words):
        read_headers(tmp_path, "mine")


def test_a_missing_shard_is_named(tiny_copy):
    folder = tiny_copy("llama", shard_size="20KB")
    (folder / "model-00003-of-00006.safetensors").unlink()
    for read in (lambda: read_headers(folder, "mine"), ModelSource("mine", "local", folder).weight_files):
        with pytest.raises(ModelError, match=r"model-00003-of-00006\.safetensors"):
            read()


@pytest.mark.parametrize(
    "name",
    [
        "../other/model.safetensors",
        "/etc/model.safetensors",
        "a/../../b.safetensors",
        "C:\\x.safetensors",
        "..\\x.safetensors",
        "",
        "a\0b.safetensors",
    ],
)
def test_an_index_that_leads_outside_is_refused(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(ModelError, match="outside the model's folder"):
        read_headers(tmp_path, "mine")


@pytest.mark.parametrize(
    "content, words",
    [
        ("x", "not a JSON object"),
        ("[]", "not a JSON object"),
        ("{}", "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": {"a": 3}}', "no weight_map"),
        ('{"weight_map": {"a": "b.bin"}}', "only .safetensors"),
    ],
)
def test_a_damaged_index(tmp_path, content, words):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=words):
        read_headers(tmp_path, "mine")


def test_an_index_that_promises_too_much(tmp_path):
    write(tmp_path / "a.safetensors", {"w": entry()}, bytes(24))
    write(tmp_path / "b.safetensors", {"x": entry()}, bytes(24))
    index = tmp_path / "model.safetensors.index.json"
    for promised in ({"w": "a.safetensors", "y": "a.safetensors"}, {"w": "b.safetensors", "x": "a.safetensors"}):
        index.write_text(json.dumps({"weight_map": promised}))
        with pytest.raises(ModelError, match="promises"):
            read_headers(tmp_path, "mine")
    write(tmp_path / "b.safetensors", {"w": entry()}, bytes(24))
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors", "z": "b.safetensors"}}))
    with pytest.raises(ModelError, match="is in both"):
        read_headers(tmp_path, "mine")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"x": entry(shape=[10**18] * 200_000)}, "in a way that is not safetensors"),
        ({"x": entry(shape=[1] * 17, offsets=(0, 4))}, "in a way that is not safetensors"),
        ({"x": entry(shape=[int("9" * 4000)] * 50)}, "in a way that is not safetensors"),
        ({"x": entry(shape=[2**61], offsets=(0, 2**63))}, "in a way that is not safetensors"),
        ({"model." + "a." * 400_000: entry()}, "names a tensor in over 1000 letters"),
    ],
    ids=["a long shape", "17 sides", "long numbers", "a huge side", "a long name"],
)
def test_a_header_made_to_keep_a_machine_busy_is_a_short_sentence(tmp_path, entries, words):
    write(tmp_path / "model.safetensors", entries)
    with pytest.raises(ModelError, match=words) as refused:
        read_file_header(tmp_path / "model.safetensors", "m")
    assert len(str(refused.value)) < 300
