"""A study: which runs answer a question. One spec, from which every run's spec follows.

A study varies a base run along two axes: its arms (rows of `catalogue.ARMS`, or arms of its own) and its factors (any
keys of the spec). A group is one arm at one point of the factors' grid; each group is run with the same seeds, so that
arms are paired seed by seed and example by example. Where a study tunes, each group first trains at several learning
rates, is judged on the validation split alone, and is then tested at the best of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from paraknow_core import catalogue
from paraknow_core.display import SHARE, significant
from paraknow_core.errors import SpecError
from paraknow_core.files.yaml_file import load_yaml
from paraknow_core.spec import Portable, RunSpec, Source, validated
from paraknow_core.studies.budgets import REAL_SIZES, Sizes, held
from paraknow_core.studies.same import judged_by_teacher
from paraknow_core.studies.words import NATS, setting_text

QUARTER_DECADE = 10**0.25
MOST_GROUPS, MOST_SEEDS, MOST_RUNS = 2_000, 1_000, 50_000
Seed = Annotated[int, Field(ge=0, lt=2**32)]
RATE = "finetuning.learning_rate"
HIGHEST_RATE = 10.0  # that a spec takes
LISTED = (("mapping", "layers"), ("sensitivity", "ids"))  # what a person lists of one teacher, of one task
NO_FACTORS = ("name", "until", "version", "references")
BY_SEED = ("seed", "extraction.seed", "mapping.seed")  # all that is drawn by chance in a run of a study, but the data


class OwnArm(Portable):
    """An arm that a study defines itself."""

    name: str = Field(min_length=1, max_length=40, pattern=r"^[a-z0-9_]+$")
    label: str = Field("", max_length=60)
    arm: Literal[*catalogue.ARMS] = Field(catalogue.PAPER_METHOD, description="the arm that it starts from")
    changes: dict[str, Any] = Field(default_factory=dict, description="dotted keys of the spec and their values")


class Tuning(Portable):
    """How each group's learning rate is chosen: by the validation loss at the end of training, never by the test."""

    points: int = Field(5, ge=2, le=25, description="rates a group, a quarter of a decade apart")
    centre: float | None = Field(
        None, gt=0, le=10, description="middle of every grid; null: the group's own rate, lower for starts that need it"
    )
    centres: dict[str, Annotated[float, Field(gt=0, le=10)]] = Field(
        default_factory=dict, description="arm -> middle of its own grid"
    )
    seeds: tuple[Seed, ...] = Field(
        (0,), min_length=1, max_length=MOST_SEEDS, description="a rate's loss is the mean over these seeds"
    )


# Told apart by their form, so that a mistake in either is named alone; the tags stand in no message.
AnyArm = Annotated[
    Annotated[Literal[*catalogue.ARMS], Tag("~name")] | Annotated[OwnArm, Tag("~own")],
    Discriminator(lambda arm: "~own" if isinstance(arm, dict | OwnArm) else "~name"),
]


