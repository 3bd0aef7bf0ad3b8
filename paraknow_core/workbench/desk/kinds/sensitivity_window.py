"""What a student would receive of one teacher module, decided on its saved sensitivity: where the block lies.

Request: store (folder name), module, and of the draft: teacher, student, mapping, extraction.
Answer: kind (window, grid, weights or none), its place, `inside` and `area` (shares of the module), `serves` (the
student layer that the layer mapping gives it, or null), `note` (a sentence where there is nothing to draw).
"""

from typing import Any

from paraknow_core.context import Context
from paraknow_core.errors import DataError
from paraknow_core.models.modules import LogicalModule
from paraknow_core.paths import Workspace, contained
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk.kinds.transfer import context_of_parts

NONE = {"kind": "none", "serves": None}


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Say where the block of the draft's structure lies in the module."""
    store = SensitivityStore(contained(place.sensitivity, request["store"]))
    known = store.totals["modules"].get(request["module"])
    if known is None:
        raise DataError(f"{store.folder.name}: has no module '{request['module']}'; choose one of the list")
    context = context_of(place, settings, request)
    mapping = mapped_layers(context, store)
    serves = mapping.index(known["layer"]) if known["layer"] in mapping else None
    target = context.student.anatomy.find(known["role"], None if known["layer"] is None else serves or 0)
    if known["role"] not in context.spec.extraction.roles:
        return NONE | {"note": f"the draft's origin leaves {known['role']} out"}
    if target is None:
        return NONE | {"note": f"the student has no {known['role']}"}
    return {"serves": serves, **_block(context, store, request["module"], target)}


def _block(context: Context, store: SensitivityStore, name: str, target: LogicalModule) -> dict[str, Any]:
    """Choose the block as extraction does, from the whole S or from what was chosen while it was measured."""
    from paraknow_core.methods.seeking.choice import choose, recall
    from paraknow_core.workbench.desk.kinds.zoom import logical_module, read_region

    structure = context.spec.structure
    if store.has_full:
        import torch

        source = logical_module(store, name, context.spec.teacher.model_dump(), context.settings.offline)
        score = torch.from_numpy(read_region(store, source, 0, 0, *source.shape))
        choice = choose(context, structure, source, target, score)
    else:
        known = store.totals["modules"][name]
        shape = (known["shape"][0], known["shape"][1])
        source = LogicalModule(name, known["role"], known["group"], known["layer"], shape, f"{name}.weight", name)
        try:
            choice = recall(context, store, structure, source, target)
        except DataError:
            return NONE | {"note": "it was not measured for this student and structure"}
    found = choice.selection.describe()
    height, width = choice.selection.shape
    shares = {
        "area": height * width / (source.shape[0] * source.shape[1]),
        "inside": choice.inside / choice.total if choice.total else None,
    }
    if found["kind"] == "weights":
        return {"kind": "weights", "note": f"structure {structure} picks single weights: no frame to draw", **shares}
    if target.group == "embedding":  # rows are tokens of the student's vocabulary: all of them, in its own order
        found = {**found, "rows": [[0, source.shape[0] - 1]], "top_left": [0, *found.get("top_left", [0, 0])[1:]]}
        height = source.shape[0]
    if found["kind"] == "window":
        return {"kind": "window", "window": [*found["top_left"], height, width], **shares}
    return {"kind": "grid", "rows": found["rows"], "cols": found["cols"], **shares}


def mapped_layers(context: Context, store: SensitivityStore) -> list[int | None]:
    """Return the draft's layer mapping on this sensitivity."""
    from paraknow_core.methods.seeking.mapping import map_layers

    scores = store.layer_scores()
    return map_layers(context.spec.mapping, len(scores), context.student.anatomy.num_hidden_layers, scores)


def context_of(place: Workspace, settings: Settings, request: dict[str, Any]) -> Context:
    """Return the context of the draft's parts that a request holds; models that were looked at stay known."""
    parts = ("teacher", "student", "mapping", "extraction", "method")
    return context_of_parts(place, settings, {key: request[key] for key in parts if key in request})
