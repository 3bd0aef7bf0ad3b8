"""A run's trained model as one whole model folder: the student's weights with the trained change in them.

Each weight is treated as in the run: brought to the run's number format, the initial product taken off, rounded to 4
bits where the run did that, and the trained product added in float32. So the folder computes what was scored, even
where the exported adapter on the untouched student does not (`student_bits`). One weight is in memory at a time.
"""

import re
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.adapters.cards import CARD, card
from paraknow_core.adapters.inject import hosts, row_index, take_off_
from paraknow_core.adapters.saved import FOLDER, RECORD, saved_updates, trained_factors
from paraknow_core.context import Context
from paraknow_core.errors import ModelError, NumericError, RunError
from paraknow_core.files.atomic import build_folder, write_atomic
from paraknow_core.files.disk import disk_trouble
from paraknow_core.files.json_file import read_object, write_json
from paraknow_core.files.tensor_file import file_bytes, write_in_order
from paraknow_core.models.anatomy import Anatomy, LogicalModule, read_anatomy
from paraknow_core.models.fingerprint import TOKENIZER_FILES
from paraknow_core.models.headers import INDEX_FILE, SINGLE_FILE
from paraknow_core.models.modules import add_product_
from paraknow_core.models.names import parameter_headers
from paraknow_core.models.source import ModelSource, read_json_object

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from paraknow_core.adapters.update import Update

SHARD_BYTES = 2_000_000_000
ROWS = 1024  # rows of a weight that are compared at a time
_SPARE_BYTES = 50_000_000  # room for the tokenizer, configs, headers
_LICENCES = re.compile(r"(LICEN[CS]E|NOTICE|USE_POLICY)[\w.-]*", re.ASCII | re.IGNORECASE)
# Keys of a config that name this machine, code that is not copied, or another state of the weights.
_LEFT_OUT = ("_name_or_path", "name_or_path", "_commit_hash", "auto_map", "quantization_config", "torch_dtype")


def write_merged(
    context: Context, folder: Path, result: Mapping[str, Any], out: Path, dtype: str | None = None
) -> dict[str, Any]:
    """Write the trained model of a run as a folder that transformers loads: complete, or not at all.

    Args:
        context: of the run's spec; its student is read.
        folder: the run's, with adapter/, init_adapter/ and extraction.json.
        result: the run's, finished or not: fingerprints, machine and revisions are read.
        out: a new or empty folder.
        dtype: "float32", "bfloat16" or "float16" to store weights in; default: what the run computed in, so that
            nothing of a float32 run is rounded, even where the student is stored in 16 bits.

    Returns:
        student, revision, dtype, tied, student_bits, parameters, bytes (of weights), files, and rounding: what storing
        in `dtype` changed at most (max_abs; max_relative to the largest weight of its tensor).

    Raises:
        RunError: the run has no trained adapter, the student was replaced since, the disk has no room, or `out` was
            filled meanwhile. ModelError: the student cannot be read. NumericError: a weight does not fit the dtype.

    Note:
        Memory: the adapter's factors, and at most 12 bytes for each number of the largest weight.
    """
    import torch

    student = context.student
    if not (folder / "adapter").is_dir():
        raise RunError(f"run {folder.name}: has no trained adapter; resume it first")
    _refuse_replaced(context, result)
    made_in = (result.get("machine") or {}).get("dtype") or "float32"
    dtype = dtype or made_in
    bits = (result.get("student_bits") or {}).get("bits")
    weights = _Weights(context, folder, getattr(torch, made_in), getattr(torch, dtype), bits)
    layout = {name: (weights.dtype, tuple(header.shape)) for name, header in parameter_headers(student.source).items()}
    total = file_bytes(layout)
    disk = next(parent for parent in (out, *out.parents) if parent.exists())
    if shutil.disk_usage(disk).free < total + _SPARE_BYTES:
        raise _no_room(out, total)
    try:
        with build_folder(out) as building:
            _write_shards(context, layout, weights, building)
            licences = _copy_rest(student.source, building, dtype)
            facts = {"dtype": dtype, "bits": bits, "rounding": weights.rounding, "files": licences}
            write_atomic(building / CARD, card("merged", context.spec, student.source, **facts))
            read_anatomy(ModelSource(f"{student.source.label}, merged", "local", building))  # it can be used here too
            files = sorted(str(path.relative_to(building)) for path in building.rglob("*") if path.is_file())
    except OSError as error:
        if disk_trouble(error) is None:
            raise
        raise _no_room(out, total) from None
    if not all((out / name).exists() for name in files):
        raise RunError(f"--out: {out} was filled by somebody else meanwhile; choose another folder")
    return {
        "student": student.source.label,
        "revision": student.source.revision,
        "dtype": dtype,
        "tied": student.anatomy.tied,
        "student_bits": bits,
        "parameters": student.anatomy.parameters,
        "bytes": total,
        "files": files,
        "rounding": weights.rounding,
    }


