"""Commands on runs: list, show, label, stop, resume, delete, export."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from paraknow_core.cli.console import say, show, show_json, show_table, working
from paraknow_core.cli.options import Json, Offline, new_folder
from paraknow_core.display import counted, duration, memory, score_text
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.paths import file_stamp
from paraknow_core.runs.status import State

if TYPE_CHECKING:
    from paraknow_core.paths import Workspace
    from paraknow_core.runs.folder import RunFolder

app = typer.Typer(help="List, show, label, stop, resume, delete and export runs; an id may be shortened.")

Id = Annotated[str, typer.Argument(metavar="ID", help="A run's id or its beginning.")]


@app.command("list")
def list_(
    context: typer.Context,
    state: Annotated[State | None, typer.Option(help="Only runs in this state.")] = None,
    json: Json = False,
) -> None:
    """List runs, newest first."""
    from paraknow_core.runs.folder import list_runs

    names = _names(context.obj)
    records = [_record(run, names) for run in list_runs(context.obj)]
    if state:
        records = [record for record in records if record["state"] == state]
    if json:
        show_json(records)
        return
    if not records:
        show(f"no runs{f' in state {state}' if state else ''} yet; `run SPEC.yaml` or `demo` makes some")
        return
    show_table(
        ("id", "name", "state", "stage", "method", "pair", "task", "score", "started"),
        [
            (
                r["id"],
                f"{'★ ' if r['starred'] else ''}{r['name']}",
                r["state"],
                f"{r['stage']} {round(100 * r['progress'])} %" if r["active"] else r["stage"],
                r.get("method"),
                f"{r['teacher']} -> {r['student']}" if "teacher" in r else r["message"],
                r.get("task"),
                score_text(r["score"]) if r["score"] else None,
                _when(r["started"]),
            )
            for r in records
        ],
    )


def _names(place: "Workspace") -> dict[str, str]:
    """Return what every run of the workspace is called."""
    from paraknow_core.runs.folder import list_runs
    from paraknow_core.runs.labels import label_of
    from paraknow_core.studies import Named, run_names

    named = []
    for run in list_runs(place):
        try:
            spec = run.spec()
        except ParaknowError:
            spec = None
        named.append(Named(run.id, spec, label_of(run.path).name))
    return run_names(named)


def _record(run: "RunFolder", names: dict[str, str]) -> dict[str, Any]:
    from paraknow_core.runs.labels import label_of

    status, label = run.status(), label_of(run.path)
    scores = (run.result() or {}).get("scores") or [None]
    record: dict[str, Any] = {
        "id": run.id,
        "name": names.get(run.id, run.id),
        "note": label.note,
        "starred": label.starred,
        "state": status.state,
        "active": status.active,
        "stage": status.stage,
        "progress": status.fraction,
        "message": status.message,
        "started": status.started or None,
        "ended": status.ended or None,
        "score": scores[0],
    }
    try:
        spec = run.spec()
    except ParaknowError as error:
        return record | {"state": "failed", "active": False, "message": str(error)}
    return record | {
        "method": spec.method,
        "teacher": spec.teacher.source,
        "student": spec.student.source,
        "task": spec.task.source,
        "until": spec.until,
        "seed": spec.seed,
    }


@app.command("show")
def show_run(context: typer.Context, run_id: Id, json: Json = False) -> None:
    """Show one run: what it changes from the defaults, what it is doing, its scores and files."""
    run = _find(context, run_id)
    damage = run.read_result()[1]
    spec, status, result = run.spec(), run.status(), run.result()
    changes = changed_settings(spec.model_dump(mode="json"))
    files = {path.name: _size(path) for path in sorted(run.path.iterdir()) if path.name != "lock"}
    record = _record(run, _names(context.obj))
    if json:
        show_json(
            {
                **record,
                "folder": str(run.path),
                "changes": changes,
                "spec": spec.model_dump(mode="json"),
                "result": result,
                "files": files,
            }
        )
        return
    show(f"{run.id}: {status.state}{f', {status.stage}' if status.stage else ''}")
    show(f"name: {'★ ' if record['starred'] else ''}{record['name']}", f"folder: {run.path}")
    show(*(f"note: {line}" for line in record["note"].splitlines()))
    if status.message or damage:
        show(f"message: {damage or status.message}")
    show_table(("changed setting", "value", "default"), [(key, new, old) for key, (new, old) in changes.items()])
    if result:
        show_table(("scored", "scorer", "score (± half the 95 % interval)"), _score_rows(result))
        timings = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in result.get("timings", {}).items())
        show(f"time: {timings}", f"peak memory: {memory(result.get('peak_memory_bytes'))}")
        show(*(f"warning: {warning}" for warning in result.get("warnings", [])))
    show("files: " + ", ".join(f"{name} ({_size_text(size)})" for name, size in files.items()))


def changed_settings(spec: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (value, default) of every setting that is not at its default."""
    from paraknow_core.runs.table import flat_settings
    from paraknow_core.spec import RunSpec

    given, default = flat_settings(spec), flat_settings(RunSpec().model_dump(mode="json"))
    return {
        key: (given.get(key), default.get(key)) for key in {**default, **given} if given.get(key) != default.get(key)
    }


