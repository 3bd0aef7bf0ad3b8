"""Questions about a transfer: the sensitivity it uses, its plan, and its blocks up close."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from paraknow_core.context import Context
from paraknow_core.errors import ParaknowError, ShapeError
from paraknow_core.paths import Workspace, contained
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.settings import Settings
from paraknow_core.spec import MappingSpec, RunSpec, parse_spec
from paraknow_core.workbench.desk.questions import question_key

if TYPE_CHECKING:
    from torch import Tensor

    from paraknow_core.methods.seeking.preview import Preview

KEPT_BYTES = 4e8  # of weights, blocks and scores held for the next question about the same modules


def context_of(place: Workspace, settings: Settings, request: Mapping[str, Any]) -> Context:
    """Return the context of a request's pair, origin and seed; see `context_of_parts`."""
    extraction = {key: request[key] for key in ("origin", "seed") if key in request}
    pair = {"teacher": request["teacher"], "student": request["student"]}
    return context_of_parts(place, settings, {**pair, "extraction": extraction})


def context_of_parts(place: Workspace, settings: Settings, parts: Mapping[str, Any]) -> Context:
    """Return the context of a spec of which some parts are given; the last few are kept with what they read."""
    # The key holds the state of the models' files, so that changed files are read again.
    return _context(place, settings, json.dumps(parts, sort_keys=True), question_key("pair", dict(parts)))


@lru_cache(maxsize=12)
def _context(place: Workspace, settings: Settings, parts: str, _stamp: str) -> Context:
    return Context(parse_spec(json.loads(parts)), settings, place)


def store_of(place: Workspace, name: str) -> SensitivityStore:
    """Return a saved sensitivity of the workspace by its folder's name."""
    return SensitivityStore(contained(place.sensitivity, name))


def weights_of(context: Context) -> "tuple[Mapping[str, Tensor], Mapping[str, Tensor]]":
    """Return the teacher's and the student's weights; files are opened once a context."""
    known = vars(context).setdefault("_weights", None)
    if known is None:
        known = vars(context)["_weights"] = (context.teacher.weights(), context.student.weights())
    return known


class _Recent:
    """The blocks cut last, as many as a limit of memory allows."""

    def __init__(self) -> None:
        self.blocks: dict[str, Preview] = {}

    def get(self, key: str) -> "Preview | None":
        if key in self.blocks:
            self.blocks[key] = self.blocks.pop(key)
        return self.blocks.get(key)

    def put(self, key: str, one: "Preview") -> None:
        self.blocks[key] = one
        while len(self.blocks) > 1 and sum(_size(each) for each in self.blocks.values()) > KEPT_BYTES:
            del self.blocks[next(iter(self.blocks))]


_RECENT = _Recent()


def _size(one: "Preview") -> int:
    held = (one.weight, one.own, one.block.weight, one.block.received, one.score)
    return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)


def preview_of(place: Workspace, settings: Settings, request: Mapping[str, Any], pair: Mapping[str, Any]) -> "Preview":
    """Cut one pairing's block, or return it if it was cut a moment ago.

    Args:
        place, settings: of the desk.
        request: teacher, student, store, structure and seed.
        pair: a pairing as `transfer_plan` gives it.
    """
    from paraknow_core.methods.seeking.preview import preview
    from paraknow_core.models.compat import Pairing

    upstream = {key: request[key] for key in ("teacher", "student", "store", "structure", "seed")}
    key = question_key("preview", {**upstream, "modules": [pair["student_module"], pair["teacher_module"]]})
    known = _RECENT.get(key)
    if known is not None:
        return known
    context = context_of(place, settings, request)
    one = preview(
        context,
        store_of(place, request["store"]),
        request["structure"],
        Pairing(**{name: pair[name] for name in Pairing.__dataclass_fields__}),
        *weights_of(context),
    )
    _RECENT.put(key, one)
    return one


