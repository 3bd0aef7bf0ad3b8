"""What a study has found so far: scores with the spread of seeds, verdicts, budgets, rates. Read from its folder.

It holds for unfinished studies as well: what is not there yet is None, and intervals are those of what is there. Every
number is that of finished runs; nothing is computed with a model.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from paraknow_core.catalogue import BASELINE, METHODS, PAPER_METHOD
from paraknow_core.display import counted
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.json_file import read_object, write_json
from paraknow_core.ops.detectable import fewest_seeds
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.table import flat_settings
from paraknow_core.studies.budgets import differences
from paraknow_core.studies.conduct import was_changed
from paraknow_core.studies.folder import CellState, Curve, StudyFolder, curves_of
from paraknow_core.studies.scores import NOT_PAIRED, example_scores, plain, same_content, score_of
from paraknow_core.studies.study import Group, StudySpec, groups_of, rates_of
from paraknow_core.studies.vacuous import vacuous
from paraknow_core.studies.words import NATS, setting_text

if TYPE_CHECKING:
    import numpy

_KEPT, _KEPT_VERSION = "scores.json", 1
Table = dict[str, tuple[float, str]]  # example id -> score, hash of its content


@dataclass(frozen=True)
class GroupOutcome:
    """One arm at one point of the factors.

    Attributes:
        key, label, arm, point: as of `study.Group`.
        method: of its runs.
        seeds: those that are done.
        scores_by_seed: one score a seed of these.
        value: their mean; low and high its 95 % interval, by the spread of seeds pooled over the groups of its task.
        n: test examples of a run.
        unit: of the score.
        verdict: against the arm `against` at the same point, with Holm over the arms there; None without shared seeds.
        verdict_unit: of its numbers: perplexities are judged in nats per token, where a fall counts as a gain.
        rate: the learning rate that was chosen, or the spec's own.
        rate_at_edge: whether the best rate lies at the edge of its grid.
        budget: `steps`, `tokens`, `parameters` of a run, as far as known.
        equal: whether that is the budget of the arm `against` at the same point; True where nothing is known yet.
        note: in what it is not.
        keeps_student: whether the student computes at step 0 what it computed before.
        vacuous: why it is the method itself on this pair of models, so that it is not judged; empty where it is not.
        states: seed -> state of its run.
        runs: seed -> id of its run.
    """

    key: str
    label: str
    arm: str
    point: Mapping[str, Any]
    method: str
    seeds: Sequence[int] = ()
    scores_by_seed: Sequence[float] = ()
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str | None = None
    verdict: Any = None
    verdict_unit: str | None = None
    rate: float | None = None
    rate_at_edge: bool = False
    budget: Mapping[str, float | None] = field(default_factory=dict)
    equal: bool = True
    note: str = ""
    keeps_student: bool = True
    vacuous: str = ""
    states: Mapping[int, str] = field(default_factory=dict)
    runs: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Contrast:
    """One value of a factor against another, in one arm with all else equal: submatrix or scattered?

    Attributes:
        factor: its dotted key.
        arm, label: of the group that has the value; the label names the value and the arm.
        key, against: keys of the two groups.
        against_label: the other value, as people read it.
        verdict: with Holm over the values of this factor in this arm.
        unit: of its numbers.
        note: in what the two budgets differ.
    """

    factor: str
    arm: str
    label: str
    key: str
    against: str
    against_label: str
    verdict: Any
    unit: str | None
    note: str = ""


@dataclass(frozen=True)
class StudyOutcome:
    """What a study has found.

    Attributes:
        id, study, state: of the study.
        groups: in the order of its arms.
        contrasts: of each factor's values with the base run's, or with the first where that is not among them.
        attribution: where a gain comes from (`attribution.Attribution`), one a point of the factors; empty where the
            arms do not tell.
        spread: standard deviation of a seed's score pooled over the groups, and its degrees of freedom; None without,
            and where groups are scored on several tasks: each task has its own.
        smallest_detectable: the largest one of the verdicts'.
        references: untrained model -> its score.
        curves: of tuned groups, by their key.
        warnings: sentences.
        marks: the paper's values, each with the key of its group; see `presets.marks_of`.
        versions: package -> its versions, in the first finished run of each group.
    """

    id: str
    study: StudySpec
    state: str
    groups: Sequence[GroupOutcome]
    contrasts: Sequence[Contrast] = ()
    attribution: Sequence[Any] = ()
    spread: tuple[float, int] | None = None
    smallest_detectable: float | None = None
    references: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    marks: Sequence[tuple[Any, str]] = ()
    versions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """Return all of it as plain data for JSON."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__}
        curves = {
            key: {"points": list(curve), "chosen": curve.chosen, "edge": curve.edge}
            for key, curve in self.curves.items()
        }
        return to_jsonable_python({**own, "curves": curves}, fallback=str)


