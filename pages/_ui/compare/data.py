"""What Compare reads: rows of all runs, scores and differences, each worked out once for files that do not change."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import streamlit as st

from pages._ui.frame import state
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files.remember import while_unchanged
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.runs.metrics import records
from paraknow_core.runs.table import runs_table
from paraknow_core.studies import scores as studies
from paraknow_core.studies.arms import Arm, arms_of
from paraknow_core.studies.scores import PairedResult
from paraknow_core.workbench import reading
from paraknow_core.workbench.reading import answer_files

if TYPE_CHECKING:
    import pandas


def all_rows() -> "pandas.DataFrame":
    """Return one row a run, newest first; only files that changed are read again."""
    return runs_table(list_runs(state.place()), _memo(str(state.place().root)))


@st.cache_resource(max_entries=4)
def _memo(root: str) -> dict:
    del root  # one memo a workspace
    return {}


def finished(ids: Sequence[str]) -> tuple[list[Arm], dict[str, str]]:
    """Return the arms that runs make, and for each run that cannot be compared the state it is in."""
    ready, left_out = [], {}
    for run_id in sorted(ids, reverse=True):  # newest first
        run = RunFolder(state.place().runs / run_id)
        facts = reading.facts(run)
        if facts.spec is not None and facts.scores:
            ready.append((run, facts.spec))
        else:
            status = run.status().state
            left_out[run_id] = "unreadable" if facts.problem else "no scores" if status == "done" else status
    return arms_of(ready, lambda run: reading.facts(run).result), left_out


@while_unchanged(lambda runs, _scorer: answer_files(*runs), most=2000)
def pooled(runs: tuple[RunFolder, ...], scorer: str) -> dict[str, Any]:
    """Return `studies.pooled`, remembered; not to be changed."""
    return studies.pooled(runs, scorer)


def difference(
    runs: Sequence[RunFolder], base: Sequence[RunFolder], scorer: str, *, means_only: bool = True
) -> PairedResult | None:
    """Return `studies.difference`, remembered, as is its refusal: arms that share no example have none."""
    result, problem = _difference(tuple(runs), tuple(base), scorer, means_only)
    if problem:
        raise RunError(problem)
    return result


@while_unchanged(lambda runs, base, *_: answer_files(*runs, *base), most=2000)
def _difference(
    runs: tuple[RunFolder, ...], base: tuple[RunFolder, ...], scorer: str, means_only: bool
) -> tuple[PairedResult | None, str]:
    try:
        return studies.difference(runs, base, scorer, means_only=means_only), ""
    except ParaknowError as error:  # as a value: an error would not be remembered
        return None, str(error)


@while_unchanged(answer_files, most=60)
def predictions(run: RunFolder) -> list[dict]:
    """Return the records of a run; not to be changed."""
    return run.predictions()


@while_unchanged(lambda run: [run.file("events.jsonl")], most=200)
def metrics(run: RunFolder) -> "pandas.DataFrame":
    """Return a run's metrics; not to be changed."""
    return records(run)
