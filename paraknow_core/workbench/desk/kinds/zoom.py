"""A region of one module's sensitivity, read from the mapped file and reduced for drawing.

Request: store (folder name), module, teacher (source, revision), region (row, col, height, width).
Answer: sum of S in the region; arrays `map` (at most 256 x 256 block means), `rows` and `cols` (sums).
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from paraknow_core.errors import DataError, ShapeError
from paraknow_core.models.modules import LogicalModule
from paraknow_core.paths import Workspace, contained
from paraknow_core.sensitivity.plan import MAP_SIZE
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk.questions import question_key

if TYPE_CHECKING:
    import numpy


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the region and reduce it.

    Raises:
        DataError, ShapeError: nothing of this name, only reductions, or a region outside the module.
    """
    import torch

    from paraknow_core.ops.metrics import profile

    store = SensitivityStore(contained(place.sensitivity, request["store"]))
    module = logical_module(store, request["module"], request["teacher"], settings.offline)
    part = read_region(store, module, *request["region"])
    rows, cols, blocks = profile(torch.from_numpy(part), MAP_SIZE)
    return {"sum": rows.sum().item()}, {"map": blocks.float().numpy(), "rows": rows.numpy(), "cols": cols.numpy()}


def read_region(
    store: SensitivityStore, module: LogicalModule, row: int, col: int, height: int, width: int
) -> "numpy.ndarray":
    """Return (height, width) of a module's S in logical orientation, reading little more than that.

    Raises:
        ShapeError: the region is empty or not inside the module.
    """
    import numpy

    rows, cols = module.shape
    if min(row, col) < 0 or min(height, width) < 1 or row + height > rows or col + width > cols:
        raise ShapeError(
            f"{module.name}: region of {height} x {width} at row {row}, column {col}; the module has {rows} x {cols}; "
            "choose a region inside it"
        )
    wanted = numpy.arange(row, row + height)
    if module.rows is not None:  # its rows lie in blocks among those of other roles
        blocks = module.rows
        wanted = blocks.offset + wanted // blocks.block * blocks.stride + wanted % blocks.block
    stored, other = slice(int(wanted[0]), int(wanted[-1]) + 1), slice(col, col + width)
    ends = (other, stored) if module.transposed else (stored, other)
    part = store.part(module.parameter, *ends)
    part = part.T if module.transposed else part
    return numpy.ascontiguousarray(part if len(part) == height else part[wanted - wanted[0]])


def logical_module(store: SensitivityStore, name: str, teacher: dict[str, Any], offline: bool) -> LogicalModule:
    """Return the module as the teacher's anatomy has it: where in which parameter it lies.

    Raises:
        DataError: the sensitivity has no such module, or the teacher is another one by now.
    """
    known = store.totals["modules"].get(name)
    if known is None:
        raise DataError(f"{store.folder.name}: has no module '{name}'; choose one of the list")
    source = {"source": teacher["source"], "revision": teacher.get("revision")}
    module = _modules(*source.values(), offline, question_key("anatomy", source)).get(name)
    if module is None or list(module.shape) != list(known["shape"]):
        raise DataError(f"{name}: the teacher has changed since it was measured; compute its sensitivity again")
    return module


@lru_cache(maxsize=8)
def _modules(source: str, revision: str | None, offline: bool, state: str) -> dict[str, LogicalModule]:
    del state  # of the files: a model that was replaced is read again
    from paraknow_core.models.anatomy import read_anatomy
    from paraknow_core.models.source import resolve_model

    return {m.name: m for m in read_anatomy(resolve_model(source, revision, offline=offline)).modules}
