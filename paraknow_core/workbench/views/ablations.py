"""What Ablations draws of studies: the list, how far each is, and what came of it."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from paraknow_core.catalogue import ARMS
from paraknow_core.display import NOT_MEASURED, SHARE, compact, score_text, shorten, significant
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.remember import while_unchanged
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.status import ACTIVE, ENDED, Status
from paraknow_core.studies.attribution import CHAIN, Attribution
from paraknow_core.studies.folder import WAITING, CellState, StudyFolder, list_studies
from paraknow_core.studies.outcome import GroupOutcome, StudyOutcome
from paraknow_core.studies.outcome import outcome as outcome_of
from paraknow_core.studies.study import Cell, Group, StudySpec, arms_of
from paraknow_core.studies.words import setting_text
from paraknow_core.studies.words import verdict_line as line_of_verdict
from paraknow_core.workbench import reading
from paraknow_core.workbench.execution import left_of_study
from paraknow_core.workbench.views.study_draft import choice_of, grid_words


@dataclass(frozen=True)
class Line:
    """A study in a list.

    Attributes:
        folder: of the study.
        study: its spec; None where that cannot be read.
        problem: why it cannot be read.
        status: what its process is doing.
    """

    folder: StudyFolder
    study: StudySpec | None
    problem: str
    status: Status

    @property
    def name(self) -> str:
        return self.study.name if self.study is not None else self.folder.id

    def words(self) -> str:
        """Say how far it is, in few words."""
        if self.study is None:
            return self.problem
        amount = f"{self.status.done:g} of {self.status.total:g} runs" if self.status.total else ""
        return ", ".join(filter(None, [grid_words(self.study), amount]))


def line_of(folder: StudyFolder) -> Line:
    """Return a study as a list shows it."""
    study, problem = _spec(folder)
    return Line(folder, study, problem, reading.status(folder))


def lines(place: Workspace) -> list[Line]:
    """Return all studies, newest first."""
    return [line_of(folder) for folder in list_studies(place)]


@while_unchanged(lambda folder: [folder.file("study.yaml")], most=500)
def _spec(folder: StudyFolder) -> tuple[StudySpec | None, str]:
    try:
        return folder.spec(), ""
    except ParaknowError as error:
        return None, str(error)


def named(place: Workspace, name: str) -> StudyFolder:
    """Return the study that an address names.

    Raises:
        RunError: there is none, whatever the text is.
    """
    try:
        if len(name) > reading.MAX_ID:
            raise ValueError
        return next(folder for folder in list_studies(place) if folder.id == name)
    except (StopIteration, OSError, ValueError):
        raise RunError(f"study '{shorten(name)}': no study has this id; choose one from the list") from None


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        folder: of the study.
        outcome: its groups with nothing but the states and ids of their runs: what a grid of progress needs.
        tuning: state -> how many tuning cells are in it.
        scored: state -> how many scored cells are in it.
        failed: runs that failed, each once, with their group's label and seed, and why.
        going: runs that wait somewhere or go on, each once, with their group's label and seed.
        cells: all of them.
    """

    folder: StudyFolder
    outcome: StudyOutcome
    tuning: Mapping[str, int]
    scored: Mapping[str, int]
    failed: Mapping[str, str]
    going: Mapping[RunFolder, str] = field(default_factory=dict)
    cells: Sequence[CellState] = ()

    @cached_property
    def version(self) -> tuple:
        """What changes whenever the study may have found something else; a name of its pictures."""
        runs = tuple(
            (run, file_stamp(self.folder.place.runs / run / "result.json"))
            for group in self.outcome.groups
            for seed, run in group.runs.items()
            if group.states[seed] in ENDED
        )
        rates = file_stamp(self.folder.file("rates.json"))
        return self.folder.id, self.outcome.state, runs, rates, tuple(sorted(self.tuning.items()))

    @property
    def states(self) -> tuple:
        """The state of every scored run: all that a grid of them shows."""
        return tuple(tuple(group.states.items()) for group in self.outcome.groups)

    def words(self) -> str:
        """Say how far the study is."""
        parts = []
        for what, counts in (("learning rates", self.tuning), ("scored", self.scored)):
            if counts:
                others = [f", {number} {word}" for word, number in counts.items() if word not in ("done", "waiting")]
                parts.append(f"{what}: {counts.get('done', 0)} of {sum(counts.values())} done{''.join(others)}")
        return "; ".join(parts)

    @property
    def unbegun(self) -> int:
        """How many of its cells have no run yet."""
        return self.tuning.get(WAITING, 0) + self.scored.get(WAITING, 0)

    @property
    def fraction(self) -> float:
        """How much of it is done, 0 to 1."""
        total = sum(self.tuning.values()) + sum(self.scored.values())
        return (self.tuning.get("done", 0) + self.scored.get("done", 0)) / total if total else 0.0