def _score_rows(result: dict[str, Any]) -> list[tuple]:
    scored = {"this run": result.get("scores", []), **result.get("references", {})}
    return [
        (name if name == "this run" else f"untouched {name}", score["scorer"], score_text(score))
        for name, scores in scored.items()
        for score in scores
    ]


@app.command()
def label(
    context: typer.Context,
    run_id: Id,
    name: Annotated[str | None, typer.Option(help="What it is called; empty: named by its settings again.")] = None,
    note: Annotated[str | None, typer.Option(help="What there is to remember; empty takes it away.")] = None,
    star: Annotated[bool | None, typer.Option("--star/--no-star", help="Mark it, or take the mark away.")] = None,
) -> None:
    """Give a run a name, a note or a star; without an option, print them. Its spec stays as it is."""
    from paraknow_core.runs.labels import set_label

    run = _find(context, run_id)
    known = set_label(run.path, name=name, note=note, starred=star)
    show(f"{run.id}: {'★ ' if known.starred else ''}{_names(context.obj).get(run.id, known.name or run.id)}")
    show(*known.note.splitlines())


@app.command()
def stop(
    context: typer.Context,
    run_id: Id,
    grace: Annotated[
        float | None, typer.Option(min=0, metavar="S", help="End the process if it has not stopped after S seconds.")
    ] = None,
) -> None:
    """Ask a run to save and stop."""
    from paraknow_core.engines import engine_of

    run = _find(context, run_id)
    engine_of(context.obj).stop(run, grace)
    state = run.status().state
    show(f"{run.id}: {state if grace is not None else 'asked to save and stop'}; `runs resume {run.id}` goes on later")


@app.command()
def resume(context: typer.Context, run_id: Id) -> None:
    """Go on with a stopped, failed or lost run in the background."""
    from paraknow_core.engines import engine_of

    run = _find(context, run_id)
    if run.status().state == "done":
        raise RunError(f"run {run.id}: is done; there is nothing to resume")
    run.spec()  # a folder without a valid spec is refused here, not in the background
    engine_of(context.obj, otherwise="local").submit(run)
    how = f"goes on as process {run.process()['pid']}" if run.claimed else "waits for its turn"
    show(f"{run.id}: {how}; `runs show {run.id}` follows it")


