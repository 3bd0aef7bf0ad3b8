"""Commands on studies: presets, arms, new, plan, run, list, show, stop, resume, delete, export, verdict, report."""

import json as json_module
import os
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from paraknow_core.catalogue import ARMS
from paraknow_core.cli.console import Progress, say, show, show_json, show_table, show_text, working
from paraknow_core.cli.options import Address, EngineOption, Json, engine_changes, give_up, with_settings
from paraknow_core.display import NOT_MEASURED, SHARE, counted, duration, memory, percent, significant
from paraknow_core.errors import ParaknowError, RunError, SpecError
from paraknow_core.files.atomic import build_file, write_atomic
from paraknow_core.files.yaml_file import load_yaml, read_text
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.labels import label_of, studies_of
from paraknow_core.settings import EngineName, Settings, flags_of, load_settings
from paraknow_core.spec import read_spec
from paraknow_core.studies.budgets import REAL_SIZES
from paraknow_core.studies.folder import StudyFolder, find_study, list_studies, refuse_other_files
from paraknow_core.studies.study import Cell, StudySpec, arms_of, groups_of, parse_study_yaml, spec_of
from paraknow_core.studies.words import size_text, unit_text

if TYPE_CHECKING:
    from paraknow_core.engines import Engine
    from paraknow_core.engines.choice import Choice
    from paraknow_core.runs.status import Status
    from paraknow_core.studies.outcome import Contrast, GroupOutcome, StudyOutcome

app = typer.Typer(help="Plan, run and judge studies: arms and factors, each with the same seeds; ids may be shortened.")

Id = Annotated[str, typer.Argument(metavar="ID|FOLDER", help="A study's id, its beginning, or its folder.")]
Executor = Literal["inline", "workers", EngineName]
STOPPED, FAILED = 130, 2
LOOK_S = 1.0  # between two questions to an engine why a run waits


@app.command()
def presets(json: Json = False) -> None:
    """List the studies that are there for the asking: every figure of the paper, every control."""
    from paraknow_core.studies.presets import PRESETS

    rows = [{"name": p.name, "title": p.title, "asks": p.asks, "figure": p.figure} for p in PRESETS.values()]
    if json:
        show_json(rows)
    else:
        show_table(("preset", "of the paper", "asks"), [(row["name"], row["figure"], row["asks"]) for row in rows])


@app.command()
def arms(json: Json = False) -> None:
    """List the arms of studies: whether each keeps the student at step 0, and whether its budget is equal."""
    rows = [
        {
            "name": row.name,
            "label": row.label,
            "keeps_student": row.keeps_student,
            "equal_budget": not row.budget_note,
            "budget_note": row.budget_note,
            "control_of": row.control_of,
            "text": row.text,
            "source": row.source,
        }
        for row in ARMS.values()
    ]
    if json:
        show_json(rows)
        return
    cells = [
        (
            row["name"],
            "yes" if row["keeps_student"] else "no",
            "equal" if row["equal_budget"] else row["budget_note"],
            row["control_of"],
            row["text"],
            row["source"],
        )
        for row in rows
    ]
    show_table(("arm", "keeps the student at step 0", "budget", "control of", "what it does", "source"), cells)


@app.command()
def new(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="`study presets` lists them.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key of the study or of its base run; once for each."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(metavar="SPEC.yaml", help="The base run (default: the bundled models).")
    ] = None,
    pocket: Annotated[bool, typer.Option("--pocket", help="The size that ends within minutes, on two cores.")] = False,
    json: Json = False,
) -> None:
    """Print the spec of a study: `study new PRESET > study.yaml`."""
    from paraknow_core.studies.presets import find_preset

    given = read_spec(base) if base else None
    study = find_preset(preset).make(given, "pocket" if pocket else "full", _changes(changes or []))
    show_json(study.model_dump(mode="json")) if json else show_text(study.to_yaml())


def _changes(pairs: list[str]) -> dict[str, Any]:
    """Return dotted keys and their values, read as YAML, from options such as `seeds=[0, 1]`."""
    changes: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise SpecError(f"--set: '{pair[:60]}' given; write KEY=VALUE, such as seeds=[0,1,2,3,4,5]")
        if key in changes:
            raise SpecError(f"--set: {key[:60]} is given twice; give each key once")
        changes[key] = load_yaml(value, f"--set {key[:60]}")
    return changes


