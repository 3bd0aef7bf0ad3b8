"""What a folder's safetensors files hold, read from their headers alone: no weight is touched."""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from paraknow_core.errors import ModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format's own reader
MAX_INDEX_BYTES = 100_000_000
MOST_NAME = 1000  # letters of a tensor's name
MOST_SIDES, MOST_BYTES = 16, 2**60  # of a tensor; the product of more, or of larger ones, would keep a machine busy
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64")
_OTHERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
BITS_OF_DTYPE = {dtype: int("".join(re.findall(r"^\D+(\d+)", dtype)) or 8) for dtype in _FLOATS + _OTHERS}


@dataclass(frozen=True)
class TensorHeader:
    """One tensor on disk. `start` and `end` are bytes inside the data section of `file`, as the format stores them."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    end: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.end - self.start


def weight_file_names(folder: Path, label: str) -> list[str]:
    """Name the safetensors files that hold a model's weights: the single file, else the shards of the index.

    Args:
        folder: a model folder.
        label: the model's name for messages.

    Returns:
        File names relative to the folder, sorted. They are not checked to exist.

    Raises:
        ModelError: there is no safetensors file, or the index is not usable; says what the folder holds instead.
    """
    if (folder / SINGLE_FILE).exists():
        return [SINGLE_FILE]
    if not (folder / INDEX_FILE).exists():
        raise ModelError(_why_no_weights(folder, label))
    return sorted(set(_read_index(folder / INDEX_FILE, label).values()))


def read_headers(folder: Path, label: str) -> dict[str, TensorHeader]:
    """Read the header of every tensor of a model folder.

    Args:
        folder: a model folder with `model.safetensors` or an index and its shards.
        label: the model's name for messages.

    Returns:
        Tensor name on disk -> header.

    Raises:
        ModelError: no weights, a missing shard, a torn or foreign file, or a tensor the index promises is absent.
    """
    headers: dict[str, TensorHeader] = {}
    for name in weight_file_names(folder, label):
        if not (folder / name).is_file():
            raise ModelError(
                f"{label}: the index names {name}, which is not in the folder; put it next to the other parts"
            )
        for tensor, header in read_file_header(folder / name, label, name).items():
            if tensor in headers:
                raise ModelError(
                    f"{label}: tensor {tensor} is in both {headers[tensor].file} and {name}; save the model again"
                )
            headers[tensor] = header
    if not (folder / SINGLE_FILE).exists():
        for tensor, name in _read_index(folder / INDEX_FILE, label).items():
            if tensor not in headers or headers[tensor].file != name:
                raise ModelError(
                    f"{label}: the index promises {tensor} in {name}, which does not hold it; get both files again"
                )
    return headers


def read_file_header(path: Path, label: str, name: str | None = None) -> dict[str, TensorHeader]:
    """Read the header of one safetensors file: 8 bytes of length, then JSON.

    Args:
        path: the file.
        label: the model's name for messages.
        name: what to call the file in the result (default: its own name).

    Raises:
        ModelError: the file is torn, foreign, or does not hold what its header says.

    Source:
        The safetensors format: https://huggingface.co/docs/safetensors/index#format.
    """
    name = name or path.name
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 10 or not 2 <= length <= min(size - 8, MAX_HEADER_BYTES):
                raise ModelError(
                    f"{label}: {name} ({size} bytes) is not a whole safetensors file "
                    f"(its header would be {length} bytes); download or save it again"
                )
            text = file.read(length)
    except OSError as error:
        raise ModelError(f"{label}: {name} cannot be read ({error.strerror}); check the file and its rights") from None
    entries = _parse_object(text, f"{label}: the header of {name}")
    entries.pop("__metadata__", None)
    if any(len(tensor) > MOST_NAME for tensor in entries):
        raise ModelError(f"{label}: {name} names a tensor in over {MOST_NAME} letters; save the model again")
    room = size - 8 - length
    return {tensor: _header(tensor, entry, name, room, label) for tensor, entry in entries.items()}


def _header(tensor: str, entry: object, file: str, room: int, label: str) -> TensorHeader:
    """Check one entry of a header against itself and the size of the data section (`room`, bytes)."""
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = len(shape) <= MOST_SIDES and all(
            type(number) is int and 0 <= number < MOST_BYTES for number in (*shape, start, end)
        )
    except (TypeError, KeyError, ValueError):
        whole = False
    if not whole or not isinstance(dtype, str) or dtype not in BITS_OF_DTYPE:
        raise ModelError(f"{label}: {file} describes {tensor} in a way that is not safetensors; save the model again")
    if end > room:
        raise ModelError(
            f"{label}: {file} is cut off ({tensor} ends at byte {end} of {room}); download or copy it again"
        )
    if math.prod(shape) * BITS_OF_DTYPE[dtype] != (end - start) * 8:
        raise ModelError(
            f"{label}: {file} gives {tensor} {end - start} bytes, which does not fit {dtype} of shape "
            f"{shape}; save the model again"
        )
    return TensorHeader(tensor, dtype, shape, file, start, end)


def _read_index(path: Path, label: str) -> Mapping[str, str]:
    """Return tensor name -> shard file name, refusing names that lead out of the folder."""
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise ModelError(f"{label}: {path.name} is larger than 100 MB, which no index is; get it again")
        content = _parse_object(path.read_bytes(), f"{label}: {path.name}")
    except OSError as error:
        raise ModelError(f"{label}: {path.name} cannot be read ({error.strerror}); check the file") from None
    shards = content.get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(value, str) for value in shards.values()):
        raise ModelError(f"{label}: {path.name} has no weight_map of tensors to files; get the index again")
    for name in set(shards.values()):
        if not _stays_inside(name):
            raise ModelError(
                f"{label}: {path.name} points at '{name}', outside the model's folder; do not use this model"
            )
        if not name.endswith(".safetensors"):
            raise ModelError(
                f"{label}: {path.name} points at '{name}'; only .safetensors files are read; convert the model"
            )
    return shards


def _stays_inside(name: str) -> bool:
    # Lexical on purpose: the hub's cache links every file to a blob elsewhere, and those links are fine.
    parts = PurePosixPath(name).parts
    escapes = ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive
    return bool(parts) and not escapes and "\\" not in name and "\0" not in name


def _parse_object(text: bytes, where: str) -> dict:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ModelError(f"{where} is not a JSON object; download or save the model again")
    return value


def _why_no_weights(folder: Path, label: str) -> str:
    """Say what a folder without safetensors weights holds instead, and what to do."""
    # Names that begin with a dot are the system's own (macOS leaves ._model.safetensors beside a copied file).
    listed = folder.iterdir() if folder.is_dir() else ()
    names = sorted(entry.name for entry in listed if not entry.name.startswith("."))
    first = next((n for n in names if n.startswith("pytorch_model") and n.endswith((".bin", ".bin.index.json"))), None)
    first = first or next((n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt")) and "arg" not in n), None)
    gguf = next((n for n in names if n.endswith(".gguf")), None)
    odd = next((n for n in names if n.endswith(".safetensors") and not n.startswith("adapter")), None)
    if odd:
        return f"{label}: weights are in {odd}; {SINGLE_FILE} or {INDEX_FILE} is read; rename the file or add the index"
    if first:
        return (
            f"{label}: weights are in {first}; only safetensors are read (a pickle can run code); convert them with "
            "`save_pretrained` of transformers in an environment you trust"
        )
    if gguf:
        return f"{label}: weights are in {gguf}; only safetensors are read; use the model's original repository"
    if "adapter_config.json" in names:
        return f"{label}: holds an adapter, not a model; give its base model, or merge the adapter into it first"
    return f"{label}: has no weights ({SINGLE_FILE} or {INDEX_FILE}); give the folder that holds them"
