"""The README.md beside an adapter or a merged model: what it was made from, its form, code that loads it.

`cards.md.jinja` holds the texts. Every snippet in them works with transformers and PEFT alone, once its paths are
right.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paraknow_core.catalogue import METHODS
from paraknow_core.models.source import BUNDLED_PREFIX, ModelSource
from paraknow_core.spec import RunSpec

if TYPE_CHECKING:
    from types import CodeType

    from jinja2 import Environment

CARD = "README.md"
TEMPLATES = Path(__file__).with_name("cards.md.jinja")
_BUNDLED_FOLDER = "paraknow_core/demo/models"


def card(kind: Literal["adapter", "initial", "merged"], spec: RunSpec, student: ModelSource, **facts: Any) -> str:
    """Return the README.md of an adapter, an initial adapter, or a merged model.

    Args:
        kind: which text; the text decides what else has to be given.
        spec: the run's.
        student: the untouched student, resolved.
        facts: for `adapter`: head, the path of the output layer, if it shares the embedding's matrix and the adapter
            holds it whole, else None. For `initial`: record, the content of extraction.json; tied, whether the
            embedding gets factors and shares its matrix with the output layer. For `merged`: dtype, the number format
            of the weights; bits, the run's `student_bits`; rounding, `max_abs` and `max_relative` of what rounding to
            dtype changed, zeros for nothing; files, the names of licence files that lie beside it.
    """
    path, where = student.label, "the folder of the untouched student"
    if student.kind == "bundled":
        path = f"{_BUNDLED_FOLDER}/{path.removeprefix(BUNDLED_PREFIX)}"
        where = "the untouched student, in the workbench's own folder"
    elif student.kind == "hub":
        where = "the untouched student"
    common = {
        "spec": spec,
        "student": student,
        "name": _name(student.label),
        "teacher": _teacher(spec) if METHODS[spec.method].needs_teacher else "",
        "path": json.dumps(path, ensure_ascii=False),
        "where": where,
        "start_note": start_note,
        "whole": METHODS[spec.method].whole,
    }
    rules, code = _texts()
    template = rules.template_class.from_code(rules, code, rules.make_globals(common | facts))
    return str(getattr(template.module, kind)())


@cache
def _texts() -> "tuple[Environment, CodeType]":
    """Return the rules of the texts, and the texts compiled, which takes longer than to write a card."""
    from jinja2 import Environment, StrictUndefined

    rules = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)  # noqa: S701 - no HTML
    return rules, rules.compile(TEMPLATES.read_text(encoding="utf-8"))


def start_note(record: Mapping[str, Any]) -> str:
    """Say in one or two sentences what the student computes with the initial adapter, and how it has to be loaded.

    Args:
        record: content of extraction.json, of which `subtracted`, `modules`, `method` and `injection_mode` are read.
    """
    if record.get("whole"):
        return "Training starts from the student as it is and changes its weights themselves: no adapter is put in."
    if record["subtracted"]:
        return (
            "It belongs to a student whose weights lack the adapter's own product (W - scaling * B @ A): put on the "
            "untouched student it changes what that computes. Subtract the product first (init_adapter/README.md has "
            "the lines); then the student computes what it always did, and training starts there."
        )
    method = METHODS[record["method"]] if record["modules"] else None
    if method and ("injection" in method.reads or not method.keeps_student):
        where = f"In {record['injection_mode']} mode" if "injection" in method.reads else f"As {method.label} starts,"
        return (
            f"{where} nothing is taken off the student's weights: with this adapter the student computes something "
            "else than without it, and that is where training starts."
        )
    return "Its product is zero: with it the student computes what it always did."


def _teacher(spec: RunSpec) -> str:
    name, seed = _name(spec.teacher.source), spec.teacher.untrained
    return name if seed is None else f"{name} (untrained, seed {seed})"


def _name(source: str) -> str:
    """Return a model's name without its folder on this machine."""
    if source.startswith((".", "/", "~")) or "\\" in source:
        return " ".join(source.replace("\\", "/").rstrip("/").rpartition("/")[2].split()) or "a local model"
    return source