@app.command()
def plan(
    context: typer.Context, target: Annotated[str, typer.Argument(metavar="STUDY.yaml|ID")], json: Json = False
) -> None:
    """Say what a study will take and what it will be able to see, without running anything."""
    from paraknow_core.engines.choice import as_started
    from paraknow_core.studies.preview import missing_cells, preview
    from paraknow_core.workbench.past_runs import estimate_runs

    study = _study_of(target, context.obj)
    seen = preview(study, context.obj, estimate_runs)
    settings = as_started(load_settings(context.obj), study=True)
    choice = choice_of(context.obj, missing_cells(study, context.obj), settings)
    if json:
        show_json({name: getattr(seen, name) for name in seen.__dataclass_fields__} | {"choice": asdict(choice)})
        return
    unit = study.unit
    rows = [
        ("runs", f"{seen.runs:,}, of which {seen.tuning_runs:,} choose learning rates"),
        *(("shared", text) for text in seen.shared),
        ("there already", f"{seen.already:,}"),
        ("time", duration(seen.seconds if choice.seconds is None else choice.seconds)),
        *([("how", choice.sentence)] if seen.already < seen.runs else []),
        ("disk", memory(seen.bytes)),
        ("smallest detectable effect", f"{_size(seen.smallest_detectable, unit)}, {seen.assumes}"),
        ("margin", f"{_size(study.margin, unit)}: a smaller difference does not matter"),
    ]
    show_table(("study", study.name), rows)
    show(*(f"warning: {text}" for text in seen.warnings))


def _size(value: float | None, unit: str | None) -> str:
    """Return the size of an effect: shares in points."""
    if value is None:
        return "none is large enough" if unit == SHARE else NOT_MEASURED
    return f"{size_text(value, unit)} {unit_text(unit)}".strip()


def _cannot_begin(place: Workspace, arguments: Mapping[str, Any], error: ParaknowError) -> None:
    """Let a study that was started in the background say why it does not go on: nobody reads what is printed there."""
    if not Path(arguments["target"]).expanduser().is_file():
        with suppress(ParaknowError):
            give_up(find_study(place, arguments["target"]), error)


@app.command()
@with_settings(refused=_cannot_begin)
def run(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="STUDY.yaml|ID|FOLDER", help="A study's spec, or a study.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The new study's folder.")] = None,
    engine: Annotated[
        Executor | None,
        typer.Option(help="Who executes its runs (default: settings file, auto); inline: this process."),
    ] = None,
    address: Address = None,
    *,
    settings: Settings,
    flags: dict[str, Any],
    json: Json = False,
) -> None:
    """Run a study, or go on with one; what is done already, by whatever study, is not computed again.

    Ctrl-C or SIGTERM saves and stops; the same command goes on. If a run fails, the next one still begins.
    """
    try:
        executor = executor_of(context.obj, settings, engine, engine_changes(context.obj, engine, address, flags))
        folder = _folder_of(target, context.obj, out)
        say(f"study {folder.id}: in {folder.path}")
        with working() as progress:
            run_study(folder, settings, progress, engine, executor)
    except ParaknowError as error:
        _cannot_begin(context.obj, {"target": target}, error)
        raise
    record = _record(folder)
    if json:
        show_json(record)
    else:
        failed = f", {counted(record['failed_runs'], 'run')} failed" if record["failed_runs"] else ""
        next_ = f"`study verdict {folder.id}` says what it found"
        next_ = f"`study resume {folder.id}` goes on" if record["state"] == "stopped" else next_
        show(f"{folder.id}: {record['state']}{failed}; {next_}")
    raise typer.Exit(STOPPED if record["state"] == "stopped" else FAILED if record["failed_runs"] else 0)


def executor_of(
    place: Workspace, settings: Settings, engine: str | None, changes: Mapping[str, Any]
) -> "Engine | None":
    """Return the engine that executes a study's runs outside its process; None where that process does.

    Args:
        place: the workspace.
        settings: of this machine.
        engine: as a flag names it; None: whom the settings name.
        changes: of the settings, for the engine and its runs, see `engine_of`.

    Raises:
        ParaknowError: it cannot be used, so that there had better be no study yet.
    """
    from paraknow_core.engines import ENGINES, engine_of
    from paraknow_core.engines.choice import elsewhere

    name = engine or settings.engine or "auto"
    cluster = elsewhere(settings.model_copy(update={"engine": name})) if name == "auto" else None
    name = cluster[0] if cluster else name
    if name not in ENGINES:
        return None
    executor = engine_of(place, name=name, **changes)
    executor.together()
    return executor


