"""What a run computes with: noted when it begins, and refused when it is resumed with anything else."""

import hashlib
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from paraknow_core.catalogue import METHODS, asks_judge
from paraknow_core.errors import RunError
from paraknow_core.models.fingerprint import tokenizer_fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from paraknow_core.context import Context
    from paraknow_core.spec import RunSpec

_WORDS = {
    "train": "the training examples",
    "validation": "the validation examples",
    "test": "the test examples",
    "teacher": "the teacher's weights",
    "student": "the student's weights",
    "tokenizer": "the student's tokenizer",
    "teacher_tokenizer": "the teacher's tokenizer",
    "generation": "the student's generation_config.json",
    "judge": "the judge's weights",
    "seed_task": "the examples of sensitivity.task",
}
_OF_TEACHER = ("teacher", "teacher_tokenizer")
_FIXED = ("dtype", "student_bits")
_PLACES = ("source", "revision")  # may change: what lies there is named by its content
_NUMBERS = ("method", "seed")  # the settings without a dot that numbers depend on; names and notes may change


def fingerprints(context: "Context") -> dict[str, str]:
    """Return a hash of every split, of both models' weights, and of the student's tokenizer, by name."""
    task = context.task
    return {
        "teacher": context.teacher.fingerprint,
        "student": context.student.fingerprint,
        "tokenizer": context.student.tokenizer_fingerprint,
        **{name: task.fingerprint(name) for name in task.splits},
    }


def more_fingerprints(context: "Context") -> dict[str, str]:
    """Return hashes of what else numbers depend on, by name; runs that differ in them are still comparable."""
    hashes = {"teacher_tokenizer": tokenizer_fingerprint(context.teacher.source)}
    generation = context.student.source.folder / "generation_config.json"
    hashes["generation"] = hashlib.sha256(generation.read_bytes()).hexdigest() if generation.is_file() else "none"
    if asks_judge(context.task.scorers):
        hashes["judge"] = context.judge.fingerprint
    spec, row = context.spec, METHODS[context.spec.method]
    if spec.sensitivity.task and (row.needs_teacher or row.reads_samples or spec.until == "sensitivity"):
        hashes["seed_task"] = context.seed_task.fingerprint("train")
    return hashes


def versions() -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    packages = ("torch", "transformers", "peft", "tokenizers", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def machine(context: "Context") -> dict[str, Any]:
    """Return the settings of this machine that may change numbers, `auto` replaced by what it stands for here."""
    from paraknow_core.models.load import pick_device

    device = str(pick_device(context.settings.device)).partition(":")[0]
    return {"device": device, "dtype": context.student.dtype, "student_bits": context.settings.student_bits}


def pinned(spec: "RunSpec", before: "Mapping[str, Any]") -> "RunSpec":
    """Return the spec with the commits of hub models and data that a run began with, because branches move on."""
    revisions = before.get("revisions")
    revisions = revisions if isinstance(revisions, dict) else {}
    names = [n for n in ("teacher", "student", "task") if revisions.get(n) and getattr(spec, n).revision is None]
    return spec.with_changes({f"{name}.revision": revisions[name] for name in names}) if names else spec


def refuse_changed(before: "Mapping[str, Any]", facts: "Mapping[str, Any]", reads_teacher: bool) -> None:
    """Refuse to resume with other data, models or precision than the run began with.

    Args:
        before, facts: `fingerprints`, `inputs`, `settings` and `machine` of the result, as they were when the run
            began and as they are; what an earlier version did not note is not compared.
        reads_teacher: whether anything of this run depends on the teacher.

    Raises:
        RunError: names what changed, and what to do.
    """
    changed = []
    for part in ("fingerprints", "inputs"):
        old, new = before.get(part) or {}, facts[part]
        changed += [
            (_WORDS.get(name, name), str(value)[:8], _shown(new.get(name))[:8])
            for name, value in old.items()
            if new.get(name) != value and (reads_teacher or name not in _OF_TEACHER)
        ]
    if changed:
        what = ", ".join(f"{words} ({old} then, {new} now)" for words, old, new in changed)
        raise RunError(
            f"resume: not what this run began with: {what}; put back what it began with and resume, all that was "
            "computed is kept, or duplicate the run to begin anew with what is there now"
        )
    old = before.get("settings") or {}
    for name, value in facts["settings"].items():
        if name in old and old[name] != value and ("." in name or name in _NUMBERS) and not name.endswith(_PLACES):
            raise RunError(
                f"resume: spec.yaml: {name} was {_shown(old[name])} when this run began and is {_shown(value)} now; a "
                "run's own settings are frozen: set it back and resume, or start a new run with the other value"
            )
    old = before.get("machine") or {}
    for name in _FIXED:
        if name in old and old[name] != facts["machine"][name]:
            raise RunError(
                f"resume: this run computes with {name} {_shown(old[name])}, and here it would go on with "
                f"{_shown(facts['machine'][name])}; set it back in the settings and resume, or duplicate the run to "
                "begin anew"
            )


def other_circumstances(before: "Mapping[str, Any]", facts: "Mapping[str, Any]") -> str:
    """Return a sentence that names versions or a device that the run did not begin with; empty if there are none."""
    changes = [
        f"{name} {_shown(old)} before, {_shown(new)} now"
        for part in ("versions", "machine")
        for name, new in facts[part].items()
        if (old := (before.get(part) or {}).get(name, new)) != new
    ]
    if not changes:
        return ""
    return f"resumed with other software or on another device ({', '.join(changes)}); last digits may differ"


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
