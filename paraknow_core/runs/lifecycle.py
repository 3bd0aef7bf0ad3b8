"""Every change of a run's state from outside the run: by pages, commands and engines.

    create_run ---> queued ---> running ---> stopping ---> stopped
                      ^            |                          |
                      |            +----> done, failed        |
                      |                            |          |
                      +------- requeue ------- failed, lost, stopped

    queued    -> running            its process begins it (RunWriter)
              -> stopped, failed    end, give_up: it was taken out of the queue, or could not begin
              -> lost               the process that was started for it (claim) is gone
    running   -> stopping           ask_to_stop, or a signal to its process
              -> done, failed       the run itself (RunWriter)
              -> lost               its process is gone
    stopping  -> stopped            the run itself, when it has saved, done or failed where that came first; or its
                                    process is gone
    lost      -> stopped            end: its process was killed because it did not stop when asked to
    queued, running, stopping, stopped -> lost, stopped
                                    lose: an engine knows that what it held is gone, and why
    stopped, failed, lost -> queued requeue

A folder says what its run is doing in four files. `status.json` holds the state; from `running` on, only the run's
own process writes it (`writer.py`, under the lock). `process.json` names the process that was started for a queued run
(`claim`): when that is gone before it began, the run is lost. A file `stop` asks the run to save and stop
(`ask_to_stop`): readers see `stopping` at once, the run takes note at its next step. `lost` is never written: a reader
infers it (`RunFolder.status`) from a process that is gone. `engine.json` names an engine that has more to say than a
process of this machine could (`hold`), and why what it held is gone (`lose`). Attempts are numbered, so that nobody
mistakes a process or a request of an earlier attempt for one of this. Where the process of a run that was asked to
stop is gone, readers infer `stopped`, whatever ended it: that is what was asked for, and the run can be resumed.
"""

import re
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files.atomic import GRAVE, write_atomic
from paraknow_core.files.json_file import write_json, write_json_anyhow
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import NOTE, JobFolder, RunFolder
from paraknow_core.runs.processes import held, is_same, this_process
from paraknow_core.runs.status import CANCELLED as CANCELLED
from paraknow_core.runs.status import CUT_OFF as CUT_OFF
from paraknow_core.runs.status import Status
from paraknow_core.runs.writer import RunWriter
from paraknow_core.spec import RunSpec

_STATUS = "status.json"
_ATTEMPT = ("stop", "process.json", NOTE)  # what a folder holds of one attempt, beside its state
WATCH_S = 6.0  # a run on another host that looks lost is watched for so long before it is deleted


def create_run(place: Workspace, spec: RunSpec, folder: Path | None = None) -> RunFolder:
    """Make a new run folder in state queued; its spec is frozen from here on.

    Args:
        place: the workspace.
        spec: what to compute.
        folder: where instead of `cache/runs/<id>`; must not exist or be empty.

    Raises:
        RunError: the folder already holds something.
    """
    folder = folder or place.runs / new_id(spec.name or spec.method, "run")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder}: already holds files; choose a new folder, or `run {folder}` to continue it")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "status.json", asdict(Status()))
    write_atomic(folder / "spec.yaml", spec.to_yaml())
    return RunFolder(folder)


def new_id(title: str, otherwise: str) -> str:
    """Return the name of a new folder: the time, a title or what stands for one without letters, and chance."""
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or otherwise
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{secrets.token_hex(4)}"


def requeue(*runs: JobFolder) -> list[int]:
    """Make runs that nobody works on `queued` (again), new ones as well as those that have ended.

    Returns:
        For each, the number of its last attempt (0: none), which the next one adds to; see `claim`.

    Raises:
        RunError: no run was given, one is given twice, or one is going on; nothing was changed then.
    """
    if not runs or len({run.path for run in runs}) < len(runs):
        raise RunError("submit: needs run folders, each only once; create one with `run SPEC.yaml --out DIR`")
    attempts = []
    for run in runs:
        status = run.status()
        starting = status.state == "queued" and (run.process().get("attempt") == status.attempt or bool(run.note()))
        if starting or status.state in ("running", "stopping"):
            raise RunError(f"{run.noun} {run.id}: is already {status.state}; watch it, or stop it first")
        if moves(run, status):
            raise RunError(f"{run.noun} {run.id}: moves to another node; watch it, or stop it first")
        attempts.append(status.attempt)
    for run, attempt in zip(runs, attempts, strict=True):
        for name in _ATTEMPT:
            run.file(name).unlink(missing_ok=True)
        write_json(run.file(_STATUS), asdict(Status(attempt=attempt)))
    return attempts


def claim(run: JobFolder, process: Mapping[str, Any], attempt: int) -> None:
    """Name the process that will execute a queued run; if it dies before it begins, readers see the run as lost.

    Args:
        run: a queued one, or one whose process has begun it a moment ago.
        process: from `process_identity`.
        attempt: the number of its last attempt, as `requeue` returned it.
    """
    write_json(run.file("process.json"), {**process, "launched": time.time(), "attempt": attempt})


