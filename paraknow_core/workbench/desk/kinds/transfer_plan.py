"""Which teacher module each student module receives under a draft, and what adapter that makes. Headers only."""

from dataclasses import asdict
from typing import Any

from paraknow_core.context import Context
from paraknow_core.errors import ShapeError
from paraknow_core.paths import Workspace
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.settings import Settings
from paraknow_core.spec import MappingSpec
from paraknow_core.workbench.desk.kinds._transfer import context_of, store_of


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Return layers, their scores and mapping, the pairings, and the sizes that an adapter depends on.

    Args:
        place, settings: of the desk.
        request: `teacher`, `student`, `mapping` and `origin` as in a spec; `stores`: names of saved sensitivities that
            may be used, best first; with several that hold reductions only, `structure` decides which has its choices.

    Returns:
        `layers` is None with a `problem` where the mapping does not fit or cannot be known yet.
    """
    from paraknow_core.methods.seeking.blocks import pairings
    from paraknow_core.methods.seeking.mapping import map_layers

    context = context_of(place, settings, request)
    teacher, student = context.teacher.anatomy, context.student.anatomy
    stores = [store_of(place, name) for name in request["stores"]]
    first = stores[0] if stores else None
    found: dict[str, Any] = {
        "teacher_layers": teacher.num_hidden_layers,
        "student_layers": student.num_hidden_layers,
        "scores": first.layer_scores() if first else None,
        "layers": None,
        "problem": "",
        "pairs": [],
        "notes": [],
        "blocking": [],
        **_sizes(context),
    }
    try:
        mapping = MappingSpec.model_validate(request["mapping"])
        found["layers"] = map_layers(mapping, teacher.num_hidden_layers, student.num_hidden_layers, found["scores"])
    except ShapeError as error:
        found["problem"] = str(error)
    report = pairings(context, found["layers"])
    found |= {"notes": list(report.notes), "blocking": list(report.blocking)}
    if found["layers"] is not None:
        found["pairs"] = [
            _pair(context, each) for each in report.pairings if each.role in context.spec.extraction.roles
        ]
    chosen = _store(context, stores, request.get("structure", ""), found["pairs"])
    return found | {"store": chosen.folder.name if chosen else None, "full": bool(chosen and chosen.has_full)}


def _pair(context: Context, pair: Any) -> dict[str, Any]:
    teacher, student = context.teacher.anatomy, context.student.anatomy
    target = student.module(pair.student_module)
    given = teacher.module(pair.teacher_module) if pair.teacher_module else None
    return asdict(pair) | {"group": target.group, "layer": target.layer, "teacher_layer": given and given.layer}


def _sizes(context: Context) -> dict[str, Any]:
    """Return what adapter sizes are made of: for every host of the origin its modules, in and out features."""
    from paraknow_core.models.modules import stored_shapes

    student = context.student.anatomy
    modules = [m for m in student.modules if m.role in context.spec.extraction.roles]
    shapes = stored_shapes(student.modules)
    hosts: dict[str, dict[str, int]] = {}
    for module in modules:
        one = hosts.setdefault(module.host, {"modules": 0, "sides": sum(shapes[module.parameter])})
        one["modules"] += 1
    tightest = min(modules, key=lambda m: min(m.shape), default=None)
    return {
        "hosts": list(hosts.values()),
        "student_parameters": student.parameters,
        "most_rank": min(tightest.shape) if tightest else 0,
        "tightest": tightest.name if tightest else "",
        "student_modules": len(student.modules),
        "student_roles": sorted({m.role for m in student.modules}),
    }


def _store(
    context: Context, stores: list[SensitivityStore], structure: str, pairs: list[dict[str, Any]]
) -> SensitivityStore | None:
    """Return a store with full tensors, else the one that holds most of the choices, else the first."""
    from paraknow_core.methods.seeking.choice import choice_key

    whole = next((store for store in stores if store.has_full), None)
    if whole or len(stores) < 2:
        return whole or next(iter(stores), None)
    wanted = [
        (pair["teacher_module"], choice_key(context, structure, context.student.anatomy.module(pair["student_module"])))
        for pair in pairs
        if pair["action"] != "skip"
    ]

    def held(store: SensitivityStore) -> int:
        choices = store.totals.get("choices", {})
        return sum(key in choices.get(module, {}) for module, key in wanted)

    return max(stores, key=held)
