"""Conducting a study: which run comes next, from the first learning rate to the last score.

First every tuned group trains at each learning rate of its grid and takes the one with the lowest validation loss;
then the scored runs follow, seed by seed. What there is already is taken over, whoever computed it: a study that was
cut off goes on where it stopped, and one that shares runs with another does not repeat them. Where several go on at a
time, those that would only wait for a sensitivity that another one measures come after others. A run that is lost (its
process was killed, its machine is gone) goes on from its last save. A run that fails is left out, and tried again when
the study is run again.
"""

import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paraknow_core.catalogue import METHODS
from paraknow_core.display import duration
from paraknow_core.errors import Later, ParaknowError, RunError
from paraknow_core.files.json_file import read_object, write_json
from paraknow_core.files.naming import is_there
from paraknow_core.files.yaml_file import load_yaml, read_text
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.runs.labels import add_study, studies_of
from paraknow_core.runs.processes import process_identity, start_detached
from paraknow_core.runs.status import Status
from paraknow_core.runs.writer import RunWriter, StopRequested, stopped_by_signals
from paraknow_core.spec import RunSpec
from paraknow_core.studies.folder import CellState, StudyFolder, answers, curves_of
from paraknow_core.studies.same import MEASUREMENT, asked, computes, run_key
from paraknow_core.studies.study import (
    HIGHEST_RATE,
    Cell,
    Group,
    groups_of,
    rates_of,
    scored_cells,
    step_of_grid,
    tuning_cells,
)

MOST_EXTENSIONS = 2  # how often a grid grows whose best rate lies at its edge
EXTENDED_BY = 2  # points
MOST_AGAIN = 3  # how often a run that is lost is submitted again
LOOK_S = 0.02  # between two looks at the runs that are going on, for each of them
LATER_S = 10.0  # until an engine that took no run is asked again
MOST_NAMED = 3  # of the runs that are going on, in the study's message
OWN_STATES = ("done", "running", "stopping", "queued", "stopped", "lost", "failed")  # the best one first
UNMEASURED = ("", "prepare", "sensitivity")  # stages of a run that has no sensitivity yet


class Executor(Protocol):
    """Whoever executes runs: an engine (`engines.base.Engine`)."""

    def common(self, spec: RunSpec) -> Hashable: ...
    def submit(self, *runs: RunFolder, first: bool = False) -> None: ...
    def stop(self, run: RunFolder, grace_s: float | None = None) -> None: ...
    def alive(self, run: RunFolder) -> bool: ...


# Gets what is computed, with the time left; the id of its run, and what that is doing.
Follower = Callable[[str, str, Status], None]


def conduct(
    folder: StudyFolder,
    engine: Executor,
    follow: Follower | None = None,
    on_change: Callable[[Status], None] | None = None,
    together: int = 1,
    holder: Callable[[RunFolder], Executor] | None = None,
) -> None:
    """Run a study to its end, or until it is asked to stop; its state and all that it has found lie in its folder.

    Args:
        folder: of the study; whatever is done is not done again.
        engine: executes its runs.
        follow: called again and again with the state of every run that is going on.
        on_change: called with every new state of the study.
        together: how many runs the engine is given at a time.
        holder: of a run that an engine holds, the one that can be asked about it (`engines.holder_of`); None: `engine`.

    Raises:
        RunError: another process is running the study, or its spec was changed since it has started.
        SpecError: its spec is not valid.
    """
    folder.spec()
    with RunWriter(folder, on_change) as writer, stopped_by_signals(writer.signal_stop):
        _freeze(folder)
        _Conductor(folder, engine, follow, writer, together, holder).all()


def launch(folder: StudyFolder, *options: str) -> None:
    """Have a study run by a process of its own, which outlives this one; returns at once.

    Args:
        folder: of a study that nobody runs at the moment.
        options: of the command `study run`.

    Raises:
        RunError: it is going on; OSError: the folder cannot be written.
    """
    (attempt,) = lifecycle.requeue(folder)
    with folder.file("log.txt").open("ab") as log:
        process = start_detached(folder.place, "study", "run", str(folder.path), *options, log=log)
    lifecycle.claim(folder, process_identity(process.pid), attempt)


