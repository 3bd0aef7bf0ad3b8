"""The student with its adapter at the start of training: computed by a method, or read back when a run resumes."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.adapters.cards import card, start_note
from paraknow_core.adapters.export import Factors, current_factors
from paraknow_core.adapters.inject import WEIGHTS, inject, save_initial_adapter
from paraknow_core.adapters.saved import FOLDER, RECORD, saved_updates
from paraknow_core.adapters.update import Update
from paraknow_core.catalogue import METHODS
from paraknow_core.context import Context
from paraknow_core.files.disk import file_digest
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.methods.base import LossTerm, Method, MethodInputs
from paraknow_core.methods.mapping import LayerMapping
from paraknow_core.methods.plan import Plan

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from paraknow_core.sensitivity.store import SensitivityStore


@dataclass(frozen=True)
class StartedAdapter:
    """The injected student.

    Attributes:
        peft_model: the student with its adapter; trainable is what the method trains.
        initial: the factors taken off the base weights, None if nothing was.
        layer_mapping: None if the method needs no teacher.
        loss: the method's term of the training loss, or None.
    """

    peft_model: "PeftModel"
    initial: dict[str, Factors] | None
    layer_mapping: LayerMapping | None
    loss: LossTerm | None


def start_adapter(
    context: Context,
    method: Method,
    store: "SensitivityStore | None",
    plan: Plan | None,
    folder: Path,
    student: "PreTrainedModel | None" = None,
) -> StartedAdapter:
    """Inject the student, leaving extraction.json and init_adapter/ in `folder`; reuse them if they are there.

    A method that trains whole weights starts at zero, and leaves no init_adapter/.

    Args:
        context: the run's.
        method: where the factors start.
        store, plan: saved sensitivity, and what goes where, if the method needs a teacher.
        folder: an existing folder; extraction.json is written last.
        student: loaded, if somebody did already.
    """
    student = student or context.student.load()
    inputs = MethodInputs(context, dict(student.named_parameters()), store, plan)
    modules = context.student_modules
    record = read_json(folder / RECORD)
    if record:
        rank, subtracted = context.spec.factorisation.rank, set(record["subtracted"])
        updates = () if method.row.whole else saved_updates(folder / FOLDER, modules, rank, subtracted)
        peft_model = _inject(inputs, student, updates)
    else:
        record, peft_model = _compute(inputs, method, student)
        context.teacher.refuse_replaced()
        record["init_adapter"] = start_note(record)
        if not method.row.whole:
            record["digest"] = _save_initial(context, peft_model, record, folder / FOLDER)
        write_json(folder / RECORD, record)
    trained = set(method.trains)
    initial = current_factors(peft_model, modules) if record["subtracted"] else None
    for name, parameter in peft_model.named_parameters():
        if any(f".lora_{factor}." in name or f".lora_embedding_{factor}." in name for factor in {"A", "B"} - trained):
            parameter.requires_grad_(False)
    return StartedAdapter(peft_model, initial, record["layer_mapping"], method.loss(inputs))


def _save_initial(context: Context, peft_model: "PeftModel", record: dict[str, Any], folder: Path) -> str:
    """Write init_adapter/ with its card; return the hash of its weights."""
    source = context.student.source
    tied = context.student.anatomy.tied and any(module.role == "embed" for module in context.student_modules)
    readme = card("initial", context.spec, source, record=record, tied=tied)
    shutil.rmtree(folder, ignore_errors=True)  # without its record, it is of an attempt that was cut off
    save_initial_adapter(peft_model, folder, source.label, readme)
    return file_digest(folder / WEIGHTS)


def _compute(inputs: MethodInputs, method: Method, student: "PreTrainedModel") -> "tuple[dict[str, Any], PeftModel]":
    """Return what extraction.json says, and the student with the method's factors."""
    spec, plan, store = inputs.context.spec, inputs.plan, inputs.store
    modules: dict[str, Any] = {}
    subtracted: set[str] = set()

    def noted() -> Iterator[Update]:
        for update in method.start(inputs):
            modules[update.module.name] = update.record
            if update.subtract:
                subtracted.add(update.module.name)
            yield update

    peft_model = _inject(inputs, student, noted())
    return {
        "method": spec.method,
        "teacher": inputs.context.teacher.source.label if method.needs_teacher else None,
        "student": inputs.context.student.source.label,
        "layer_mapping": plan.layers if plan else None,
        "layer_scores": store.layer_scores() if store else None,
        "mapping": spec.mapping.strategy,
        **({"similarity": plan.similarity} if plan and plan.similarity else {}),
        "origin": list(spec.extraction.origin),
        "structure": spec.extraction.structure,
        "whole": METHODS[spec.method].whole,
        "rank": spec.factorisation.rank,
        "lora_alpha": spec.factorisation.lora_alpha,
        "split": spec.factorisation.split,
        "injection_mode": spec.injection.mode,
        "sensitivity": store.folder.name if store else None,
        "modules": modules,
        "skipped": plan.skipped if plan else {},
        "subtracted": sorted(subtracted),
    }, peft_model


def _inject(inputs: MethodInputs, student: "PreTrainedModel", updates: Iterable[Update]) -> "PeftModel":
    context, spec = inputs.context, inputs.context.spec
    anatomy, modules, whole = context.student.anatomy, context.student_modules, METHODS[spec.method].whole
    return inject(student, anatomy, modules, spec.factorisation, updates, spec.seed, whole=whole)
