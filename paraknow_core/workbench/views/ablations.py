"""What Ablations draws: the factors that can be ticked, what a study would compute, and what came of studies."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from paraknow_core.catalogue import ARMS, MANUAL, METHODS, MODES, SCORERS, SPLITS, STRATEGIES, STRUCTURES, Row, offered
from paraknow_core.display import (
    NOT_MEASURED,
    SHARE,
    compact,
    counted,
    duration,
    memory,
    score_text,
    shorten,
    significant,
)
from paraknow_core.errors import ParaknowError, RunError, SpecError
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.yaml_file import load_yaml
from paraknow_core.ops.verdict import fewest_seeds
from paraknow_core.paths import Workspace
from paraknow_core.runs.status import ENDED, Status
from paraknow_core.spec import GROUPS, RunSpec
from paraknow_core.studies.attribution import CHAIN, Attribution
from paraknow_core.studies.folder import StudyFolder, list_studies
from paraknow_core.studies.outcome import GroupOutcome, StudyOutcome
from paraknow_core.studies.outcome import outcome as outcome_of
from paraknow_core.studies.presets import PRESETS
from paraknow_core.studies.preview import StudyPreview, preview
from paraknow_core.studies.report import records_table
from paraknow_core.studies.study import QUARTER_DECADE, Group, OwnArm, StudySpec, arms_of, groups_of, parse_study
from paraknow_core.studies.words import factor_text, interval_text, points_text, setting_text
from paraknow_core.workbench import reading
from paraknow_core.workbench.past_runs import estimate_runs

RATE = "finetuning.learning_rate"
RATES_AROUND = 4  # quarter decades offered on either side of the draft's rate


@dataclass(frozen=True)
class Factor:
    """A setting that can be ticked as a factor of a study.

    Attributes:
        key: of the spec.
        label: of its row.
        values: what is offered, of a base; names of `rows` where there are any.
        rows: what can be said about its values, where they are names.
        many: one of its values, to be counted, where the label does not say it.
    """

    key: str
    label: str
    values: Callable[[RunSpec], Sequence[Any]]
    rows: Mapping[str, Row] | None = None
    many: str = ""

    @property
    def noun(self) -> str:
        """What one of its values is, to count them."""
        return self.many or self.label.lower()

    def tip(self) -> str:
        """Return what its values mean."""
        return "; ".join(f"{name}: {row.text}" for name, row in (self.rows or {}).items())


def _rates(base: RunSpec) -> list[float]:
    steps = range(-RATES_AROUND, RATES_AROUND + 1)
    return [float(f"{base.finetuning.learning_rate * QUARTER_DECADE**step:.3g}") for step in steps]


def _numbers(*usual: int, of: Callable[[RunSpec], int]) -> Callable[[RunSpec], list[int]]:
    return lambda base: sorted({*usual, of(base)})


FACTORS = {
    factor.key: factor
    for factor in (
        Factor("mapping.strategy", "Layer mapping", lambda _: [n for n in STRATEGIES if n != MANUAL], STRATEGIES),
        Factor("extraction.origin", "Origin", lambda _: ["all", *GROUPS]),
        Factor("extraction.structure", "Structure", lambda _: offered(STRUCTURES), STRUCTURES),
        Factor("factorisation.rank", "Rank", _numbers(1, 2, 4, 8, 16, 32, 64, of=lambda base: base.factorisation.rank)),
        Factor("injection.mode", "Injection mode", lambda _: list(MODES), MODES),
        Factor("factorisation.split", "Split", lambda _: list(SPLITS), SPLITS),
        Factor(
            "sensitivity.samples",
            "Seed samples",
            _numbers(1, 2, 4, 8, 16, 32, 64, 128, of=lambda base: base.sensitivity.samples),
            many="seed-sample count",
        ),
        Factor(RATE, "Learning rate", _rates),
    )
}


VARIED = (*FACTORS, "method")


def choice_of(value: Any) -> Any:
    """Return a factor's value as one that can be ticked: lists as one text."""
    return "+".join(value) if isinstance(value, list | tuple) else value


def value_of(key: str, choice: Any) -> Any:
    """Return what a ticked choice stands for in a spec."""
    return choice.split("+") if key == "extraction.origin" else choice


