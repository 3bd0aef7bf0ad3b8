"""Commands that show what there is: inspect, compat, models, tasks, methods. They load no torch and no weights."""

from collections import defaultdict
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paraknow_core.catalogue import METHODS
from paraknow_core.cli.console import show, show_json, show_table
from paraknow_core.cli.options import Json, with_settings
from paraknow_core.display import count, memory, percent
from paraknow_core.settings import Settings

if TYPE_CHECKING:
    from paraknow_core.models.anatomy import Anatomy
    from paraknow_core.models.compat import CompatibilityReport

Model = Annotated[str, typer.Argument(metavar="MODEL", help="bundled:NAME, a local folder, or a hub id.")]
Revision = Annotated[str | None, typer.Option(help="Hub only: branch, tag or commit.")]


@with_settings("offline")
def inspect(model: Model, revision: Revision = None, *, settings: Settings, json: Json = False) -> None:
    """Show what a model is made of, from its config and the headers of its weights."""
    anatomy = _anatomy(model, revision, settings.offline)
    if json:
        show_json(anatomy.to_dict())
        return
    show_table(("", ""), _facts(anatomy))
    alike: dict[tuple, list] = defaultdict(list)
    for module in anatomy.modules:
        alike[(module.role, module.group, module.shape)].append(module)
    rows = [
        (role, group, shape_text(shape), len(modules), count(len(modules) * shape[0] * shape[1]), modules[0].name)
        for (role, group, shape), modules in alike.items()
    ]
    columns = ("role", "group", "shape", "how many", "parameters", "first")
    show_table(columns, rows, right=("shape", "how many", "parameters"))
    show(*(f"note: {note}" for note in anatomy.notes))


def _facts(anatomy: "Anatomy") -> list[tuple[str, str]]:
    tokenizer, kv_heads = anatomy.tokenizer, anatomy.num_key_value_heads
    return [
        ("model", anatomy.label),
        ("family", f"{anatomy.family} ({anatomy.architecture})"),
        ("parameters", f"{count(anatomy.parameters)} ({anatomy.parameters:,})"),
        ("on disk", f"{memory(anatomy.bytes)}, {anatomy.dtype}"),
        ("layers", str(anatomy.num_hidden_layers)),
        ("hidden_size", str(anatomy.hidden_size)),
        ("intermediate_size", str(anatomy.intermediate_size)),
        ("heads", f"{anatomy.num_attention_heads} of {anatomy.head_dim}; {kv_heads} for keys, values"),
        ("vocabulary", f"{anatomy.vocab_size}{', embedding and head are one weight' if anatomy.tied else ''}"),
        ("positions", str(anatomy.max_position_embeddings)),
        ("tokenizer", f"{tokenizer.kind}, {tokenizer.size} tokens" if tokenizer else "none"),
    ]


@with_settings("offline")
def compat(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER")],
    student: Annotated[str, typer.Argument(metavar="STUDENT")],
    *,
    settings: Settings,
    json: Json = False,
) -> None:
    """Say, module by module, what of a teacher fits onto a student, and what is skipped and why."""
    from paraknow_core.errors import ModelError
    from paraknow_core.models.anatomy import read_anatomy
    from paraknow_core.models.compat import compatibility
    from paraknow_core.models.source import resolve_model
    from paraknow_core.models.tokenizer import align_tokens, vocabulary

    sources = [resolve_model(name, offline=settings.offline, weights=False) for name in (teacher, student)]
    notes: list[str] = []
    try:
        alignment = align_tokens(vocabulary(sources[0]), vocabulary(sources[1]))
    except ModelError as error:  # the layers can still be compared
        alignment, notes = None, [str(error)]
    report = compatibility(read_anatomy(sources[0]), read_anatomy(sources[1]), alignment)
    if json:
        content = report.to_dict()
        show_json(content | {"notes": [*content["notes"], *notes]})
        return
    show(f"{report.teacher} -> {report.student}")
    columns = ("role", "layers", "teacher", "student", "placed", "action", "why")
    show_table(columns, _pairing_rows(report), right=columns[2:5])
    counts = ", ".join(f"{number} {action}" for action, number in report.counts.items())
    show(f"{counts}; {count(report.parameters_moved)} parameters of the student receive something")
    show(*(f"note: {note}" for note in (*report.notes, *notes)))
    show(*(f"not possible: {reason}" for reason in report.blocking))