def transfer_source(place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Return `fingerprint` of the teacher's weights, and `key` of the sensitivity (None with a `problem`).

    Args:
        place, settings: of the desk.
        request: `teacher`, `task` and `sensitivity` as in a spec.
    """
    from paraknow_core.sensitivity.measure import seed_key

    keys = ("teacher", "task", "sensitivity")
    spec = parse_spec({**RunSpec().model_dump(mode="json"), **{key: request[key] for key in keys}}, "draft")
    context = Context(spec, settings, place)
    context.teacher.source.weight_files()
    found: dict[str, Any] = {"fingerprint": context.teacher.fingerprint, "key": None, "problem": ""}
    try:
        found["key"] = seed_key(context)[1]
    except ParaknowError as error:
        found["problem"] = str(error)
    return found


def transfer_plan(place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
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


def transfer_block(
    place: Workspace, settings: Settings, request: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the block's numbers, and arrays for its pictures.

    Args:
        place, settings: of the desk.
        request: `teacher`, `student`, `store`, `structure`, `seed`, and `pair` as `transfer_plan` gives it.

    Returns:
        Numbers (see `stages.preview.facts`), with `why` where something cannot be shown; arrays `map`, `rows`, `cols`
        (S, of the aligned vocabulary for embeddings), `counts` of all offsets from `lowest` to `highest`, `cosines` of
        random offsets, and what was taken: `kept_rows`, `kept_cols`, `density`.
    """
    from paraknow_core.methods.seeking.preview import facts

    one = preview_of(place, settings, request, request["pair"])
    value = facts(one)
    arrays = {name: tensor.float().cpu().numpy() for name, tensor in one.looks().items()}
    arrays["cosines"] = one.random_cosines().float().numpy()
    if one.offsets is not None:
        arrays["counts"] = one.offsets.counts.numpy()
    value["why"] = ""
    if one.score is None:
        store = store_of(place, request["store"])
        value["why"] = "Only reductions of this sensitivity were kept: what other offsets hold cannot be shown."
        if list(one.weight.shape) == list(request["pair"]["teacher_shape"]):
            module = value["teacher_module"]
            arrays |= {"map": store.block_map(module), "rows": store.row_sums(module), "cols": store.col_sums(module)}
    return value, arrays


def transfer_layer(
    place: Workspace, settings: Settings, request: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `rows` of numbers and, by the student module's name, the array of its retained energy at rank 1, 2, ...

    Args:
        place, settings: of the desk.
        request: as for `transfer_block`, but `pairs` instead of `pair`; `mode` (block or difference) and `rank`, the
            largest one that is looked at (small weights give all).
    """
    from paraknow_core.methods.seeking.preview import facts
    from paraknow_core.ops.metrics import sum_of_squares

    rows, arrays = [], {}
    for pair in request["pairs"]:
        if pair["action"] == "skip":
            continue
        try:
            one = preview_of(place, settings, request, pair)
            found = one.spectrum(request["mode"], request["rank"])
        except ParaknowError as error:
            rows.append(
                {
                    "student_module": pair["student_module"],
                    "teacher_module": pair["teacher_module"],
                    "problem": str(error),
                }
            )
            continue
        rows.append(
            {
                **facts(one),
                "total_squared": found.total_squared,
                "whole": found.whole,
                "own_squared": sum_of_squares(one.own),
                "problem": "",
            }
        )
        arrays[pair["student_module"]] = found.retained.float().numpy()
    return {"rows": rows}, arrays


def transfer_spectrum(
    place: Workspace, settings: Settings, request: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `total_squared`, `own_squared` and `whole`, and the array `values`, descending.

    Args:
        place, settings: of the desk.
        request: as for `transfer_block`, and `mode` (block or difference) and `rank`, the largest one that is looked at
            (small weights give all values).
    """
    from paraknow_core.ops.metrics import sum_of_squares

    one = preview_of(place, settings, request, request["pair"])
    found = one.spectrum(request["mode"], request["rank"])
    value = {"total_squared": found.total_squared, "whole": found.whole, "own_squared": sum_of_squares(one.own)}
    return value, {"values": found.values.float().numpy()}
