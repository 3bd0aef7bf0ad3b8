"""A safetensors file that is filled in place: tensors larger than memory are written through a memory map.

The safetensors library writes a file from tensors that are all in memory. Here the file is laid out and its room
reserved first, so that a full disk is told before anything is computed; then every tensor is a view of the file. What
was written survives a kill of the process. Where room cannot be reserved (macOS, file systems that copy on write), the
process dies if the disk fills up later.
"""

import errno
import json
import math
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from paraknow_core.errors import RunError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]

_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "int64": "I64", "uint8": "U8"}


class TensorFile(Mapping):
    """Tensor name -> a writable view of the file. Opens the file if it is there and has this layout, else makes it.

    The tensors of a new file are zero.
    """

    def __init__(self, path: Path, tensors: "Layout") -> None:
        """Args: the file; name -> dtype and shape of everything it holds.

        Raises:
            RunError: the disk has no room for it.
        """
        header, self._places = _layout(tensors)
        total = len(header) + file_bytes(tensors)
        if not self.is_there(path, tensors):
            _reserve(path, header, total)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), total)
        self._tensors = tensors

    @staticmethod
    def is_there(path: Path, tensors: "Layout") -> bool:
        """Return whether a file of this layout exists."""
        header, _ = _layout(tensors)
        total = len(header) + file_bytes(tensors)
        if not path.exists() or path.stat().st_size != total:
            return False
        with path.open("rb") as file:
            return file.read(len(header)) == header

    def flush(self) -> None:
        """Wait until the disk has what was written, against a crash of the machine; a kill loses nothing."""
        self._map.flush()

    def __getitem__(self, name: str) -> "Tensor":
        import torch

        dtype, shape = self._tensors[name]
        if math.prod(shape) == 0:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=math.prod(shape), offset=self._places[name]).view(shape)

    def __iter__(self):  # noqa: ANN204 - Mapping's
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def write_in_order(path: Path, tensors: "Layout", tensor_of: "Callable[[str], Tensor]") -> None:
    """Write a safetensors file one tensor after the other, so that only one is in memory.

    Args:
        path: a new file.
        tensors: name -> dtype and shape of everything it holds.
        tensor_of: called with each name, in order; gives a CPU tensor of that dtype and shape.
    """
    import torch

    header, _ = _layout(tensors, {"format": "pt"})
    with path.open("wb") as file:
        file.write(header)
        for name in tensors:
            tensor = tensor_of(name).detach().contiguous().reshape(-1)
            file.write(memoryview(tensor.view(torch.uint8).numpy()) if tensor.numel() else b"")


def file_bytes(tensors: "Layout") -> int:
    """Return how large a file of these tensors is, without its header."""
    return sum(_bytes(dtype, shape) for dtype, shape in tensors.values())


def _bytes(dtype: "torch.dtype", shape: tuple[int, ...]) -> int:
    return dtype.itemsize * math.prod(shape)


def _layout(tensors: "Layout", metadata: dict[str, str] | None = None) -> tuple[bytes, dict[str, int]]:
    """Return the header, padded so that the data starts at a multiple of 64 bytes, and where each tensor starts."""
    entries, start = {"__metadata__": metadata} if metadata else {}, 0
    for name, (dtype, shape) in tensors.items():
        size = _bytes(dtype, shape)
        kind = _NAMES[str(dtype).removeprefix("torch.")]
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + entries[name]["data_offsets"][0] for name in tensors}


def _reserve(path: Path, header: bytes, total: int) -> None:
    try:
        with path.open("wb") as file:
            file.write(header)
            file.flush()
            # A hole in the file would be filled while computing, and a full disk then kills the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, total)
            else:
                file.truncate(total)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        raise RunError(
            f"{path.name}: needs {total / 1e6:,.0f} MB of disk, more than is free; free some space, keep only "
            "reductions, or take fewer or shorter seed samples"
        ) from None