def choice_text(choice: Any) -> str:
    """Return a choice for people."""
    return compact(choice) if isinstance(choice, float) else str(choice).replace("_", " ")


def choices_of(factor: Factor, study: StudySpec) -> tuple[list[Any], list[Any]]:
    """Return what can be ticked of a factor, and what is."""
    ticked = [choice_of(value) for value in study.factors.get(factor.key, ())]
    options = [*factor.values(study.base), *(choice for choice in ticked if choice not in factor.values(study.base))]
    return options if factor.rows or factor.key == "extraction.origin" else sorted(options), ticked


def with_factor(study: StudySpec, key: str, choices: Iterable[Any]) -> dict[str, Any]:
    """Return the change of a study that ticks these choices of a factor; none takes the factor away."""
    factors = {name: list(values) for name, values in study.factors.items()}
    factors[key] = [value_of(key, choice) for choice in choices]
    change: dict[str, Any] = {"factors": {name: values for name, values in factors.items() if values}}
    if key == RATE and factors[key]:
        change["tuning"] = None  # a rate is either chosen by the study or varied by hand
    return change


def vary(study: StudySpec, key: str) -> dict[str, Any]:
    """Return the change of a study that varies a setting over everything that the catalogue has for it."""
    if key == "method":
        wanted = {name for name, row in METHODS.items() if row.standard} | {study.base.method, *arms_to_tick(study)[1]}
        return {"arms": [*(name for name in ARMS if name in wanted), *_own_arms(study)]}
    ticked = {choice_of(value) for value in study.factors.get(key, ())}
    options = [*FACTORS[key].values(study.base)]
    return with_factor(study, key, [*options, *(choice for choice in ticked if choice not in options)])


def vary_words(study: StudySpec, key: str) -> str:
    """Say what `vary` would add."""
    if key == "method":
        return "Vary this: adds the method and its usual controls as arms of the study on Ablations."
    shown = ", ".join(map(choice_text, FACTORS[key].values(study.base)))
    return f"Vary this: adds {FACTORS[key].label.lower()} ({shown}) to the study on Ablations."


def varied_words(study: StudySpec, key: str) -> str:
    """Say what the study varies now."""
    added = "The study has all usual arms" if key == "method" else f"The study varies {FACTORS[key].label.lower()}"
    return f"{added}: {grid_words(study)}."


def with_arms(study: StudySpec, names: Sequence[str]) -> dict[str, Any]:
    """Return the change of a study that ticks these arms; arms of its own stay, and so does one to judge against."""
    arms = [*(name for name in ARMS if name in names), *_own_arms(study)]
    if not arms:
        raise SpecError("arms: nothing would be compared; keep at least one")
    known = [arm if isinstance(arm, str) else arm["name"] for arm in arms]
    return {"arms": arms, "against": study.against if study.against in known else known[0]}


def _own_arms(study: StudySpec) -> list[dict[str, Any]]:
    return [arm.model_dump(mode="json") for arm in study.arms if isinstance(arm, OwnArm)]


def arms_to_tick(study: StudySpec) -> tuple[list[str], list[str]]:
    """Return the catalogue's arms, and those of them that are ticked."""
    return list(ARMS), [arm for arm in study.arms if isinstance(arm, str)]


def arm_labels(study: StudySpec) -> dict[str, str]:
    """Return name -> label of a study's arms."""
    return {arm.name: arm.label for arm in arms_of(study)}


def other_factors(study: StudySpec) -> dict[str, str]:
    """Return factors that cannot be ticked here, such as a file's own, with their values in words."""
    return {
        key: ", ".join(setting_text(key, value) for value in values)
        for key, values in study.factors.items()
        if key not in FACTORS
    }


def grid_words(study: StudySpec) -> str:
    """Say what the grid is: `5 arms x 3 structures x 6 seeds`."""
    parts = [counted(len(study.arms), "arm")]
    for key, values in study.factors.items():
        parts.append(counted(len(values), FACTORS[key].noun if key in FACTORS else factor_text(key)))
    return " × ".join([*parts, counted(len(study.seeds), "seed")])


def is_share(study: StudySpec) -> bool:
    """Tell whether the margin is counted in points: the scorer's scores are shares."""
    name = study.scorer or next(iter(study.base.task.scorers), None)
    return name is None or SCORERS[name].unit == "share"