def run_study(
    folder: StudyFolder,
    settings: Settings,
    progress: Progress,
    engine: str | None = None,
    executor: "Engine | None" = None,
) -> None:
    """Run a study, drawing progress; see `conduct`.

    Args:
        folder: of the study.
        settings: of this machine.
        progress: where to draw.
        engine: who executes its runs; None: whom the settings name, else whom `choose` does.
        executor: from `executor_of`.
    """
    from paraknow_core.engines import holder_of
    from paraknow_core.engines.workers import WorkersEngine
    from paraknow_core.studies.conduct import conduct

    engine, workers = engine or settings.engine or "auto", 1
    pack = settings.pack or 1 if settings.processes == 1 else 1  # a run of several processes is trained alone
    if engine in ("auto", "workers"):
        open_ones = [cell.cell for cell in folder.cells() if cell.state != "done"]
        # Workers of this process are what the engine `local` means for `choose`.
        asked = settings.model_copy(update={"engine": "local" if engine == "workers" else engine})
        choice = choice_of(folder.place, open_ones, asked)
        workers, pack = choice.workers, max(map(len, choice.packs), default=1)
        if engine == "auto":
            engine = "workers" if workers > 1 else "inline"
            say(choice.sentence)
    if executor is None and engine == "inline":
        from paraknow_core import packs, pipeline
        from paraknow_core.cli.run import told
        from paraknow_core.engines.inline import InlineEngine

        executor = InlineEngine(
            folder.place,
            lambda run: pipeline.execute(run, folder.place, settings),
            lambda runs: told(runs, packs.execute_packed(runs, folder.place, settings, say=say)),
            pack,
        )
    elif executor is None:
        executor = WorkersEngine(folder.place, workers, settings.model_dump(mode="json", exclude_none=True))
    shown, looked, told = "", 0.0, {""}

    def holder(run: RunFolder) -> "Engine":
        return holder_of(folder.place, run)

    def standing_of(run: RunFolder) -> str:
        try:
            return (holder(run) if run.note() else executor).standing(run).message
        except ParaknowError as error:
            return str(error)

    def follow(label: str, run: str, status: "Status") -> None:
        nonlocal shown, looked
        if not shown:  # of several that go on, one is drawn until its end
            progress.label(label)
            shown = label
        if label == shown:
            progress.on_status(status)
            shown = label if status.active else ""
        if status.state in ("queued", "lost") and time.monotonic() - looked > LOOK_S:
            looked = time.monotonic()
            message = standing_of(RunFolder(folder.place.runs / run))
            if message not in told:  # what keeps it waiting, such as a cluster that does not answer
                told.add(message)
                say(message)
        if status.state == "failed":
            say(f"run {run}: {status.message}")

    try:
        conduct(folder, executor, follow, together=executor.together(), holder=holder)
    except KeyboardInterrupt:  # the second one: a run that computes in a thread would keep this process for long
        os._exit(STOPPED)
    finally:
        if isinstance(executor, WorkersEngine):
            executor.close()


def choice_of(place: Workspace, cells: Sequence[Cell], settings: Settings) -> "Choice":
    """Choose who executes the runs of some cells; those of equal cells are one."""
    from paraknow_core.engines.choice import choose
    from paraknow_core.studies.same import run_key
    from paraknow_core.workbench.past_runs import estimate_runs

    distinct = {run_key(cell.spec): cell.spec for cell in reversed(cells)}
    estimate = partial(estimate_runs, processes=settings.processes)
    return choose([*distinct.values()][::-1], place, settings, estimate)


def _folder_of(target: str, place: Workspace, out: Path | None) -> StudyFolder:
    path = Path(target).expanduser()
    if path.is_file():
        study = _study_of(target, place)
        refuse_missing_tasks(study)
        return StudyFolder.create(place, study, out.expanduser().resolve() if out else None)
    if out:
        raise RunError(f"--out: only for a study's spec, and {target} is none; leave it out to go on with a study")
    _refuse_missing(target)
    return find_study(place, target)