class StudySpec(Portable):
    """Everything one study computes."""

    version: Literal[1] = 1
    name: str = Field("study", min_length=1, max_length=80)
    question: str = Field("", max_length=400, description="what it asks, for people")
    preset: str = Field("", max_length=40, description="the preset that it was made from")
    base: RunSpec = RunSpec()
    arms: tuple[AnyArm, ...] = Field(
        tuple(name for name, row in catalogue.METHODS.items() if row.standard), min_length=1
    )
    against: str = Field(catalogue.BASELINE, description="the arm that all others are judged against")
    factors: dict[str, tuple[Any, ...]] = Field(default_factory=dict, description="dotted key of the spec -> values")
    seeds: tuple[Seed, ...] = Field((0, 1, 2, 3, 4, 5), min_length=1, max_length=MOST_SEEDS)
    tuning: Tuning | None = Field(None, description="null: every arm at its spec's own learning rate")
    hold: Annotated[
        tuple[Literal["steps", "tokens", "parameters"], ...], AfterValidator(lambda v: tuple(dict.fromkeys(v)))
    ] = Field(("steps",), description="what is held equal to the base run where a factor would change it")
    margin: float = Field(
        0.01, gt=0, description="a smaller difference does not matter; in the scorer's unit, 0.01 = 1 point"
    )
    scorer: Literal[*catalogue.SCORERS] | None = Field(None, description="null: the task's first")
    wrong_task: Source | None = Field(None, description="for arm wrong_task; null: another bundled task")

    @property
    def groups(self) -> int:
        """How many groups it has: every arm at every point of the factors."""
        return len(self.arms) * prod(map(len, self.factors.values()))

    @property
    def runs(self) -> int:
        """How many runs it has, before equal ones are counted once, and before any grid of rates is extended."""
        tuned = self.tuning.points * len(self.tuning.seeds) if self.tuning else 0
        return self.groups * (len(self.seeds) + tuned)

    @property
    def unit(self) -> str:
        """What its margin and its verdicts are in: shares, unless a scorer is named that gives perplexities."""
        scorer = self.scorer or next(iter(self.base.task.scorers), None)
        return SHARE if scorer is None or catalogue.SCORERS[scorer].unit == SHARE else NATS

    def to_yaml(self) -> str:
        """Return the study as YAML, all keys written out, in the order of the fields."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @model_validator(mode="after")
    def _fits_together(self) -> "StudySpec":
        names = [arm if isinstance(arm, str) else arm.name for arm in self.arms]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"arms: '{twice}' is given twice; give every arm once")
        taken = next((arm.name for arm in self.arms if isinstance(arm, OwnArm) and arm.name in catalogue.ARMS), None)
        own = [key for arm in self.arms if isinstance(arm, OwnArm) for key in arm.changes]
        fixed = next((key for key in own if key in (*BY_SEED, *NO_FACTORS)), None)
        if fixed:
            raise ValueError(f"arms: '{fixed}' is set by the study itself; leave it out")
        if taken:  # by these names verdicts know what an arm is
            raise ValueError(f"arms: '{taken}' is the name of another arm already; call an arm of your own otherwise")
        if self.against not in names:
            raise ValueError(f"against: '{self.against}' is not among the arms {', '.join(names)}; name one of them")
        for where, seeds in (("seeds", self.seeds), ("tuning.seeds", self.tuning.seeds if self.tuning else ())):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{where}: one is given twice; every seed counts once")
        for key, values in self.factors.items():
            if key in BY_SEED:
                raise ValueError(f"factors: '{key}' follows the seed of a run; list seeds under seeds")
            if key in NO_FACTORS:
                raise ValueError(f"factors: '{key}' is set by the study itself; leave it out")
            if not values:
                raise ValueError(f"factors: '{key}' has no values; give some, or leave it out")
            # Groups are named by their values: 8 and "8" would be one.
            if any(value in values[:place] for place, value in enumerate(values)) or len({*map(str, values)}) < len(
                values
            ):
                raise ValueError(f"factors: '{key}' has a value twice; give every value once")
            if key == RATE and self.tuning:
                raise ValueError(f"factors: '{key}' is chosen by tuning; set tuning to null, or leave the factor out")
            arm = next((arm for arm in self.arms if any(_overlap(key, own) for own in _sets(arm))), None)
            if arm is not None:
                name = arm if isinstance(arm, str) else arm.name
                raise ValueError(f"factors: '{key}' is what arm '{name}' sets; leave out the factor, or the arm")
        if self.groups > MOST_GROUPS:
            raise ValueError(
                f"{self.groups:,} groups (every arm at every point of the factors); at most {MOST_GROUPS:,} are taken, "
                "so vary fewer factors at a time"
            )
        if self.runs > MOST_RUNS:
            raise ValueError(f"{self.runs:,} runs; at most {MOST_RUNS:,} are taken, so give fewer seeds, or vary less")
        centred = self.tuning.centres if self.tuning else {}
        unknown = next((name for name in centred if name not in (*names, *catalogue.ARMS)), None)
        if unknown is not None:
            raise ValueError(f"tuning.centres: '{unknown}' is no arm; name one of {', '.join(names)}")
        return self


def _sets(arm: "AnyArm") -> dict[str, Any]:
    """Return what makes an arm this arm; the mode that arms have unless a study says otherwise is no part of it."""
    if not isinstance(arm, str):
        return _sets(arm.arm) | arm.changes
    usual = ("injection.mode", "residual")
    return {key: value for key, value in catalogue.ARMS[arm].changes.items() if (key, value) != usual}


def _overlap(key: str, other: str) -> bool:
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


@dataclass(frozen=True)
class StudyArm:
    """An arm of a study, resolved: its name, how people read it, and what it changes."""

    name: str
    label: str
    row: catalogue.Arm
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """An arm at one point of the factors' grid: one bar of a chart.

    Attributes:
        arm: of the study.
        point: factor -> value.
        label: the arm's and the point's, for people.
    """

    arm: StudyArm
    point: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Names it in files: `seeking`, `seeking extraction.structure=neuron`."""
        return " ".join([self.arm.name, *(f"{key}={value}" for key, value in self.point.items())])

    @property
    def label(self) -> str:
        return ", ".join([self.arm.label, *(setting_text(key, value) for key, value in self.point.items())])


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        group: what it is a run of.
        seed: the run's.
        rate: the learning rate, where the run belongs to a tuning grid or was tuned; None: the spec's own.
        purpose: `tuning` runs end after training and are judged by validation loss; `test` runs are scored.
        spec: of the run.
    """

    group: Group
    seed: int
    rate: float | None
    purpose: Literal["tuning", "test"]
    spec: RunSpec

    @property
    def key(self) -> str:
        """Names it in files: `test seeking, rate 0.0003, seed 0`."""
        rate = "" if self.rate is None else f", rate {self.rate:g}"
        return f"{self.purpose} {self.group.key}{rate}, seed {self.seed}"


def arms_of(study: StudySpec) -> list[StudyArm]:
    """Return the arms of a study, in its order."""
    arms = []
    for arm in study.arms:
        own = isinstance(arm, OwnArm)
        row = catalogue.ARMS[arm.arm if own else arm]
        label = (arm.label or arm.name) if own else row.label
        arms.append(StudyArm(arm.name if own else arm, label, row, {**row.changes, **(arm.changes if own else {})}))
    return arms


def groups_of(study: StudySpec) -> list[Group]:
    """Return every arm at every point of the factors' grid, arm by arm."""
    points = [dict(zip(study.factors, values, strict=True)) for values in product(*study.factors.values())]
    return [Group(arm, point) for arm in arms_of(study) for point in points]