def progress(folder: StudyFolder) -> Progress:
    """Return how far each cell of a study is.

    Raises:
        ParaknowError: the study cannot be read.
    """
    states: dict[str, dict[int, str]] = {}
    runs: dict[str, dict[int, str]] = {}
    groups: dict[str, Group] = {}
    counts: dict[str, Counter] = {"tuning": Counter(), "test": Counter()}
    failed: dict[str, str] = {}
    going: dict[RunFolder, str] = {}
    cells = folder.cells()
    for one in cells:
        cell = one.cell
        counts[cell.purpose][one.state] += 1
        if one.state == "failed" and one.run is not None and one.run.id not in failed:
            why = reading.status(one.run).message
            failed[one.run.id] = _where(cell) + (f": {why}" if why else "")
        elif one.run is not None and (one.state in ACTIVE or (one.state == "lost" and folder.status().active)):
            going.setdefault(one.run, _where(cell))
        if cell.purpose == "test":
            groups[cell.group.key] = cell.group
            states.setdefault(cell.group.key, {})[cell.seed] = one.state
            if one.run is not None:
                runs.setdefault(cell.group.key, {})[cell.seed] = one.run.id
    bare = [
        GroupOutcome(
            key, group.label, group.arm.name, dict(group.point), "", states=states[key], runs=runs.get(key, {})
        )
        for key, group in groups.items()
    ]
    outcome = StudyOutcome(folder.id, folder.spec(), folder.state(), bare)
    return Progress(folder, outcome, counts["tuning"], counts["test"], failed, going, cells)


def left(progress: Progress, status: Status) -> str:
    """Say how long a study that goes on will still take, as far as that is known."""
    try:
        return left_of_study(progress.folder, status, progress.cells)
    except ParaknowError:  # of the settings, which its process refuses itself
        return ""


def troubles(progress: Progress) -> list[str]:
    """Return what went wrong while a study was conducted, newest first: a run that was lost, or not taken."""
    lines = [_named(text, progress.cells) for text in _warnings(progress.folder)]
    return [f"{text[:1].upper()}{text[1:]}" for text in dict.fromkeys(reversed(lines))]


def _named(text: str, cells: Sequence[CellState]) -> str:
    """Return a sentence in which a run is called as on this page, in place of its id."""
    found = re.match(r"run ([^:]+): ", text)
    one = next((one for one in cells if found and one.run is not None and one.run.id == found[1]), None)
    return text if found is None or one is None else f"{_where(one.cell)}: {text[found.end() :]}"


def _where(cell: Cell) -> str:
    where = f"seed {cell.seed}" if cell.purpose == "test" else f"learning rate {compact(cell.rate)}"
    return f"{cell.group.label}, {where}"


@while_unchanged(lambda folder: [folder.file("events.jsonl")], most=100)
def _warnings(folder: StudyFolder) -> list[str]:
    said = (event.get("message") for event in folder.events() if event.get("event") == "warning")
    return [message for message in said if isinstance(message, str) and message]


def result(progress: Progress) -> StudyOutcome:
    """Return what a study has found so far, worked out anew only when a run has ended or a rate was chosen."""
    return _result(progress.folder, progress.version)


@while_unchanged(lambda folder, _: [folder.file(name) for name in ("study.yaml", "rates.json")], most=12)
def _result(folder: StudyFolder, version: tuple) -> StudyOutcome:
    del version  # only part of the key under which the result is kept
    return outcome_of(folder)


