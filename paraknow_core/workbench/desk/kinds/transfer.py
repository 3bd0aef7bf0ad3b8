"""Questions about a transfer: the sensitivity it uses, its plan, and its blocks up close."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from paraknow_core.context import Context
from paraknow_core.errors import ParaknowError, ShapeError
from paraknow_core.models.compat import Pairing
from paraknow_core.paths import Workspace
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.desk.kinds.known import context_of, kept, store_of

if TYPE_CHECKING:
    from torch import Tensor

    from paraknow_core.methods.plan import Plan
    from paraknow_core.methods.seeking.preview import Preview

KEPT_BYTES = 4e8  # of weights, blocks and scores held for the next question about the same modules


def weights_of(context: Context) -> "tuple[Mapping[str, Tensor], Mapping[str, Tensor]]":
    """Return the teacher's and the student's weights; files are opened once a context."""
    if "_weights" not in vars(context):
        vars(context)["_weights"] = (context.teacher.weights(), context.student.weights())
    return vars(context)["_weights"]


def _bytes(preview: "Preview") -> int:
    tensors = (preview.weight, preview.own, preview.block.weight, preview.block.received, preview.score)
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


@kept(KEPT_BYTES, _bytes)
def _preview(blocks: requests.AboutBlocks, pair: Pairing, settings: Settings, place: Workspace) -> "Preview":
    from paraknow_core.methods.seeking.preview import preview

    context = context_of(blocks.spec, settings, place)
    return preview(context, store_of(place, blocks.store), blocks.structure, pair, *weights_of(context))


def preview_of(place: Workspace, settings: Settings, question: requests.AboutBlocks, pair: Pairing) -> "Preview":
    """Cut one pairing's block, or return it if it was cut a moment ago for another question."""
    blocks = requests.AboutBlocks(spec=question.spec, store=question.store, structure=question.structure)
    return _preview(blocks, pair, settings, place)


def transfer_source(place: Workspace, settings: Settings, question: requests.TransferSource) -> dict[str, Any]:
    """Return `fingerprint` of the teacher's weights, and `key` of the sensitivity (None with a `problem`)."""
    from paraknow_core.sensitivity.measure import seed_key

    context = Context(question.spec, settings, place)
    if not context.teacher.is_made:  # then nobody has measured it
        problem = f"{context.teacher.described.label}: its random weights are made when a run first measures it"
        return {"fingerprint": "not made", "key": None, "problem": problem}
    context.teacher.source.weight_files()
    source = {"fingerprint": context.teacher.fingerprint, "key": None, "problem": ""}
    try:
        return source | {"key": seed_key(context)[1]}
    except ParaknowError as error:
        return source | {"problem": str(error)}


def transfer_similarity(place: Workspace, settings: Settings, question: requests.TransferSimilarity) -> dict[str, Any]:
    """Return the `key` of the pair's layer similarity (None with a `problem`); whether it is there, pages look."""
    from paraknow_core.sensitivity.similarity import similarity_key

    context = Context(question.spec, settings, place)
    if not (context.teacher.is_made and context.student.is_made):  # then nobody has compared them
        return {"key": None, "problem": ""}
    try:
        return {"key": similarity_key(context), "problem": ""}
    except ParaknowError as error:
        return {"key": None, "problem": str(error)}


def transfer_plan(place: Workspace, settings: Settings, question: requests.TransferPlan) -> dict[str, Any]:
    """Return layers, their scores and mapping, the pairings, and the sizes that an adapter depends on. Headers only.

    Returns:
        `layers` is None with a `problem` where the mapping does not fit or cannot be known yet; `store`: the name of
        the saved sensitivity to be used, and whether it is `full`.
    """
    from paraknow_core.methods.mapping import map_layers, matched_layers, reads_states
    from paraknow_core.methods.plan import plan_transfer
    from paraknow_core.methods.seeking.coherence import incoherent
    from paraknow_core.sensitivity.saved_similarity import saved_similarity

    context = context_of(question.spec, settings, place)
    teacher, student = context.teacher.anatomy, context.student.anatomy
    stores = [store_of(place, name) for name in question.stores]
    layers, problem = None, ""
    try:
        if reads_states(context.spec.mapping):
            kept = saved_similarity(place, question.similarity) if question.similarity else None
            layers = matched_layers(kept[context.spec.mapping.strategy]) if kept else None
        else:
            layers = map_layers(context.spec.mapping, context, stores[0] if stores else None)
    except ShapeError as error:
        problem = str(error)
    plan = plan_transfer(context, layers)
    roles = context.spec.extraction.roles
    pairs = [_pair(context, pair) for pair in plan.report.pairings if pair.role in roles] if layers is not None else []
    store = _store(plan, stores, question.structure)
    return {
        "teacher_layers": teacher.num_hidden_layers,
        "student_layers": student.num_hidden_layers,
        "scores": stores[0].layer_scores() if stores else None,
        "layers": layers,
        "problem": problem,
        "pairs": pairs,
        "notes": list(plan.report.notes),
        "blocking": [
            *plan.report.blocking,
            *filter(None, [question.structure and incoherent(context, question.structure)]),
        ],
        **_sizes(context),
        "store": store.folder.name if store else None,
        "full": bool(store and store.has_full),
    }