def spec_of(
    study: StudySpec,
    group: Group,
    seed: int,
    rate: float | None = None,
    *,
    tuning: bool = False,
    sizes: Sizes = REAL_SIZES,
) -> RunSpec:
    """Return the spec of one run: the base with what its arm and its factors change, at the budget that is held equal.

    Args:
        study: the study.
        group, seed: whose run.
        rate: learning rate in place of the spec's own.
        tuning: whether the run ends after training.
        sizes: of tasks and students, where a budget depends on them.

    Raises:
        SpecError: a key of an arm or of a factor is unknown, or a value is refused.
    """
    varied = {**group.arm.changes, **group.point}
    wrong = other_task(study, varied.get("task.source", study.base.task.source))
    known = {"$student": study.base.student.model_dump(mode="json"), "$seed": seed, "$wrong_task": wrong}
    changes = {key: known.get(value, value) if isinstance(value, str) else value for key, value in varied.items()}
    spec = study.base.with_changes(changes | dict.fromkeys(BY_SEED, seed))
    if "$wrong_task" in varied.values() and spec.sensitivity.task == spec.task.source:
        raise SpecError(f"spec: wrong_task: {wrong} is the run's own task; give another one, or null")
    spec = held(spec, study.base, study.hold, varied, sizes)
    if spec.teacher != study.base.teacher and judged_by_teacher(spec):  # all arms have one judge: the base's teacher
        spec = spec.model_copy(update={"task": spec.task.model_copy(update={"judge": study.base.teacher})})
    return _run_of_group(spec, study, group, seed, rate, tuning)


def _run_of_group(
    spec: RunSpec, study: StudySpec, group: Group, seed: int, rate: float | None, tuning: bool
) -> RunSpec:
    """Return the spec of a group's run with another seed, rate and end; all values are known to be valid."""
    at = "" if rate is None else f", rate {significant(rate)}"
    recipe = spec.finetuning if rate is None else spec.finetuning.model_copy(update={"learning_rate": rate})
    parts = {part: getattr(spec, part).model_copy(update={"seed": seed}) for part in ("extraction", "mapping")}
    until = "training" if tuning else "evaluation"
    own = {"name": f"{study.name}: {group.label}{at}"[:120], "until": until, "seed": seed, "finetuning": recipe}
    return spec.model_copy(update=own | parts)


def _specs_of(study: StudySpec, group: Group) -> Callable[..., RunSpec]:
    """Return `spec_of` for one group, which validates only once unless the seed is among the arm's values."""
    if "$seed" in [*group.arm.changes.values(), *group.point.values()]:
        return lambda seed, rate=None, tuning=False: spec_of(study, group, seed, rate, tuning=tuning)
    first = spec_of(study, group, study.seeds[0])
    return lambda seed, rate=None, tuning=False: _run_of_group(first, study, group, seed, rate, tuning)


def other_task(study: StudySpec, own: str) -> str:
    """Return the task whose seed samples arm `wrong_task` takes, where runs have this task of their own."""
    from paraknow_core.demo.tasks import TASKS

    return study.wrong_task or next(f"bundled:{name}" for name in TASKS if f"bundled:{name}" != own)