def _pairing_rows(report: "CompatibilityReport") -> list[tuple]:
    """Return one row for each set of layers that are treated alike."""
    alike: dict[tuple, int] = defaultdict(int)
    for p in report.pairings:
        reason = p.reason if "layer" not in p.reason else p.reason.split(" layer ")[0] + " layer"
        alike[(p.role, p.teacher_shape, p.student_shape, p.placed_shape, p.action, reason)] += 1
    return [
        (role, number, shape_text(teacher), shape_text(student), shape_text(placed), action, reason)
        for (role, teacher, student, placed, action, reason), number in alike.items()
    ]


def models(json: Json = False) -> None:
    """List the bundled models."""
    from paraknow_core.files.json_file import read_json
    from paraknow_core.models.source import BUNDLED_FOLDER, BUNDLED_PREFIX, bundled_names

    manifest: dict[str, Any] = read_json(BUNDLED_FOLDER / "manifest.json", {})
    records = []
    for name in bundled_names():
        anatomy = _anatomy(f"{BUNDLED_PREFIX}{name}", None, True)
        scores = manifest.get("models", {}).get(name, {}).get("scores", {})
        records.append(
            {
                "source": anatomy.label,
                "parameters": anatomy.parameters,
                "layers": anatomy.num_hidden_layers,
                "hidden_size": anatomy.hidden_size,
                "family": anatomy.family,
                "scores": scores,
            }
        )
    if json:
        show_json(records)
        return
    rows = [
        (r["source"], r["family"], count(r["parameters"]), r["layers"], r["hidden_size"], _scores(r["scores"]))
        for r in records
    ]
    columns = ("model", "family", "parameters", "layers", "hidden_size", "scores as it comes")
    show_table(columns, rows, right=columns[2:5])
    show("A local folder with config.json and safetensors, or a hub id like owner/name, can be given as well.")


def _scores(by_task: dict[str, dict[str, float]]) -> str:
    """Return the share of right answers for each task that is scored by one."""
    main = {task: next((v for k, v in scores.items() if k != "n"), None) for task, scores in by_task.items()}
    return ", ".join(f"{task} {percent(value)}" for task, value in main.items() if value is not None and value <= 1)


def tasks(json: Json = False) -> None:
    """List the bundled tasks."""
    from paraknow_core.tasks.examples import list_tasks

    records = list_tasks()
    if json:
        show_json(records)
        return
    rows = []
    for task in records:
        sizes, scorers = f"{task['sizes']['train']}, {task['sizes']['test']}", ", ".join(task["scorers"])
        rows.append((f"bundled:{task['name']}", sizes, scorers, task["mirrors"], task["description"]))
    show_table(("task", "examples (train, test)", "scorers", "mirrors", "what it is"), rows)
    show("A data file (JSONL, CSV, text), a folder of split files, or hub:OWNER/NAME can be given as well.")


def shape_text(shape: tuple[int, ...] | None) -> str:
    """Return `192 x 528`."""
    return " x ".join(str(size) for size in shape) if shape else ""


def _anatomy(model: str, revision: str | None, offline: bool) -> "Anatomy":
    from paraknow_core.models.anatomy import read_anatomy
    from paraknow_core.models.source import resolve_model

    return read_anatomy(resolve_model(model, revision, offline=offline, weights=False))


def methods(json: Json = False) -> None:
    """List the ways to start a student's adapter: the method and its controls."""
    if json:
        show_json([asdict(row) for row in METHODS.values()])
        return
    rows = [(m.name, m.label, ", ".join(m.needs), m.control_of, m.source, m.text) for m in METHODS.values()]
    show_table(("method", "label", "needs", "control of", "source", "what it does"), rows)