def refuse_missing_tasks(study: StudySpec) -> None:
    """Refuse a study before it begins if one of its tasks is not on this machine: all of its runs would fail.

    Raises:
        DataError: a task cannot be read. Those of a hub are left to the runs.
    """
    specs = [spec_of(study, group, study.seeds[0]) for group in groups_of(study)]
    for spec in {spec.task.model_dump_json(): spec for spec in specs}.values():
        if not spec.task.source.startswith("hub:"):
            REAL_SIZES.test(spec)


def _study_of(target: str, place: Workspace) -> StudySpec:
    path = Path(target).expanduser()
    if path.is_file():
        return parse_study_yaml(read_text(path), path.name)
    _refuse_missing(target)
    return find_study(place, target).spec()


def _refuse_missing(target: str) -> None:
    if target.endswith((".yaml", ".yml", ".json")):
        raise RunError(f"{target}: there is no such file; `study new PRESET > study.yaml` writes one")


@app.command("list")
def list_(context: typer.Context, json: Json = False) -> None:
    """List studies, newest first."""
    records = [_record(folder) for folder in list_studies(context.obj)]
    if json:
        show_json(records)
    elif not records:
        show("no studies yet; `study presets` lists what there is, `study run STUDY.yaml` runs one")
    else:
        show_table(
            ("id", "name", "state", "done", "failed", "stage", "started"),
            [
                (
                    r["id"],
                    r["name"],
                    r["state"],
                    f"{r['runs'].get('done', 0)} of {sum(r['runs'].values())}",
                    r["failed_runs"] or "",
                    r["stage"],
                    time.strftime("%Y-%m-%d %H:%M", time.localtime(r["started"])) if r["started"] else "",
                )
                for r in records
            ],
        )


def _record(folder: StudyFolder) -> dict[str, Any]:
    """Return what is shown of a study in a list; one whose spec is damaged says so."""
    status = folder.status()
    record: dict[str, Any] = {
        "id": folder.id,
        "folder": str(folder.path),
        "name": folder.id,
        "preset": "",
        "state": status.state,
        "stage": status.stage,
        "message": status.message,
        "started": status.started or None,
        "ended": status.ended or None,
        "runs": {},
        "failed_runs": 0,
    }
    try:
        study, cells = folder.spec(), folder.cells()
    except ParaknowError as error:
        return record | {"state": "failed", "message": str(error)}
    states = {cell.run.id if cell.run else cell.cell.key: cell.state for cell in cells}
    counts = dict(Counter(states.values()))
    return record | {"name": study.name, "preset": study.preset, "runs": counts, "failed_runs": counts.get("failed", 0)}


@app.command("show")
def show_study(context: typer.Context, study_id: Id, json: Json = False) -> None:
    """Show one study: what it asks, its state, the rates that were chosen, and the state of every run."""
    from paraknow_core.studies.outcome import outcome

    folder = find_study(context.obj, study_id)
    record, found = _record(folder), outcome(folder)
    if json:
        show_json(record | {"outcome": found.data()})
        return
    study = found.study
    show(f"{folder.id}: {', '.join(filter(None, (record['state'], record['stage'])))}", f"name: {study.name}")
    show(*([f"asks: {study.question}"] if study.question else []), f"folder: {folder.path}")
    show(*([f"message: {record['message']}"] if record["message"] else []))
    if found.curves:
        rows = [
            (key, significant(curve.chosen), curve.edge, ", ".join(_rate_text(point) for point in curve))
            for key, curve in found.curves.items()
        ]
        show_table(("group", "learning rate", "at the edge", "validation loss by rate"), rows)
    columns = ("group", *(f"seed {seed}" for seed in study.seeds))
    show_table(columns, [(g.label, *(g.states.get(seed) for seed in study.seeds)) for g in found.groups])
    show(*(f"warning: {text}" for text in found.warnings))


def _rate_text(point: Any) -> str:
    what = "diverged" if point.diverged else "failed" if point.failed else significant(point.loss, 4)
    return f"{significant(point.rate)}: {what}"