def outcome(folder: StudyFolder) -> StudyOutcome:
    """Read what a study has found so far.

    Args:
        folder: of the study.

    Raises:
        SpecError: its spec is not valid.
    """
    state = folder.state()
    ended = state == "done"
    study, cells, rates = folder.spec(), folder.cells(), folder.rates()
    curves = curves_of(cells, rates)
    scored: dict[str, list[CellState]] = {}
    for cell in cells:
        if cell.cell.purpose == "test":
            scored.setdefault(cell.cell.group.key, []).append(cell)
    read = [_Read(study, group, scored[group.key], curves) for group in groups_of(study)]
    same = vacuous(study)
    groups, spread = _judged(study, read, rates, ended, same)
    found = [group.verdict.smallest_detectable for group in groups if group.verdict is not None]
    first = next((run for one in read for run in one.done.values()), None)
    return StudyOutcome(
        folder.id,
        study,
        state,
        groups,
        _contrasts(study, read, ended),
        _attribution(study, read, {group.key: group.verdict for group in groups}, same) if ended else [],
        spread,
        max((value for value in found if value is not None), default=None),
        _references(first, study.scorer),
        curves,
        [*_warnings(folder, study, groups, cells, curves), *_troubles(read)],
        _marks(study),
        _versions(read),
    )


class _Read:
    """The scored runs of a group."""

    def __init__(self, study: StudySpec, group: Group, cells: Sequence[CellState], curves: Mapping[str, Curve]) -> None:
        self.group, self.cells, self.curve = group, cells, curves.get(group.key)
        self.spec = cells[0].cell.spec
        self.score: Mapping[str, Any] = {}
        self.done: dict[int, RunFolder] = {}
        self.scores: dict[int, float] = {}
        self.tables: dict[int, Table] = {}
        self.unit: str | None = None
        self.contents: set[tuple[str, str]] = set()  # part of the data -> what it held
        self.trouble = ""
        for cell in cells:
            if cell.state != "done" or cell.run is None:
                continue
            try:
                self.score, table, unit, contents = _scored(cell.run.path, _stamps(cell.run), study.scorer)
            except ParaknowError as error:
                self.trouble = f"run {cell.run.id} is left out: {error}"
                continue
            self.contents |= contents
            if not table:
                self.trouble = f"run {cell.run.id}: {NOT_PAIRED}"
            self.done[cell.cell.seed] = cell.run
            self.scores[cell.cell.seed] = self.score["value"]
            if table:
                self.tables[cell.cell.seed], self.unit = table, unit

    @property
    def budget(self) -> dict[str, float | None]:
        """What the first finished run has spent."""
        result = next((run.result() or {} for run in self.done.values()), {})
        spent, training = result.get("budget") or {}, result.get("training") or {}
        return {
            "steps": spent.get("steps", training.get("steps")),
            "tokens": spent.get("tokens"),
            "parameters": spent.get("trainable_parameters", result.get("trainable_parameters")),
        }

    @property
    def scale(self) -> tuple[str, str | None]:
        """What scores must share for their spreads to be alike: the task, and the unit."""
        return self.spec.task.source, self.score.get("unit")

    @property
    def keeps_student(self) -> bool:
        reads_mode = "injection" in METHODS[self.spec.method].reads
        return self.group.arm.row.keeps_student and (not reads_mode or self.spec.injection.mode == "residual")


def _stamps(run: RunFolder) -> tuple:
    return file_stamp(run.file("result.json")), file_stamp(run.file("predictions.jsonl"))