def was_changed(folder: StudyFolder) -> bool:
    """Tell whether the spec of a study says something else than when it was run first."""
    noted = read_object(folder.file("started.json")).get("study")
    return noted is not None and noted != _digest(folder)


def _digest(folder: StudyFolder) -> str:
    data = load_yaml(read_text(folder.file("study.yaml")), "study.yaml")
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def _freeze(folder: StudyFolder) -> None:
    """Note what the study asks; refuse one that asks something else now: a margin is declared before the first run."""
    if was_changed(folder):
        raise RunError(
            f"study {folder.id}: its study.yaml was changed since the study has started; put back what it said, or "
            f"copy it and `study run` the copy, which takes over every run that is still the same"
        )
    if read_object(folder.file("started.json")).get("study") is None:  # none yet, or damaged
        write_json(folder.file("started.json"), {"study": _digest(folder), "time": time.time()})


@dataclass(frozen=True)
class _Active:
    """A run that is going on, the first of the cells that it answers for, and how people read it."""

    run: RunFolder
    cell: Cell
    label: str
    began: float = field(default_factory=time.monotonic)


class _Conductor:
    """One attempt at a study."""

    def __init__(
        self,
        folder: StudyFolder,
        engine: Executor,
        follow: Follower | None,
        writer: RunWriter,
        together: int,
        holder: Callable[[RunFolder], Executor] | None,
    ) -> None:
        self.folder, self.place, self.study = folder, folder.place, folder.spec()
        self.engine, self.follow, self.writer, self.together = engine, follow, writer, together
        self.holder = holder
        self.answers = folder.runs()
        self.rates, self.grids = folder.rates(), folder.grids()
        self.tried: set[str] = set()  # ids of runs that this attempt has submitted
        self.again: Counter[str] = Counter()  # how often each was submitted again
        self.not_before = 0.0  # by the monotonic clock: when the engine is asked again that took no run
        self.said: set[str] = set()  # what a warning says, is said once
        self.measured: set[Hashable] = set()  # `_measured` of what this attempt has seen measured
        self.seconds: list[float] = []  # of the runs that this attempt has computed
        write_json(folder.file("runs.json"), self.answers)

    def all(self) -> None:
        self._tune()
        groups = groups_of(self.study)
        untuned = [group.key for group in groups if rates_of(self.study, group) and group.key not in self.rates]
        cells = [cell for cell in scored_cells(self.study, self.rates) if cell.group.key not in untuned]
        self._compute(cells, "test")
        for key in untuned:
            message = f"{key}: not scored, because it could be trained at none of its learning rates"
            self.writer.event("warning", message=message)

    def _tune(self) -> None:
        """Choose the learning rate of every group that has none; a grid whose best lies at its edge grows first."""
        groups = {group.key: group for group in groups_of(self.study)}
        extensions = dict.fromkeys(groups, 0)
        while True:
            open_groups = {key for key, group in groups.items() if key not in self.rates and self._grid(group)}
            cells = [cell for cell in tuning_cells(self.study, self.grids) if cell.group.key in open_groups]
            if not cells:
                return
            self._compute(cells, "tuning")
            runs = [(cell, self._run_of(cell)) for cell in cells]
            states = [CellState(cell, run, run.status().state) if run else CellState(cell) for cell, run in runs]
            grown = False
            for key, curve in curves_of(states, {}).items():
                start, grid = rates_of(self.study, groups[key]), self._grid(groups[key])
                extensions[key] = (len(grid) - len(start)) // EXTENDED_BY
                if curve.edge and extensions[key] < MOST_EXTENSIONS:
                    self.grids[key] = extended(grid, curve.edge)
                    grown |= self.grids[key] != grid
                if curve.best is not None and self.grids.get(key, grid) == grid:
                    self.rates[key] = curve.best.rate
            self._note_rates(groups)
            if not grown:
                return

    def _grid(self, group: Group) -> list[float]:
        return list(self.grids.get(group.key) or rates_of(self.study, group))

    def _note_rates(self, groups: Mapping[str, Group]) -> None:
        rows = {key: {"grid": self._grid(group), "chosen": self.rates.get(key)} for key, group in groups.items()}
        write_json(self.folder.file("rates.json"), {key: row for key, row in rows.items() if row["grid"]})

    def _compute(self, cells: Sequence[Cell], stage: str) -> None:
        """Have a run for each cell, as far as there can be one; those that are equal get the same one."""
        self.writer.stage(stage)
        by_key: dict[Hashable, list[Cell]] = {}
        for cell in cells:
            by_key.setdefault(run_key(cell.spec), []).append(cell)
        self._take_over([same[0] for same in by_key.values()])
        # What is over already takes no place in a group of runs that go together.
        waiting = deque([same for same in by_key.values() if not self._is_over(same)])
        active: dict[str, _Active] = {}
        done = len(by_key) - len(waiting)
        while waiting or active:
            while waiting and len(active) < self.together and self._may_begin(waiting[0][0], active):
                group = self._next(waiting, active, self.together - len(active))
                try:
                    begun = self._begin(group)
                except Later as error:
                    waiting.extendleft(reversed(group))
                    self._put_off(error)
                    break
                done += begun.count(None)
                for run, cell in filter(None, begun):
                    place = f"{stage} run {done + len(active) + 1} of {len(by_key)}"
                    left = self._left(len(waiting) + len(active) + 1)
                    active[run.id] = _Active(run, cell, f"{place}, {cell.group.label}, seed {cell.seed}{left}")
            named = [one.label for one in active.values()][:MOST_NAMED]
            more = [f"and {len(active) - len(named)} more"] if len(active) > len(named) else []
            self.writer.progress(done, len(by_key), "; ".join([*named, *more]))
            self._stop_if_asked([one.run for one in active.values()])
            for name, one in list(active.items()):
                is_over = not self._alive(one.run)
                if self.follow:
                    self.follow(one.label, name, one.run.status())
                if is_over and not self._goes_on(one.run):
                    del active[name]
                    self._has_measured(one)
                    done += 1
                    self.seconds.append(time.monotonic() - one.began)
                    self.writer.event("run", run=name, cell=one.cell.key, state=one.run.status().state)
            if active or waiting:
                time.sleep(LOOK_S * max(1, len(active)))
        self.writer.progress(done, len(by_key))

    def _is_over(self, cells: Sequence[Cell]) -> bool:
        """Tell whether the run of equal cells is done or was tried; then it is theirs."""
        run = self._run_of(cells[0])
        if run is None or (run.id not in self.tried and run.status().state != "done"):
            return False
        return self._made(cells) is None

    def _may_begin(self, cell: Cell, active: Mapping[str, _Active]) -> bool:
        """Tell whether a run may begin now: those that go together wait for the end of all before, to be many."""
        if time.monotonic() < self.not_before:
            return False
        return not active or self.engine.common(cell.spec) is None

    def _put_off(self, error: Later) -> None:
        """Note that the engine takes no run now, such as beyond a limit of an account."""
        self.not_before = time.monotonic() + LATER_S
        self._warn(f"runs wait, and are submitted again and again: {error}")

    def _goes_on(self, run: RunFolder) -> bool:
        """Submit a run again whose process is gone though nobody asked it to stop; False where it is over."""
        status = run.status()
        if status.state != "lost":
            return False
        if self.again[run.id] == MOST_AGAIN:
            self.writer.event("warning", message=f"run {run.id}: {status.message}; given up after {MOST_AGAIN} repeats")
            return False
        if time.monotonic() < self.not_before:
            return True
        try:
            is_on = bool(self._submit(run))
        except Later as error:
            self._put_off(error)
            return True
        self.again[run.id] += 1
        nth = f"submitted again, {self.again[run.id]} of at most {MOST_AGAIN} times"
        self.writer.event("resubmitted", run=run.id, number=self.again[run.id], message=status.message)
        self.writer.event("warning", message=f"run {run.id}: {status.message}; {nth}")
        return is_on

    def _warn(self, message: str) -> None:
        if message not in self.said:
            self.said.add(message)
            self.writer.event("warning", message=message)

    def _keeper(self, run: RunFolder) -> Executor:
        """Return whom to ask about a run: an earlier attempt may have given it to another engine."""
        return self.holder(run) if self.holder and run.note() else self.engine

    def _alive(self, run: RunFolder) -> bool:
        """Tell whether a run goes on; one whose engine cannot be asked does until its folder says that it has ended."""
        try:
            return self._keeper(run).alive(run)
        except (ParaknowError, OSError) as error:
            self._warn(f"run {run.id}: its engine cannot be asked: {error}")
            return run.status().active

    def _submit(self, *runs: RunFolder) -> list[RunFolder]:
        """Submit runs; returns those that go on, also if it is somebody else who has begun them meanwhile.

        Raises:
            Later: the engine takes none of them now; they are as before.
        """
        try:
            self.engine.submit(*runs)
        except Later:
            raise
        except (ParaknowError, OSError) as error:
            elsewhere = [run for run in runs if self._alive(run)]
            rest = [run for run in runs if run not in elsewhere]
            if len(runs) > 1:  # what keeps one from being executed keeps no other
                groups = [rest] if elsewhere and rest else [[run] for run in rest]
                return elsewhere + [run for group in groups for run in self._submit(*group)]
            for run in rest:
                lifecycle.give_up(run, error)
                self._warn(f"run {run.id}: could not be submitted: {error}")
            return elsewhere
        return list(runs)

    def _next(self, waiting: deque[list[Cell]], active: Mapping[str, _Active], most: int) -> list[list[Cell]]:
        """Take the next run's cells, and those of others that the engine had better be given with it."""
        first = self._first(waiting, active)
        taken = [waiting[first]]
        del waiting[first]
        common = self.engine.common(taken[0][0].spec)
        for same in list(waiting) if common is not None else ():
            if len(taken) == most:
                break
            if self.engine.common(same[0].spec) == common:
                waiting.remove(same)
                taken.append(same)
        return taken

    def _first(self, waiting: Sequence[list[Cell]], active: Mapping[str, _Active]) -> int:
        """Return which run begins next: not one that would wait for what another is measuring, if one would not."""
        measuring = {_measured(one.cell.spec) for one in active.values() if not self._has_measured(one)} - self.measured
        for number, same in enumerate(waiting if measuring else ()):
            if _measured(same[0].spec) not in measuring and self.engine.common(same[0].spec) is None:
                return number
        return 0

    def _has_measured(self, one: _Active) -> bool:
        """Tell whether a run needs no sensitivity, or has it: then others find it, too, and that is noted."""
        key = _measured(one.cell.spec)
        if key is not None and one.run.status().stage not in UNMEASURED:
            self.measured.add(key)
        return key is None or key in self.measured

    def _begin(self, together: Sequence[Sequence[Cell]]) -> list[tuple[RunFolder, Cell] | None]:
        """Have the runs of equal cells executed.

        Returns:
            For each list of equal cells, the run that is going on and the first cell; None where there is nothing to
            do.

        Raises:
            Later: see `_submit`; all of them are as before.
        """
        begun, new = [], []
        for same in together:
            run = self._made(same)
            begun.append((run, same[0]) if run else None)
            # If it is alive, somebody else is executing it.
            if run and not self._alive(run):
                new.append(run)
        try:
            gone = set(new) - set(self._submit(*new)) if new else ()
        except Later:
            self.tried -= {run.id for run, _ in filter(None, begun)}
            raise
        return [one if one and one[0] not in gone else None for one in begun]

    def _made(self, cells: Sequence[Cell]) -> RunFolder | None:
        """Return the run of equal cells, made if need be; None if it is done or was tried."""
        run = self._run_of(cells[0])
        if run is None:
            name = lifecycle.new_id(cells[0].spec.name, "run")
            run = RunFolder(self.place.runs / name)
        self._note(cells, run)  # before it exists: a run that nobody knows to be the study's would be lost
        if not is_there(run.path / "spec.yaml"):
            lifecycle.create_run(self.place, cells[0].spec, run.path)
        add_study(run.path, self.folder.path.name)
        state = run.status().state
        if state == "done" or run.id in self.tried:
            return None
        self.tried.add(run.id)
        return run

    def _run_of(self, cell: Cell) -> RunFolder | None:
        """Return the run that is noted for a cell, if it is there and computes what the cell asks."""
        name = self.answers.get(cell.key)
        run = RunFolder(self.place.runs / name) if name else None
        try:
            return run if run is not None and computes(run.spec()) == computes(cell.spec) else None
        except ParaknowError:
            return None

    def _note(self, cells: Iterable[Cell], run: RunFolder) -> None:
        new = {cell.key: run.id for cell in cells}
        if any(self.answers.get(key) != name for key, name in new.items()):
            self.answers |= new
            # Not durable: what a power cut takes from it is found again by content.
            write_json(self.folder.file("runs.json"), self.answers, durable=False)

    def _take_over(self, cells: Sequence[Cell]) -> None:
        """Note for cells without a run what other studies, or people, have computed already."""
        missing = [cell for cell in cells if self._run_of(cell) is None]
        if not missing:
            return
        runs = list_runs(self.place)
        self.answers |= answers(missing, runs, ("done",))
        missing = [cell for cell in missing if self._run_of(cell) is None]
        own = [run for run in runs if self.folder.path.name in studies_of(run.path)] if missing else []
        self.answers |= answers(missing, own, OWN_STATES)
        write_json(self.folder.file("runs.json"), self.answers)

    def _left(self, runs: int) -> str:
        if not self.seconds:
            return ""
        return f", about {duration(sum(self.seconds) / len(self.seconds) * runs / min(self.together, runs))} left"

    def _stop_if_asked(self, active: Sequence[RunFolder]) -> None:
        if not self.writer.stop_requested:
            return
        asked = [run for run in active if self._asked_to_stop(run)]
        while any(self._alive(run) for run in asked):
            time.sleep(LOOK_S)
        raise StopRequested

    def _asked_to_stop(self, run: RunFolder) -> bool:
        """Ask a run to stop; False where it is over, or nobody can be asked: that keeps no other run going."""
        try:
            if not self._keeper(run).alive(run):  # one that is on its way from a lost node to another is
                return False
            self._keeper(run).stop(run)
        except (ParaknowError, OSError) as error:
            self._warn(f"run {run.id}: could not be asked to stop: {error}")
            return False
        return True


def _measured(spec: RunSpec) -> Hashable:
    """Return what is equal for runs that need the same sensitivity; None for one that needs none."""
    is_needed = METHODS[spec.method].needs_teacher or spec.until == "sensitivity"
    return asked(spec, MEASUREMENT) if is_needed else None


def extended(grid: Sequence[float], edge: str) -> list[float]:
    """Return a grid of learning rates with `EXTENDED_BY` more points at its `low` or `high` end; at most 10."""
    end, sign = (grid[0], -1) if edge == "low" else (grid[-1], 1)
    more = [rate for step in range(1, EXTENDED_BY + 1) if (rate := step_of_grid(end, sign * step)) <= HIGHEST_RATE]
    return sorted([*grid, *more])
