"""The student with its adapter at the start of training: computed by a method, or read back when a run resumes."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.adapters.cards import initial_card, start_note
from paraknow_core.adapters.export import Factors, current_factors
from paraknow_core.adapters.initial import FOLDER, RECORD, WEIGHTS, saved_updates
from paraknow_core.adapters.inject import inject, save_initial_adapter
from paraknow_core.adapters.update import Update
from paraknow_core.context import Context
from paraknow_core.files.disk import file_digest
from paraknow_core.methods.base import Method, MethodInputs
from paraknow_core.methods.seeking.blocks import layer_mapping, pairings
from paraknow_core.methods.seeking.mapping import LayerMapping
from paraknow_core.models.anatomy import LogicalModule
from paraknow_core.paths import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft import PeftModel
    from transformers import PreTrainedModel

    from paraknow_core.sensitivity.store import SensitivityStore


@dataclass(frozen=True)
class StartedAdapter:
    """The injected student; `initial` holds the factors taken off the base weights, None if nothing was."""

    peft_model: "PeftModel"
    initial: dict[str, Factors] | None
    layer_mapping: LayerMapping | None


def start_adapter(
    context: Context, method: Method, modules: list[LogicalModule], store: "SensitivityStore | None", folder: Path
) -> StartedAdapter:
    """Inject the student, leaving extraction.json and init_adapter/ in `folder`; reuse them if they are there.

    Args:
        context: the run's.
        method: where the factors start.
        modules: the student's modules that get an adapter.
        store: saved sensitivity, if the method needs a teacher.
        folder: an existing folder; extraction.json is written last.
    """
    student = context.student.load()
    record = read_json(folder / RECORD)
    if record:
        updates = saved_updates(folder / FOLDER, modules, context.spec.factorisation.rank, set(record["subtracted"]))
        peft_model = _inject(context, student, modules, updates)
    else:
        record, peft_model = _compute(context, method, modules, store, student)
        context.teacher.refuse_replaced()
        source = context.student.source
        record["init_adapter"] = start_note(record)
        tied = context.student.anatomy.tied and any(module.role == "embed" for module in modules)
        card = initial_card(context.spec, source, record, tied=tied)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)  # without its record, it is of an attempt that was cut off
        save_initial_adapter(peft_model, folder / FOLDER, source.label, card)
        record["digest"] = file_digest(folder / FOLDER / WEIGHTS)
        write_json(folder / RECORD, record)
    initial = current_factors(peft_model, modules) if record["subtracted"] else None
    return StartedAdapter(peft_model, initial, record["layer_mapping"])


def _compute(
    context: Context,
    method: Method,
    modules: list[LogicalModule],
    store: "SensitivityStore | None",
    student: "PreTrainedModel",
) -> "tuple[dict[str, Any], PeftModel]":
    spec = context.spec
    mapping = layer_mapping(context, store) if method.needs_teacher else None
    teacher = context.teacher.weights() if method.needs_teacher else {}
    inputs = MethodInputs(context, dict(student.named_parameters()), teacher, store, mapping)
    records: dict[str, Any] = {}
    subtracted: set[str] = set()

    def noted() -> "Iterator[Update]":
        for update in method.updates(inputs):
            records[update.module.name] = update.record
            if update.subtract:
                subtracted.add(update.module.name)
            yield update

    peft_model = _inject(context, student, modules, noted())
    skipped = {}
    if method.needs_teacher:
        skipped = {p.student_module: p.reason for p in pairings(context, mapping).pairings if p.action == "skip"}
    return {
        "method": spec.method,
        "teacher": context.teacher.source.label if method.needs_teacher else None,
        "student": context.student.source.label,
        "layer_mapping": mapping,
        "layer_scores": store.layer_scores() if store else None,
        "mapping": spec.mapping.strategy,
        "origin": list(spec.extraction.origin),
        "structure": spec.extraction.structure,
        "rank": spec.factorisation.rank,
        "lora_alpha": spec.factorisation.lora_alpha,
        "split": spec.factorisation.split,
        "injection_mode": spec.injection.mode,
        "sensitivity": store.folder.name if store else None,
        "modules": records,
        "skipped": skipped,
        "subtracted": sorted(subtracted),
    }, peft_model


def _inject(
    context: Context, student: "PreTrainedModel", modules: list[LogicalModule], updates: "Iterator[Update]"
) -> "PeftModel":
    return inject(student, context.student.anatomy, modules, context.spec.factorisation, updates, context.spec.seed)
