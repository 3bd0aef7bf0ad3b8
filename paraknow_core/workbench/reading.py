"""Reading run folders for lists and pages: what cannot change any more is read once a process.

`Facts` is what a list says of a run. A file that changes is read again: see `files.remember`.
"""

import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from paraknow_core.catalogue import METHODS
from paraknow_core.display import arm_of, outcome_text, source_label
from paraknow_core.engines import queue
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files.remember import EVERY_RUN, once_a_look, one_look, while_unchanged
from paraknow_core.paths import Workspace, contained
from paraknow_core.runs import labels
from paraknow_core.runs.folder import LISTED, NOTE, RunFolder, find_run, list_runs, result_once
from paraknow_core.runs.labels import Label
from paraknow_core.runs.metrics import metrics_of
from paraknow_core.runs.status import Status
from paraknow_core.sensitivity.store import TOTALS, SensitivityStore
from paraknow_core.spec import RunSpec
from paraknow_core.studies import same
from paraknow_core.studies.names import Named, run_names
from paraknow_core.workbench.uploads import task_label

MAX_ID = 200
MOST_PLACES = 8  # workspaces whose runs' names are remembered: windows may look at several
MOST_LISTED = 300  # runs in a list to choose from
MOST_CURVES = 12  # of other runs beside one
MOST_ALIKE = 1_000  # of the newest that may have one, which are looked at
CHOOSE = "choose one from the list on Start"


@dataclass(frozen=True)
class Facts:
    """What a run folder says that does not change while it runs: its spec, its label, its result once there is one."""

    id: str
    spec: RunSpec | None
    problem: str
    result: dict
    label: Label = Label()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """`same.effective` of the spec, worked out once."""
        return {} if self.spec is None else same.effective(self.spec)

    @cached_property
    def computes(self) -> tuple:
        """`same.computes` of the spec, worked out once."""
        return () if self.spec is None else same.computes(self.spec)

    @cached_property
    def compared(self) -> "Compared":
        """What it is compared by; the same object for all runs that are alike in it, of which there are many."""
        settings = {key: value for key, value in self.settings.items() if key not in ("method", "seed")}
        content = {} if self.spec is None else same.content(self.spec, self.result)
        return _one_of(repr((settings, content)), Compared(settings, content))

    def asks(self, parts: tuple[str, ...]) -> frozenset | None:
        """Return `same.asked` of the spec for one of the usual choices of parts, worked out once; None without one."""
        if parts not in self._asked:
            self._asked[parts] = None if self.spec is None else same.asked(self.spec, parts)
        return self._asked[parts]

    @cached_property
    def _asked(self) -> dict[tuple[str, ...], frozenset | None]:
        return {}

    @property
    def scores(self) -> list[dict]:
        return self.result.get("scores") or []

    @cached_property
    def pair(self) -> str:
        if self.spec is None:
            return "unreadable spec"
        return f"{source_label(self.spec.teacher.source, 28)} → {source_label(self.spec.student.source, 28)}"

    @cached_property
    def task(self) -> str:
        return "" if self.spec is None else task_label(self.spec.task.source, 32)


Runs = list[tuple[RunFolder, Facts]]


@dataclass(frozen=True, eq=False)
class Compared:
    """What a run is compared by: its settings, method and seed apart, and the content of what it read."""

    settings: dict[str, Any]
    content: dict[str, str]


_kinds: weakref.WeakValueDictionary[str, Compared] = weakref.WeakValueDictionary()


def _one_of(key: str, kind: Compared) -> Compared:
    return _kinds.setdefault(key, kind)