class _Weights:
    """Makes each parameter of the trained model from the student's and the run's factors."""

    def __init__(
        self, context: Context, folder: Path, made_in: "torch.dtype", dtype: "torch.dtype", bits: int | None
    ) -> None:
        from paraknow_core.adapters.quantise import quantised_parameters
        from paraknow_core.models.load import build_empty
        from paraknow_core.models.shards import Shards

        student, factorisation = context.student, context.spec.factorisation
        anatomy = student.anatomy
        self.dtype, self._made_in = dtype, made_in
        self._scaling = factorisation.lora_alpha / factorisation.rank
        self._stored = Shards(student.source, None)
        self._initial, self._trained = _factors(folder, anatomy, context.student_modules, factorisation.rank)
        self._quantised = set()
        if bits:
            self._quantised = quantised_parameters(build_empty(student.source, anatomy, made_in, "cpu"))
        self.rounding = {"max_abs": 0.0, "max_relative": 0.0}

    def __call__(self, name: str) -> "Tensor":
        from paraknow_core.adapters.quantise import rounded

        weight = self._stored.stored(name).to(self._made_in, copy=True)
        for update in self._initial[name]:
            take_off_(weight, update, self._scaling)
        if name in self._quantised:
            weight = rounded(weight)
        weight = weight.float()
        for module, b, a in self._trained[name]:
            add_product_(weight, module, *((a.T, b.T) if module.role == "embed" else (b, a)))
        stored = weight.to(self.dtype)
        self._note_rounding(name, weight, stored)
        return stored

    def _note_rounding(self, name: str, exact: "Tensor", stored: "Tensor") -> None:
        """Note how far a weight is from what is stored of it, some rows at a time."""
        worst = largest = 0.0
        for rows, stored_rows in zip(exact.split(ROWS), stored.split(ROWS), strict=True):
            if not stored_rows.isfinite().all():
                kind = str(self.dtype).removeprefix("torch.")
                raise NumericError(f"{name}: a weight is not finite as {kind}; choose --dtype float32 or bfloat16")
            worst = max(worst, (stored_rows.float() - rows).abs().max().item())
            largest = max(largest, rows.abs().max().item())
        self.rounding["max_abs"] = max(self.rounding["max_abs"], worst)
        self.rounding["max_relative"] = max(self.rounding["max_relative"], worst / largest if largest else 0.0)


def _factors(
    folder: Path, anatomy: Anatomy, modules: list[LogicalModule], rank: int
) -> "tuple[dict[str, list[Update]], dict[str, list[tuple[LogicalModule, Tensor, Tensor]]]]":
    """Return, by parameter, the updates that were taken off it, and what was trained on it: (module, scaled B, A).

    Raises:
        RunError: the run's folder lacks a part or was changed.
    """
    names = read_object(folder / RECORD).get("subtracted")
    if not isinstance(names, list):
        raise RunError(f"run {folder.name}: its {RECORD} is missing or damaged; run it again")
    subtracted = set(names)
    trained: dict[str, list] = defaultdict(list)
    inside = hosts(anatomy.modules)  # where roles share a weight, training moves the rows of all of them
    for host, (b, a) in trained_factors(folder, anatomy, subtracted=bool(subtracted)).items():
        for module in inside[host]:
            trained[module.parameter].append((module, b[row_index(module, b.shape[0])], a))
    initial: dict[str, list] = defaultdict(list)
    if subtracted:
        for update in saved_updates(folder / FOLDER, modules, rank, subtracted):
            if update.subtract:
                initial[update.module.parameter].append(update)
    return initial, trained


def _refuse_replaced(context: Context, result: Mapping[str, Any]) -> None:
    fingerprint = (result.get("fingerprints") or {}).get("student")
    if fingerprint != context.student.fingerprint:
        problem = "is not the model that this run was made with; put that one back, or run again"
        if not fingerprint:
            problem = "cannot be compared with the run's; the run's result.json lacks its fingerprint; run again"
        raise RunError(f"student {context.student.source.label}: {problem}")


def _no_room(out: Path, size: int) -> RunError:
    return RunError(f"--out: {out} needs {size / 1e9:.2f} GB of disk, more than is free; free some, or choose another")


def _write_shards(context: Context, layout: Mapping[str, Any], weights: _Weights, building: Path) -> None:
    """Write the weights as one file, or as shards with an index."""
    shards: list[dict[str, Any]] = [{}]
    for name, entry in layout.items():
        if shards[-1] and file_bytes(shards[-1]) + file_bytes({name: entry}) > SHARD_BYTES:
            shards.append({})
        shards[-1][name] = entry
    steps = iter(context.follow(list(layout), "weights"))

    def weight_of(name: str) -> "Tensor":
        next(steps)  # reports progress
        return weights(name)

    count = len(shards)
    names = [SINGLE_FILE if count == 1 else f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
    for file, shard in zip(names, shards, strict=True):
        write_in_order(building / file, shard, weight_of)
    next(steps, None)
    if count > 1:
        places = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        write_json(building / INDEX_FILE, {"metadata": {"total_size": file_bytes(layout)}, "weight_map": places})


def _copy_rest(source: ModelSource, building: Path, dtype: str) -> list[str]:
    """Copy configs, the tokenizer's files and licences, without what names this machine; return the licences' names."""
    write_json(building / "config.json", {**_cleaned(source.config()), "dtype": dtype})
    for name in ("generation_config.json", *TOKENIZER_FILES):
        file = source.folder / name
        if not file.is_file():
            continue
        if name.endswith("_config.json"):
            write_json(building / name, _cleaned(read_json_object(file, source.label)))
        else:
            _copy(file, building / name, source.label)
    templates = sorted((source.folder / "additional_chat_templates").glob("*.jinja"))
    licences = sorted(file for file in source.folder.iterdir() if _LICENCES.fullmatch(file.name) and file.is_file())
    for file in (*templates, *licences):
        _copy(file, building / file.relative_to(source.folder), source.label)
    return [file.name for file in licences]


def _copy(file: Path, target: Path, label: str) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        shutil.copyfile(file, target)  # follows the links of a hub's cache
    except OSError as error:
        if disk_trouble(error):
            raise
        raise ModelError(f"{label}: {file.name} cannot be read ({error.strerror}); check its rights") from None


def _cleaned(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without the keys that name this machine's folders."""
    return {
        key: value
        for key, value in config.items()
        if key not in _LEFT_OUT and not (key.endswith("_file") and isinstance(value, str))
    }
