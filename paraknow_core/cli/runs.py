"""Commands on runs: list, show, label, submit, stop, resume, delete, export."""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from paraknow_core.cli.console import say, show, show_json, show_table, working
from paraknow_core.cli.options import Address, EngineOption, Json, Offline, engine_changes, new_folder, with_settings
from paraknow_core.cli.run import folder_of
from paraknow_core.display import NOT_MEASURED, counted, duration, memory, outcome_text, score_text, significant
from paraknow_core.engines import engine_of, holder_of
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files.atomic import build_file
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.json_file import read_json
from paraknow_core.files.packing import ADAPTER_FILES, pack, refuse_links
from paraknow_core.files.remember import one_look
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder, find_run, list_runs
from paraknow_core.runs.labels import label_of, set_label, studies_of
from paraknow_core.runs.status import State, Status
from paraknow_core.runs.table import flat_settings
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.studies.folder import find_study

app = typer.Typer(help="List, show, label, submit, stop, resume, delete and export runs; an id may be shortened.")

NEWEST = 500  # runs of a list that does not ask for all
Id = Annotated[str, typer.Argument(metavar="ID", help="A run's id or its beginning.")]


@app.command("list")
@one_look()
def list_(
    context: typer.Context,
    state: Annotated[State | None, typer.Option(help="Only runs in this state.")] = None,
    study: Annotated[str | None, typer.Option(metavar="ID", help="Only runs of this study.")] = None,
    every: Annotated[bool, typer.Option("--all", help=f"As many as there are, not the newest {NEWEST} alone.")] = False,
    json: Json = False,
) -> None:
    """List runs, newest first; as JSON always all."""
    runs, names = list_runs(context.obj), _names(context.obj)
    if study:
        own = find_study(context.obj, study).path.name
        runs = [run for run in runs if own in studies_of(run.path)]
    short = not every and not json
    records = [_record(run, context.obj, names) for run in (runs[:NEWEST] if short and not state else runs)]
    if state:
        records = [record for record in records if record["state"] == state]
    there = len(records) if state else len(runs)
    records = records[:NEWEST] if short else records
    if json:
        show_json(records)
        return
    if not records:
        which = f"{f' in state {state}' if state else ''}{' of this study' if study else ''}"
        show(f"no runs{which} yet; `run SPEC.yaml` or `demo` makes some")
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
                r["outcome"] or None,
                time.strftime("%Y-%m-%d %H:%M", time.localtime(r["started"])) if r["started"] else "",
            )
            for r in records
        ],
    )
    if there > len(records):
        show(f"the newest {len(records)} of {there:,}; `--all` lists every one, and so does `--json`")


def _names(place: Workspace) -> dict[str, str]:
    """Return what every run of the workspace is called."""
    from paraknow_core.studies.names import Named, run_names

    named = []
    for run in list_runs(place):
        try:
            spec = run.spec()
        except ParaknowError:
            spec = None
        named.append(Named(run.id, spec, label_of(run.path).name))
    return run_names(named)


def _status_at(run: RunFolder, place: Workspace) -> tuple[Status, str]:
    """Return what a run is doing and its message; one that an engine holds is asked about there first."""
    status = run.status()
    if (status.active or status.state == "lost") and run.note():
        try:
            standing = holder_of(place, run).standing(run)
        except ParaknowError as error:
            return status, str(error)
        status = run.status()
        return status, status.message or standing.message or (f"on {standing.where}" if standing.where else "")
    return status, status.message


def _record(run: RunFolder, place: Workspace, names: dict[str, str]) -> dict[str, Any]:
    status, message = _status_at(run, place)
    label = label_of(run.path)
    result = run.result() or {}
    record: dict[str, Any] = {
        "id": run.id,
        "name": names.get(run.id, run.id),
        "note": label.note,
        "starred": label.starred,
        "studies": studies_of(run.path),
        "state": status.state,
        "active": status.active,
        "stage": status.stage,
        "progress": status.fraction,
        "message": message,
        "started": status.started or None,
        "ended": status.ended or None,
        "score": (result.get("scores") or [None])[0],
        "outcome": outcome_text(result),
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
    run = find_run(context.obj, run_id)
    result, damage = run.read_result()
    spec, record = run.spec(), _record(run, context.obj, _names(context.obj))
    changes = changed_settings(spec.model_dump(mode="json"))
    files = {path.name: _size(path) for path in sorted(run.path.iterdir()) if path.name != "lock"}
    if json:
        more = {"folder": str(run.path), "changes": changes, "spec": spec.model_dump(mode="json"), "result": result}
        show_json(record | more | {"files": files})
        return
    show(f"{run.id}: {', '.join(filter(None, (record['state'], record['stage'])))}")
    show(f"name: {'★ ' if record['starred'] else ''}{record['name']}", f"folder: {run.path}")
    show(*(f"note: {line}" for line in record["note"].splitlines()))
    if record["message"] or damage:
        show(f"message: {damage or record['message']}")
    show_table(("changed setting", "value", "default"), [(key, new, old) for key, (new, old) in changes.items()])
    if result:
        references = {f"untouched {name}": scores for name, scores in result.get("references", {}).items()}
        scored = {"this run": result.get("scores", []), **references}
        rows = [(who, s["scorer"], score_text(s)) for who, scores in scored.items() for s in scores]
        show_table(("scored", "scorer", "score (± half the 95 % interval)"), rows)
        timings = ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in result.get("timings", {}).items())
        show(f"time: {timings}", f"peak memory: {memory(result.get('peak_memory_bytes'))}")
        show(*(f"warning: {warning}" for warning in result.get("warnings", [])))
    show("files: " + ", ".join(f"{name} ({_size_text(size)})" for name, size in files.items()))


