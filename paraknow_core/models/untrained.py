"""A model with random weights in place of its trained ones: what its architecture starts with, kept as a folder.

The folder holds what the trained one holds (config, tokenizer, one safetensors file with the same names, shapes and
dtypes), so that whoever reads models reads it like any other.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from paraknow_core.display import memory
from paraknow_core.errors import ModelError, RunError
from paraknow_core.files.atomic import build_folder
from paraknow_core.files.disk import disk_trouble
from paraknow_core.files.tensor_file import TensorFile, file_bytes
from paraknow_core.models.anatomy import Anatomy
from paraknow_core.models.config import GENERATION_CONFIG
from paraknow_core.models.families import FAMILIES
from paraknow_core.models.fingerprint import TOKENIZER_FILES, tokenizer_fingerprint
from paraknow_core.models.load import build_empty, check_parameters
from paraknow_core.models.names import parameter_headers
from paraknow_core.models.source import ModelSource

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

Say = Callable[..., None]  # (message), or (message, True) for one that is to be kept

VERSION = 1  # raise when the same seed would give other weights
WEIGHTS = "model.safetensors"
_TEMPLATES = "additional_chat_templates"
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # others are kept as float32


def named_untrained(source: ModelSource, seed: int) -> ModelSource:
    """Return a source whose label says that its weights are not the trained ones; its folder still is the trained."""
    return replace(source, label=f"{source.label} (untrained, seed {seed})")


def untrained(source: ModelSource, anatomy: Anatomy, seed: int, folder: Path, say: Say) -> ModelSource:
    """Return the untrained model, made in the workspace if it is not there yet.

    Args:
        source: of `named_untrained`; its headers and small files are read, no weight.
        anatomy: its.
        seed: of the random weights.
        folder: of the workspace, that holds all untrained models, each under a hash of all that it depends on.
        say: told, to be kept, what it takes before it is made, and of every part that is done; may raise to stop.

    Returns:
        A source with the same label.

    Raises:
        ModelError: transformers cannot build the architecture, or says of a parameter not what it starts with.
        RunError: the disk has no room for it.

    Note:
        In memory is one layer at a time, in float32. What a kill leaves behind is not looked at, and removed when the
        same model is made again.
    """
    final = place_of(source, seed, folder)
    made = ModelSource(source.label, "local", final, source.revision)
    if final.is_dir():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f".{final.name}.lock"

    def waiting() -> bool:
        say(f"{source.label}: another process is making its random weights; waiting for it")
        return False

    # Its last holder removes the file; whoever waits for the removed one opens it anew (FileLock sees to that).
    with FileLock(lock, poll_interval=0.5).acquire(cancel_check=waiting):
        try:
            if not final.is_dir():
                _make(source, anatomy, seed, final, say)
        finally:
            lock.unlink(missing_ok=True)
    return made


def place_of(source: ModelSource, seed: int, folder: Path) -> Path:
    """Return where an untrained model is, or would be: under a hash of all that it depends on; see `untrained`."""
    listed = [[header.name, header.dtype, list(header.shape)] for header in parameter_headers(source).values()]
    depends = [VERSION, seed, source.config(), listed, tokenizer_fingerprint(source)]
    return folder / hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]


def _make(source: ModelSource, anatomy: Anatomy, seed: int, final: Path, say: Say) -> None:
    """Write the folder: small files as they are, then unit by unit what the architecture starts with."""
    import torch

    headers = parameter_headers(source)
    layout = {
        header.name: (getattr(torch, _DTYPES.get(header.dtype, "float32")), tuple(header.shape))
        for header in headers.values()
    }
    model = build_empty(source, anatomy, torch.float32, "cpu")
    check_parameters(model, source, anatomy, headers)
    needs, free = file_bytes(layout), shutil.disk_usage(final.parent).free
    if needs > free:
        raise RunError(
            f"disk: {source.label} needs {memory(needs)} for its random weights, {memory(needs - free)} more than the "
            "workspace has; free some space, or give another --workspace"
        )
    units = list(_units(model, FAMILIES[anatomy.family].layers))
    largest = max(4 * sum(parameter.numel() for parameter in unit.parameters()) for _, unit in units)
    need = f"{memory(needs)} of the workspace's disk and {memory(largest)} of memory"
    say(f"{source.label}: making its random weights takes {need}", True)
    try:
        with build_folder(final, durable=True) as building:
            for name in ("config.json", GENERATION_CONFIG, *TOKENIZER_FILES):
                if (source.folder / name).is_file():
                    shutil.copyfile(source.folder / name, building / name)
            if (source.folder / _TEMPLATES).is_dir():
                shutil.copytree(source.folder / _TEMPLATES, building / _TEMPLATES)
            file = TensorFile(building / WEIGHTS, layout)
            for number, (name, unit) in enumerate(units, start=1):
                for own, tensor in _drawn(model, name, unit, seed).items():
                    if own in headers:  # a tied output layer is in the file once, as the embedding
                        if not tensor.isfinite().all():
                            raise ModelError(
                                f"{source.label}: transformers does not say what {own} starts with; choose a teacher "
                                "of another family for this control"
                            )
                        file[headers[own].name].copy_(tensor)
                say(f"{source.label}: random weights, {number} of {len(units)}")
            file.flush()
    except OSError as error:
        trouble = disk_trouble(error)
        if trouble is None:
            raise
        raise RunError(f"disk: {trouble[0]} while {source.label} was written; {trouble[1]} and start again") from None


def _units(model: "PreTrainedModel", layers: str) -> "Iterator[tuple[str, nn.Module]]":
    """Yield the parts of a model that are initialised one at a time: each layer, and what else holds parameters."""
    for name, module in model.named_modules():
        is_layer = name.rpartition(".")[0] == layers
        outside = not f"{name}.".startswith(f"{layers}.") and next(module.parameters(recurse=False), None) is not None
        if is_layer or outside:
            yield name, module


def _drawn(model: "PreTrainedModel", name: str, unit: "nn.Module", seed: int) -> dict:
    """Return what a unit's parameters start with, by their names in the model; the same for the same seed and name.

    The parts of a unit before the whole of it, as transformers does: some families draw a part anew when they come to
    what holds it. Parameters begin as NaN, so that one which nobody sets is seen.
    """
    import torch

    from paraknow_core.ops.chance import seed_of

    unit.to_empty(device="cpu")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, name))
        for parameter in unit.parameters():
            parameter.fill_(float("nan"))
        unit.apply(model._init_weights)  # noqa: SLF001 - what from_config calls
    drawn = {f"{name}.{own}": parameter.detach() for own, parameter in unit.named_parameters()}
    unit.to("meta")
    return drawn