@app.command()
def stop(context: typer.Context, study_id: Id) -> None:
    """Ask a study to save its active runs and stop; where its process is gone, those that go on without it."""
    from paraknow_core.engines import holder_of

    folder = find_study(context.obj, study_id)
    going = [] if folder.status().active else _going(folder)
    if going:
        for run in going:
            try:
                holder_of(context.obj, run).stop(run)
            except ParaknowError as error:  # the request lies in its folder; the others are asked all the same
                say(str(error))
        asked = f"{counted(len(going), 'run')} asked to save and stop"
        show(f"{folder.id}: {asked}; `study resume {folder.id}` goes on later")
        return
    lifecycle.ask_to_stop(folder)
    show(f"{folder.id}: asked to save and stop; `study resume {folder.id}` goes on later")


@app.command()
@with_settings()
def resume(
    context: typer.Context,
    study_id: Id,
    engine: EngineOption = None,
    address: Address = None,
    *,
    settings: Settings,  # noqa: ARG001 - what is not valid was refused
    flags: dict[str, Any],
) -> None:
    """Go on with a stopped, failed or lost study in the background; runs that failed are tried again."""
    from paraknow_core.engines import engine_of
    from paraknow_core.studies.conduct import launch

    folder = find_study(context.obj, study_id)
    folder.spec()  # a folder without a valid spec is refused here, not in the background
    engine_of(context.obj, name=engine, **engine_changes(context.obj, engine, address, flags))  # refused here as well
    options = {"--engine": engine, "--address": address}
    launch(folder, *(part for option, value in options.items() if value for part in (option, value)), *flags_of(flags))
    show(f"{folder.id}: goes on as process {folder.process().get('pid')}; `study show {folder.id}` follows it")


