"""Weights straight from the shards, and the memory they take."""

import ctypes

import torch

from paraknow_core.memory import anonymous_bytes, release
from paraknow_core.models.shards import Shards
from paraknow_core.models.source import resolve_model
from tests.tiny_models import build_tiny


def test_a_converted_weight_takes_the_memory_it_is_given_if_it_fits(tmp_path):
    source = resolve_model(str(build_tiny("llama", tmp_path / "m")), None, offline=True)
    as_stored = Shards(source, torch.float32)
    name = next(each for each in as_stored if len(as_stored.shape(each)) == 2)
    assert as_stored.stored(name).dtype == torch.float32
    assert not as_stored.converts(name)
    room = torch.empty(as_stored.shape(name), dtype=torch.float32)
    assert as_stored.read(name, room) is not room  # it is mapped from its file

    whatever = Shards(source, None)
    assert not whatever.converts(name)
    assert torch.equal(whatever[name], as_stored[name])
    assert whatever.rows(name, slice(0, 1)).dtype == torch.float32

    converted = Shards(source, torch.float64)
    assert converted.converts(name)
    room, other = (torch.empty(shape, dtype=torch.float64) for shape in (converted.shape(name), (1, 1)))
    assert converted.read(name, room) is room
    assert torch.equal(room, as_stored[name].double())
    assert torch.equal(converted.read(name, other), room)


def test_memory_is_given_back_only_where_there_is_more_than_asked_for(monkeypatch):
    trims: list[int] = []

    class Library:
        @staticmethod
        def malloc_trim(pad: int) -> None:
            trims.append(pad)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library)
    held = anonymous_bytes()
    release(2 * held)
    assert not trims
    release(held // 2)
    release()
    assert trims == [0, 0]