@lru_cache(4096)
def _scored(
    path: Path, stamps: tuple, scorer: str | None
) -> tuple[dict[str, Any], Table, str | None, frozenset[tuple[str, str]]]:
    """Return a run's score, what pairs it example by example (empty: nothing does), the unit of that, and its data."""
    run = RunFolder(path)
    score = plain(score_of(run, scorer))
    prints = (run.result() or {}).get("fingerprints") or {}
    contents = frozenset((part, prints[part]) for part in ("train", "validation", "test") if part in prints)
    nats = score["unit"] == "ppl"
    table = _kept_table(run, [_KEPT_VERSION, *map(list, stamps), score["scorer"]], means_only=not nats)
    if nats:  # a perplexity's records are nats per token; less is better, and a verdict's gain is better
        return score, {key: (-value, text) for key, (value, text) in table.items()}, NATS, contents
    return score, table, score["unit"], contents


def _kept_table(run: RunFolder, of: list[Any], *, means_only: bool) -> Table:
    """Return a run's scores by example from a small file beside its records, which take a hundred times as long."""
    file = run.file(_KEPT)
    kept = read_object(file)
    if kept.get("of") == of:
        with suppress(TypeError, ValueError, AttributeError):
            return {str(name): (float(value), str(text)) for name, (value, text) in kept["table"].items()}
    table = example_scores(run, of[-1], means_only=means_only)
    with suppress(OSError, RunError):
        write_json(file, {"of": of, "table": table})
    return table


def _judged(
    study: StudySpec, read: Sequence[_Read], rates: Mapping[str, float], ended: bool, same: Mapping[str, str]
) -> tuple[list[GroupOutcome], tuple[float, int] | None]:
    from paraknow_core.ops.verdict import pooled_spread, seed_interval

    several: dict[Any, list[list[float]]] = {}
    for one in read:
        if len(one.scores) > 1:
            several.setdefault(one.scale, []).append(list(one.scores.values()))
    spreads = {scale: pooled_spread(scores) for scale, scores in several.items()}
    verdicts: dict[str, Any] = {}
    bases = {_point_key(one.group): one for one in read if one.group.arm.name == study.against}
    for key, base in bases.items():
        others = [one for one in read if _point_key(one.group) == key and one is not base]
        # What is the method itself is judged once, as the method; where all are judged against it, not at all.
        others = [one for one in others if one.group.key not in same]
        if base.group.key in same:
            others = [one for one in others if one.group.arm.name != PAPER_METHOD]
        verdicts |= _verdicts(study, base, others, ended)
    groups = []
    for one in read:
        scores, base = list(one.scores.values()), bases[_point_key(one.group)]
        spread = spreads.get(one.scale)
        low, high = seed_interval(scores, spread) if scores and spread and spread[0] > 0 else (None, None)
        apart = differences(one.budget, base.budget) if one is not base else []
        own_rate = one.spec.finetuning.learning_rate if not rates_of(study, one.group) else None
        groups.append(
            GroupOutcome(
                key=one.group.key,
                label=one.group.label,
                arm=one.group.arm.name,
                point=dict(one.group.point),
                method=one.spec.method,
                seeds=list(one.scores),
                scores_by_seed=scores,
                value=sum(scores) / len(scores) if scores else None,
                low=low,
                high=high,
                n=one.score.get("n"),
                unit=one.score.get("unit"),
                verdict=verdicts.get(one.group.key),
                verdict_unit=one.unit,
                rate=rates.get(one.group.key, own_rate),
                rate_at_edge=bool(one.curve is not None and one.curve.chosen and one.curve.edge),
                budget=one.budget,
                equal=not apart and not one.group.arm.row.budget_note,
                note="; ".join(dict.fromkeys(filter(None, [one.group.arm.row.budget_note, *apart]))),
                keeps_student=one.keeps_student,
                vacuous=same.get(one.group.key, ""),
                states={cell.cell.seed: cell.state for cell in one.cells},
                runs={cell.cell.seed: cell.run.id for cell in one.cells if cell.run is not None},
            )
        )
    return groups, next(iter(spreads.values())) if len(spreads) == 1 else None


def _contrasts(study: StudySpec, read: Sequence[_Read], ended: bool) -> list[Contrast]:
    """Judge the values of each factor within each arm, as a family, at each point of the other factors."""
    by_key = {one.group.key: one for one in read}
    base, contrasts = flat_settings(study.base.model_dump(mode="json")), []
    for factor, values in study.factors.items():
        own = next((value for value in values if to_jsonable_python(value) == base.get(factor)), values[0])
        for one in read:
            if one.group.point[factor] != own:
                continue
            keys = [replace(one.group, point={**one.group.point, factor: value}).key for value in values]
            others = [by_key[key] for key in keys if key != one.group.key and by_key[key].done != one.done]
            verdicts = _verdicts(study, one, others, ended)
            for other in others:
                if other.group.key in verdicts:
                    apart = "; ".join(differences(other.budget, one.budget))
                    words, than = (setting_text(factor, each.group.point[factor]) for each in (other, one))
                    contrasts.append(
                        Contrast(
                            *(factor, other.group.arm.name, f"{words}, {_without(other.group, factor)}"),
                            *(other.group.key, one.group.key, than, verdicts[other.group.key], other.unit, apart),
                        )
                    )
    return contrasts


