"""The local engine: a run is a detached process of this machine that outlives whoever started it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

from paraknow_core.errors import RunError
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.paths import PROJECT_ROOT, WORKSPACE_VARIABLE, Workspace
from paraknow_core.runs.folder import ACTIVE, RunFolder, Status
from paraknow_core.runs.processes import is_there, process_identity


def submit(place: Workspace, *runs: RunFolder) -> int:
    """Start (or resume) run folders, one after the other, in one process of its own group; return the process id.

    The child's output goes to log.txt, never through a pipe: nothing breaks when the parent ends. The runs of one
    process share their log, as a hard link.

    Raises:
        RunError: no run was given, one is given twice, or one is already going on; nothing was started then.
    """
    if not runs or len({run.path for run in runs}) < len(runs):
        raise RunError("submit: needs run folders, each only once; create one with `run SPEC.yaml --out DIR`")
    attempts = [next_attempt(run) for run in runs]
    for run, attempt in zip(runs, attempts, strict=True):
        reset(run, attempt)
    with runs[0].file("log.txt").open("ab") as log:
        for run in runs[1:]:
            if not run.file("log.txt").exists():
                os.link(runs[0].file("log.txt"), run.file("log.txt"))
        process = subprocess.Popen(
            [sys.executable, "-m", "paraknow_core", "run", *(str(run.path) for run in runs)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=PROJECT_ROOT,
            start_new_session=True,
            env={**os.environ, WORKSPACE_VARIABLE: str(place.root), "PYTHONUNBUFFERED": "1"},
        )
    identity = {**process_identity(process.pid), "launched": time.time()}
    for run, attempt in zip(runs, attempts, strict=True):
        write_json(run.file("process.json"), {**identity, "attempt": attempt})
    return process.pid


def reset(run: RunFolder, attempt: int) -> None:
    """Make a run that nobody holds `queued` again: this is still the only writer, and readers see it at once."""
    for name in ("stop", "process.json"):
        run.file(name).unlink(missing_ok=True)
    write_json(run.file("status.json"), asdict(Status(attempt=attempt)))


def next_attempt(run: RunFolder) -> int:
    """Return the number of a run's last attempt, which a new one adds to.

    Raises:
        RunError: the run is going on.
    """
    status = run.status()
    launched = read_json(run.file("process.json"))
    ours = isinstance(launched, dict) and launched.get("attempt") == status.attempt
    starting = status.state == "queued" and ours
    if status.state in ("running", "stopping") or starting:
        raise RunError(f"run {run.id}: is already {status.state}; watch it, or stop it first")
    return status.attempt


def stop(run: RunFolder, grace_s: float | None = None) -> None:
    """Ask a run to save and stop; with a grace period, end its process group when the period is over.

    Raises:
        RunError: the run is not active.
    """
    run.request_stop()
    if grace_s is None:
        return
    if _wait_until_ended(run, grace_s):
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal_group(run, number)
        if _wait_until_ended(run, 5):
            return


def _wait_until_ended(run: RunFolder, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if run.status().state not in ACTIVE:
            return True
        time.sleep(0.1)
    return False


def signal_group(run: RunFolder, number: signal.Signals) -> None:
    """Send a signal to the process of a run and to all that it has started."""
    status = run.status()
    known = asdict(status) if status.pid else read_json(run.file("process.json"))  # its first second has no status
    if is_there(known):
        try:
            group = os.getpgid(known["pid"])
            # A run started by hand shares the shell's group: then only the process itself may be hit.
            os.killpg(group, number) if group == known["pid"] else os.kill(known["pid"], number)
        except ProcessLookupError:
            return
