"""What Compare reads: rows of all runs, scores and differences, each worked out once for files that do not change."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from pages._ui.frame import state
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files.disk import file_stamp
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.runs.metrics import records
from paraknow_core.runs.table import runs_table
from paraknow_core.studies import scores as studies
from paraknow_core.studies.arms import Arm, arms_of
from paraknow_core.studies.scores import PairedResult
from paraknow_core.workbench import reading

if TYPE_CHECKING:
    import pandas

FILES = ("result.json", "predictions.jsonl")


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


def pooled(runs: Sequence[RunFolder], scorer: str) -> dict[str, Any]:
    """Return `studies.pooled`, remembered."""
    return _pooled(*_keys(runs), scorer)


def difference(
    runs: Sequence[RunFolder], base: Sequence[RunFolder], scorer: str, *, means_only: bool = True
) -> PairedResult | None:
    """Return `studies.difference`, remembered, as is its refusal: arms that share no example have none."""
    result, problem = _difference(*_keys(runs), *_keys(base), scorer, means_only)
    if problem:
        raise RunError(problem)
    return result


@st.cache_data(max_entries=2000, show_spinner=False)
def _pooled(paths: tuple[str, ...], stamps: tuple, scorer: str) -> dict[str, Any]:
    del stamps  # only part of the key under which the answer is kept
    return studies.pooled([RunFolder(Path(path)) for path in paths], scorer)


@st.cache_data(max_entries=2000, show_spinner=False)
def _difference(
    paths: tuple[str, ...], stamps: tuple, base: tuple[str, ...], base_stamps: tuple, scorer: str, means_only: bool
) -> tuple[PairedResult | None, str]:
    del stamps, base_stamps  # only part of the key under which the answer is kept
    arms = ([RunFolder(Path(path)) for path in each] for each in (paths, base))
    try:
        return studies.difference(*arms, scorer, means_only=means_only), ""
    except ParaknowError as error:  # as a value: an error would not be remembered
        return None, str(error)


def predictions(run: RunFolder) -> list[dict]:
    """Return the records of a run; not to be changed."""
    return _predictions(str(run.path), file_stamp(run.file("predictions.jsonl")))


@st.cache_resource(max_entries=60, show_spinner=False)
def _predictions(path: str, stamp: tuple[int, int]) -> list[dict]:
    del stamp  # only part of the key under which the answer is kept
    return RunFolder(Path(path)).predictions()


def metrics(run: RunFolder) -> "pandas.DataFrame":
    """Return a run's metrics; not to be changed."""
    return _metrics(str(run.path), file_stamp(run.file("events.jsonl")))


@st.cache_resource(max_entries=200, show_spinner=False)
def _metrics(path: str, stamp: tuple[int, int]) -> "pandas.DataFrame":
    del stamp  # only part of the key under which the answer is kept
    return records(RunFolder(Path(path)))


def _keys(runs: Sequence[RunFolder]) -> tuple[tuple[str, ...], tuple]:
    return tuple(str(run.path) for run in runs), tuple(file_stamp(run.file(name)) for run in runs for name in FILES)