def shown_margin(study: StudySpec) -> float:
    """Return the margin as people give it: points of a share, else the scorer's unit."""
    return round(study.margin * 100, 6) if is_share(study) else study.margin


def margin_of(study: StudySpec, shown: float) -> float:
    """Return the margin that was given as `shown_margin` shows it."""
    return shown / 100 if is_share(study) else shown


def imported(text: str) -> tuple[StudySpec, bool]:
    """Return the study that a YAML text holds, and whether it has a base of its own.

    Raises:
        SpecError: one sentence, whatever is wrong with it.
    """
    if not text.strip():
        raise SpecError("Import YAML: nothing was pasted; paste a study, e.g. from `study new PRESET`")
    data = load_yaml(text, "imported study")
    if not isinstance(data, dict):
        raise SpecError("imported study: holds no mapping; start from `study new PRESET`")
    return parse_study(data, "imported study"), "base" in data


def seeds_from(study: StudySpec, number: int) -> list[int]:
    """Return so many seeds: the study's own first, then those that follow them."""
    seeds = list(study.seeds[:number])
    return [*seeds, *range(max(seeds) + 1, max(seeds) + 1 + number - len(seeds))]


def base_words(study: StudySpec) -> str:
    """Say in a line what the base trains with."""
    base = study.base
    tuning, sizes = base.finetuning, base.task.sizes
    length = f"{tuning.max_steps} steps" if tuning.max_steps is not None else f"{tuning.epochs:g} epochs"
    tested = "all" if sizes.test is None else f"{sizes.test:,}"
    return f"{length} of {tuning.batch_size}, rank {base.factorisation.rank}, {tested} test examples"


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


@reading.while_unchanged(lambda folder: [folder.file("study.yaml")], most=500)
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


def made(name: str, size: str, base: RunSpec) -> StudySpec | str:
    """Return the study that a preset makes of a base, or why it cannot."""
    return _made(name, size, base.model_dump_json())


@lru_cache(64)
def _made(name: str, size: str, base: str) -> StudySpec | str:
    try:
        return PRESETS[name].make(RunSpec.model_validate_json(base), size)
    except SpecError as error:
        return str(error)


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        folder: of the study.
        outcome: its groups with nothing but the states and ids of their runs: what a grid of progress needs.
        tuning: state -> how many tuning cells are in it.
        scored: state -> how many scored cells are in it.
        failed: runs that failed, each once, with their group's label and seed.
    """

    folder: StudyFolder
    outcome: StudyOutcome
    tuning: Mapping[str, int]
    scored: Mapping[str, int]
    failed: Mapping[str, str]

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
    for one in folder.cells():
        cell = one.cell
        counts[cell.purpose][one.state] += 1
        if one.state == "failed" and one.run is not None:
            where = f"seed {cell.seed}" if cell.purpose == "test" else f"learning rate {compact(cell.rate)}"
            failed.setdefault(one.run.id, f"{cell.group.label}, {where}")
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
    return Progress(folder, outcome, counts["tuning"], counts["test"], failed)


def result(progress: Progress) -> StudyOutcome:
    """Return what a study has found so far, worked out anew only when a run has ended or a rate was chosen."""
    return _result(progress.folder, progress.version)


@reading.while_unchanged(lambda folder, _: [folder.file(name) for name in ("study.yaml", "rates.json")], most=12)
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
    unit = group.verdict_unit
    known = verdict.smallest_detectable is not None
    least = points_text(verdict.smallest_detectable, unit).lstrip("+") if known else "not known with so few seeds"
    return (
        f"{points_text(verdict.difference, unit)} ({interval_text(verdict.low, verdict.high, unit)}), "
        f"{counted(verdict.seeds, 'seed')} × {counted(verdict.n, 'example')}, smallest detectable {least}: "
        f"{verdict.verdict}"
    )


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


def records(folder: StudyFolder) -> bytes:
    """Return the records of a study's runs as a Parquet file.

    Raises:
        RunError: no run is done yet, or a file of a run is a link.
    """
    table = records_table(folder)
    if table.empty:
        raise RunError(f"study {folder.id}: no run is done yet, so there are no records; run it first")
    return table.to_parquet(index=False)


def file_name(study: StudySpec) -> str:
    """Return a study's name as part of the name of a file."""
    return "-".join(filter(None, re.split(r"[^a-z0-9]+", study.name.lower())))[:40] or "study"


