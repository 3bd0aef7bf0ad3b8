"""What an engine does: submit runs, stop one, tell whether it is still going on, show its log."""

from abc import ABC, abstractmethod

from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder


class Engine(ABC):
    """Brings run folders to whoever executes them.

    The folder is the protocol: an engine has `python -m paraknow_core run FOLDER` executed somewhere, and everybody
    reads the outcome from the folder. So nothing that an engine holds in memory matters: another instance, in another
    process, can stop the run as well.
    """

    def __init__(self, place: Workspace) -> None:
        """Args: place, the workspace whose runs are executed."""
        self.place = place

    @abstractmethod
    def submit(self, *runs: RunFolder, first: bool = False) -> None:
        """Have runs executed in this order, new ones as well as those that have ended; returns at once.

        An implementation calls `lifecycle.requeue` before it starts anything, and `lifecycle.claim` as soon as it
        knows the process. A run that fails does not keep the next one from being executed.

        Args:
            runs: folders with a valid spec, each only once.
            first: put them before other waiting runs, if the engine has a queue.

        Raises:
            RunError: no run was given, one is given twice, or one is going on; nothing was changed then.
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