def _without(group: Group, factor: str) -> str:
    return replace(group, point={key: value for key, value in group.point.items() if key != factor}).label


def _point_key(group: Group) -> str:
    return str(list(group.point.items()))


def _verdicts(study: StudySpec, base: _Read, others: Sequence[_Read], ended: bool) -> dict[str, Any]:
    """Judge arms against the one at the same point, as a family, each by the seeds and examples that both have.

    A word is said when all declared seeds are there, or the study has ended without some of them. To look after every
    seed, and to believe the first "better", would be wrong far more often than once in twenty.
    """
    from paraknow_core.ops.verdict import UNDECIDED, adjust, paired_verdict, pooled_spread

    pairs = [(one, *_shared(one, base)) for one in others]
    pairs = [(one, seeds, ids) for one, seeds, ids in pairs if seeds and len(ids) > 1]
    if not pairs:
        return {}
    seeds = [seed for seed in base.tables if all(seed in one.tables for one, _, _ in pairs)]
    spread = None
    if len(seeds) > 1 and len(pairs) > 1:
        common = [name for name in pairs[0][2] if all(name in ids for _, _, ids in pairs)]
        if len(common) > 1:
            tables = [_array(one, seeds, common) for one in (base, *(one for one, _, _ in pairs))]
            spread = pooled_spread(tables, paired=True)
    found = [
        paired_verdict(
            _array(one, shared, ids), _array(base, shared, ids), study.margin, spread=spread, comparisons=len(others)
        )
        for one, shared, ids in pairs
    ]
    judged = {one.group.key: verdict for (one, _, _), verdict in zip(pairs, adjust(found, len(others)), strict=True)}
    if ended:
        return judged
    whole = len(study.seeds)
    return {key: v if v.seeds == whole else replace(v, verdict=UNDECIDED) for key, v in judged.items()}


def _shared(one: _Read, base: _Read) -> tuple[list[int], list[str]]:
    """Return the seeds that two groups have, and the examples that all their runs of these seeds have."""
    seeds = [seed for seed in base.tables if seed in one.tables]
    tables = [read.tables[seed] for read in (one, base) for seed in seeds]
    if not tables or one.unit != base.unit:
        return [], []
    ids = set.intersection(*(set(table) for table in tables))
    return seeds, sorted(name for name in ids if same_content(table[name][1] for table in tables))


def _array(one: _Read, seeds: Sequence[int], ids: Sequence[str]) -> "numpy.ndarray":
    """Return (seeds, examples) scores."""
    import numpy

    return numpy.array([[one.tables[seed][name][0] for name in ids] for seed in seeds])


def _attribution(
    study: StudySpec, read: Sequence[_Read], verdicts: Mapping[str, Any], same: Mapping[str, str]
) -> list[Any]:
    """Return where the method's gain over default LoRA comes from, at each point that has controls to tell it."""
    from paraknow_core.studies.attribution import attribute

    found = []
    for point in dict.fromkeys(_point_key(one.group) for one in read):
        there = {one.group.arm.name: one for one in read if _point_key(one.group) == point and one.tables}
        if not {BASELINE, PAPER_METHOD} <= there.keys():
            continue
        base, method = there[BASELINE], there[PAPER_METHOD]
        seeds = _shared(method, base)[0]
        # An arm that lacks a seed would cost the others theirs; the attribution names it as missing.
        there = {name: one for name, one in there.items() if seeds and set(seeds) <= one.tables.keys()}
        alike = [name for name, one in there.items() if one.group.key in same]
        there = {name: one for name, one in there.items() if name not in alike}
        tables = [one.tables[seed] for one in there.values() for seed in seeds]
        ids = sorted(set.intersection(*map(set, tables))) if tables else []
        ids = [name for name in ids if same_content(table[name][1] for table in tables)]
        if len(ids) < 2:
            continue
        scores = {name: _array(one, seeds, ids) for name, one in there.items()}
        gain = verdicts.get(method.group.key) if study.against == BASELINE else None
        attribution = attribute(scores, study.margin, unit=base.unit, gain=gain, alike=alike)
        if len(attribution.steps) < 2:
            continue  # no control parts the gain
        at = ", ".join(setting_text(key, value) for key, value in base.group.point.items())
        words = f"{at}: {attribution.paragraph}" if at else attribution.paragraph
        found.append(replace(attribution, paragraph=words))
    return found


