"""What an engine does: submit runs, stop one, tell whether it is still going on and where, show its log."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal

from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.processes import this_process
from paraknow_core.settings import Settings, flags_of, load_settings
from paraknow_core.spec import RunSpec

HERE = "this machine"
SHARED = "shared"  # marks, in process.json, a process that does more than its run: no signal for it alone may get there


@dataclass(frozen=True)
class Standing:
    """Where a run stands with its engine.

    Attributes:
        state: it waits for its turn, is being executed, or neither.
        ahead: how many runs wait before it; None where the engine does not tell, or it does not wait.
        where: the machine that it is on, in words; empty where it is on none.
        message: one sentence that a person should know, such as what it waits for; mostly empty.
    """

    state: Literal["waiting", "working", "over"]
    ahead: int | None = None
    where: str = ""
    message: str = ""


class Engine(ABC):
    """Brings run folders to whoever executes them.

    The folder is the protocol: an engine has `python -m paraknow_core run FOLDER` executed somewhere, and everybody
    reads the outcome from the folder. So nothing that an engine holds in memory matters: another instance, in another
    process, can stop the run as well.
    """

    def __init__(self, place: Workspace, **changes: Any) -> None:
        """Args: place, the workspace whose runs are executed; changes, which win over its settings, also in the runs.

        Of a part of the settings, such as `ray`, a change is a mapping.
        """
        self.place, self.changes = place, changes

    def of_runs(self) -> dict[str, Any]:
        """Return those of the changes that are for whoever computes a run: the flags of `run`, by their names."""
        return {name: value for name, value in self.changes.items() if flags_of({name: value})}

    def settings(self) -> Settings:
        """Read the settings of the workspace, with this engine's changes.

        Raises:
            SpecError: they are not valid.
        """
        return load_settings(self.place, **self.changes)

    def together(self) -> int:
        """Return how many runs a study gives the engine at a time.

        Raises:
            SpecError: the settings are not valid.
        """
        return self.settings().workers or 1

    def common(self, spec: RunSpec) -> Hashable:  # noqa: ARG002 - a hook
        """Return what runs have in common that had better be submitted together; None for one on its own."""
        return None

    @abstractmethod
    def submit(self, *runs: RunFolder, first: bool = False) -> None:
        """Have runs executed in this order, new ones as well as those that have ended; returns at once.

        An implementation calls `lifecycle.requeue` before it starts anything, and `lifecycle.claim` as soon as it
        knows the process, or `lifecycle.hold` where that is not one of this machine. A run that fails does not keep the
        next one from being executed.

        Args:
            runs: folders with a valid spec, each only once.
            first: put them before other waiting runs, if the engine has a queue.

        Raises:
            RunError: no run was given, one is given twice, or one is going on; nothing was changed then.
            Later: whoever executes runs takes none now; nothing was changed either.
            OSError: the workspace cannot be written.
        """

    def stop(self, run: RunFolder, grace_s: float | None = None) -> None:
        """Ask a run to save and stop; it may go on for a while after this returns.

        Args:
            run: an active one, whoever has started it.
            grace_s: wait this many seconds for its end, and then end its process by force if the engine can.

        Raises:
            RunError: the run is not active.
        """
        del grace_s
        lifecycle.ask_to_stop(run)

    def alive(self, run: RunFolder) -> bool:
        """Tell whether a run is still going to produce something: it is executed, or waits for a living process."""
        return run.claimed and run.status().active

    def logs(self, run: RunFolder, lines: int = 40) -> str:
        """Return the last lines that the run's process has printed; empty where there are none."""
        return run.log_tail(lines)

    def standing(self, run: RunFolder) -> Standing:
        """Say where a run stands: whether it waits, how many wait before it, where it is executed."""
        status = run.status()
        if not self.alive(run):
            return Standing("over", message=status.message)
        if status.state == "queued":
            return Standing("waiting")
        return Standing("working", where=HERE if status.host in ("", socket.gethostname()) else status.host)


def claimed_here(*runs: RunFolder) -> list[int]:
    """Make runs `queued`, all for this very process; returns the numbers of their last attempts.

    Raises:
        RunError: see `lifecycle.requeue`.
        OSError: the workspace cannot be written; then none of them waits for this process.
    """
    attempts = lifecycle.requeue(*runs)
    try:
        for run, attempt in zip(runs, attempts, strict=True):
            lifecycle.claim(run, {**this_process(), SHARED: True}, attempt)
    except OSError:
        for run in runs:
            run.file("process.json").unlink(missing_ok=True)
        raise
    return attempts
