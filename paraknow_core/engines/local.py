"""The local engine: a run is a detached process of this machine that outlives whoever started it."""

import os
import signal
import socket
import time
from collections.abc import Mapping
from typing import Any

from paraknow_core.engines.base import SHARED, Engine
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.processes import is_alive, is_same, process_identity, start_detached
from paraknow_core.settings import flags_of

HARDER_S = 5.0  # a process has so long to end after SIGTERM, and again after SIGKILL


class LocalEngine(Engine):
    """Executes the runs of one submit one after the other, in one process of its own group."""

    def submit(self, *runs: RunFolder, first: bool = False) -> None:
        """Start the process: see `Engine.submit`. Its runs share their log, as a hard link."""
        del first  # nobody waits: every submit has its own process
        attempts = lifecycle.requeue(*runs)
        with runs[0].file("log.txt").open("ab") as log:
            for run in runs[1:]:
                if not run.file("log.txt").exists():
                    os.link(runs[0].file("log.txt"), run.file("log.txt"))
            process = start_detached(
                self.place, "run", *flags_of(self.changes), *(str(run.path) for run in runs), log=log
            )
        identity = process_identity(process.pid)
        for run, attempt in zip(runs, attempts, strict=True):
            lifecycle.claim(run, identity, attempt)

    def stop(self, run: RunFolder, grace_s: float | None = None) -> None:
        """Ask, and with a grace period wait for the end and then signal the process: see `Engine.stop`."""
        lifecycle.ask_to_stop(run)
        if grace_s is None or _ends(run, grace_s):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal_group(run, number)
            if _ends(run, HARDER_S):
                return


def _ends(run: RunFolder, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not run.status().active:
            return True
        time.sleep(0.1)
    return False


def signal_group(run: RunFolder, number: signal.Signals, *, shared: bool = False) -> None:
    """Send a signal to the process of a run and to all that it has started.

    Args:
        run, number: nothing is sent if the run does not go on.
        shared: also where the process does more than this run (`SHARED`).
    """
    status = run.status()
    process = vars(status) if status.pid else run.process()  # in its first second it has not written its state
    if not status.active or (is_shared(run, process) and not shared):
        return  # its process may be a worker, which is at another run by now, or be a study's
    if is_alive(process) and process["host"] == socket.gethostname():  # its number elsewhere is another process here
        try:
            group = os.getpgid(process["pid"])
            # A run started by hand shares the shell's group: then only the process itself may be hit.
            os.killpg(group, number) if group == process["pid"] else os.kill(process["pid"], number)
        except ProcessLookupError:
            return


def is_shared(run: RunFolder, process: Mapping[str, Any]) -> bool:
    """Tell whether the process that a run waits for, or is computed by, does more than this run."""
    claim = run.process()
    return bool(claim.get(SHARED)) and is_same(claim, process)
