"""The folder of a study: what it runs, which run answers for which cell, and what its process is doing.

    study.yaml    the spec, frozen
    runs.json     key of a cell -> id of the run that answers for it; equal cells share one
    rates.json    for each tuned group the grid as it was extended, and the rate that was chosen
    status.json, process.json, lock, stop, events.jsonl, log.txt    as of a run

Its runs are ordinary run folders of the workspace. `conduct.py` writes a study's folder from inside its process.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files import shapes
from paraknow_core.files.atomic import write_atomic
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.files.naming import is_there
from paraknow_core.files.yaml_file import read_text
from paraknow_core.paths import Workspace, contained
from paraknow_core.runs.folder import JobFolder, RunFolder, list_runs
from paraknow_core.runs.labels import studies_of
from paraknow_core.runs.lifecycle import new_id
from paraknow_core.runs.status import ENDED, Status
from paraknow_core.spec import RunSpec
from paraknow_core.studies.repeats import there_already
from paraknow_core.studies.study import Cell, StudySpec, parse_study_yaml, scored_cells, tuning_cells

FILES = (  # all that a study's folder holds
    *("study.yaml", "runs.json", "rates.json", "started.json", "status.json", "process.json", "lock", "stop"),
    *("events.jsonl", "log.txt"),
)
WAITING = "waiting"  # the state of a cell that no run answers for yet
_RATES = shapes.Each({"grid": [shapes.NUMBER], "chosen": shapes.MAYBE_NUMBER})


@dataclass(frozen=True)
class CellState:
    """A cell of a study, the run that answers for it, and that run's state: `waiting` where there is none yet."""

    cell: Cell
    run: RunFolder | None = None
    state: str = WAITING


@dataclass(frozen=True)
class RatePoint:
    """How a group trained at one learning rate.

    Attributes:
        rate: the learning rate.
        losses: tuning seed -> validation loss at the end of training, of those that ended well; nats per token.
        loss: their mean; None unless all of them ended well.
        diverged: whether the loss of one of them went to infinity, or is missing though it has ended.
        failed: how many runs failed for another reason.
    """

    rate: float
    losses: Mapping[int, float]
    loss: float | None
    diverged: bool = False
    failed: int = 0


class Curve(list[RatePoint]):
    """Validation loss against learning rate, in rising order of rates.

    Attributes:
        chosen: the rate that the scored runs take; None while it is not known.
        edge: `low` or `high` where the best rate lies at that end of the grid, else empty: the truly best one may lie
            beyond.
    """

    chosen: float | None = None

    @property
    def best(self) -> RatePoint | None:
        """The point with the lowest loss; a rate that diverged or failed never is."""
        return min((point for point in self if point.loss is not None), key=lambda point: point.loss, default=None)

    @property
    def edge(self) -> str:
        best = self.best
        if best is None or len(self) < 2:
            return ""
        return "low" if best is self[0] else "high" if best is self[-1] else ""


@dataclass(frozen=True)
class StudyFolder(JobFolder):
    """One study on disk.

    Attributes:
        path: its folder.
        place: the workspace that its runs are in.
    """

    place: Workspace
    noun: ClassVar[str] = "study"

    @classmethod
    def create(cls, place: Workspace, study: StudySpec, out: Path | None = None) -> "StudyFolder":
        """Make the folder of a study, in state queued; its spec is frozen from here on.

        Args:
            place: the workspace.
            study: what to run.
            out: where instead of `studies/<id>`; must not exist or be empty.

        Raises:
            RunError: the folder already holds something.
        """
        out = out or place.studies / new_id(study.name, "study")
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(f"{out}: already holds files; choose a new folder, or `study run {out}` to continue it")
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "status.json", asdict(Status()))
        write_atomic(out / "study.yaml", study.to_yaml())
        return cls(out, place)

    def spec(self) -> StudySpec:
        """Read the frozen spec.

        Raises:
            SpecError: the folder holds no valid one.
        """
        return parse_study_yaml(read_text(self.path / "study.yaml"), "study.yaml")

    def state(self) -> str:
        """Return what the study is doing, in the words of runs; `done` also when some of its runs failed."""
        return self.status().state

    def cells(self) -> list[CellState]:
        """Return every cell with its run, the tuning cells first; scored cells seed by seed.

        A scored cell of a group whose rate is not chosen yet waits.
        """
        answers = self.runs()
        states: dict[str, str] = {}
        cells = []
        for cell in self.planned():
            name = answers.get(cell.key)
            run = RunFolder(self.place.runs / name) if name else None
            if run is not None and name not in states:
                states[name] = run.status().state if is_there(run.path / "spec.yaml") else WAITING
            gone = run is None or states[name] == WAITING
            cells.append(CellState(cell) if gone else CellState(cell, run, states[name]))
        return cells

    def planned(self) -> Sequence[Cell]:
        """Return the cells without their runs, as far as rates are known."""
        grids = tuple((key, tuple(grid)) for key, grid in self.grids().items())
        return _planned(read_text(self.path / "study.yaml"), grids, tuple(self.rates().items()))

    def runs(self) -> dict[str, str]:
        """Return cell key -> run id. Where runs.json is damaged, the study's runs are found again by their content."""
        known, lost = shapes.fit(read_json(self.path / "runs.json"), shapes.Each(shapes.TEXT))
        if known is not shapes.MISSING and not lost:
            return {key: name for key, name in known.items() if _is_plain(self.place, name)}
        if not is_there(self.path / "runs.json"):
            return {}
        own = [run for run in list_runs(self.place) if self.path.name in studies_of(run.path)]
        return answers(self.planned(), own, (*ENDED, "running", "stopping", "queued"))

    def rates(self) -> dict[str, float]:
        """Return the chosen learning rate of each tuned group, by `Group.key`; empty until they are tuned."""
        return {key: row["chosen"] for key, row in self._tuned().items() if row.get("chosen")}

    def grids(self) -> dict[str, list[float]]:
        """Return the learning rates that each group is tuned over, as its grid was extended, by `Group.key`."""
        return {key: row["grid"] for key, row in self._tuned().items()}

    def curves(self) -> dict[str, Curve]:
        """Return validation loss against learning rate of each tuned group, by `Group.key`, as far as it is known."""
        return curves_of(self.cells(), self.rates())

    def failed_runs(self) -> int:
        """Return how many runs of the study failed."""
        failed = {cell.run.id for cell in self.cells() if cell.run is not None and cell.state == "failed"}
        return len(failed)

    def _tuned(self) -> dict[str, dict[str, Any]]:
        rows, _ = shapes.fit(read_json(self.path / "rates.json"), _RATES)
        return {} if rows is shapes.MISSING else {key: row for key, row in rows.items() if row.get("grid")}


