"""Saved sensitivities as the Sensitivity page needs them: opened once, named for people, listed by what they share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from pages._ui.frame import reading, state
from pages._ui.frame.reading import Facts
from paraknow_core.display import counted, shorten, source_label
from paraknow_core.files.disk import file_stamp
from paraknow_core.runs.folder import RunFolder
from paraknow_core.sensitivity.agreement import Agreement, agreement
from paraknow_core.sensitivity.store import TOTALS, SensitivityStore
from paraknow_core.spec import RunSpec
from paraknow_core.studies import same

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Saved:
    """One saved sensitivity, with the newest run that names it. `totals` and `table` are shared: never change them."""

    run: RunFolder
    one: Facts
    store: SensitivityStore
    totals: dict[str, Any]
    table: "pandas.DataFrame"

    @property
    def key(self) -> tuple[str, tuple[int, int]]:
        """Name the content, for pictures that are kept."""
        return str(self.store.folder), file_stamp(self.store.folder / TOTALS)

    @property
    def spec(self) -> RunSpec:
        return self.one.spec or RunSpec()

    @property
    def teacher(self) -> str:
        return source_label(str(self.totals.get("teacher", "")), 30)

    @property
    def task(self) -> str:
        return state.task_label(str(self.totals.get("task", "")), 30).replace("_", " ")

    @property
    def samples(self) -> int:
        return int(self.totals.get("samples", 0))

    @property
    def about(self) -> str:
        return f"{self.teacher} on {self.task}, n = {counted(self.samples, 'seed sample')}"


def opened(run: RunFolder, one: Facts, store: SensitivityStore) -> Saved:
    """Open a saved sensitivity.

    Raises:
        DataError: the folder holds no readable store.
    """
    totals, table = _opened(str(store.folder), file_stamp(store.folder / TOTALS))
    return Saved(run, one, store, totals, table)


# Kept as they are and not copied for every draw: nobody changes them. A saved sensitivity's key names its content.
@st.cache_resource(max_entries=32, show_spinner=False)
def _opened(folder: str, stamp: tuple[int, int]) -> "tuple[dict[str, Any], pandas.DataFrame]":
    del stamp
    store = SensitivityStore(Path(folder))
    return store.totals, store.modules()


def label(one: Facts) -> str:
    """Name a saved sensitivity in a list: teacher, task, seed samples, and when it was measured."""
    spec = one.spec or RunSpec()
    when = f"{one.id[4:6]}-{one.id[6:8]} {one.id[9:11]}:{one.id[11:13]}" if one.id[:8].isdigit() else one.id[:24]
    own = f"{'★ ' if one.label.starred else ''}{f'{one.label.name} · ' if one.label.name else ''}"
    return (
        f"{own}{source_label(spec.teacher.source, 24)} · {state.task_label(spec.task.source, 24)} · "
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
    differing = [pair for pair in pairs if pair[0] != pair[1]]
    if not differing:
        return "this one", "the other one"
    # Each part is shortened by itself: a cut through both would leave the end of one name and the beginning of another.
    first_name, second_name = (", ".join(shorten(pair[side], 28) for pair in differing[:2]) for side in (0, 1))
    return first_name, second_name


def compared(first: Saved, second: Saved) -> Agreement:
    """Return how far two agree.

    Raises:
        DataError: they have nothing in common.
    """
    return _compared(first.key, second.key)


@st.cache_resource(max_entries=64, show_spinner=False)
def _compared(first: tuple[str, int], second: tuple[str, int]) -> Agreement:
    sides = []
    for folder, stamp in (first, second):
        _, table = _opened(folder, stamp)
        sides += [table, SensitivityStore(Path(folder)).layer_scores()]
    return agreement(*sides)


def same_question(first: RunSpec, second: RunSpec, *, apart_from: tuple[str, ...]) -> bool:
    """Tell whether two measurements differ in nothing but some parts (`teacher`, `sensitivity.samples`, …)."""
    but = (*apart_from, *same.NOT_MEASURED)
    return same.asked(first, same.MEASUREMENT, but) == same.asked(second, same.MEASUREMENT, but)


def of_student(saved: Saved, everything: list[tuple[RunFolder, Facts]]) -> tuple[RunFolder, Facts] | None:
    """Return the saved sensitivity of the draft's student on the same seed samples, if it was measured."""
    student = state.draft().student
    for run, one in everything:
        spec = one.spec
        if spec and spec.teacher == student and same_question(spec, saved.spec, apart_from=("teacher",)):
            return run, one
    return None


def store_of(one: Facts) -> SensitivityStore | None:
    return reading.store_of(state.place(), one)
