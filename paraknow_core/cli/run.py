"""The command that executes runs in this process: people type it, and engines start it."""

import contextlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from paraknow_core.cli import options
from paraknow_core.cli.console import Progress, say, show, show_json, working
from paraknow_core.cli.options import Json, with_settings
from paraknow_core.display import duration, score_text
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files.disk import disk_trouble
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder, find_run
from paraknow_core.runs.lifecycle import claim, create_run, give_up, is_own
from paraknow_core.runs.processes import this_process
from paraknow_core.runs.status import Status
from paraknow_core.runs.writer import StopRequested
from paraknow_core.settings import Settings, load_settings
from paraknow_core.spec import read_spec

STOPPED, BROKEN, REFUSED = 130, 1, 2


def _cannot_begin(_place: Workspace, arguments: Mapping[str, Any], error: ParaknowError) -> None:
    """Let run folders say why they were not computed: whoever has started this process reads nothing else."""
    for path in map(Path, arguments["targets"]):
        if (path / "spec.yaml").is_file():
            options.give_up(RunFolder(path.resolve()), error)


@with_settings(refused=_cannot_begin)
def run(
    context: typer.Context,
    targets: Annotated[list[str], typer.Argument(metavar="SPEC.yaml|FOLDER...", help="A spec, or run folders.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The new run's folder instead of runs/<id>.")] = None,
    packed: Annotated[
        bool, typer.Option("--packed", help="Train the runs in one pass, where that is faster; all else in turn.")
    ] = False,
    even_if_slower: Annotated[
        bool, typer.Option("--even-if-slower", help="With --packed: in one pass in any case.")
    ] = False,
    *,
    settings: Settings,
    json: Json = False,
) -> None:
    """Compute a spec in a new run folder, or go on with existing run folders, one after the other.

    Ctrl-C or SIGTERM saves and stops; a second Ctrl-C ends at once. If a run fails, the next one still begins.
    """
    if even_if_slower and not packed:
        raise RunError("--even-if-slower: says how to train in one pass; add --packed, or leave it out")
    if out and len(targets) > 1:
        raise RunError(f"--out: {len(targets)} runs given, and one folder; give one spec with --out")
    folders = [folder_of(target, context.obj, out) for target in targets]
    with working() as progress:
        if packed and len(folders) > 1:
            outcomes = execute_together(folders, context.obj, settings, progress, only_if_faster=not even_if_slower)
        else:
            outcomes = execute_all(folders, context.obj, settings, progress)
    records = [_record(folder) for folder in folders]
    if json:
        show_json(records if len(records) > 1 else records[0])
    else:
        for record in records:
            show(*_lines(record))
    worst = next((code for code in (BROKEN, REFUSED, STOPPED) if code in outcomes), 0)
    raise typer.Exit(worst)


def folder_of(target: str, place: Workspace, out: Path | None) -> RunFolder:
    """Return the run that a target names: a new one of a spec, else the one of a folder or an id.

    Raises:
        RunError: there is none; SpecError: the spec is not valid.
    """
    path = Path(target).expanduser()
    if path.is_file():
        return create_run(place, read_spec(path), out.expanduser().resolve() if out else None)
    if out:
        raise RunError(f"--out: only for a spec file, and {target} is none; leave it out to go on with a run")
    if path.is_dir():
        if not (path / "spec.yaml").is_file():
            raise RunError(f"{target}: holds no spec.yaml, so it is no run folder; give a spec file or a run folder")
        return RunFolder(path.resolve())
    if os.sep in target or target.endswith((".yaml", ".yml", ".json")):
        raise RunError(f"{target}: there is no such file or folder; `spec show > spec.yaml` writes one")
    return find_run(place, target)


def execute_all(folders: list[RunFolder], place: Workspace, settings: Settings, progress: Progress) -> list[int]:
    """Execute run folders in order; after a failure the next one is executed, after Ctrl-C none.

    Returns:
        One exit code for each run that was tried.
    """
    outcomes: list[int] = []
    _claim(folders)
    try:
        for number, folder in enumerate(folders, 1):
            if len(folders) > 1:
                progress.label(f"run {number} of {len(folders)}, {folder.id}")
            watch = _Watch(folder, progress)
            outcomes.append(_execute(folder, place, settings, watch))
            progress.close()
            if outcomes[-1] == STOPPED and not watch.asked_by_file:
                break  # this process itself was told to stop
    finally:
        _give_up(folders, StopRequested())
    return outcomes


def work(
    context: typer.Context, tied: Annotated[bool, typer.Option("--tied", help="End with the parent process.")] = False
) -> None:
    """Be a warm worker: execute one run folder after the other for the process that has started this one."""
    from paraknow_core.engines import workers

    def execute(folders: Sequence[RunFolder], flags: Mapping[str, Any]) -> bool:
        try:
            settings = load_settings(context.obj, **flags)
        except ParaknowError as error:
            say(str(error))
            for folder in folders:
                give_up(folder, error)
            return True
        with working() as progress:
            if len(folders) > 1:
                outcomes = execute_together(folders, context.obj, settings, progress, claimed=True)
            else:
                outcomes = [_execute(folders[0], context.obj, settings, _Watch(folders[0], progress))]
        for folder in folders:
            show(*_lines(_record(folder)))
        return BROKEN not in outcomes

    workers.work(execute, tied=tied)


