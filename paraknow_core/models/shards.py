"""A model's parameters read one at a time, or some rows at a time, straight from its safetensors shards."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from paraknow_core.errors import ModelError
from paraknow_core.models.headers import TensorHeader
from paraknow_core.models.names import parameter_headers
from paraknow_core.models.source import ModelSource

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Shards(Mapping):
    """Parameter name in memory -> its weights, in one dtype or as they are stored, on one device. Never write to them.

    The files are mapped, not read: what is not asked for costs nothing, and what was read may be dropped again by the
    system, because it is on disk. A tensor takes memory of its own only where it had to be converted or moved.
    """

    def __init__(self, source: ModelSource, dtype: "torch.dtype | None", device: str = "cpu") -> None:
        """Args: a source whose weights are on this machine; what tensors are converted (None: not) and moved to."""
        from safetensors import safe_open

        source.weight_files()  # refuses a source whose weights are not on this machine
        self.dtype, self.device, self._source = dtype, device, source
        self.headers = parameter_headers(source)  # by name in memory
        self._open = lambda file: safe_open(file, framework="pt")
        self._files: dict[str, object] = {}

    def __getitem__(self, name: str) -> "Tensor":
        return self.read(name)

    def read(self, name: str, room: "Tensor | None" = None) -> "Tensor":
        """Return a parameter, in the given memory if it has to be converted and fits: fresh memory is slow."""
        stored = self.stored(name)
        if room is not None and room.shape == stored.shape and self.converts(name):
            return room.copy_(stored)
        return stored.to(device=self.device, dtype=self.dtype)

    def copied(self, name: str, device: str) -> "Tensor":
        """Return a parameter in memory of its own, on a device, with no copy on the way."""
        return self.stored(name).to(device=device, dtype=self.dtype, copy=True)

    def converts(self, name: str) -> bool:
        """Return whether a parameter takes memory of its own, because it is not stored as it is used."""
        stored = self.stored(name)
        return self.dtype not in (None, stored.dtype) or stored.device.type != self.device

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)

    def __len__(self) -> int:
        return len(self.headers)

    def rows(self, name: str, rows: "slice | Tensor") -> "Tensor":
        """Return some rows of a matrix: a slice, or an int64 vector of row numbers."""
        return self.stored(name)[rows].to(device=self.device, dtype=self.dtype)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a parameter's shape."""
        return tuple(self.headers[name].shape)

    def stored(self, name: str) -> "Tensor":
        """Return a parameter as it is on disk, mapped from its file: read it, never write to it.

        Raises:
            ModelError: the file cannot be read.
        """
        return self.tensor(self.headers[name])

    def tensor(self, header: TensorHeader) -> "Tensor":
        """Return one tensor on disk, as `stored` does."""
        try:
            if header.file not in self._files:
                self._files[header.file] = self._open(self._source.folder / header.file)
            return self._files[header.file].get_tensor(header.name)
        except Exception as error:  # the reader raises an exception class of its own, which is not public
            raise ModelError(
                f"{self._source.label}: {header.name} in {header.file} cannot be read ({error}); get the file again"
            ) from None

    def prefetch(self, names: Iterable[str]) -> None:
        """Ask the system to read these parameters from disk soon, while something else is computed."""
        if not hasattr(os, "posix_fadvise"):
            return
        for name in names:
            header = self.headers[name]
            with suppress(OSError), open(Path(self._source.folder, header.file), "rb") as file:
                start = 8 + int.from_bytes(file.read(8), "little") + header.start
                os.posix_fadvise(file.fileno(), start, header.bytes, os.POSIX_FADV_WILLNEED)
