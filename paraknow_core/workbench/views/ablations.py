"""What Ablations draws: the factors that can be ticked, what a study would compute, and what came of studies."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from paraknow_core.catalogue import ARMS, MANUAL, METHODS, MODES, SCORERS, SPLITS, STRATEGIES, STRUCTURES, Row, offered
from paraknow_core.display import compact, counted
from paraknow_core.errors import SpecError
from paraknow_core.files.yaml_file import load_yaml
from paraknow_core.spec import GROUPS, RunSpec
from paraknow_core.studies.study import QUARTER_DECADE, OwnArm, StudySpec, arms_of, parse_study
from paraknow_core.studies.words import setting_text

RATE = "finetuning.learning_rate"
RATES_AROUND = 4  # quarter decades offered on either side of the draft's rate
LIMITS = ("margin", "seeds")


@dataclass(frozen=True)
class Factor:
    """A setting that can be ticked as a factor of a study.

    Attributes:
        key: of the spec.
        label: of its row.
        rows: what can be said about its values, where they are names.
        values: what is offered, of a base; names of `rows` where there are any.
    """

    key: str
    label: str
    values: Callable[[RunSpec], Sequence[Any]]
    rows: Mapping[str, Row] | None = None

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
        ),
        Factor(RATE, "Learning rate", _rates),
    )
}


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


def varied(study: StudySpec, key: str) -> dict[str, Any]:
    """Return the change of a study that varies a setting over everything that the catalogue has for it."""
    if key == "method":
        own = [arm for arm in study.arms if isinstance(arm, OwnArm)]
        wanted = {name for name, row in METHODS.items() if row.standard} | {study.base.method, *map(str, study.arms)}
        return {"arms": [*(name for name in ARMS if name in wanted), *own]}
    ticked = {choice_of(value) for value in study.factors.get(key, ())}
    options = [*FACTORS[key].values(study.base)]
    return with_factor(study, key, [*options, *(choice for choice in ticked if choice not in options)])


def with_arms(study: StudySpec, names: Sequence[str]) -> dict[str, Any]:
    """Return the change of a study that ticks these arms; arms of its own stay, and so does one to judge against."""
    own = [arm for arm in study.arms if isinstance(arm, OwnArm)]
    arms = [*(name for name in ARMS if name in names), *own]
    if not arms:
        raise SpecError("arms: nothing would be compared; keep at least one")
    known = [arm if isinstance(arm, str) else arm.name for arm in arms]
    return {"arms": arms, "against": study.against if study.against in known else known[0]}


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
        label = FACTORS[key].label.lower() if key in FACTORS else key
        parts.append(f"{len(values)} x {label}" if len(values) != 1 else f"one {label}")
    return " × ".join([*parts, counted(len(study.seeds), "seed")]).replace(" x ", " ")


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


def study_yaml(study: StudySpec) -> str:
    """Return a study as YAML, all keys written out."""
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


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


def finite(value: float | None) -> bool:
    """Tell whether there is a number that can be drawn."""
    return value is not None and math.isfinite(value)
