"""The study draft as people edit it: what can be ticked, what it would compute, what it takes, what it will see."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from paraknow_core.catalogue import ARMS, MANUAL, METHODS, MODES, SPLITS, STRATEGIES, STRUCTURES, Row, offered
from paraknow_core.display import SHARE, compact, counted, duration, memory
from paraknow_core.errors import SpecError
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.yaml_file import load_yaml
from paraknow_core.ops.detectable import fewest_seeds
from paraknow_core.paths import Workspace
from paraknow_core.spec import GROUPS, RunSpec
from paraknow_core.studies.presets import PRESETS
from paraknow_core.studies.preview import StudyPreview, missing_cells, preview
from paraknow_core.studies.study import QUARTER_DECADE, RATE, OwnArm, StudySpec, arms_of, parse_study
from paraknow_core.studies.words import factor_text, setting_text
from paraknow_core.workbench.past_runs import estimate_runs

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


def shown_margin(study: StudySpec) -> float:
    """Return the margin as people give it: points of a share, else the scorer's unit."""
    return round(study.margin * 100, 6) if study.unit == SHARE else study.margin


def margin_of(study: StudySpec, shown: float) -> float:
    """Return the margin that was given as `shown_margin` shows it."""
    return shown / 100 if study.unit == SHARE else shown


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


def made(name: str, size: str, base: RunSpec) -> StudySpec | str:
    """Return the study that a preset makes of a base, or why it cannot."""
    return _made(name, size, base.model_dump_json())


@lru_cache(64)
def _made(name: str, size: str, base: str) -> StudySpec | str:
    try:
        return PRESETS[name].make(RunSpec.model_validate_json(base), size)
    except SpecError as error:
        return str(error)


def rules_words(study: StudySpec) -> str:
    """Say what was declared before the start."""
    unit = f"point{'' if shown_margin(study) == 1 else 's'}" if study.unit == SHARE else "in the scorer's unit"
    tuned = f"learning rate tuned over {study.tuning.points} rates" if study.tuning else "learning rate as given"
    held = f"held equal: {', '.join(study.hold)}" if study.hold else "nothing held equal"
    return f"margin {shown_margin(study):g} {unit}, declared before the start; {tuned}; {held}"


LARGE = 1_000  # cells; what more of them take is worked out when it is asked for
SOON_S = 0.4  # how long the costs of cards may be worked out in one go


def cost(place: Workspace, study: StudySpec) -> StudyPreview:
    """Return what starting a study would take; looked at anew when a run has come, and every minute."""
    return _cost(place, study.model_dump_json(), file_stamp(place.runs), int(time.time() // 60))


@lru_cache(16)
def _cost(place: Workspace, study: str, *changes: object) -> StudyPreview:
    del changes  # only part of the key under which the result is kept
    return preview(StudySpec.model_validate_json(study), place, estimate_runs)


def todo(place: Workspace, study: StudySpec) -> list[RunSpec]:
    """Return the specs of the runs that starting a study would compute; looked at anew as `cost` is."""
    return list(_todo(place, study.model_dump_json(), file_stamp(place.runs), int(time.time() // 60)))


@lru_cache(16)
def _todo(place: Workspace, study: str, *changes: object) -> tuple[RunSpec, ...]:
    del changes  # only part of the key under which the result is kept
    return tuple(cell.spec for cell in missing_cells(StudySpec.model_validate_json(study), place))


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
    if found.smallest_detectable is None and study.unit == SHARE:
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
    if study.runs > LARGE:
        return f"up to {study.runs:,} runs"
    found = preview(study, place, estimate_runs)
    if not found.seconds:
        return counted(found.runs, "run")
    takes = duration(found.seconds) if found.seconds >= 3600 else f"{max(1, round(found.seconds / 60))} min"
    return f"{counted(found.runs, 'run')}, about {takes}"