def rates_of(study: StudySpec, group: Group, spec: RunSpec | None = None) -> list[float]:
    """Return the learning rates that a group is tuned over, in rising order; empty where nothing is tuned.

    A quarter of a decade apart, and centred on the arm's own centre or the study's; where neither is given, on the rate
    of the group's spec (given where it is known), or lower where its start needs it (`catalogue.Method.lower_rate`).
    """
    if study.tuning is None:
        return []
    spec = spec or spec_of(study, group, study.seeds[0])
    own = spec.finetuning
    if own.max_steps == 0 or (own.max_steps is None and own.epochs == 0):
        return []  # nothing is trained
    centre = study.tuning.centres.get(group.arm.name) or study.tuning.centre
    centre = centre or own.learning_rate / catalogue.METHODS[spec.method].lower_rate
    first = -(study.tuning.points // 2)
    steps = range(first, first + study.tuning.points)
    return [rate for step in steps if (rate := step_of_grid(centre, step)) <= HIGHEST_RATE]


def step_of_grid(rate: float, steps: int) -> float:
    """Return the learning rate so many quarters of a decade above another, in five digits."""
    return float(f"{rate * QUARTER_DECADE**steps:.5g}")


def tuning_cells(
    study: StudySpec,
    grids: Mapping[str, Sequence[float]] = {},  # noqa: B006 - never changed
) -> Iterator[Cell]:
    """Yield the runs that choose learning rates.

    Args:
        study: the study.
        grids: of groups whose grid was extended, by `Group.key`; the others' follow from the study.
    """
    for group in groups_of(study) if study.tuning else ():
        spec = _specs_of(study, group)
        for rate in grids.get(group.key) or rates_of(study, group, spec(study.seeds[0])):
            for seed in study.tuning.seeds:
                yield Cell(group, seed, rate, "tuning", spec(seed, rate, True))


def scored_cells(study: StudySpec, rates: Mapping[str, float] = {}) -> Iterator[Cell]:  # noqa: B006 - never changed
    """Yield the runs that are scored, seed by seed, so that a study that is cut off has whole seeds.

    Args:
        study: the study.
        rates: of tuned groups, by `Group.key`; others run at their spec's own rate.
    """
    groups = [(group, _specs_of(study, group)) for group in groups_of(study)]
    for seed in study.seeds:
        for group, spec in groups:
            rate = rates.get(group.key)
            yield Cell(group, seed, rate, "test", spec(seed, rate))


def parse_study(data: Any, where: str = "study") -> StudySpec:
    """Validate plain data as a study.

    Raises:
        SpecError: one sentence that names the first bad key; also for an arm or a factor whose spec is refused.
    """
    study = validated(StudySpec, data, where, "study new")
    for group in groups_of(study):
        try:
            spec = spec_of(study, group, study.seeds[0])
        except SpecError as error:
            raise SpecError(f"{where}: in '{group.key}': {str(error).removeprefix('spec: ')}") from None
        _refuse_others_list(study, group, spec, where)
        if study.scorer and spec.task.scorers and study.scorer not in spec.task.scorers:
            raise SpecError(
                f"{where}: scorer: '{study.scorer}' is none of '{group.key}', which is scored by "
                f"{', '.join(spec.task.scorers)}; choose one of these, or add it to task.scorers"
            )
        if study.tuning and (spec.task.sizes.validation == 0 or spec.finetuning.validations == 0):
            raise SpecError(
                f"{where}: tuning: '{group.key}' measures no validation loss, by which rates are chosen; give "
                "task.sizes.validation and finetuning.validations at least 1"
            )
        if study.tuning and spec.finetuning.learning_rate == 0 and not (study.tuning.centre or study.tuning.centres):
            raise SpecError(f"{where}: tuning: '{group.key}' has learning rate 0; give tuning.centre, or a rate")
    return study


def _refuse_others_list(study: StudySpec, group: Group, spec: RunSpec, where: str) -> None:
    """Refuse a group that takes from one model or task what is listed of another one."""
    changes = group.arm.changes
    own_layers, own_ids = ({part, f"{part}.{key}"} & changes.keys() for part, key in LISTED)
    by_hand, name = catalogue.MANUAL, group.arm.name
    other_teacher = changes.get("teacher") == "$student" and spec.teacher != study.base.teacher
    if other_teacher and spec.mapping.strategy == by_hand and not own_layers:
        raise SpecError(
            f"{where}: mapping.strategy: '{name}' takes the student's layers, and those listed by hand are the "
            "teacher's; choose another strategy, or leave out the arm"
        )
    if "$wrong_task" in changes.values() and spec.sensitivity.selection == by_hand and not own_ids:
        raise SpecError(
            f"{where}: sensitivity.selection: '{name}' takes seed samples of another task, and those listed by hand "
            "are of the run's own; choose another selection, or leave out the arm"
        )


def parse_study_yaml(text: str, where: str = "study") -> StudySpec:
    """Validate a YAML (or JSON) text as a study; see `parse_study`."""
    return parse_study(load_yaml(text, where), where)