@app.command()
def delete(
    context: typer.Context,
    study_ids: Annotated[list[str], typer.Argument(metavar="ID...")],
    runs: Annotated[bool, typer.Option("--runs", help="Also its runs, unless starred or of another study.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete studies that have ended; their runs stay, without --runs."""
    chosen = {folder.id: folder for folder in (find_study(context.obj, name) for name in study_ids)}
    for folder in chosen.values():
        if folder.status().active and folder.claimed:
            raise RunError(f"study {folder.id}: is still {folder.state()}; stop it before deleting it")
        refuse_other_files(folder)
    if not yes:
        if not sys.stdin.isatty():
            raise RunError(f"study delete: would delete {', '.join(chosen)}; add --yes to do it without asking")
        typer.confirm(f"delete {', '.join(chosen)}?", abort=True, err=True)
    for folder in chosen.values():
        own = _own_runs(folder) if runs else []
        lifecycle.delete(folder)
        for run in own:
            lifecycle.delete(run)
        show(f"{folder.id}: deleted, {counted(len(own), 'run')} of it, too" if runs else f"{folder.id}: deleted")


def _going(folder: StudyFolder) -> list[RunFolder]:
    """Return the runs of a study that wait, or go on and were not asked to stop yet."""
    runs = {cell.run.id: cell.run for cell in folder.cells() if cell.run is not None}.values()
    return [run for run in runs if run.claimed and run.status().state in ("queued", "running")]


def _own_runs(folder: StudyFolder) -> list[Any]:
    runs = {cell.run.id: cell.run for cell in folder.cells() if cell.run is not None}.values()
    kept = [run for run in runs if studies_of(run.path) != [folder.path.name] or label_of(run.path).starred]
    return [run for run in runs if run not in kept and not run.status().active]


@app.command()
def verdict(context: typer.Context, study_id: Id, json: Json = False) -> None:
    """Say of every arm whether it is better, worse, equivalent or undecided, and where a gain comes from."""
    from paraknow_core.studies.outcome import outcome

    found = outcome(find_study(context.obj, study_id))
    if json:
        show_json(found.data())
        return
    against = next(group for group in found.groups if group.arm == found.study.against)
    label = next(arm.label for arm in arms_of(found.study) if arm.name == found.study.against)
    by_runs: dict[tuple, list[GroupOutcome]] = {}  # an arm that does not read a factor is the same runs at all points
    for group in found.groups:
        by_runs.setdefault((group.arm, tuple(group.runs.values()) or group.key), []).append(group)
    labels = {arm.name: arm.label for arm in arms_of(found.study)}
    rows = [
        _verdict_row(same[0], against.arm, same[0].label if len(same) == 1 else labels[same[0].arm])
        for same in by_runs.values()
    ]
    columns = ("group", "score", "95 % interval", "rate", f"against {label}", "keeps student", "budget")
    show_table(columns, rows, f"{found.study.name}: {found.state}", right=columns[1:4])
    for factor in dict.fromkeys(contrast.factor for contrast in found.contrasts):
        _print_contrasts([contrast for contrast in found.contrasts if contrast.factor == factor])
    rest = [
        f"untouched {name}: {percent(score['value']) if score['unit'] == SHARE else significant(score['value'])}"
        for name, score in found.references.items()
    ]
    if found.spread:
        sd, df = found.spread
        unit = against.unit or SHARE
        rest.append(f"spread of seeds: {_size(sd, unit)}, pooled over the study, {df} degrees of freedom")
    rest += [one.paragraph for one in found.attribution]
    show(*rest, *(f"warning: {text}" for text in found.warnings))


def _print_contrasts(contrasts: "list[Contrast]") -> None:
    from paraknow_core.studies.words import factor_text, verdict_line

    rows = [(c.label, verdict_line(c.verdict, c.unit), c.note or "equal") for c in contrasts]
    title = f"by {factor_text(contrasts[0].factor)}"
    show_table(("value, arm", f"against {contrasts[0].against_label}", "budget"), rows, title)


def _verdict_row(group: "GroupOutcome", against: str, label: str) -> tuple:
    from paraknow_core.studies.words import verdict_line

    number = percent if group.unit == SHARE else significant
    interval = NOT_MEASURED if group.low is None else f"{number(group.low)} to {number(group.high)}"
    line = "" if group.arm == against else group.vacuous or NOT_MEASURED
    if group.verdict is not None:
        line = verdict_line(group.verdict, group.verdict_unit)
    return (
        label,
        number(group.value),
        interval,
        f"{significant(group.rate)}{' (edge)' if group.rate_at_edge else ''}",
        line,
        "yes" if group.keeps_student else "no",
        "equal" if group.equal else group.note,
    )


@app.command()
def report(
    context: typer.Context,
    study_id: Id,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="A new file (default ID.html here).")] = None,
    json: Json = False,
) -> None:
    """Write one self-contained HTML page: charts, verdicts, methods, limits."""
    folder, found = _outcome_of(context.obj, study_id)
    file = _new_file(out or Path(f"{folder.id}.html"))
    write_atomic(file, _report_html(found))
    show_json({"study": folder.id, "file": str(file)}) if json else show(f"{file}: the report of {folder.id}")


def _outcome_of(place: Workspace, study_id: str) -> "tuple[StudyFolder, StudyOutcome]":
    from paraknow_core.studies.outcome import outcome

    folder = find_study(place, study_id)
    return folder, outcome(folder)


def _report_html(found: "StudyOutcome") -> str:
    from paraknow_core.figures.report import report_html

    return report_html(found)


@app.command()
def export(
    context: typer.Context,
    study_id: Id,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="A new file (default ID.zip here).")] = None,
    json: Json = False,
) -> None:
    """Pack a study into one file to pass on: its spec, outcome, records of every example, methods, report."""
    from paraknow_core.studies.report import methods_text, records_parquet

    folder, found = _outcome_of(context.obj, study_id)
    file = _new_file(out or Path(f"{folder.id}.zip"))
    texts = {
        "study.yaml": found.study.to_yaml(),
        "outcome.json": json_module.dumps(found.data(), indent=1, ensure_ascii=False, allow_nan=False),
        "methods.txt": methods_text(found),
        "report.html": _report_html(found),
    }
    contents = {**texts, "records.parquet": records_parquet(folder)}
    with build_file(file) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in contents.items():
            packed.writestr(f"{folder.id}/{name}", content)
    if json:
        show_json({"study": folder.id, "file": str(file), "bytes": file.stat().st_size, "files": list(contents)})
    else:
        show(f"{file}: {', '.join(contents)} of {folder.id}")


def _new_file(file: Path) -> Path:
    if file.exists() or file.is_symlink():
        raise RunError(f"--out: {file} exists already; choose another name")
    if not file.parent.is_dir():
        raise RunError(f"--out: there is no folder {file.parent}; make it, or choose another")
    return file
