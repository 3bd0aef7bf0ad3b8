"""The inline engine: runs are executed in this very process, as those of a study are that are trained in one pass."""

import traceback
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

from paraknow_core.engines.base import Engine, claimed_here
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec
from paraknow_core.training.amounts import pack_key


class InlineEngine(Engine):
    """Executes runs in one thread, one after the other or some at once; the process ends when all are done.

    Their output goes where this process prints; only tracebacks go into their logs. A thread cannot be ended by force,
    so `stop` only asks, even with a grace period.

    Example:
        `InlineEngine(place, lambda run: pipeline.execute(run, place, settings)).submit(run)`
    """

    def __init__(
        self,
        place: Workspace,
        execute: Callable[[RunFolder], object],
        execute_packed: Callable[[Sequence[RunFolder]], object] | None = None,
        pack: int = 1,
    ) -> None:
        """Take over how runs are computed.

        Args:
            place: the workspace.
            execute: computes a run folder to its end.
            execute_packed: computes several to their ends, trained in one pass; it notes in them what goes wrong.
            pack: how many of those that are submitted together are trained in one pass, at most.
        """
        super().__init__(place)
        self._execute, self._execute_packed = execute, execute_packed
        self._pack = pack if execute_packed else 1
        self._thread = ThreadPoolExecutor(1, "runs")

    def together(self) -> int:
        """Return how many runs are trained in one pass."""
        return self._pack

    def common(self, spec: RunSpec) -> Hashable:
        """Return what runs have in common that may be trained in one pass."""
        return pack_key(spec) if self._pack > 1 else None

    def submit(self, *runs: RunFolder, first: bool = False) -> None:
        """Hand the runs to the thread: see `Engine.submit`."""
        del first
        claimed_here(*runs)
        for some in batched(runs, self._pack):
            self._thread.submit(self._work, some)

    def _work(self, runs: Sequence[RunFolder]) -> None:
        try:
            self._execute_packed(runs) if len(runs) > 1 else self._execute(runs[0])
        except Exception as error:
            for run in runs:
                with run.file("log.txt").open("a", encoding="utf-8") as log:
                    log.write(traceback.format_exc())
                if lifecycle.is_own(run):  # not one that was stopped and submitted again meanwhile
                    lifecycle.give_up(run, error)


def batched(runs: Sequence[RunFolder], size: int) -> list[Sequence[RunFolder]]:
    """Split runs into groups of a size, in order; the last one may be smaller."""
    return [runs[start : start + size] for start in range(0, len(runs), size)]