@app.command()
def delete(
    context: typer.Context,
    run_ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete runs that have ended, with everything in their folders."""
    from paraknow_core.runs import lifecycle

    chosen = {run.id: run for run in (_find(context, name) for name in run_ids)}
    for run in chosen.values():
        if run.status().active:
            raise RunError(f"run {run.id}: is still {run.status().state}; stop it before deleting it")
    if not yes:
        if not sys.stdin.isatty():
            raise RunError(f"runs delete: would delete {', '.join(chosen)}; add --yes to do it without asking")
        typer.confirm(f"delete {', '.join(chosen)}?", abort=True, err=True)
    for run in chosen.values():
        lifecycle.delete(run)
        show(f"{run.id}: deleted")


@app.command()
def export(
    context: typer.Context,
    run_id: Id,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A new file (default ID.zip here), or with --merged a folder (ID-merged)."),
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Write the trained model as a whole model folder, no adapter needed.")
    ] = False,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="With --merged: how to store weights (default: what the run computed in)."),
    ] = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Pack a run that has ended into one file to pass on: spec, label, result, events, predictions, adapters.

    ID may also be a run's folder. With --merged, write its trained model instead.
    """
    run = _find(context, run_id, folders=True)
    if merged:
        _export_merged(context, run, out or Path(f"{run.id}-merged"), dtype, offline, json)
        return
    if dtype:
        raise RunError(f"--dtype: {dtype} given; only whole models are stored in one; add --merged, or leave it out")
    file = out or Path(f"{run.id}.zip")
    names, left_out = export_run(run, file)
    if json:
        size = file.stat().st_size
        show_json({"run": run.id, "file": str(file), "bytes": size, "files": names, "left_out": left_out})
    else:
        show(f"{file}: {counted(len(names), 'file')} of {run.id}, {_size_text(file.stat().st_size)}")
    if left_out:
        say(f"left out, because they are links or lie behind one: {', '.join(left_out)}")


# Left out: status.json, process.json and log.txt name this machine; checkpoints are large and only good for resuming.
EXPORTED = (
    "spec.yaml",
    "label.json",
    "result.json",
    "events.jsonl",
    "predictions.jsonl",
    "extraction.json",
    "sensitivity.json",
)
EXPORTED_FOLDERS = ("init_adapter", "adapter")


def export_run(run: "RunFolder", file: Path) -> tuple[list[str], list[str]]:
    """Write the portable part of a run folder as a zip file: complete, or not at all.

    Returns:
        The names inside, and those left out because a link leads to them.

    Raises:
        RunError: the run is going on, or the file exists or has no folder.
    """
    from paraknow_core.files.packing import ADAPTER_FILES, pack
    from paraknow_core.paths import build_file

    _refuse_active(run)
    if file.exists() or file.is_symlink():
        raise RunError(f"--out: {file} exists already; choose another name")
    if not file.parent.is_dir():
        raise RunError(f"--out: there is no folder {file.parent}; make it, or choose another")
    names = [*EXPORTED, *(f"{folder}/{name}" for folder in EXPORTED_FOLDERS for name in ADAPTER_FILES)]
    with build_file(file) as target:
        return pack(run.path, names, target, run.id, compress=True)


def _export_merged(
    context: typer.Context, run: "RunFolder", out: Path, dtype: str | None, offline: bool, json: bool
) -> None:
    from paraknow_core.files.packing import ADAPTER_FILES, refuse_links
    from paraknow_core.paths import read_json

    _refuse_active(run)
    spec = run.spec()
    files = [f"{folder}/{name}" for folder in EXPORTED_FOLDERS for name in ADAPTER_FILES]
    refuse_links(run.path, (*EXPORTED, "partial.json", *files))
    result = run.result() or read_json(run.file("partial.json"), {})
    revision = (result.get("revisions") or {}).get("student")
    if revision:  # the commit that the run read, whatever a branch has become
        spec = spec.with_changes({"student.revision": revision})
    folder = new_folder(out)
    with working() as progress:
        from paraknow_core.adapters.merging import write_merged
        from paraknow_core.context import Context
        from paraknow_core.settings import load_settings

        progress.stage("merging")
        settings = load_settings(context.obj, device="cpu", offline=offline or None)
        facts = write_merged(Context(spec, settings, context.obj, progress), run.path, result, folder, dtype)
    if json:
        show_json({"run": run.id, "folder": str(folder), **facts})
        return
    show(f"{out}: {run.id} as a whole model, {facts['dtype']}, {_size_text(facts['bytes'])}")
    if facts["rounding"]["max_abs"]:
        show(f"rounding to {facts['dtype']} changed a weight by up to {facts['rounding']['max_abs']:.2g}")
    show("README.md in it says what it is; give it as student.source or teacher.source, or load it with transformers")


def _refuse_active(run: "RunFolder") -> None:
    if run.status().active:
        raise RunError(f"run {run.id}: is still {run.status().state}; export it when it has ended")


def _find(context: typer.Context, run_id: str, *, folders: bool = False) -> "RunFolder":
    from paraknow_core.runs.folder import RunFolder, find_run

    if folders and (Path(run_id) / "spec.yaml").is_file():
        return RunFolder(Path(run_id).resolve())
    return find_run(context.obj, run_id)


def _size(path: Path) -> int:
    """Return the bytes of a file or of all files in a folder; links that lead nowhere have none."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file_stamp(file)[1] for file in files if not file.is_dir())


def _size_text(size: int) -> str:
    return memory(size) if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _when(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""