def _is_plain(place: Workspace, name: str) -> bool:
    try:
        contained(place.runs, name)
    except (RunError, OSError, ValueError):
        return False
    return True


@lru_cache(32)
def _planned(text: str, grids: tuple, rates: tuple) -> tuple[Cell, ...]:
    study = parse_study_yaml(text, "study.yaml")
    return (*tuning_cells(study, dict(grids)), *scored_cells(study, dict(rates)))


def answers(cells: Sequence[Cell], runs: Iterable[RunFolder], states: Sequence[str]) -> dict[str, str]:
    """Return cell key -> id of a run that has computed it, whatever it is called; see `there_already`.

    Args:
        cells: to find runs for.
        runs: to look among, newest first.
        states: of the runs that count, the best first.
    """
    readable = []
    for run in runs:
        try:
            readable.append((run, run.spec()))
        except ParaknowError:
            continue
    return answers_among(cells, readable, states)


def answers_among(
    cells: Sequence[Cell], runs: Iterable[tuple[RunFolder, RunSpec]], states: Sequence[str]
) -> dict[str, str]:
    """Do what `answers` does, for runs whose specs are read already."""
    found = there_already([cell.spec for cell in cells], runs, lambda run: run.status().state, states)
    return {cell.key: run.id for cell, run in zip(cells, found, strict=True) if run is not None}


def curves_of(cells: Iterable[CellState], rates: Mapping[str, float]) -> dict[str, Curve]:
    """Return the curves of a study's tuning cells; see `StudyFolder.curves`."""
    by_group: dict[str, dict[float, list[CellState]]] = {}
    for cell in cells:
        if cell.cell.purpose == "tuning":
            by_group.setdefault(cell.cell.group.key, {}).setdefault(cell.cell.rate, []).append(cell)
    curves = {}
    for key, by_rate in by_group.items():
        curves[key] = Curve(_rate_point(rate, by_rate[rate]) for rate in sorted(by_rate))
        curves[key].chosen = rates.get(key)
    return curves


def _rate_point(rate: float, cells: Sequence[CellState]) -> RatePoint:
    losses, diverged = {}, False
    for cell in cells:
        if cell.state == "done":
            loss = final_loss(cell.run)
            diverged |= loss is None
            losses |= {} if loss is None else {cell.cell.seed: loss}
    failed = sum(cell.state == "failed" for cell in cells)
    mean = fmean(losses.values()) if len(losses) == len(cells) else None
    return RatePoint(rate, losses, mean, diverged, failed)


def final_loss(run: RunFolder) -> float | None:
    """Return a run's validation loss at the end of training, nats per token; None where it diverged or has none."""
    result = run.result() or {}
    loss = (result.get("validation") or {}).get("final")
    if loss is None:
        loss = (result.get("training") or {}).get("last_validation_loss")
    return loss if loss is not None and isfinite(loss) and not result.get("diverged") else None


def list_studies(place: Workspace) -> list[StudyFolder]:
    """Return all studies of a workspace, newest first (ids begin with the time)."""
    if not place.studies.is_dir():
        return []
    names = sorted((entry.name for entry in os.scandir(place.studies) if not entry.name.startswith(".")), reverse=True)
    return [StudyFolder(place.studies / name, place) for name in names if is_there(place.studies / name / "study.yaml")]


def refuse_other_files(folder: StudyFolder) -> None:
    """Refuse to delete a folder that holds more than a study: a spec that lies among a person's files makes it one.

    Raises:
        RunError: names some of what would be lost.
    """
    left = tuple(f".{name}." for name in FILES)  # of a process that was killed while it wrote
    names = (entry.name for entry in os.scandir(folder.path))
    others = sorted(name for name in names if name not in FILES and not name.startswith(left))
    if others:
        raise RunError(
            f"study {folder.id}: its folder {folder.path} holds other files ({', '.join(others[:3])}), which would be "
            "deleted, too; move them away, or give the study's own folder"
        )


def find_study(place: Workspace, name: str) -> StudyFolder:
    """Return the study with this id, the only one whose id begins with it, or the one in this folder.

    Raises:
        RunError: none or several match.
    """
    path = Path(name).expanduser()
    if is_there(path / "study.yaml"):
        return StudyFolder(path.resolve(), place)
    if os.sep in name:
        raise RunError(
            f"{name}: holds no study.yaml, so it is no study; give an id of `study list`, or a study's folder"
        )
    exact = contained(place.studies, name)
    if is_there(exact / "study.yaml"):
        return StudyFolder(exact, place)
    matches = [study for study in list_studies(place) if study.id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    problem = "no study has this id" if not matches else f"{len(matches)} studies begin with it"
    raise RunError(f"study '{name}': {problem}; `study list` shows them all")