def rules_words(study: StudySpec) -> str:
    """Say what was declared before the start."""
    unit = f"point{'' if shown_margin(study) == 1 else 's'}" if is_share(study) else "in the scorer's unit"
    tuned = f"learning rate tuned over {study.tuning.points} rates" if study.tuning else "learning rate as given"
    held = f"held equal: {', '.join(study.hold)}" if study.hold else "nothing held equal"
    return f"margin {shown_margin(study):g} {unit}, declared before the start; {tuned}; {held}"


LARGE = 1_000  # cells; what more of them take is worked out when it is asked for
SOON_S = 0.4  # how long the costs of cards may be worked out in one go


def size_of(study: StudySpec) -> int:
    """Return how many cells a study has, before equal ones are counted once."""
    groups, tuning = len(groups_of(study)), study.tuning
    return groups * (len(study.seeds) + (tuning.points * len(tuning.seeds) if tuning else 0))


def cost(place: Workspace, study: StudySpec) -> StudyPreview:
    """Return what starting a study would take; looked at anew when a run has come, and every minute."""
    return _cost(place, study.model_dump_json(), file_stamp(place.runs), int(time.time() // 60))


@lru_cache(16)
def _cost(place: Workspace, study: str, *changes: object) -> StudyPreview:
    del changes  # only part of the key under which the result is kept
    return preview(StudySpec.model_validate_json(study), place, estimate_runs)


def cost_words(found: StudyPreview) -> str:
    """Say how many runs a study takes, how long, and how much of the disk."""
    tuning = f", {found.tuning_runs:,} of them to choose learning rates" if found.tuning_runs else ""
    there = f"; {found.already:,} are there already" if found.already else ""
    takes = "no estimate of time and disk"
    if found.seconds is not None and found.bytes is not None:
        takes = f"about {duration(found.seconds)} one after the other, {memory(found.bytes)} of disk"
    return f"{counted(found.runs, 'run')}{tuning}{there}; {takes}."


def detectable_words(found: StudyPreview, study: StudySpec) -> str:
    """Say what a study will be able to see."""
    if found.smallest_detectable is None and is_share(study):
        others = max(1, len(study.arms) - 1)
        return (
            f"Smallest detectable effect: none. With {counted(len(study.seeds), 'seed')} and "
            f"{counted(others, 'comparison')} (Holm) nothing can be more than undecided; take at least "
            f"{fewest_seeds(others)} seeds."
        )
    if found.smallest_detectable is None:
        return f"Smallest detectable effect: not known ({found.assumes})."
    least = f"{100 * found.smallest_detectable:.1f} points"
    wide = found.smallest_detectable > study.margin
    more = f" That is more than the margin of {shown_margin(study):g}: small differences will stay undecided." * wide
    return f"Smallest detectable effect: about {least} ({found.assumes}).{more}"


_short: dict[tuple, str] = {}  # what a preset's study takes, in few words, by what it depends on


def costs_in_short(place: Workspace, size: str, base: RunSpec) -> dict[str, str]:
    """Return preset -> runs and time in few words, of those for which it is known by now.

    Each call works out some more of them; when all are there, it costs nothing.
    """
    until = time.monotonic() + SOON_S
    known, data = {}, base.model_dump_json()
    for name in PRESETS:
        key = (place, name, size, data)
        if key not in _short and time.monotonic() < until:
            if len(_short) > 500:
                _short.clear()
            _short[key] = _in_short(place, made(name, size, base))
        if key in _short:
            known[name] = _short[key]
    return known


def _in_short(place: Workspace, study: StudySpec | str) -> str:
    if isinstance(study, str):
        return ""
    if size_of(study) > LARGE:
        return f"up to {size_of(study):,} runs"
    found = preview(study, place, estimate_runs)
    if not found.seconds:
        return counted(found.runs, "run")
    takes = duration(found.seconds) if found.seconds >= 3600 else f"{max(1, round(found.seconds / 60))} min"
    return f"{counted(found.runs, 'run')}, about {takes}"
