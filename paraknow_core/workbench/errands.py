"""What a click asks of an engine: a cluster that does not answer at once goes on being asked, and the page goes on.

Engines of this machine do at once what they are asked. A request to stop is in the run's folder, which the run obeys,
before a cluster hears of it.
"""

import threading
import traceback
from collections.abc import Callable, Sequence

from paraknow_core.engines import ENGINES, Engine, LocalEngine, QueueEngine, end_now, engine_of, holder_of
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.workbench.execution import PLACES

PATIENCE_S = 1.0  # what a cluster does within this time is done when the click returns
MOST_KEPT = 1_000  # runs of which is remembered what was asked last


class _Errand:
    """One request, and what came of it."""

    def __init__(self, asks: str) -> None:
        self.words, self.is_over, self.error = asks, threading.Event(), None
        self.failed_at: dict[RunFolder, tuple[str, int]] = {}  # what its runs were when it failed


_guard = threading.Lock()
_last: dict[RunFolder, _Errand] = {}  # of each run, the one that goes on or has failed


def submit(place: Workspace, *runs: RunFolder, first: bool = False) -> None:
    """Give runs to the engine of the settings: see `Engine.submit`.

    Raises:
        ParaknowError, OSError: it was refused, within `PATIENCE_S`; later, `word` says so.
    """
    engine = engine_of(place)
    _do(engine, runs, "to take it", lambda: engine.submit(*runs, first=first))


def stop(place: Workspace, run: RunFolder) -> None:
    """Ask a run to save and stop: see `Engine.stop`, and `submit` about errors."""
    engine = holder_of(place, run)
    _do(engine, [run], "to stop it", lambda: engine.stop(run))


def end(place: Workspace, run: RunFolder) -> None:
    """End a run that was asked to stop: see `engines.end_now`, and `submit` about errors."""
    _do(holder_of(place, run), [run], "to end it", lambda: end_now(place, run))


def word(run: RunFolder) -> str:
    """Return what a cluster is being asked about a run, or why it did not do what it was asked last; mostly empty."""
    errand = _last.get(run)
    if errand is None or (errand.is_over.is_set() and errand.failed_at.get(run) != _moment_of(run)):
        return ""  # it has gone on since, in whatever way
    return errand.words


def is_going(run: RunFolder) -> bool:
    """Tell whether a cluster is being asked to do something with a run at this moment."""
    errand = _last.get(run)
    return errand is not None and not errand.is_over.is_set()


def _moment_of(run: RunFolder) -> tuple[str, int]:
    status = run.status()
    return status.state, status.attempt


def _do(engine: Engine, runs: Sequence[RunFolder], asks: str, work: Callable[[], object]) -> None:
    is_here = isinstance(engine, LocalEngine | QueueEngine)
    name = next((name for name, kind in ENGINES.items() if kind == type(engine).__name__), "")
    errand = _Errand(f"{PLACES[name].label if name else 'its engine'} is being asked {asks}")
    with _guard:
        for run in runs:
            if is_going(run):
                raise RunError(f"run {run.id}: {word(run)}; wait for the answer")
        for run in runs:
            _last.pop(run, None)  # what was not done before does not matter any more
            if not is_here:
                _last[run] = errand
        for run in list(_last)[: max(0, len(_last) - MOST_KEPT)]:
            del _last[run]
    if is_here:
        work()
        return

    def forget() -> None:
        with _guard:
            for run in runs:
                if _last.get(run) is errand:
                    del _last[run]

    def do() -> None:
        try:
            work()
            forget()
        except Exception as error:
            errand.failed_at = {run: _moment_of(run) for run in runs}
            errand.error, errand.words = error, str(error)
            if not isinstance(error, ParaknowError | OSError):
                traceback.print_exc()  # nobody may be left to raise it for
        finally:
            errand.is_over.set()

    threading.Thread(target=do, daemon=True, name="errand").start()
    if errand.is_over.wait(PATIENCE_S) and errand.error is not None:
        forget()
        raise errand.error