def changed_settings(spec: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (value, default) of every setting that is not at its default."""
    values, defaults = flat_settings(spec), flat_settings(RunSpec().model_dump(mode="json"))
    pairs = {key: (values.get(key), defaults.get(key)) for key in defaults | values}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


@app.command()
def label(
    context: typer.Context,
    run_id: Id,
    name: Annotated[str | None, typer.Option(help="What it is called; empty: named by its settings again.")] = None,
    note: Annotated[str | None, typer.Option(help="What there is to remember; empty takes it away.")] = None,
    star: Annotated[bool | None, typer.Option("--star/--no-star", help="Mark it, or take the mark away.")] = None,
) -> None:
    """Give a run a name, a note or a star; without an option, print them. Its spec stays as it is."""
    run = find_run(context.obj, run_id)
    new = set_label(run.path, name=name, note=note, starred=star)
    show(f"{run.id}: {'★ ' if new.starred else ''}{_names(context.obj).get(run.id, new.name or run.id)}")
    show(*new.note.splitlines())


@app.command()
def stop(
    context: typer.Context,
    run_id: Id,
    grace: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="S",
            help="End the process if it has not stopped after S seconds, unless other runs go on in it.",
        ),
    ] = None,
) -> None:
    """Ask a run to save and stop."""
    run = find_run(context.obj, run_id)
    holder_of(context.obj, run).stop(run, grace)
    status = run.status()
    reached = status.state if grace is not None or not status.active else "asked to save and stop"
    show(f"{run.id}: {reached}; `runs resume {run.id}` goes on later")


@app.command()
@with_settings()
def resume(
    context: typer.Context,
    run_id: Id,
    engine: EngineOption = None,
    address: Address = None,
    *,
    settings: Settings,  # noqa: ARG001 - what is not valid was refused
    flags: dict[str, Any],
) -> None:
    """Go on with a stopped, failed or lost run in the background."""
    run = find_run(context.obj, run_id)
    if run.status().state == "done":
        raise RunError(f"run {run.id}: is done; there is nothing to resume")
    run.spec()  # a folder without a valid spec is refused here, not in the background
    changes = engine_changes(context.obj, engine, address, flags)
    engine_of(context.obj, otherwise="local", name=engine, **changes).submit(run)
    process = run.process()
    how = f"goes on as process {process['pid']}" if process else "waits for its turn"
    show(f"{run.id}: {how}; `runs show {run.id}` follows it")


@app.command()
@with_settings()
def submit(
    context: typer.Context,
    targets: Annotated[list[str], typer.Argument(metavar="SPEC.yaml|FOLDER...", help="Specs, or run folders.")],
    engine: EngineOption = None,
    address: Address = None,
    *,
    settings: Settings,  # noqa: ARG001 - what is not valid is refused here, not by each run
    flags: dict[str, Any],
    json: Json = False,
) -> None:
    """Have runs executed in the background, in this order, and print their ids at once."""
    place = context.obj
    changes = engine_changes(place, engine, address, flags)
    executor = engine_of(place, otherwise="local", name=engine, **changes)  # refused before there is a folder
    new: list[RunFolder] = []
    try:
        runs = []
        for target in targets:
            run = folder_of(target, place, None)
            new += [run] if Path(target).expanduser().is_file() else []
            if run.status().state == "done":
                raise RunError(f"run {run.id}: is done; give its spec to compute it again")
            run.spec()
            runs.append(run)
        executor.submit(*runs)
    except (ParaknowError, OSError):
        for run in new:  # nobody would ever start them
            with suppress(ParaknowError, OSError):
                lifecycle.delete(run)
        raise
    if json:
        show_json([{"id": run.id, "folder": str(run.path)} for run in runs])
    else:
        show(*(run.id for run in runs))


@app.command()
@with_settings("device", "dtype", "threads", "offline")
def causal(
    context: typer.Context,
    run_id: Id,
    by: Annotated[Literal["layer", "module"], typer.Option(help="What is edited at once.")] = "layer",
    examples: Annotated[int, typer.Option(min=2, help="How many of the test split, from the first on.")] = 200,
    *,
    settings: Settings,
    json: Json = False,
) -> None:
    """Swap what a run put into each layer for its random twin and test again: does sensitivity predict the cost?"""
    from paraknow_core.context import Context
    from paraknow_core.training.causal import causal_check
    from paraknow_core.workbench.views.lens import effects_in_words, with_effects

    run = find_run(context.obj, run_id)
    with working() as progress:
        answer = causal_check(Context(run.spec(), settings, context.obj, progress), run, by=by, examples=examples)
    if json:
        show_json(answer)
        return
    answer = with_effects(answer)

    def effect(unit: dict[str, Any], name: str) -> str:
        low, high = unit[f"{name}_low"], unit[f"{name}_high"]
        return f"{unit[name]:+.4f} ({low:+.4f} to {high:+.4f})"

    scored = any("twin_score" in unit for unit in answer["units"])
    show_table(
        (by, "sensitivity", "twin [nats]", "without [nats]", *((f"twin [{answer['scorer']}]",) if scored else ())),
        [
            (
                unit["name"],
                NOT_MEASURED if unit["sensitivity"] is None else significant(unit["sensitivity"]),
                effect(unit, "twin_nats"),
                effect(unit, "without_nats"),
                *((effect(unit, "twin_score"),) if scored else ()),
            )
            for unit in answer["units"]
        ],
        f"{run.id}: what each edit costs on {answer['examples']} test examples (positive: worse)",
    )
    show(effects_in_words(answer))


@app.command()
def delete(
    context: typer.Context,
    run_ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete runs that have ended, with everything in their folders."""
    chosen = {run.id: run for run in (find_run(context.obj, name) for name in run_ids)}
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
    is_folder = (Path(run_id) / "spec.yaml").is_file()
    run = RunFolder(Path(run_id).resolve()) if is_folder else find_run(context.obj, run_id)
    if merged:
        _export_merged(context, run, out or Path(f"{run.id}-merged"), dtype, offline, json)
        return
    if dtype:
        raise RunError(f"--dtype: {dtype} given; only whole models are stored in one; add --merged, or leave it out")
    _export_zip(run, out or Path(f"{run.id}.zip"), json)


# Left out: status.json, process.json and log.txt name this machine; checkpoints are large and only good for resuming.
EXPORTED = (
    *("spec.yaml", "label.json", "result.json", "events.jsonl"),
    *("predictions.jsonl", "extraction.json", "sensitivity.json"),
    *(f"{folder}/{name}" for folder in ("init_adapter", "adapter") for name in ADAPTER_FILES),
)


def _export_zip(run: RunFolder, file: Path, json: bool) -> None:
    """Write the portable part of a run folder as a zip file: complete, or not at all."""
    _refuse_active(run)
    if file.exists() or file.is_symlink():
        raise RunError(f"--out: {file} exists already; choose another name")
    if not file.parent.is_dir():
        raise RunError(f"--out: there is no folder {file.parent}; make it, or choose another")
    with build_file(file) as target:
        names, left_out = pack(run.path, EXPORTED, target, run.id, compress=True)
    size = file.stat().st_size
    if json:
        show_json({"run": run.id, "file": str(file), "bytes": size, "files": names, "left_out": left_out})
    else:
        show(f"{file}: {counted(len(names), 'file')} of {run.id}, {_size_text(size)}")
    if left_out:
        say(f"left out, because they are links or lie behind one: {', '.join(left_out)}")


def _export_merged(
    context: typer.Context, run: RunFolder, out: Path, dtype: str | None, offline: bool, json: bool
) -> None:
    _refuse_active(run)
    spec = run.spec()
    refuse_links(run.path, (*EXPORTED, "partial.json"))
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


def _refuse_active(run: RunFolder) -> None:
    if run.status().active:
        raise RunError(f"run {run.id}: is still {run.status().state}; export it when it has ended")


def _size(path: Path) -> int:
    """Return the bytes of a file or of all files in a folder; links that lead nowhere have none."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file_stamp(file)[1] for file in files if not file.is_dir())


def _size_text(size: int) -> str:
    return memory(size) if size >= 1e6 else f"{size / 1e3:.1f} kB"
