"""The inline engine: runs are executed in this very process, for tests and for a debugger."""

import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from paraknow_core.engines.base import Engine
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.processes import this_process


class InlineEngine(Engine):
    """Executes runs in one thread, one after the other; the process ends when all are done.

    Their output goes where this process prints; only tracebacks go into their logs. A thread cannot be ended by force,
    so `stop` only asks, even with a grace period.

    Example:
        `InlineEngine(place, lambda run: pipeline.execute(run, place, settings)).submit(run)`
    """

    def __init__(self, place: Workspace, execute: Callable[[RunFolder], object]) -> None:
        """Args: place, the workspace; execute, which computes a run folder to its end."""
        super().__init__(place)
        self._execute = execute
        self._thread = ThreadPoolExecutor(1, "runs")

    def submit(self, *runs: RunFolder, first: bool = False) -> None:
        """Hand the runs to the thread: see `Engine.submit`."""
        del first
        for run, attempt in zip(runs, lifecycle.requeue(*runs), strict=True):
            lifecycle.claim(run, this_process(), attempt)
            self._thread.submit(self._work, run)

    def _work(self, run: RunFolder) -> None:
        try:
            self._execute(run)
        except Exception as error:
            with run.file("log.txt").open("a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
            lifecycle.give_up(run, error)
