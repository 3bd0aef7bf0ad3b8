"""Reading run folders for the pages; what cannot change any more is read once per session of the server."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import streamlit as st

from pages._ui.state import task_label
from paraknow_core import comparison
from paraknow_core.display import arm_of, source_label
from paraknow_core.engines import queue
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.paths import Workspace, contained, file_stamp
from paraknow_core.runs import LISTED, RunFolder, Status, find_run, list_runs
from paraknow_core.sensitivity_store import TOTALS, SensitivityStore
from paraknow_core.spec import RunSpec

MAX_ID = 200
MOST_ENDED = 5000
_ended: dict[str, tuple[tuple[int, int], Status]] = {}  # what ended runs say, by folder, for all windows
CHOOSE = "choose one from the list on Start"


@dataclass(frozen=True)
class Facts:
    """What a run folder says that does not change while it runs: its spec, and its result once there is one."""

    id: str
    spec: RunSpec | None
    problem: str
    result: dict

    @property
    def scores(self) -> list[dict]:
        return self.result.get("scores") or []

    @property
    def pair(self) -> str:
        if self.spec is None:
            return "unreadable spec"
        return f"{source_label(self.spec.teacher.source, 28)} → {source_label(self.spec.student.source, 28)}"

    @property
    def task(self) -> str:
        return "" if self.spec is None else task_label(self.spec.task.source, 32)


def status(run: RunFolder) -> Status:
    """Read the state of a run, once only after it has ended: lists look at hundreds of them every other second."""
    stamp = file_stamp(run.file("status.json"))
    known = _ended.get(str(run.path))
    if known is not None and known[0] == stamp:
        return known[1]
    found = run.status()
    if found.state in ("done", "failed", "stopped") and stamp == file_stamp(run.file("status.json")):
        if len(_ended) >= MOST_ENDED:
            _ended.clear()
        _ended[str(run.path)] = (stamp, found)
    return found


def facts(run: RunFolder) -> Facts:
    """Read spec and result of a run, again only when one of the two files has changed."""
    return _facts(str(run.path), file_stamp(run.file("spec.yaml")), file_stamp(run.file("result.json")))


# Not Streamlit's cache, which unpickles a copy at every look: lists of hundreds of runs would feel it. Never changed.
@lru_cache(maxsize=5000)
def _facts(path: str, spec_stamp: tuple[int, int], result_stamp: tuple[int, int]) -> Facts:
    del spec_stamp, result_stamp  # only part of the key under which the answer is kept
    run = RunFolder(Path(path))
    result = run.result() or {}
    try:
        return Facts(run.id, run.spec(), "", result)
    except ParaknowError as error:
        return Facts(run.id, None, str(error), result)


def run_named(place: Workspace, name: str) -> RunFolder:
    """Return the run that a link names.

    Raises:
        RunError: there is no such run, whatever the text is.
    """
    try:
        if len(name) > MAX_ID:
            raise ValueError
        return find_run(place, name)
    except (OSError, ValueError):
        raise RunError(f"run '{name[:40]}…': no run has this id; {CHOOSE}") from None
    except RunError as error:
        raise RunError(str(error).replace(LISTED, CHOOSE)) from None  # a browser has no command line


def run_in_link(place: Workspace) -> tuple[RunFolder | None, str]:
    """Return the run that `?run=` of the address names, and a sentence if it names none."""
    name = st.query_params.get("run", "")
    if not name:
        return None, ""
    try:
        return run_named(place, name), ""
    except RunError as error:
        return None, str(error)


def all_facts(place: Workspace) -> list[tuple[RunFolder, Facts]]:
    """Return every run with its facts, newest first."""
    return [(run, facts(run)) for run in list_runs(place)]


def store_of(place: Workspace, one: Facts) -> SensitivityStore | None:
    """Return the saved sensitivity that a run names, or None."""
    key = (one.result.get("sensitivity") or {}).get("key")
    try:
        folder = contained(place.sensitivity, key) if isinstance(key, str) else None
    except (RunError, OSError, ValueError):
        return None
    return SensitivityStore(folder) if folder is not None and (folder / TOTALS).exists() else None


def runs_with_sensitivity(place: Workspace) -> list[tuple[RunFolder, Facts]]:
    """Return the newest run of every saved sensitivity, newest first."""
    found: dict[str, tuple[RunFolder, Facts] | None] = {}
    for run, one in all_facts(place):
        key = (one.result.get("sensitivity") or {}).get("key")
        if isinstance(key, str) and key not in found:
            found[key] = (run, one) if store_of(place, one) is not None else None
    return [each for each in found.values() if each is not None]


def siblings(place: Workspace, one: Facts) -> dict[str, tuple[RunFolder, Facts]]:
    """Return, for every other method, the run to compare with: same teacher, student and task, and finished.

    A run that differs in nothing but its method comes before a newer one that differs in more; see `other_settings`.
    """
    best: dict[str, tuple[RunFolder, Facts]] = {}
    for run, other in all_facts(place):
        if one.spec is None or other.spec is None or not other.scores or other.spec.method == one.spec.method:
            continue
        if question(other.spec) != question(one.spec):
            continue
        known = best.get(other.spec.method)
        if known is None or (other_settings(one, known[1]) and not other_settings(one, other)):
            best[other.spec.method] = (run, other)
    return best


def other_settings(one: Facts, other: Facts) -> list[str]:
    """Return the settings, method and name apart, in which two single runs differ: what makes a comparison unclean.

    As `comparison.other_settings`, and the seed, which is part of an arm there but not of a pair of runs here.
    """
    if one.spec is None or other.spec is None:
        return ["everything"]
    keys = comparison.other_settings(one.spec, other.spec)
    return keys if one.spec.seed == other.spec.seed else [*keys, "seed"]


def verdict(run: RunFolder, other: RunFolder) -> str:
    """Return one sentence about the difference of two finished runs, paired by test example.

    Raises:
        ParaknowError: the two cannot be compared.
    """
    stamps = tuple(file_stamp(one.file(name)) for one in (run, other) for name in ("result.json", "predictions.jsonl"))
    return _verdict(str(run.path), str(other.path), stamps)


@st.cache_data(max_entries=500, show_spinner=False)
def _verdict(path: str, other_path: str, stamps: tuple[tuple[int, int], ...]) -> str:
    from paraknow_core import studies

    del stamps  # only part of the key under which the answer is kept
    run, other = RunFolder(Path(path)), RunFolder(Path(other_path))
    names = [arm_of(r.spec().method).label for r in (run, other)]
    table = studies.compare({names[1]: [other], names[0]: [run]}, against=names[1])
    return studies.verdict(table, arm=names[0], against=names[1])


def unfinished_siblings(place: Workspace, one: Facts) -> int:
    """Return how many runs of the same teacher, student and task are still waiting or working."""
    if one.spec is None:
        return 0
    order = queue.read(place)
    return sum(
        other.spec is not None and question(other.spec) == question(one.spec) and queue.is_active(run, order)
        for run, other in all_facts(place)[:50]
    )


def question(spec: RunSpec) -> tuple:
    """Return what two runs must share to be compared: teacher, student and task."""
    return (spec.teacher, spec.student, spec.task.model_dump_json())
