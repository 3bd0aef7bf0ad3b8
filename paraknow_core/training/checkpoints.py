"""Checkpoints of fine-tuning: sealed once they are on the disk, checked before they are used; the last two are kept.

A checkpoint counts once its seal is there: the file `complete`, written last, with the step and a hash of every file.
An earlier version left that file empty; such a checkpoint is judged by its files' own structure.
"""

import hashlib
import json
import shutil
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from paraknow_core.errors import RunError
from paraknow_core.files.atomic import usual_rights
from paraknow_core.files.disk import file_digest, sync_tree, whole_tensors
from paraknow_core.files.json_file import read_object, write_json

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

COMPLETE = "complete"
ADAPTER, STATE = "adapter_model.safetensors", "trainer_state.json"
OPTIMISER, SCHEDULE, RANDOM = "optimizer.pt", "scheduler.pt", "rng_state.pth"
NEEDED = (ADAPTER, OPTIMISER, SCHEDULE, RANDOM, STATE)
KEPT = 2


@dataclass(frozen=True)
class State:
    """All that training changes: the adapter's weights, the optimiser, the schedule, and torch's random numbers."""

    model: "PeftModel"
    optimiser: "torch.optim.Optimizer"
    schedule: "torch.optim.lr_scheduler.LRScheduler"
    label: str  # the student, as the adapter's own config names it

    def save(self, folder: Path, step: int, steps: int) -> None:
        """Write `checkpoint-STEP` to `folder`, and seal it; a kill or a crash at any moment leaves the one before.

        Raises:
            OSError, RuntimeError: the disk could not take it (see `files.disk.disk_trouble`).
        """
        import torch

        from paraknow_core.adapters.inject import save_adapter

        prune(folder, KEPT - 1)  # room for this one
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True, exist_ok=True)
        save_adapter(self.model, checkpoint, self.label)
        random, device = {"cpu": torch.get_rng_state()}, self.model.device.type
        if device != "cpu":
            random[device] = torch.get_device_module(device).get_rng_state()
        torch.save(self.optimiser.state_dict(), checkpoint / OPTIMISER)
        torch.save(self.schedule.state_dict(), checkpoint / SCHEDULE)
        torch.save(random, checkpoint / RANDOM)
        write_json(checkpoint / STATE, {"global_step": step})
        usual_rights(checkpoint)
        seal(checkpoint, step, steps)

    def load(self, checkpoint: Path) -> None:
        """Go back to a checkpoint, bit for bit; those that transformers' Trainer has written can be read, too.

        Raises:
            RunError: it is of another adapter.
        """
        import torch
        from safetensors.torch import load_file
        from transformers.trainer_pt_utils import safe_globals

        adapter = load_file(checkpoint / ADAPTER)
        for name, parameter in _trainable(self.model).items():
            tensor = adapter.get(name)
            if tensor is None or tensor.shape != parameter.shape or tensor.dtype != parameter.dtype:
                raise RunError(f"fine-tuning: the save of step {step_of(checkpoint)} holds another adapter ({name})")
            parameter.data.copy_(tensor)
        with safe_globals():  # Trainer saves numpy's random numbers too
            optimiser, schedule, random = (
                torch.load(checkpoint / name, map_location="cpu") for name in (OPTIMISER, SCHEDULE, RANDOM)
            )
        # Trainer has a second group of parameters, those that do not decay; of an adapter it is empty.
        self.optimiser.load_state_dict({**optimiser, "param_groups": optimiser["param_groups"][:1]})
        self.schedule.load_state_dict({k: v[:1] if isinstance(v, list) else v for k, v in schedule.items()})
        torch.set_rng_state(random["cpu"])
        device = self.model.device.type
        if device in random and device != "cpu":
            torch.get_device_module(device).set_rng_state(random[device])


def seal(checkpoint: Path, step: int, steps: int) -> None:
    """Wait until the disk has a checkpoint, read it back, and mark it as whole; then drop all but the one before it.

    Args:
        checkpoint: the folder, written to its end.
        step: how many optimiser steps it holds; of `steps`. With all of them, training is done.

    Raises:
        RunError: what is read back is no checkpoint.
        OSError: the disk could not write it.
    """
    sync_tree(checkpoint)
    if not _is_sound(checkpoint):
        raise RunError(f"fine-tuning: the save of step {step} does not read back; check the disk, then resume")
    files = {path.name: file_digest(path) for path in sorted(checkpoint.iterdir()) if path.is_file()}
    write_json(checkpoint / COMPLETE, {"step": step, "steps": steps, "done": step >= steps, "files": files})
    prune(checkpoint.parent, KEPT)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the newest sealed checkpoints, and what has no seal."""
    sealed = [path for path in _checkpoints(folder) if (path / COMPLETE).exists()]
    for path in _checkpoints(folder):
        if path not in sealed[:keep]:
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True)
class Save:
    """The checkpoint to go on from (None: from the first step), and warnings about those that cannot be used."""

    path: Path | None = None
    step: int = 0
    warnings: tuple[str, ...] = ()


def newest(folder: Path, steps: int) -> Save:
    """Find the newest sound checkpoint; damaged and half-written ones are removed.

    Args:
        folder: holds `checkpoint-STEP` folders; may be missing.
        steps: of the whole training; a save beyond them is of a version that trained on when it was resumed.
    """
    problems: list[str] = []
    save, way_on = Save(), "starts again from the first step"
    for path in _checkpoints(folder):
        step, sealed = step_of(path), (path / COMPLETE).exists()
        if sealed and step <= steps and is_whole(path):
            save, way_on = Save(path, step), f"goes on from step {step:,}"
            break
        if sealed:
            beyond = f"lies beyond the last step, {steps:,}" if step > steps else "is damaged"
            problems.append(f"the save of step {step:,} {beyond}")
        shutil.rmtree(path, ignore_errors=True)
    warnings = (f"fine-tuning: {' and '.join(problems)}, so it {way_on}",) if problems else ()
    return replace(save, warnings=warnings)


def step_of(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(checkpoint.name.rpartition("-")[2])


def is_whole(checkpoint: Path) -> bool:
    """Tell whether a sealed checkpoint is unchanged since it was sealed."""
    try:
        text = (checkpoint / COMPLETE).read_bytes()
        if not text:
            return _is_sound(checkpoint)
        files = json.loads(text)["files"]
        digests = {name: file_digest(checkpoint / name) for name in files}
        return digests == files and set(NEEDED) <= files.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def weights_digest(model: "torch.nn.Module") -> str:
    """Return the SHA-256 of all trainable weights: it tells whether answers and adapters on disk belong to them."""
    import torch

    total = hashlib.sha256()
    for name, parameter in sorted(_trainable(model).items()):
        total.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        total.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _trainable(model: "torch.nn.Module") -> "dict[str, torch.nn.Parameter]":
    """Return the trainable parameters by the names that PEFT saves them under."""
    return {name.replace(".default", ""): p for name, p in model.named_parameters() if p.requires_grad}


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders, newest first."""
    folders = (path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal())
    return sorted(folders, key=step_of, reverse=True)


def _is_sound(checkpoint: Path) -> bool:
    """Tell whether the files of a checkpoint are there and can be read."""
    try:
        if read_object(checkpoint / STATE).get("global_step") != step_of(checkpoint):
            return False
        for name in (OPTIMISER, SCHEDULE, RANDOM):
            with zipfile.ZipFile(checkpoint / name) as archive:
                if not archive.namelist() or archive.testzip() is not None:
                    return False
        return whole_tensors(checkpoint / ADAPTER)
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return False