def _claim(folders: list[RunFolder]) -> None:
    """Name this process in the queued runs, so that readers see them as lost if it is killed before it begins them."""
    for folder in folders:
        status = folder.status()
        if status.state == "queued":
            try:
                claim(folder, this_process(), status.attempt)
            except OSError as error:
                if disk_trouble(error) is None:
                    raise
                return  # the run itself will say that the disk is full


def _give_up(folders: Sequence[RunFolder], reason: Exception) -> None:
    """End what this process was to execute and has not begun; what was submitted again meanwhile is another one's."""
    for folder in folders:
        if is_own(folder):
            give_up(folder, reason)


class _Watch:
    """Passes a run's status on, and notes whether the stop file, not a signal, stopped it."""

    def __init__(self, folder: RunFolder, progress: Progress) -> None:
        self.folder, self.progress, self.asked_by_file = folder, progress, False

    def __call__(self, status: Status) -> None:
        if status.state in ("stopping", "stopped"):
            self.asked_by_file = self.asked_by_file or self.folder.file("stop").exists()
        self.progress.on_status(status)


def execute_together(
    folders: Sequence[RunFolder],
    place: Workspace,
    settings: Settings,
    progress: Progress,
    *,
    only_if_faster: bool = True,
    claimed: bool = False,
) -> list[int]:
    """Execute run folders in one pass (see `packs`); returns one exit code for each that was not done already.

    Args:
        folders, place, settings, only_if_faster: as `execute_packed` takes them.
        progress: draws the first one's.
        claimed: whoever has started this process has named it in them.
    """
    from paraknow_core.packs import execute_packed

    shown = folders[0]

    def watch(folder: RunFolder, status: Status) -> None:
        if folder is shown:
            progress.on_status(status)

    if not claimed:
        _claim(list(folders))
    open_ones = [folder for folder in folders if folder.status().state != "done"]
    for folder in folders:
        if folder not in open_ones:
            say(f"run {folder.id}: is done already; `runs show {folder.id}` prints its result")
    try:
        outcomes = execute_packed(open_ones, place, settings, watch, only_if_faster=only_if_faster, say=say)
        return told(open_ones, outcomes)
    finally:
        _give_up(folders, StopRequested())


def told(folders: Sequence[RunFolder], outcomes: "Sequence[dict[str, Any] | Exception | None]") -> list[int]:
    """Say how runs ended that were executed together, and note it where they do not; returns their exit codes."""
    codes = []
    for folder, outcome in zip(folders, outcomes, strict=True):
        if outcome is None:
            say(f"run {folder.id}: stopped and saved; `runs resume {folder.id}` goes on")
            codes.append(STOPPED)
        elif isinstance(outcome, Exception):
            codes.append(_failed(folder, outcome))
            _give_up([folder], outcome)
        else:
            codes.append(0)
    return codes


def _failed(folder: RunFolder, error: Exception) -> int:
    """Say why a run has failed, also in its log; returns the exit code."""
    if isinstance(error, ParaknowError):
        text, code = str(error) if folder.id in str(error) else f"run {folder.id}: {error}", REFUSED
        say(text)
    else:
        text, code = "".join(traceback.format_exception(error)), BROKEN
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)
    _log(folder, text)
    return code


def _execute(folder: RunFolder, place: Workspace, settings: Settings, watch: _Watch) -> int:
    from paraknow_core.pipeline import execute

    try:
        if folder.status().state == "done":
            say(f"run {folder.id}: is done already; `runs show {folder.id}` prints its result")
            return 0
        if execute(folder, place, settings, watch) is not None:
            return 0
        say(f"run {folder.id}: stopped and saved; `runs resume {folder.id}` goes on")
        return STOPPED
    except Exception as error:
        code = _failed(folder, error)
        give_up(folder, error)
        return code


def _log(folder: RunFolder, text: str) -> None:
    """Keep a message in the run's log, unless stderr is that log already (as engines start it)."""
    log = folder.file("log.txt")
    try:
        if log.exists() and os.path.samestat(log.stat(), os.fstat(sys.stderr.fileno())):
            return
        with log.open("a", encoding="utf-8") as file:
            file.write(text.rstrip("\n") + "\n")
    except (OSError, ValueError):
        return  # the message was printed; a log that cannot be written must not hide it


def _record(folder: RunFolder) -> dict[str, Any]:
    status = folder.status()
    return {
        "id": folder.id,
        "folder": str(folder.path),
        "state": status.state,
        "message": status.message,
        "result": folder.result() if status.state == "done" else None,
    }


def _lines(record: dict[str, Any]) -> list[str]:
    result = record["result"]
    if result is None:
        return [f"{record['id']}: {record['state']}"]
    lines = [f"{record['id']}: done in {duration(sum(result['timings'].values()))}, in {record['folder']}"]
    lines += [f"warning: {warning}" for warning in result.get("warnings", [])]
    lines += [f"{score['scorer']}: {score_text(score)}" for score in result.get("scores", [])]
    for name, scores in result.get("references", {}).items():
        lines += [f"untouched {name}, {score['scorer']}: {score_text(score)}" for score in scores]
    return lines