def is_own(run: JobFolder) -> bool:
    """Tell whether this process was started for a run or has taken it on, and nobody has submitted it again since."""
    return is_same(run.process(), this_process())


def hold(run: JobFolder, engine: str, **facts: Any) -> None:
    """Note which engine holds a queued run and what finds it there, such as the id of a job; `requeue` removes that.

    So the run waits, as far as readers can see, until its process begins it or the engine says that it never will
    (`lose`), and any process knows which engine to ask. An engine that brings a lost run elsewhere by itself says
    `moves=True`: nobody else may begin the run until that engine has given it up.
    """
    write_json(run.file(NOTE), {"engine": engine, **facts})


def moves(run: JobFolder, status: Status) -> bool:
    """Tell whether a run's process is gone, but its engine is going to bring it elsewhere (see `hold`)."""
    note = run.note() if status.state in ("lost", "stopped") and not run.is_over else {}
    return note.get("moves") is True and "gone" not in note


def let_go(run: JobFolder) -> None:
    """Note that an engine brings a run nowhere any more, so that any may begin it where it is lost, or will be."""
    if run.note().get("moves") and not run.is_over:
        write_json(run.file(NOTE), {**run.note(), "moves": False})


def lose(run: JobFolder, why: str, wanted: bool = False, **facts: Any) -> None:
    """Note that what an engine held for this attempt of a run is gone; a run that is done or failed stays so.

    Args:
        run: one that an engine holds.
        why: one sentence with the next step; the run's message from now on.
        wanted: somebody ended it, or trying again would not help: it is stopped, not lost.
        facts: of `hold`; where they are others now, somebody has submitted the run again meanwhile.
    """
    note = run.note()
    if note and facts.items() <= note.items():
        write_json(run.file(NOTE), {**note, "gone": why, "wanted": wanted})


def kept(run: JobFolder) -> dict[str, bytes | None]:
    """Return the files that `requeue` changes, None for one that is not there: what `put_back` needs."""
    return {name: run.file(name).read_bytes() if run.file(name).exists() else None for name in (*_ATTEMPT, _STATUS)}


def put_back(run: JobFolder, files: Mapping[str, bytes | None]) -> None:
    """Undo `requeue` for a run that an engine did not take: it says again what it said before.

    Args:
        run: a queued one.
        files: what `kept` returned before.
    """
    for name, content in files.items():
        if content is None:
            run.file(name).unlink(missing_ok=True)
        else:
            write_atomic(run.file(name), content)


def ask_to_stop(run: JobFolder) -> None:
    """Ask a run to save and stop at its next step; one that is queued stops as soon as it begins.

    Raises:
        RunError: the run is not active.
    """
    status = run.status()
    if not status.active:
        raise RunError(f"{run.noun} {run.id}: is {status.state}, not running; there is nothing to stop")
    write_atomic(run.file("stop"), "")


def end(run: JobFolder, state: Literal["stopped", "failed"], message: str) -> None:
    """Write how a run ended that no process works on: taken out of the queue, cut off, or impossible to start.

    Raises:
        OSError: it cannot be written.
    """
    status = replace(run.written(), state=state, message=message, ended=time.time())
    write_json_anyhow(run.file("status.json"), asdict(status))
    run.file("stop").unlink(missing_ok=True)


def give_up(run: JobFolder, reason: Exception) -> None:
    """End a run that is still queued although its process has given it up; else it would stay queued for ever.

    Args:
        run: ended only if it is queued.
        reason: `StopRequested` makes it stopped, any other makes it failed, with its text as the message.
    """
    if run.status().state != "queued":
        return
    try:
        with suppress(type(reason)), RunWriter(run):
            raise reason
    except (OSError, ParaknowError):  # a full disk, or somebody else has begun it: then that one says how it ends
        with suppress(OSError), held(run.file("lock")) as alone:
            if alone:
                end(run, "failed", str(reason))


def delete(run: JobFolder) -> None:
    """Remove a run's folder.

    Raises:
        RunError: the run is still active, or a process works in the folder, whatever its state says.
    """
    status = run.status()
    if status.active and (run.claimed or status.state != "queued"):
        raise RunError(f"{run.noun} {run.id}: is still {status.state}; stop it before deleting it")
    with held(run.file("lock")) as alone:
        if not alone or _moves_elsewhere(run):
            raise RunError(f"{run.noun} {run.id}: a process is still working on it; stop it before deleting it")
        grave = run.path.with_name(f"{GRAVE}{run.id}")
        run.path.rename(grave)  # at once invisible to readers, even if removing takes a while
        shutil.rmtree(grave, ignore_errors=True)


def _moves_elsewhere(run: JobFolder) -> bool:
    """Tell whether a process of another host, whose locks may not reach here, still writes the state."""
    status = run.written()
    if status.host in ("", socket.gethostname()) or status.state not in ("running", "stopping"):
        return False
    deadline = time.monotonic() + WATCH_S
    while time.monotonic() < deadline:
        time.sleep(min(0.5, WATCH_S))
        if run.written() != status:
            return True
    return False
