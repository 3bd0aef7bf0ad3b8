"""The README.md beside an adapter or a merged model: what it was made from, its form, code that loads it.

`cards.md.jinja` holds the texts. Every snippet in them works with transformers and PEFT alone, once its paths are
right.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paraknow_core.catalogue import METHODS
from paraknow_core.models.source import BUNDLED_PREFIX, ModelSource
from paraknow_core.spec import RunSpec

CARD = "README.md"
TEMPLATES = Path(__file__).with_name("cards.md.jinja")
_BUNDLED_FOLDER = "paraknow_core/demo/models"


def adapter_card(spec: RunSpec, student: ModelSource, head: str | None) -> str:
    """Describe the exported adapter.

    Args:
        spec: the run's.
        student: the untouched student, resolved.
        head: path of the output layer, if it shares the embedding's matrix and the adapter holds it whole.
    """
    return _card("adapter", spec, student, head=head)


def initial_card(spec: RunSpec, student: ModelSource, record: Mapping[str, Any], *, tied: bool) -> str:
    """Describe the initial adapter.

    Args:
        spec: the run's.
        student: the untouched student, resolved.
        record: content of extraction.json.
        tied: whether the embedding gets factors and shares its matrix with the output layer.
    """
    alpha, subtracted = f"{spec.factorisation.lora_alpha:g}", bool(record["subtracted"])
    return _card("initial", spec, student, note=start_note(record), alpha=alpha, subtracted=subtracted, tied=tied)


def merged_card(
    spec: RunSpec,
    student: ModelSource,
    dtype: str,
    bits: int | None,
    rounding: Mapping[str, float],
    files: Sequence[str],
) -> str:
    """Describe a merged model.

    Args:
        spec: the run's.
        student: the untouched student, resolved.
        dtype: number format of its weights.
        bits: the run's `student_bits`.
        rounding: `max_abs` and `max_relative` of what rounding to `dtype` changed; zeros for nothing.
        files: names of licence files that lie beside it.
    """
    return _card("merged", spec, student, dtype=dtype, bits=bits, rounding=rounding, files=files)


def start_note(record: Mapping[str, Any]) -> str:
    """Say in one or two sentences what the student computes with the initial adapter, and how it has to be loaded.

    Args:
        record: content of extraction.json, of which `subtracted`, `modules` and `injection_mode` are read.
    """
    if record["subtracted"]:
        return (
            "It belongs to a student whose weights lack the adapter's own product (W - scaling * B @ A): put on the "
            "untouched student it changes what that computes. Subtract the product first (init_adapter/README.md has "
            "the lines); then the student computes what it always did, and training starts there."
        )
    if record["modules"]:
        return (
            f"In {record['injection_mode']} mode nothing is taken off the student's weights: with this adapter the "
            "student computes something else than without it, and that is where training starts."
        )
    return "Its product is zero: with it the student computes what it always did."


def _card(which: str, spec: RunSpec, student: ModelSource, **more: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    rules = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)  # noqa: S701 - no HTML
    path, where = student.label, "the folder of the untouched student"
    if student.kind == "bundled":
        path = f"{_BUNDLED_FOLDER}/{path.removeprefix(BUNDLED_PREFIX)}"
        where = "the untouched student, in the workbench's own folder"
    elif student.kind == "hub":
        where = "the untouched student"
    facts = {
        "spec": spec,
        "student": student,
        "name": _name(student.label),
        "teacher": _name(spec.teacher.source) if METHODS[spec.method].needs_teacher else "",
        "path": json.dumps(path, ensure_ascii=False),
        "where": where,
    }
    template = rules.from_string(TEMPLATES.read_text(encoding="utf-8"), globals=facts | more)
    return str(getattr(template.module, which)())


def _name(source: str) -> str:
    """Return a model's name without its folder on this machine."""
    if source.startswith((".", "/", "~")) or "\\" in source:
        return " ".join(source.replace("\\", "/").rstrip("/").rpartition("/")[2].split()) or "a local model"
    return source
