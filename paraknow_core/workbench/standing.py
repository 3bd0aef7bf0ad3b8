"""Where runs stand with the engines that hold them, in words. A page never waits for a cluster that does not answer."""

import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

from paraknow_core.display import duration, memory
from paraknow_core.engines import Standing, holder_of
from paraknow_core.engines.base import HERE
from paraknow_core.errors import ParaknowError
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.workbench.execution import PLACES
from paraknow_core.workbench.waiting import place_in_line

PATIENCE_S = 0.3  # a quick answer is drawn at once
FRESH_S = 1.5  # what an engine has said holds for so long
SILENT_S = 8.0  # an engine that takes longer is said not to answer
MOST_KEPT = 2_000  # runs whose standing is remembered
LITTLE_DISK = 100e6  # bytes; below, runs cannot save any more


def standings(place: Workspace, runs: Iterable[RunFolder], patience_s: float = PATIENCE_S) -> dict[str, Standing]:
    """Return run id -> where it stands; what a cluster has not said yet comes with a later call.

    Args:
        place: the workspace.
        runs: any.
        patience_s: how long an answer is waited for where there is none at all.
    """
    found: dict[str, Standing] = {}
    held: dict[str, list[RunFolder]] = {}
    for run in runs:
        engine = holder_name(run)
        if engine:
            held.setdefault(engine, []).append(run)
        else:
            found[run.id] = _ask(place, run)
    for engine, those in held.items():
        found |= _asker(place, engine).standings(those, patience_s)
    return found


def holder_name(run: RunFolder) -> str:
    """Return the cluster's engine that holds a run; empty for one of this machine."""
    name = run.note().get("engine")
    return name if name in PLACES and PLACES[name].group else ""


def has_more_to_say(run: RunFolder) -> bool:
    """Tell whether a run's engine is to be asked about it: its folder says neither how it ended nor why it is gone."""
    status, note = run.status(), run.note()
    if status.state in ("done", "failed") or note.get("gone"):
        return False
    return status.state != "stopped" or bool(note.get("asked")) or lifecycle.moves(run, status)


def words(standing: Standing) -> str:
    """Say in few words where a run stands: `next`, `3rd in line`, `waiting`, `on node1`; nothing of this machine."""
    if standing.state == "waiting":
        return "waiting" if standing.ahead is None else place_in_line(standing.ahead + 1)
    return f"on {standing.where}" if standing.state == "working" and standing.where not in ("", HERE) else ""


def disk_words(place: Workspace) -> str:
    """Say that the workspace's disk is full, or nearly; nothing where it is not."""
    try:
        free = shutil.disk_usage(place.root).free
    except OSError:
        return ""
    if free >= LITTLE_DISK:
        return ""
    return (
        f"The disk of the workspace has only {memory(free)} left, so runs cannot save: free some space (delete runs "
        "that are not needed), then resume what has failed or was lost"
    )


def _ask(place: Workspace, run: RunFolder) -> Standing:
    try:
        return holder_of(place, run).standing(run)
    except (ParaknowError, OSError) as error:
        return Standing("waiting" if run.status().state == "queued" else "working", message=str(error))


@cache
def _asker(place: Workspace, engine: str) -> "_Asker":
    return _Asker(place, engine)


class _Asker:
    """Asks one engine from a thread of its own, one run after the other, and remembers what it has said."""

    def __init__(self, place: Workspace, engine: str) -> None:
        self.place, self.title = place, PLACES[engine].label
        self._changed = threading.Condition()
        self._wanted: dict[RunFolder, float] = {}  # since when
        self._known: dict[RunFolder, tuple[Standing, float]] = {}  # and when it was said
        self._works = False

    def standings(self, runs: Iterable[RunFolder], patience_s: float) -> dict[str, Standing]:
        """Return what is known of runs; asks anew, and waits only for what was never said."""
        with self._changed:
            moment, runs = time.monotonic(), list(runs)
            for run in runs:
                if run not in self._known or moment - self._known[run][1] > FRESH_S:
                    self._wanted.setdefault(run, moment)
            if self._wanted and not self._works:
                self._works = True
                threading.Thread(target=self._work, daemon=True, name=f"ask {self.title}").start()
            new = [r for r in runs if r not in self._known and moment - self._wanted[r] < patience_s]
            self._changed.wait_for(lambda: all(run in self._known for run in new), patience_s if new else 0)
            return {run.id: self._said(run) for run in runs}

    def _said(self, run: RunFolder) -> Standing:
        silent = time.monotonic() - self._wanted.get(run, time.monotonic())
        known = self._known.get(run)
        standing = known[0] if known else Standing("waiting" if run.status().state == "queued" else "working")
        if silent < SILENT_S:
            return standing if known else replace(standing, message=f"{self.title} is being asked")
        message = f"{self.title} has not answered for {duration(silent)}; this page goes on asking"
        return replace(standing, message="; before, it said: ".join(filter(None, (message, standing.message))))

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    if not self._wanted:
                        self._works = False
                        return
                    run = next(iter(self._wanted))
                standing = _ask(self.place, run)
                with self._changed:
                    del self._wanted[run]
                    self._known.pop(run, None)
                    self._known[run] = standing, time.monotonic()
                    if len(self._known) > MOST_KEPT:
                        del self._known[next(iter(self._known))]
                    self._changed.notify_all()
        except BaseException:
            with self._changed:
                self._wanted.clear()
                self._works = False
            raise