def verdict_line(group: GroupOutcome, against: str) -> str:
    """Say how a group compares: `+1.4 (-0.3 to +3.1), 6 seeds x 1,319 examples, smallest detectable 2.6: undecided`."""
    if group.arm == against:
        return "judged against"
    if group.vacuous:
        return group.vacuous
    verdict = group.verdict
    if verdict is None:
        return "no seed in common yet"
    return line_of_verdict(verdict, group.verdict_unit, times="×")


ARM_COLUMNS = ("arm", "score", "against", "learning rate", "keeps student at step 0", "equal budget")


def arm_rows(outcome: StudyOutcome) -> list[list[str]]:
    """Return one line a group for the table of arms; see `ARM_COLUMNS`."""
    rows = []
    for group in outcome.groups:
        score = {"value": group.value, "low": group.low, "high": group.high, "unit": group.unit, "n": group.n}
        rate = significant(group.rate) + (", at the edge of its grid" if group.rate_at_edge else "")
        rows.append(
            [
                group.label,
                score_text(score) if group.value is not None else NOT_MEASURED,
                verdict_line(group, outcome.study.against),
                rate,
                "yes" if group.keeps_student else "no",
                "yes" if group.equal else f"no: {group.note}",
            ]
        )
    return rows


def flat_rows(outcome: StudyOutcome) -> list[dict[str, Any]]:
    """Return every number of a study's groups as rows for a file."""
    rows = []
    for group in outcome.groups:
        verdict = group.verdict
        judged = {name: getattr(verdict, name, None) for name in JUDGED}
        rows.append(
            {
                "group": group.key,
                "arm": group.arm,
                **{key: choice_of(value) for key, value in group.point.items()},
                "score": group.value,
                "low": group.low,
                "high": group.high,
                "n": group.n,
                "unit": group.unit,
                "seeds": " ".join(map(str, group.seeds)),
                "scores": " ".join(map(str, group.scores_by_seed)),
                **{f"{name} of the difference" if name in ("low", "high") else name: v for name, v in judged.items()},
                "difference unit": group.verdict_unit,
                "learning rate": group.rate,
                "rate at edge": group.rate_at_edge,
                "keeps student": group.keeps_student,
                "equal budget": group.equal,
                "budget note": group.note,
                "why it is not judged": group.vacuous,
            }
        )
    return rows


JUDGED = ("difference", "low", "high", "p_value", "p_adjusted", "smallest_detectable", "verdict")


def attributions(outcome: StudyOutcome) -> list[tuple[str, Attribution, str | None]]:
    """Return where a gain comes from, one a point of the factors: the point's name, what was found, and its unit."""
    points = list(dict.fromkeys(_point_words(group) for group in outcome.groups))
    named = points if len(points) == len(outcome.attribution) else [""] * len(outcome.attribution)
    unit = next((group.verdict_unit for group in outcome.groups if group.verdict_unit), SHARE)
    return [(name, found, unit) for name, found in zip(named, outcome.attribution, strict=True)]


def _point_words(group: GroupOutcome) -> str:
    return ", ".join(setting_text(key, value) for key, value in group.point.items())


def missing_controls(study: StudySpec) -> list[str]:
    """Return the labels of the arms that a study lacks to say where a gain comes from."""
    there = {arm.name for arm in arms_of(study)}
    return [ARMS[name].label for name, _ in CHAIN if name in ARMS and name not in there]


def runs_of(group: GroupOutcome, outcome: StudyOutcome) -> tuple[dict[int, str], list[str]]:
    """Return a group's runs by seed, and beside them those of the arm it is judged against, for a link to Compare."""
    base = [g for g in outcome.groups if g.arm == outcome.study.against and g.point == group.point]
    ids = [run for g in dict.fromkeys((group.key, *(g.key for g in base))) for run in _done(outcome, g)]
    return dict(group.runs), list(dict.fromkeys(ids))


def _done(outcome: StudyOutcome, key: str) -> list[str]:
    group = next(g for g in outcome.groups if g.key == key)
    return [run for seed, run in group.runs.items() if group.states.get(seed) == "done"]


def file_name(study: StudySpec) -> str:
    """Return a study's name as part of the name of a file."""
    return "-".join(filter(None, re.split(r"[^a-z0-9]+", study.name.lower())))[:40] or "study"
