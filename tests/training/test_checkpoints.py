"""Saves of fine-tuning: sealed, read back, and passed over where they are damaged."""

import json
import os
import random as random_numbers

import numpy
import pytest
import torch
from safetensors.torch import save_file

from paraknow_core.errors import RunError
from paraknow_core.training import checkpoints
from paraknow_core.training.checkpoints import COMPLETE, NEEDED, State, newest, seal

STEPS = 9


def write(folder, step, sealed=True):
    """Write a checkpoint of an adapter whose one weight is the step."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"a.lora_A.weight": torch.full((4, 8), float(step))}, path / "adapter_model.safetensors")
    for name in NEEDED[1:4]:
        torch.save({"step": step, "more": torch.arange(300.0)}, path / name)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if sealed:
        seal(path, step, STEPS)
    return path


def as_before(checkpoint):
    """Make it what an earlier version has left: an empty seal."""
    (checkpoint / COMPLETE).write_text("")


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut": cut,
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "emptied": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "flipped": flip,
}


def test_two_saves_are_kept_and_the_newest_counts(tmp_path):
    assert newest(tmp_path / "none", STEPS) == checkpoints.Save()
    for step in (2, 4, 9):
        write(tmp_path, step)
    write(tmp_path, 11, sealed=False)
    found = newest(tmp_path, STEPS)
    assert (found.step, found.warnings) == (9, ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-9"]
    assert json.loads((found.path / COMPLETE).read_text())["done"] is True
    assert json.loads((tmp_path / "checkpoint-4" / COMPLETE).read_text())["done"] is False


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*NEEDED, COMPLETE])
def test_a_damaged_save_is_passed_over_with_a_word(tmp_path, name, damage):
    write(tmp_path, 4)
    last = write(tmp_path, 8)
    DAMAGES[damage](last / name)
    found = newest(tmp_path, STEPS)
    if name == COMPLETE and damage == "emptied":  # what an earlier version leaves
        assert found.step == 8
        return
    assert found.step == 4
    assert not last.exists()
    if (name, damage) != (COMPLETE, "missing"):  # that is what a kill leaves: no word is needed
        assert found.warnings == ("fine-tuning: the save of step 8 is damaged, so it goes on from step 4",)


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "flipped"])
@pytest.mark.parametrize("name", NEEDED)
def test_a_save_of_an_earlier_version_is_judged_by_the_form_of_its_files(tmp_path, name, damage):
    last = write(tmp_path, 8)
    as_before(last)
    assert newest(tmp_path, STEPS).step == 8
    DAMAGES[damage](last / name)
    found = newest(tmp_path, STEPS)
    assert found.path is None
    assert "starts again from the first step" in found.warnings[0]


def test_a_flipped_bit_in_an_archive_of_an_earlier_version_is_seen(tmp_path):
    last = write(tmp_path, 8)
    as_before(last)
    flip(last / "optimizer.pt")
    assert newest(tmp_path, STEPS).path is None


def test_a_save_beyond_the_last_step_is_not_gone_on_from(tmp_path):
    as_before(write(tmp_path, STEPS + 1))
    found = newest(tmp_path, STEPS)
    assert found.path is None
    assert "beyond the last step, 9" in found.warnings[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["checkpoint-x", "checkpoint-", "checkpoint-3-old", "other"])
def test_what_is_no_checkpoint_is_left_alone(tmp_path, name):
    (tmp_path / name).mkdir()
    write(tmp_path, 2)
    assert newest(tmp_path, STEPS).step == 2
    assert (tmp_path / name).exists()


def test_a_save_that_does_not_read_back_keeps_the_one_before(tmp_path):
    write(tmp_path, 2)
    last = write(tmp_path, 4, sealed=False)
    cut(last / "optimizer.pt")
    with pytest.raises(RunError, match="does not read back"):
        seal(last, 4, STEPS)
    assert newest(tmp_path, STEPS).step == 2


def test_the_seal_comes_after_the_disk_has_the_files(tmp_path, monkeypatch):
    checkpoint, synced, real = write(tmp_path, 2, sealed=False), [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append((checkpoint / COMPLETE).exists()), real(descriptor))
    )
    seal(checkpoint, 2, STEPS)
    assert synced.count(False) >= len(NEEDED) + 2  # the folder and its parent too; then the seal itself


def state(width=4, groups=1):
    """A state of one small adapter; Trainer of transformers gives its optimiser two groups, the second empty."""
    model = torch.nn.Module()
    model.a = torch.nn.Module()
    model.a.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(8, width, bias=False)})
    model.device = torch.device("cpu")
    optimiser = torch.optim.AdamW([{"params": list(model.parameters())}, {"params": []}][:groups], lr=0.1)
    return State(model, optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step)), "student")


@pytest.mark.parametrize("groups", [1, 2])
def test_a_state_comes_back_bit_for_bit_and_only_where_it_belongs(tmp_path, groups):
    before, after = state(groups=groups), state()
    path = write(tmp_path, 3)
    before.model.a.lora_A["default"](torch.ones(8)).sum().backward()
    before.optimiser.step()
    before.schedule.step()
    random = {"cpu": torch.get_rng_state(), "python": random_numbers.getstate(), "numpy": numpy.random.get_state()}
    for name, saved in zip(
        NEEDED[1:4], (before.optimiser.state_dict(), before.schedule.state_dict(), random), strict=True
    ):
        torch.save(saved, path / name)
    drawn = torch.rand(3)
    after.load(path)
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(after.model.a.lora_A["default"].weight, torch.full((4, 8), 3.0))
    assert checkpoints.weights_digest(after.model) != checkpoints.weights_digest(before.model)
    moments = [next(iter(each.optimiser.state_dict()["state"].values()))["exp_avg"] for each in (before, after)]
    assert torch.equal(*moments) and moments[0].abs().sum() > 0
    assert after.schedule.get_last_lr() == [0.05] == [group["lr"] for group in after.optimiser.param_groups]
    with pytest.raises(RunError, match="another adapter"):
        state(width=5).load(path)
