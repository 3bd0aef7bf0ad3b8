"""Commands on studies: presets, new, plan, run, list, show, stop, resume, delete, export, verdict, report, arms."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from paraknow_core.cli.console import Progress, say, show, show_json, working
from paraknow_core.cli.options import Json, with_settings
from paraknow_core.errors import RunError
from paraknow_core.files.yaml_file import read_text
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.studies.conduct import conduct
from paraknow_core.studies.folder import StudyFolder, find_study
from paraknow_core.studies.study import parse_study_yaml

app = typer.Typer(help="Plan, run and judge studies: arms and factors, each with the same seeds; ids may be shortened.")

Id = Annotated[str, typer.Argument(metavar="ID|FOLDER", help="A study's id, its beginning, or its folder.")]
STOPPED, FAILED = 130, 2


@app.command()
@with_settings()
def run(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="STUDY.yaml|ID|FOLDER", help="A study's spec, or a study.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The new study's folder.")] = None,
    engine: Annotated[
        Literal["inline", "queue", "local"],
        typer.Option(help="Who executes its runs: this process, the queue, or a process for each."),
    ] = "inline",
    *,
    settings: Settings,
    json: Json = False,
) -> None:
    """Run a study, or go on with one; what is done already, by whatever study, is not computed again.

    Ctrl-C or SIGTERM saves and stops; the same command goes on. If a run fails, the next one still begins.
    """
    folder = _folder_of(target, context.obj, out)
    say(f"study {folder.id}: in {folder.path}")
    with working() as progress:
        run_study(folder, settings, progress, engine)
    record = _record(folder)
    if json:
        show_json(record)
    else:
        show(f"{folder.id}: {record['state']}; `study verdict {folder.id}` says what it found")
    failed = record["failed_runs"]
    raise typer.Exit(STOPPED if record["state"] == "stopped" else FAILED if failed else 0)


def run_study(
    folder: StudyFolder, settings: Settings, progress: Progress, engine: Literal["inline", "queue", "local"] = "inline"
) -> None:
    """Run a study with this engine, drawing progress; see `conduct`."""
    from paraknow_core.engines import ENGINES
    from paraknow_core.engines.inline import InlineEngine

    if engine == "inline":
        from paraknow_core.pipeline import execute

        executor = InlineEngine(folder.place, lambda run: execute(run, folder.place, settings))
    else:
        executor = ENGINES[engine](folder.place)
    shown = ""

    def follow(label: str, status: Any) -> None:
        nonlocal shown
        if label != shown:
            progress.label(label)
            shown = label
        progress.on_status(status)

    try:
        conduct(folder, executor, follow, together=1 if engine == "inline" else settings.workers)
    except KeyboardInterrupt:  # the second one: a run that computes in a thread would keep this process for long
        os._exit(STOPPED)


def _folder_of(target: str, place: Workspace, out: Path | None) -> StudyFolder:
    path = Path(target).expanduser()
    if path.is_file():
        study = parse_study_yaml(read_text(path), path.name)
        return StudyFolder.create(place, study, out.expanduser().resolve() if out else None)
    if out:
        raise RunError(f"--out: only for a study's spec, and {target} is none; leave it out to go on with a study")
    if target.endswith((".yaml", ".yml", ".json")):
        raise RunError(f"{target}: there is no such file; `study new PRESET > study.yaml` writes one")
    return find_study(place, target)


def _record(folder: StudyFolder) -> dict[str, Any]:
    cells = folder.cells()
    counts: dict[str, int] = {}
    for name, state in {cell.run.id if cell.run else cell.cell.key: cell.state for cell in cells}.items():
        del name
        counts[state] = counts.get(state, 0) + 1
    status = folder.status()
    return {
        "id": folder.id,
        "folder": str(folder.path),
        "state": status.state,
        "phase": status.stage,
        "message": status.message,
        "runs": counts,
        "failed_runs": counts.get("failed", 0),
    }
