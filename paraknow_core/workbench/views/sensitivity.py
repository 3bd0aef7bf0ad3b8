"""Saved sensitivities as people look at them: opened once, named, set beside each other, listed by what they share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paraknow_core.display import counted, duration, memory, shorten, source_label
from paraknow_core.errors import DataError
from paraknow_core.figures.sensitivity import row_name
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.remember import while_unchanged
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.metrics import Metrics
from paraknow_core.runs.status import Status
from paraknow_core.sensitivity.agreement import Agreement, agreement
from paraknow_core.sensitivity.store import TOTALS, SensitivityStore
from paraknow_core.spec import ModelSpec, RunSpec
from paraknow_core.studies import same
from paraknow_core.workbench.reading import Facts, Runs, store_of, totals_file
from paraknow_core.workbench.uploads import task_label

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Saved:
    """One saved sensitivity, with the newest run that names it. `totals` and `table` are shared: never change them."""

    run: RunFolder
    facts: Facts
    store: SensitivityStore
    totals: dict[str, Any]
    table: "pandas.DataFrame"

    @property
    def key(self) -> tuple[str, tuple[int, int]]:
        """Name the content, for pictures that are kept."""
        return str(self.store.folder), file_stamp(self.store.folder / TOTALS)

    @property
    def spec(self) -> RunSpec:
        return self.facts.spec or RunSpec()

    @property
    def teacher(self) -> str:
        return source_label(str(self.totals.get("teacher", "")), 30)

    @property
    def task(self) -> str:
        return task_label(str(self.totals.get("task", "")), 30).replace("_", " ")

    @property
    def samples(self) -> int:
        return int(self.totals.get("samples", 0))

    @property
    def about(self) -> str:
        return f"{self.teacher} on {self.task}, n = {counted(self.samples, 'seed sample')}"


def opened(run: RunFolder, facts: Facts, store: SensitivityStore) -> Saved:
    """Open a saved sensitivity.

    Raises:
        DataError: the folder holds no readable store.
    """
    return Saved(run, facts, store, *_opened(store))


@while_unchanged(totals_file, most=32)
def _opened(store: SensitivityStore) -> "tuple[dict[str, Any], pandas.DataFrame]":
    return store.totals, store.modules()


def saved_of(place: Workspace, run: RunFolder, facts: Facts) -> Saved | None:
    """Open the saved sensitivity that a run has used; None where there is none, or it cannot be read."""
    store = store_of(place, facts)
    try:
        return None if store is None else opened(run, facts, store)
    except DataError:
        return None


def label(facts: Facts) -> str:
    """Name a saved sensitivity in a list: teacher, task, seed samples, and when it was measured."""
    spec, name = facts.spec or RunSpec(), facts.id
    when = f"{name[4:6]}-{name[6:8]} {name[9:11]}:{name[11:13]}" if name[:8].isdigit() else name[:24]
    own = f"{'★ ' if facts.label.starred else ''}{f'{facts.label.name} · ' if facts.label.name else ''}"
    return (
        f"{own}{source_label(spec.teacher.source, 24)}{'' if spec.teacher.untrained is None else ' (untrained)'} · "
        f"{task_label(spec.sensitivity.task or spec.task.source, 24)} · "
        f"{counted(spec.sensitivity.samples, 'sample')} · {when}"
    )


def names_of(first: Saved, second: Saved) -> tuple[str, str]:
    """Name two sensitivities by what tells them apart."""
    pairs = (
        (first.teacher, second.teacher),
        (first.task, second.task),
        (counted(first.samples, "sample"), counted(second.samples, "sample")),
        (str(first.totals.get("dtype")), str(second.totals.get("dtype"))),
    )
    unlike = [pair for pair in pairs if pair[0] != pair[1]]
    if not unlike:
        return "this one", "the other one"
    # Each part is shortened by itself: a cut through both would leave the end of one name and the beginning of another.
    first_name, second_name = (", ".join(shorten(pair[side], 28) for pair in unlike[:2]) for side in (0, 1))
    return first_name, second_name


def compared(first: Saved, second: Saved) -> Agreement:
    """Return how far two agree.

    Raises:
        DataError: they have nothing in common.
    """
    return _compared(first.store, second.store)


@while_unchanged(lambda *stores: [file for store in stores for file in totals_file(store)], most=64)
def _compared(first: SensitivityStore, second: SensitivityStore) -> Agreement:
    return agreement(_opened(first)[1], first.layer_scores(), _opened(second)[1], second.layer_scores())


def same_question(first: RunSpec, second: RunSpec, *, apart_from: tuple[str, ...]) -> bool:
    """Tell whether two measurements differ in nothing but some parts (`teacher`, `sensitivity.samples`, …)."""
    but = (*apart_from, *same.NOT_MEASURED)
    return same.asked(first, same.MEASUREMENT, but) == same.asked(second, same.MEASUREMENT, but)


def of_student(saved: Saved, student: ModelSpec, everything: Runs) -> tuple[RunFolder, Facts] | None:
    """Return the run that measured a student on the same seed samples, if there is one."""
    for run, facts in everything:
        spec = facts.spec
        if spec and spec.teacher == student and same_question(spec, saved.spec, apart_from=("teacher",)):
            return run, facts
    return None


def spec_of_student(spec: RunSpec, student: ModelSpec) -> RunSpec:
    """Return the spec that measures a student on a spec's seed samples, as if it were the teacher."""
    model = student.model_dump(mode="json")
    name = f"Sensitivity of {source_label(student.source, 30)}"
    return spec.with_changes({"until": "sensitivity", "name": name, "teacher": model, "student": model})


