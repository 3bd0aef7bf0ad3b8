"""What a study will take, before it is run: runs, what they share, time, disk, and what it will be able to see.

Arithmetic on specs and on what lies in the workspace; needs no torch.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from paraknow_core.catalogue import METHODS
from paraknow_core.display import SHARE, counted, memory
from paraknow_core.errors import ParaknowError
from paraknow_core.files.remember import one_look
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import readable
from paraknow_core.sensitivity.plan import F32, sizes_of
from paraknow_core.spec import ModelSpec, RunSpec
from paraknow_core.studies.budgets import REAL_SIZES
from paraknow_core.studies.folder import answers_among
from paraknow_core.studies.outcome import few_seeds
from paraknow_core.studies.same import MEASUREMENT, NOT_MEASURED, asked, run_key
from paraknow_core.studies.study import Cell, StudySpec, arms_of, groups_of, scored_cells, tuning_cells
from paraknow_core.studies.vacuous import vacuous
from paraknow_core.studies.words import factor_text, listed
from paraknow_core.training.estimates import in_a_row

# What a plan assumes of scores that are right or wrong, before any are seen: two arms differ on a fifth of the
# examples, and seeds spread by half a point an arm. Miller, arXiv:2411.00640; arXiv:2602.04998.
DISCORDANT, SEED_SPREAD = 0.2, 0.005 * 2**0.5

Estimator = Callable[[Sequence[RunSpec], Workspace], Sequence[Any]]


@dataclass(frozen=True)
class StudyPreview:
    """What a study will take.

    Attributes:
        runs: how many runs it needs, equal ones counted once, before any grid of rates is extended.
        tuning_runs: how many of these choose learning rates.
        cells: how many it would need if none were shared.
        shared: what is computed once for several runs, in sentences.
        already: how many of the runs are there.
        seconds, bytes: of those that are not, the untrained models that they share and what is measured with these
            among the bytes; None where nothing is known of such runs.
        smallest_detectable: the effect that it finds in four of five cases, by what `assumes` says; in the scorer's
            unit; None where there are too few seeds, or the scorer is none of right and wrong.
        assumes: in words.
        warnings: sentences.
    """

    runs: int
    tuning_runs: int
    cells: int
    shared: Sequence[str]
    already: int
    seconds: float | None
    bytes: float | None
    smallest_detectable: float | None
    assumes: str
    warnings: Sequence[str] = field(default_factory=tuple)


@one_look()
def preview(study: StudySpec, place: Workspace, estimate: Estimator | None = None) -> StudyPreview:
    """Say what a study will take.

    Args:
        study: valid; see `parse_study`.
        place: the workspace that it would run in.
        estimate: what runs take, `workbench.past_runs.estimate_runs`; None: nothing is said of time and disk.
    """
    cells = [*tuning_cells(study), *scored_cells(study)]
    kept = _distinct(cells)
    missing = _missing(kept, place)
    takes = estimate([cell.spec for cell in missing], place) if estimate else [None]
    known = bool(takes) and all(one is not None for one in takes)
    seconds, size = (sum(in_a_row(takes)), sum(one.disk for one in takes)) if known else (None, None)
    if size is not None:
        size += _untrained_bytes([cell.spec for cell in missing], place)
    smallest, assumes = _smallest(study)
    return StudyPreview(
        len(kept),
        sum(cell.purpose == "tuning" for cell in kept),
        len(cells),
        _shared(cells, kept),
        len(kept) - len(missing),
        0.0 if not missing else seconds,
        0.0 if not missing else size,
        smallest,
        assumes,
        _warnings(study, size, place),
    )


def missing_cells(study: StudySpec, place: Workspace) -> list[Cell]:
    """Return the cells of a study whose runs are not there yet, in their order; equal ones once.

    A tuned group's scored runs are not known before its rate is: one of the grid stands for them.
    """
    return _missing(_distinct([*tuning_cells(study), *scored_cells(study)]), place)


def _missing(kept: Sequence[Cell], place: Workspace) -> list[Cell]:
    found = answers_among(kept, readable(place), ("done",))
    return [cell for cell in kept if cell.key not in found]


def _distinct(cells: Sequence[Cell]) -> list[Cell]:
    """Return the first of each group of equal cells."""
    distinct: dict[Any, Cell] = {}
    for cell in cells:
        distinct.setdefault(run_key(cell.spec), cell)
    return list(distinct.values())


def _untrained_bytes(specs: Sequence[RunSpec], place: Workspace) -> float:
    """Return the bytes of untrained models that are not there yet, and of the sensitivity that is measured on them."""
    from paraknow_core.models.anatomy import read_anatomy
    from paraknow_core.models.source import resolve_model
    from paraknow_core.models.untrained import named_untrained, place_of

    models: dict[ModelSpec, set[frozenset]] = {}
    for spec in specs:
        measures = METHODS[spec.method].needs_teacher
        if spec.student.untrained is not None:
            models.setdefault(spec.student, set())
        if spec.teacher.untrained is not None and (measures or "teacher" in spec.references):
            of_teacher = models.setdefault(spec.teacher, set())
            of_teacher |= {asked(spec, MEASUREMENT, NOT_MEASURED)} if measures else set()
    total = 0
    for model, measurements in models.items():
        try:
            source = resolve_model(model.source, model.revision, offline=True)
            if not place_of(named_untrained(source, model.untrained), model.untrained, place.untrained).is_dir():
                anatomy = read_anatomy(source, tokenizer=False)
                total += anatomy.bytes + len(measurements) * (F32 * anatomy.parameters + sizes_of(anatomy).reductions)
        except ParaknowError:  # its runs say so
            continue
    return total


def _shared(cells: Sequence[Cell], kept: Sequence[Cell]) -> list[str]:
    first: dict[Any, Cell] = {}
    twice = [(cell, first.setdefault(run_key(cell.spec), cell)) for cell in cells]
    again = [cell.group.arm.name == other.group.arm.name for cell, other in twice if cell is not other]
    ways = ((True, "their arms do not read what is varied"), (False, "another arm asks for the same"))
    said = [f"{counted(again.count(own), 'run')} computed once with others: {why}" for own, why in ways if own in again]
    measured = [cell.spec for cell in kept if METHODS[cell.spec.method].needs_teacher]
    different = len({asked(spec, MEASUREMENT, NOT_MEASURED) for spec in measured})
    if measured:
        said.append(
            f"{counted(different, 'measurement')} of a teacher's sensitivity for {counted(len(measured), 'run')}"
        )
    return said


def _smallest(study: StudySpec) -> tuple[float | None, str]:
    from paraknow_core.ops.detectable import smallest_detectable

    if study.unit != SHARE:
        return None, "of this scorer's spread nothing is assumed beforehand"
    n = study.base.task.sizes.test or REAL_SIZES.test(study.base)
    others = max(1, len(study.arms) - 1)
    smallest = smallest_detectable(len(study.seeds), max(2, n), SEED_SPREAD, 0.0, DISCORDANT**0.5, comparisons=others)
    given = ", ".join([counted(len(study.seeds), "seed"), counted(n, "example"), counted(others, "comparison")])
    assumes = (
        f"with {given}, if two arms differ on {100 * DISCORDANT:.0f} % of the examples and "
        f"seeds spread by {100 * SEED_SPREAD:.1f} points"
    )
    return smallest, assumes


def _warnings(study: StudySpec, size: float | None, place: Workspace) -> list[str]:
    said = few_seeds(study)
    if study.tuning is None and len(study.arms) > 1:
        said.append("learning rates are not tuned: a difference between arms may be one of rates")
    for arm in arms_of(study):
        if arm.row.budget_note:
            said.append(f"{arm.label}: not of equal budget ({arm.row.budget_note})")
    for key in study.factors:
        own = [arm.label for arm in arms_of(study) if key in arm.changes]
        if own:
            said.append(f"{factor_text(key)}: the values that are varied go before the own ones of {listed(own)}")
    said += _same_as_the_method(study)
    root = next(folder for folder in (place.root, *place.root.parents) if folder.is_dir())
    free = shutil.disk_usage(root).free
    if size is not None and size > free:
        said.append(f"disk: about {memory(size)} are needed and {memory(free)} are free; free some, or run it in parts")
    return said


def _same_as_the_method(study: StudySpec) -> list[str]:
    """Name the arms, and where a factor decides the groups, that are the method itself on this pair."""
    same, groups = vacuous(study), groups_of(study)
    said = []
    for arm in arms_of(study):
        own = [group for group in groups if group.arm.name == arm.name]
        found = [group for group in own if group.key in same]
        if len(found) == len(own) and len({same[group.key] for group in found}) == 1:
            said.append(f"{arm.label}: {same[found[0].key]}")
        else:
            said += [f"{group.label}: {same[group.key]}" for group in found]
    return said