@lru_cache(EVERY_RUN)
def _differing(own: Compared, other: Compared) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the settings in which two kinds of runs differ, and what they read that had another content."""
    settings = same.differing(own.settings, other.settings)
    return tuple(settings), tuple(same.other_content(own.content, other.content))


def answer_files(*runs: RunFolder) -> list[Path]:
    """Return the files that hold the scores and answers of runs."""
    return [run.file(name) for run in runs for name in ("result.json", "predictions.jsonl")]


def totals_file(store: SensitivityStore) -> list[Path]:
    """Return the file of a saved sensitivity that is written last and never changes: its folder names its content."""
    return [store.folder / TOTALS]


def status(run: RunFolder) -> Status:
    """Return the state of a run. One that has ended, or waits, is read once: lists look at thousands of them again."""
    last, claimed = _status(run)
    # Whatever has a process, or had one, may change without a file that says so.
    is_fixed = last.state in ("done", "failed", "stopped") or (last.state == "queued" and not claimed)
    return last if is_fixed else run.status()


@while_unchanged(lambda run: [run.name_of(name) for name in ("status.json", "process.json", NOTE)], most=EVERY_RUN)
def _status(run: RunFolder) -> tuple[Status, bool]:
    """Return the state, and whether a process was started for the run, or an engine holds it."""
    return run.status(), run.claimed


@while_unchanged(
    lambda run: [run.name_of("spec.yaml"), run.name_of("result.json"), run.name_of(labels.FILE)], most=EVERY_RUN
)
def facts(run: RunFolder) -> Facts:
    """Return spec, result and label of a run."""
    (result, damage), label = result_once(run), labels.label_of(run.path)
    result = result or {}
    if run.id != run.path.name:
        problem = f"run {run.id}: its folder's name holds characters that cannot be written out; rename or delete it"
        return Facts(run.id, None, problem, {})
    try:
        return Facts(run.id, run.spec(), damage, result, label)
    except ParaknowError as error:
        return Facts(run.id, None, str(error), result, label)


def names(place: Workspace) -> dict[str, str]:
    """Return what every run of the workspace is called, by id."""
    return _names_and_titles(place)[0]


def titles(place: Workspace) -> dict[str, str]:
    """Return what every run is called where people look at it or choose it: its name, after a star if it has one."""
    return _names_and_titles(place)[1]


_named: dict[Path, tuple[list, dict[str, str], dict[str, str]]] = {}


@one_look()
@once_a_look(lambda place: [place.runs])
def _names_and_titles(place: Workspace) -> tuple[dict[str, str], dict[str, str]]:
    """Name all runs; anew only when one came or went, or its spec or label was changed."""
    by_id = {record.id: record for _, record in all_facts(place)}
    said = [(record.id, record.spec, record.label) for record in by_id.values()]
    before = _named.get(place.root)
    if before is None or before[0] != said:
        while len(_named) >= MOST_PLACES:
            _named.pop(next(iter(_named)), None)
        before = _named[place.root] = said, *_names_of(by_id)
    return before[1:]


def _names_of(by_id: dict[str, Facts]) -> tuple[dict[str, str], dict[str, str]]:
    named = [Named(run_id, record.spec, record.label.name) for run_id, record in by_id.items()]
    names_by_id = run_names(named, lambda run: by_id[run.id].settings)
    starred = {run_id: f"★ {name}" if by_id[run_id].label.starred else name for run_id, name in names_by_id.items()}
    return names_by_id, starred


def options(place: Workspace, runs: Iterable[RunFolder], *, about: bool = False) -> dict[str, str]:
    """Return runs by id, each as one line of a list to choose from: its name, its state or score, pair and task.

    Args:
        place: the workspace.
        runs: of that workspace.
        about: whether pair and task are said, too.
    """
    lines, title_of = {}, titles(place)
    for run in runs:
        state, record = status(run).state, facts(run)
        outcome = (outcome_text(record.result).split(" (")[0] if state == "done" else "") or state
        parts = [title_of.get(run.id, run.id), outcome, *([record.pair, record.task] if about and record.spec else [])]
        lines[run.id] = " · ".join(parts)
    return lines


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


@one_look()
@once_a_look(lambda place: [place.runs])
def all_facts(place: Workspace) -> Runs:
    """Return every run with its facts, newest first; the list is not to be changed."""
    return [(run, facts(run)) for run in list_runs(place)]


def sensitivity_key(facts: Facts) -> str | None:
    """Return the name of the saved sensitivity that a run has used; None where its result names none."""
    key = (facts.result.get("sensitivity") or {}).get("key")
    return key if isinstance(key, str) else None


def store_of(place: Workspace, facts: Facts) -> SensitivityStore | None:
    """Return the saved sensitivity that a run has used; None where there is none, or it cannot be read."""
    key = sensitivity_key(facts)
    try:
        store = SensitivityStore(contained(place.sensitivity, key)) if key is not None else None
    except (RunError, OSError, ValueError):
        return None
    return store if store is not None and _can_be_read(store) else None


@while_unchanged(totals_file, most=500)
def _can_be_read(store: SensitivityStore) -> bool:
    return store.has_totals


def runs_with_sensitivity(place: Workspace) -> Runs:
    """Return the newest run of every saved sensitivity that can be read, newest first."""
    newest: dict[str, tuple[RunFolder, Facts]] = {}
    for run, facts in all_facts(place):
        key = sensitivity_key(facts)
        if key is not None:
            newest.setdefault(key, (run, facts))
    return [(run, facts) for run, facts in newest.values() if store_of(place, facts) is not None]


def siblings(place: Workspace, facts: Facts) -> dict[str, tuple[RunFolder, Facts]]:
    """Return, by method, the finished runs to compare a run with: those of other methods that are comparable to it.

    Of several with one method, the newest with the run's own seed is taken, else the newest.
    """
    best: dict[str, tuple[RunFolder, Facts]] = {}
    for run, other in all_facts(place):
        if facts.spec is None or other.spec is None or not other.scores or other.spec.method == facts.spec.method:
            continue
        if not is_comparable(facts, other):
            continue
        chosen = best.get(other.spec.method)
        if chosen is None or (chosen[1].spec.seed != facts.spec.seed and other.spec.seed == facts.spec.seed):
            best[other.spec.method] = (run, other)
    return best


def is_comparable(facts: Facts, other: Facts) -> bool:
    """Tell whether two runs ask the same: they differ in method and seed alone, also in what their files held."""
    return is_clean(facts, other) and not _other_content(facts, other)


def _other_content(facts: Facts, other: Facts) -> tuple[str, ...]:
    """Return which data and weights that both runs name had another content."""
    return _differing(facts.compared, other.compared)[1]


@dataclass(frozen=True)
class LeftOut:
    """Finished runs of the same models and task source that ask something else than one run.

    Attributes:
        number: how many.
        differing: method -> the settings in which its nearest run differs.
    """

    number: int
    differing: dict[str, list[str]]


def left_out(place: Workspace, facts: Facts) -> LeftOut:
    """Return which runs a chart of comparable ones does not show, though they look alike in a list."""
    number, nearest = 0, {}
    for _, other in all_facts(place):
        if facts.spec is None or other.spec is None or not other.scores or other.id == facts.id:
            continue
        if facts.asks(same.LOOKS_ALIKE) != other.asks(same.LOOKS_ALIKE) or is_comparable(facts, other):
            continue
        number += 1
        content = [f"the content of {name}" for name in _other_content(facts, other)]
        keys = [*(key for key in other_settings(facts, other) if key != "seed"), *content]
        nearest[other.spec.method] = min(nearest.get(other.spec.method, keys), keys, key=len)
    return LeftOut(number, nearest)


def other_settings(facts: Facts, other: Facts) -> list[str]:
    """Return the settings, method and name apart, in which two single runs differ: what makes a comparison unclean.

    As `same.differing`, and the seed, which is part of an arm there but not of a pair of runs here.
    """
    if facts.spec is None or other.spec is None:
        return ["everything"]
    keys, _ = _differing(facts.compared, other.compared)
    return [*keys] if facts.spec.seed == other.spec.seed else [*keys, "seed"]


def is_clean(facts: Facts, other: Facts) -> bool:
    """Tell whether two runs differ in nothing but method and seed."""
    return set(other_settings(facts, other)) <= {"seed"}


def curves_beside(facts: Facts, trained: Runs) -> Runs:
    """Return the runs to draw beside a run: same pair and task, those that differ in method and seed alone first.

    A run that never came as far as a training step has no curve, and is left out.
    """
    if facts.spec is None:
        return []
    order, asked = list(METHODS), facts.asks(same.PAIR_AND_TASK)

    def rank(pair: tuple[RunFolder, Facts]) -> tuple:
        other = pair[1].spec
        return not is_clean(facts, pair[1]), other.seed != facts.spec.seed, order.index(other.method), other.seed

    alike = [
        (run, other)
        for run, other in trained
        if other.id != facts.id
        and other.spec
        and other.asks(same.PAIR_AND_TASK) == asked
        and os.path.exists(run.name_of("events.jsonl"))  # noqa: PTH110 - of thousands of runs
    ]
    return list(
        islice((pair for pair in sorted(alike[:MOST_ALIKE], key=rank) if metrics_of(pair[0]).steps), MOST_CURVES)
    )


@while_unchanged(answer_files, most=500)
def verdict(run: RunFolder, other: RunFolder) -> str:
    """Return one sentence about the difference of two finished runs, paired by test example.

    Raises:
        ParaknowError: the two cannot be compared.
    """
    from paraknow_core.studies import scores as studies

    own, base = (arm_of(folder.spec().method).label for folder in (run, other))
    return studies.verdict(studies.compare({base: [other], own: [run]}, against=base), arm=own, against=base)


def unfinished_siblings(place: Workspace, facts: Facts) -> int:
    """Return how many runs are waiting or working that `siblings` would give in place of what it gives now."""
    if facts.spec is None:
        return 0
    order, shown = queue.read(place), siblings(place, facts)

    def would_be_shown(spec: RunSpec) -> bool:
        sibling = shown.get(spec.method)
        return sibling is None or (sibling[1].spec.seed != facts.spec.seed and spec.seed == facts.spec.seed)

    coming = {
        other.computes
        for run, other in all_facts(place)[:200]
        if other.spec is not None
        and other.spec.method != facts.spec.method
        and is_comparable(facts, other)
        and would_be_shown(other.spec)
        and queue.is_active(run, order)
    }
    return len(coming)


def question(spec: RunSpec) -> frozenset:
    """Return what two runs must share to be drawn beside each other: teacher, student and task."""
    return same.asked(spec, same.PAIR_AND_TASK)
