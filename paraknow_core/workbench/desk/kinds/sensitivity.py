"""Questions about a saved sensitivity: a region up close, the student's block in it, the layers that are kept."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from paraknow_core.context import Context
from paraknow_core.errors import DataError, ShapeError
from paraknow_core.models.modules import LogicalModule
from paraknow_core.paths import Workspace
from paraknow_core.sensitivity.plan import MAP_SIZE
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.settings import Settings
from paraknow_core.spec import ModelSpec
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.desk.kinds.known import anatomy_of, context_of, store_of

if TYPE_CHECKING:
    import numpy

NONE = {"kind": "none", "serves": None}


def kept_layers(place: Workspace, settings: Settings, question: requests.KeptLayers) -> dict[str, Any]:
    """Return `layers`: for each student layer the teacher layer that the mapping keeps, from saved layer scores.

    None where the mapping compares hidden states of a pair, which are not looked at here.
    """
    store = store_of(place, question.store)
    return {"layers": _mapped_layers(context_of(question.spec, settings, place), store)}


def _mapped_layers(context: Context, store: SensitivityStore) -> list[int | None] | None:
    from paraknow_core.methods.mapping import map_layers, reads_states

    if reads_states(context.spec.mapping):
        return None

    # The teacher that was measured need not be the draft's, nor be there any more; its depth is in the store.
    teacher = SimpleNamespace(anatomy=SimpleNamespace(num_hidden_layers=len(store.layer_scores())))
    return map_layers(context.spec.mapping, SimpleNamespace(teacher=teacher, student=context.student), store)


def sensitivity_window(place: Workspace, settings: Settings, question: requests.SensitivityWindow) -> dict[str, Any]:
    """Return where the block of a student lies in a teacher module, decided on its saved sensitivity.

    Returns:
        kind (window, grid, weights or none), its place, `inside` and `area` (shares of the module), `serves` (the
        student layer that the layer mapping gives it, or None), `note` (a sentence where there is nothing to draw).
    """
    store = store_of(place, question.store)
    module = _totals(store, question.module)
    context = context_of(question.spec, settings, place)
    mapping = _mapped_layers(context, store)
    if mapping is None:
        strategy = context.spec.mapping.strategy
        return NONE | {"note": f"Mapping & extraction says which layers the mapping by {strategy} keeps"}
    serves = mapping.index(module["layer"]) if module["layer"] in mapping else None
    target = context.student.anatomy.find(module["role"], None if module["layer"] is None else serves or 0)
    if module["role"] not in context.spec.extraction.roles:
        return NONE | {"note": f"the draft's origin leaves {module['role']} out"}
    if target is None:
        return NONE | {"note": f"the student has no {module['role']}"}
    return {"serves": serves, **_block(context, store, question.module, target)}


def _block(context: Context, store: SensitivityStore, name: str, target: LogicalModule) -> dict[str, Any]:
    """Choose the block as extraction does, from the whole S or from what was chosen while it was measured."""
    from paraknow_core.methods.seeking.choice import Cut

    structure = context.spec.structure
    if store.has_full:
        import torch

        source = logical_module(store, name, context.spec.teacher, context.settings)
        score = torch.from_numpy(read_region(store, source, 0, 0, *source.shape))
        choice = Cut(context, structure, source, target).choose(score, store)
    else:
        module = _totals(store, name)
        shape = (module["shape"][0], module["shape"][1])
        source = LogicalModule(name, module["role"], module["group"], module["layer"], shape, f"{name}.weight", name)
        try:
            choice = Cut(context, structure, source, target).recall(store)
        except DataError:
            return NONE | {"note": "it was not measured for this student and structure"}
    selection, (height, width) = choice.selection, choice.selection.shape
    shares = {
        "area": height * width / (source.shape[0] * source.shape[1]),
        "inside": choice.inside / choice.total if choice.total else None,
    }
    # An embedding's rows are tokens of the student's vocabulary: all of them, in its own order.
    outline = selection.outline(source.shape[0] if target.group == "embedding" else None)
    if outline is None:
        outline = {"note": f"structure {structure} picks single weights: no frame to draw"}
    return {"kind": selection.kind, **outline, **shares}


def zoom(place: Workspace, settings: Settings, question: requests.Zoom) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the `sum` of S in a region of one module, and arrays to draw it.

    They are `map` (at most 256 x 256 block means), `rows` and `cols` (sums).

    Raises:
        DataError, ShapeError: nothing of this name, only reductions, or a region outside the module.
    """
    import torch

    from paraknow_core.ops.metrics import profile

    store = store_of(place, question.store)
    module = logical_module(store, question.module, question.teacher, settings)
    region = read_region(store, module, *question.region)
    rows, cols, blocks = profile(torch.from_numpy(region), MAP_SIZE)
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
    stored_rows = numpy.arange(row, row + height)
    if module.rows is not None:  # its rows lie in blocks among those of other roles
        blocks = module.rows
        stored_rows = blocks.offset + stored_rows // blocks.block * blocks.stride + stored_rows % blocks.block
    along, across = slice(int(stored_rows[0]), int(stored_rows[-1]) + 1), slice(col, col + width)
    part = store.part(module.parameter, *((across, along) if module.transposed else (along, across)))
    part = part.T if module.transposed else part
    return numpy.ascontiguousarray(part if len(part) == height else part[stored_rows - stored_rows[0]])


def logical_module(store: SensitivityStore, name: str, teacher: ModelSpec, settings: Settings) -> LogicalModule:
    """Return the module as the teacher's anatomy has it: where in which parameter it lies.

    Raises:
        DataError: the sensitivity has no such module, or the teacher is another one by now.
    """
    shape = _totals(store, name)["shape"]
    module = next((m for m in anatomy_of(teacher, settings).modules if m.name == name), None)
    if module is None or list(module.shape) != list(shape):
        raise DataError(f"{name}: the teacher has changed since it was measured; compute its sensitivity again")
    return module


def _totals(store: SensitivityStore, name: str) -> dict[str, Any]:
    module = store.totals["modules"].get(name)
    if module is None:
        raise DataError(f"{store.folder.name}: has no module '{name}'; choose one of the list")
    return module