def measuring(spec: RunSpec) -> RunSpec:
    """Return the spec that measures its teacher and nothing more."""
    name = spec.name or f"Sensitivity of {source_label(spec.teacher.source, 30)}"
    return spec.with_changes({"until": "sensitivity", "name": name})


def span(first: Saved, second: Saved, value: str) -> tuple[float, float] | None:
    """Return the span of one value in two maps together, so that equal colours mean equal numbers; None where none."""
    cells = [saved.table.loc[saved.table["layer"].notna(), value] for saved in (first, second)]
    numbers = [number for column in cells for number in column if number > 0]
    return (min(numbers), max(numbers)) if numbers and min(numbers) < max(numbers) else None


def modules_of(saved: Saved) -> dict[tuple[int, str], str]:
    """Return (layer, role) -> module of all modules that lie in a layer."""
    columns = (saved.table[name] for name in ("layer", "role", "module"))
    return {(int(layer), role): name for layer, role, name in zip(*columns, strict=True) if layer == layer}


def most_sensitive(saved: Saved) -> str:
    """Return the module with the largest share, inside a layer where there is one."""
    inside = saved.table[saved.table["layer"].notna()]
    return (inside if len(inside) else saved.table).sort_values("share", ascending=False)["module"].iloc[0]


def stability_points(family: list[Saved]) -> list[tuple[int, float | None, float | None]]:
    """Return (samples, Spearman of modules, of layers) of each saved sensitivity with the last one."""
    points = []
    for saved in family:
        agreed = compared(saved, family[-1])
        points.append((saved.samples, agreed.modules.spearman, agreed.layers.spearman))
    return points


def comparison_rows(first: Saved, second: Saved) -> list[dict[str, Any]]:
    """Return one row a cell of the common grid of two saved sensitivities, to be handed out."""
    import numpy

    agreed = compared(first, second)
    columns = ("share", "other_share", "difference_points", "log2_ratio")
    grids = (*agreed.shares, agreed.difference(), agreed.log_ratio())
    return [
        {"row": row_name(agreed, row), "role": agreed.roles[role]}
        | {column: grid[row, role] for column, grid in zip(columns, grids, strict=True)}
        for row, role in numpy.ndindex(*agreed.shares[0].shape)
    ]


def planned_need(plan: dict[str, Any]) -> dict[str, Any]:
    """Return what the way that a plan takes needs; empty where the plan says nothing."""
    return (plan.get("needs") or {}).get(plan.get("way")) or {}


def amounts(need: dict[str, Any]) -> str:
    """Return seconds and bytes in words."""
    return f"{duration(need.get('seconds'))}, {memory(need.get('memory'))} of memory"


def seconds_left(metrics: Metrics, status: Status, now: float) -> float | None:
    """Return how long a measurement will still take, as the progress since its plan says; None while nobody knows.

    Args:
        metrics: of its run.
        status: of its run.
        now: seconds since the epoch.
    """
    spent = now - metrics.planned
    if status.stage != "sensitivity" or not metrics.planned > 0:
        return None
    if not 0 < status.done < status.total:
        seconds = planned_need(metrics.plan).get("seconds")
        return max(0.0, seconds - spent) if seconds and not status.done else None
    return spent / status.done * (status.total - status.done)