def _pair(context: Context, pair: Pairing) -> dict[str, Any]:
    teacher, student = context.teacher.anatomy, context.student.anatomy
    target = student.module(pair.student_module)
    source = teacher.module(pair.teacher_module) if pair.teacher_module else None
    return asdict(pair) | {"group": target.group, "layer": target.layer, "teacher_layer": source and source.layer}


def _sizes(context: Context) -> dict[str, Any]:
    """Return what the size of an adapter depends on: for each host weight, its modules and its in + out features."""
    from paraknow_core.models.modules import stored_shapes

    student = context.student.anatomy
    modules = [m for m in student.modules if m.role in context.spec.extraction.roles]
    shapes = stored_shapes(student.modules)
    hosts: dict[str, dict[str, int]] = {}
    for module in modules:
        host = hosts.setdefault(module.host, {"modules": 0, "sides": sum(shapes[module.parameter])})
        host["modules"] += 1
    tightest = min(modules, key=lambda m: min(m.shape), default=None)
    return {
        "hosts": list(hosts.values()),
        "student_parameters": student.parameters,
        "most_rank": min(tightest.shape) if tightest else 0,
        "tightest": tightest.name if tightest else "",
        "student_modules": len(student.modules),
        "student_roles": sorted({m.role for m in student.modules}),
    }


def _store(plan: "Plan", stores: list[SensitivityStore], structure: str) -> SensitivityStore | None:
    """Return a store with full tensors, else the one that holds most of the choices, else the first."""
    from paraknow_core.methods.seeking.choice import Cut

    whole = next((store for store in stores if store.has_full), None)
    if whole or len(stores) < 2:
        return whole or next(iter(stores), None)
    pairings = plan.pairings if plan.layers is not None else []
    cuts = [Cut(plan.context, structure, *plan.modules(pairing)) for pairing in pairings]

    def held(store: SensitivityStore) -> int:
        choices = store.totals.get("choices", {})
        return sum(cut.key in choices.get(cut.source.name, {}) for cut in cuts)

    return max(stores, key=held)


def transfer_block(
    place: Workspace, settings: Settings, question: requests.TransferBlock
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the block's numbers, and arrays for its pictures.

    Returns:
        Numbers (see `preview.facts`), with `why` where something cannot be shown; arrays `map`, `rows`, `cols` (S, of
        the aligned vocabulary for embeddings), `counts` of all offsets from `lowest` to `highest`, `cosines` of
        random offsets, and what was taken: `kept_rows`, `kept_cols`, `density`.
    """
    from paraknow_core.methods.seeking.preview import facts

    block = preview_of(place, settings, question, question.pair)
    value = facts(block) | {"why": ""}
    arrays = {name: tensor.float().cpu().numpy() for name, tensor in block.looks().items()}
    arrays["cosines"] = block.random_cosines().float().numpy()
    if block.offsets is not None:
        arrays["counts"] = block.offsets.counts.numpy()
    if block.score is None:
        value["why"] = "Only reductions of this sensitivity were kept: what other offsets hold cannot be shown."
        if tuple(block.weight.shape) == question.pair.teacher_shape:
            store, module = store_of(place, question.store), question.pair.teacher_module
            arrays |= {"map": store.block_map(module), "rows": store.row_sums(module), "cols": store.col_sums(module)}
    return value, arrays


def transfer_spectrum(
    place: Workspace, settings: Settings, question: requests.TransferSpectrum
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `total_squared`, `own_squared` and `whole`, and the array `values`, descending."""
    block = preview_of(place, settings, question, question.pair)
    numbers, spectrum = _energy(block, question)
    return numbers, {"values": spectrum.values.float().numpy()}


def transfer_layer(
    place: Workspace, settings: Settings, question: requests.TransferLayer
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `rows` of numbers and, by the student module's name, the array of its retained energy at rank 1, 2, ..."""
    from paraknow_core.methods.seeking.preview import facts

    rows, arrays = [], {}
    for pair in question.pairs:
        if pair.action == "skip":
            continue
        try:
            block = preview_of(place, settings, question, pair)
            numbers, spectrum = _energy(block, question)
        except ParaknowError as error:
            modules = {"student_module": pair.student_module, "teacher_module": pair.teacher_module}
            rows.append(modules | {"problem": str(error)})
            continue
        rows.append(facts(block) | numbers | {"problem": ""})
        arrays[pair.student_module] = spectrum.retained.float().numpy()
    return {"rows": rows}, arrays


def _energy(block: "Preview", question: requests.AboutEnergy) -> tuple[dict, Any]:
    from paraknow_core.ops.metrics import sum_of_squares

    spectrum = block.spectrum(question.mode, question.rank)
    own = sum_of_squares(block.own)
    return {"total_squared": spectrum.total_squared, "whole": spectrum.whole, "own_squared": own}, spectrum