def _references(run: RunFolder | None, scorer: str | None) -> dict[str, dict[str, Any]]:
    result = (run.result() or {}) if run is not None else {}
    if not result.get("scores"):
        return {}
    name = score_of(run, scorer)["scorer"]
    return {
        model: plain(score)
        for model, scores in result.get("references", {}).items()
        for score in scores
        if score["scorer"] == name
    }


def _versions(read: "Sequence[_Read]") -> dict[str, list[str]]:
    first = [next(iter(one.done.values())) for one in read if one.done]
    found = [(run.result() or {}).get("versions") or {} for run in {run.id: run for run in first}.values()]
    packages = dict.fromkeys(name for versions in found for name in versions)
    return {name: sorted({versions[name] for versions in found if name in versions}) for name in packages}


def _marks(study: StudySpec) -> list[tuple[Any, str]]:
    from paraknow_core.studies.presets import marks_of

    return marks_of(study)


def few_seeds(study: StudySpec) -> list[str]:
    """Say what a study's seeds are too few for; nothing where they suffice."""
    seeds, others = counted(len(study.seeds), "seed"), max(1, len(study.arms) - 1)
    if len(study.seeds) < fewest_seeds():
        return [
            f"{seeds}: with fewer than {fewest_seeds()} nothing can be better, worse or equivalent; everything is "
            "undecided"
        ]
    if len(study.seeds) < fewest_seeds(others):
        return [
            f"{seeds}: with {counted(others, 'comparison')} nothing can be better or worse; that needs "
            f"{fewest_seeds(others)}"
        ]
    return []


def _troubles(read: Sequence[_Read]) -> list[str]:
    """Say which runs could not be read or paired, and which data were other ones in some runs."""
    found = [f"{one.group.label}: {one.trouble}" for one in read if one.trouble]
    contents: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    for one in read:
        key = (one.spec.task.model_dump_json(), one.spec.student.source, one.spec.task.source)
        contents.setdefault(key, set()).update(one.contents)
    for (*_, source), parts in contents.items():
        names = [part for part, _ in parts]
        changed = sorted({name for name in names if names.count(name) > 1})
        if changed:
            found.append(
                f"{source}: its {' and '.join(changed)} examples were not the same in all runs; run a copy of it, "
                "which takes over only what is still the same"
            )
    return found


def _warnings(
    folder: StudyFolder,
    study: StudySpec,
    groups: Sequence[GroupOutcome],
    cells: Sequence[CellState],
    curves: Mapping[str, Curve],
) -> list[str]:
    found = []
    if was_changed(folder):
        found.append("study.yaml was changed since the study has started: what it declares now was not declared before")
    found += few_seeds(study)
    for group in groups:
        curve = curves.get(group.key)
        if group.rate_at_edge and curve is not None:
            found.append(
                f"{group.label}: the best learning rate, {curve.best.rate:g}, lies at the {curve.edge} end of its grid "
                f"({counted(len(curve), 'point')}); a better one may lie beyond"
            )
        elif curve is not None and curve.best is None and all(p.diverged or p.failed for p in curve):
            found.append(f"{group.label}: it could be trained at none of its learning rates, so it is not scored")
        elif curve is not None and any(point.failed for point in curve):
            lost = counted(sum(point.failed > 0 for point in curve), "learning rate")
            found.append(f"{group.label}: runs of {lost} failed, so that a better one may have been passed over")
    failed = {cell.run.id for cell in cells if cell.run is not None and cell.state == "failed"}
    if failed:
        found.append(f"{counted(len(failed), 'run')} failed, and is left out: {', '.join(sorted(failed)[:3])}")
    found += [f"{group.label}: not of equal budget ({group.note})" for group in groups if not group.equal]
    if study.tuning is None and len({group.arm for group in groups}) > 1:
        found.append("learning rates are not tuned: a difference between arms may be one of rates")
    return found
