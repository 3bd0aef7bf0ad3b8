"""Saved sensitivity: small reductions that pages read, and full tensors read one at a time. Needs no torch.

A store is a folder:
    sensitivity.json          totals by parameter, module, layer, role and group; what it was computed from
    reductions.safetensors    per module: `<name>|rows`, `<name>|cols` (sums) and `<name>|map` (block means)
    sensitivity.safetensors   S of every teacher parameter, float32 (absent when only reductions were kept)
    choices/                  then instead: what a method wanted of each module, such as the place of a block
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.errors import DataError
from paraknow_core.files import shapes
from paraknow_core.files.disk import whole_tensors
from paraknow_core.files.json_file import open_plain, read_json

if TYPE_CHECKING:
    import numpy
    import pandas

TOTALS = "sensitivity.json"
REDUCTIONS = "reductions.safetensors"
FULL = "sensitivity.safetensors"
CHOICES = "choices"
PARTS = "parts"  # while it is made


@dataclass(frozen=True)
class SensitivityStore:
    """Read access to one saved sensitivity."""

    folder: Path

    @cached_property
    def totals(self) -> dict[str, Any]:
        """Everything in sensitivity.json.

        Raises:
            DataError: the folder holds no readable store.
        """
        totals, lost = shapes.fit(read_json(self.folder / TOTALS), shapes.TOTALS)
        modules = {} if totals is shapes.MISSING else totals["modules"]
        if lost or not modules or any(len(module["shape"]) != 2 for module in modules.values()):
            raise DataError(f"{self.folder.name}: holds no saved sensitivity; compute it again")
        return totals

    @property
    def has_full(self) -> bool:
        """True if the tensors themselves were kept."""
        return (self.folder / FULL).exists()

    @property
    def has_totals(self) -> bool:
        """True if its totals can be read."""
        try:
            return bool(self.totals)
        except DataError:
            return False

    @property
    def is_whole(self) -> bool:
        """True if every file is as long as it says, and what the totals name is there; the numbers are not read."""
        try:
            modules, choices = self.totals["modules"], self.totals.get("choices", {})
            records = [record for of_module in choices.values() for record in of_module.values()]
            files = {REDUCTIONS, *([FULL] if self.has_full else []), *(f"{CHOICES}/{r['file']}" for r in records)}
            roles = all(isinstance(module["role"], str) for module in modules.values())
        except (DataError, AttributeError, KeyError, TypeError):
            return False
        return roles and all(whole_tensors(self.folder / name) for name in files)

    def modules(self) -> "pandas.DataFrame":
        """Return one row a module: module, role, group, layer, rows, cols, sum, mean (a parameter), share."""
        import pandas

        records = [{"module": name, **values} for name, values in self.totals["modules"].items()]
        table = pandas.DataFrame(records)
        table["rows"] = [shape[0] for shape in table["shape"]]
        table["cols"] = [shape[1] for shape in table["shape"]]
        return table.drop(columns="shape")

    def layer_scores(self) -> list[float]:
        """Return the summed S of every parameter of each layer, norms and biases included."""
        return list(self.totals["layers"])

    def row_sums(self, module: str) -> "numpy.ndarray":
        """Return (rows,) sums of S over the columns of a module, logical orientation."""
        return self._read(REDUCTIONS, f"{module}|rows")

    def col_sums(self, module: str) -> "numpy.ndarray":
        """Return (cols,) sums of S over the rows of a module, logical orientation."""
        return self._read(REDUCTIONS, f"{module}|cols")

    def all_sums(self) -> "dict[str, tuple[numpy.ndarray, numpy.ndarray]]":
        """Return module -> its row sums and column sums, of all modules at once."""
        from safetensors import SafetensorError, safe_open

        try:
            with open_plain(self.folder / REDUCTIONS), safe_open(self.folder / REDUCTIONS, framework="numpy") as file:
                return {
                    name: (file.get_tensor(f"{name}|rows"), file.get_tensor(f"{name}|cols"))
                    for name in self.totals["modules"]
                }
        except (SafetensorError, OSError):
            raise DataError(f"{self.folder.name}/{REDUCTIONS}: cannot be read; compute the sensitivity again") from None

    def block_map(self, module: str) -> "numpy.ndarray":
        """Return the block means of S, at most (256, 256), for drawing."""
        return self._read(REDUCTIONS, f"{module}|map")

    def full(self, parameter: str, framework: str = "numpy") -> Any:
        """Read S of one whole parameter, float32, in the parameter's own stored shape.

        Args:
            parameter: its name in the teacher, e.g. `model.layers.0.mlp.up_proj.weight`.
            framework: "numpy" or "pt" (torch).

        Raises:
            DataError: only reductions were kept, or there is no such parameter.
        """
        self._require_full()
        return self._read(FULL, parameter, framework)

    def part(self, parameter: str, rows: slice, cols: slice) -> "numpy.ndarray":
        """Read S of some rows and columns of one parameter, in its own stored orientation; the rest stays on disk.

        Raises:
            DataError: only reductions were kept, or there is no such parameter.
        """
        self._require_full()
        return self._read(FULL, parameter, part=(rows, cols))

    def choice(self, module: str, key: str) -> "tuple[dict[str, Any], dict[str, Any]]":
        """Read what was taken of one module while its sensitivity was in memory.

        Args:
            module: the teacher's module.
            key: of what was asked for (see `build.Request`).

        Returns:
            The tensors (torch) and the record that were taken.

        Raises:
            DataError: it was not asked for when this sensitivity was measured.
        """
        record = self.totals.get("choices", {}).get(module, {}).get(key)
        if record is None:
            raise DataError(
                f"{self.folder.name}: only reductions were kept, made for other students or structures than '{key}' "
                f"of {module}; measure the sensitivity for this pair, or keep it whole"
            )
        file = f"{CHOICES}/{record['file']}"
        return {name: self._read(file, tensor, "pt") for name, tensor in record["arrays"].items()}, record

    def _require_full(self) -> None:
        if not self.has_full:
            raise DataError(f"{self.folder.name}: only reductions were kept; compute the sensitivity with full tensors")

    def _read(self, file: str, tensor: str, framework: str = "numpy", part: tuple[slice, ...] = ()) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            with open_plain(self.folder / file), safe_open(self.folder / file, framework=framework) as tensors:
                return tensors.get_slice(tensor)[part] if part else tensors.get_tensor(tensor)
        except (SafetensorError, OSError):
            raise DataError(f"{self.folder.name}/{file}: has no '{tensor}'; compute the sensitivity again") from None
