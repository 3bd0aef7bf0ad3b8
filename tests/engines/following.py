"""Making runs that `slow_worker.py` executes, and waiting for what they come to."""

import time
from collections.abc import Callable

from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.spec import RunSpec


def make(place: Workspace, *names: str) -> list[RunFolder]:
    return [create_run(place, RunSpec(name=name)) for name in names]


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def wait(run: RunFolder, *states: str, seconds: float = 30) -> str:
    """Wait until a run is in one of these states, and return it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = run.status().state
        if state in states:
            return state
        time.sleep(0.05)
    raise AssertionError(f"{run.id} is {run.status()} after {seconds} s; log: {run.log_tail()}")
