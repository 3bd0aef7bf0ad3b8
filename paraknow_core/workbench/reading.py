"""Reading run folders for lists and pages: what cannot change any more is read once a process.

`Facts` is what a list says of a run. A file that changes is read again: its stamp is part of every key kept here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from paraknow_core.catalogue import METHODS
from paraknow_core.display import arm_of, score_text, source_label
from paraknow_core.engines import queue
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files.disk import file_stamp
from paraknow_core.paths import Workspace, contained
from paraknow_core.runs import labels
from paraknow_core.runs.folder import LISTED, RunFolder, find_run, list_runs
from paraknow_core.runs.labels import Label
from paraknow_core.runs.metrics import metrics_of
from paraknow_core.runs.status import ACTIVE, Status
from paraknow_core.sensitivity.store import TOTALS, SensitivityStore
from paraknow_core.spec import RunSpec
from paraknow_core.studies import same
from paraknow_core.studies.names import Named, run_names
from paraknow_core.workbench.uploads import task_label

MAX_ID = 200
MOST_CURVES = 12  # of other runs beside one
MOST_ENDED = 5000
_ended: dict[str, tuple[tuple[int, int], Status]] = {}  # what ended runs say, by folder, for all windows
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
    """Read spec, result and label of a run, again only when one of the files has changed."""
    return _facts(str(run.path), *_stamps(run))


def _stamps(run: RunFolder) -> tuple[tuple[int, int], ...]:
    return tuple(file_stamp(run.file(name)) for name in ("spec.yaml", "result.json", labels.FILE))


# Not Streamlit's cache, which unpickles a copy at every look: lists of hundreds of runs would feel it. Never changed.
@lru_cache(maxsize=5000)
def _facts(path: str, *stamps: tuple[int, int]) -> Facts:
    del stamps  # only part of the key under which the answer is kept
    run = RunFolder(Path(path))
    (result, damage), label = run.read_result(), labels.label_of(run.path)
    result = result or {}
    if run.id != run.path.name:
        name = f"run {run.id}: its folder's name holds characters that cannot be written out; rename or delete it"
        return Facts(run.id, None, name, {})
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


_named: dict[Path, tuple[tuple, tuple[dict[str, str], dict[str, str]]]] = {}  # the last one of each workspace
MOST_WORKSPACES = 8


def _names_and_titles(place: Workspace) -> tuple[dict[str, str], dict[str, str]]:
    """Make the names anew only when a run came or went, or what it says was changed."""
    runs = [(run, _stamps(run)) for run in list_runs(place)]
    said = tuple((run.id, spec, label) for run, (spec, _, label) in runs)
    known = _named.get(place.runs)
    if known is None or known[0] != said:
        found = {run.id: _facts(str(run.path), *stamps) for run, stamps in runs}
        made = run_names(
            [Named(one.id, one.spec, one.label.name) for one in found.values()], lambda run: found[run.id].settings
        )
        starred = {run_id: f"★ {name}" if found[run_id].label.starred else name for run_id, name in made.items()}
        if len(_named) >= MOST_WORKSPACES:
            _named.clear()
        _named[place.runs] = known = (said, (made, starred))
    return known[1]


def state_of(run: RunFolder) -> str:
    """Return a run's state; one that has ended is read again only when its file has changed."""
    known = _ended_state(str(run.path), file_stamp(run.file("status.json")))
    if known in ACTIVE:  # may be lost without a file that says so
        return run.status().state
    return known


@lru_cache(maxsize=5000)
def _ended_state(path: str, stamp: tuple[int, int]) -> str:
    del stamp  # only part of the key under which the answer is kept
    return RunFolder(Path(path)).status().state


def options(place: Workspace, runs: Iterable[RunFolder], *, about: bool = False) -> dict[str, str]:
    """Return runs by id as lines of a selector; see `option`."""
    known = titles(place)
    return {run.id: option(run, facts(run), known.get(run.id, run.id), about=about) for run in runs}


def option(run: RunFolder, one: Facts, title: str, *, about: bool = True) -> str:
    """Return a run as one line of a selector: what it is called, its state or score, and what it is about."""
    state = state_of(run)
    one = facts(run) if state == "done" and not one.scores else one  # it may have ended since its facts were read
    outcome = score_text(one.scores[0]).split(" (")[0] if state == "done" and one.scores else state
    return " · ".join([title, outcome, *([one.pair, one.task] if about and one.spec else [])])


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
    if folder is None or not _is_whole(str(folder), file_stamp(folder / TOTALS)):
        return None
    return SensitivityStore(folder)


@lru_cache(maxsize=500)
def _is_whole(folder: str, stamp: tuple[int, int]) -> bool:
    """Tell whether a saved sensitivity can be read; looked at again when its file has changed."""
    return stamp != (0, 0) and SensitivityStore(Path(folder)).has_totals


def runs_with_sensitivity(place: Workspace) -> list[tuple[RunFolder, Facts]]:
    """Return the newest run of every saved sensitivity, newest first."""
    found: dict[str, tuple[RunFolder, Facts] | None] = {}
    for run, its in all_facts(place):
        key = (its.result.get("sensitivity") or {}).get("key")
        if isinstance(key, str) and key not in found:
            found[key] = (run, its) if store_of(place, its) is not None else None
    return [each for each in found.values() if each is not None]


def siblings(place: Workspace, one: Facts) -> dict[str, tuple[RunFolder, Facts]]:
    """Return, for every other method, the finished run to compare with: one that `is_comparable`.

    One with the same seed comes before a newer one with another.
    """
    best: dict[str, tuple[RunFolder, Facts]] = {}
    for run, other in all_facts(place):
        if one.spec is None or other.spec is None or not other.scores or other.spec.method == one.spec.method:
            continue
        if not is_comparable(one, other):
            continue
        known = best.get(other.spec.method)
        if known is None or (known[1].spec.seed != one.spec.seed and other.spec.seed == one.spec.seed):
            best[other.spec.method] = (run, other)
    return best


def is_comparable(one: Facts, other: Facts) -> bool:
    """Tell whether two runs ask the same: they differ in method and seed alone, also in what their files held."""
    return not set(other_settings(one, other)) - {"seed"} and not _other_content(one, other)


def _other_content(one: Facts, other: Facts) -> list[str]:
    """Return which of the data and weights that both runs name are not the same."""
    return same.other_content(*(same.content(facts.spec, facts.result) for facts in (one, other)))


@dataclass(frozen=True)
class LeftOut:
    """Finished runs of the same models and task source that ask something else than one run.

    Attributes:
        number: how many.
        differing: for each method of theirs, the settings of its nearest run that differ.
    """

    number: int
    differing: dict[str, list[str]]


def left_out(place: Workspace, one: Facts) -> LeftOut:
    """Return which runs a chart of comparable ones does not show, though they look alike in a list."""
    number, nearest = 0, {}
    for _, other in all_facts(place):
        if one.spec is None or other.spec is None or not other.scores or other.id == one.id:
            continue
        alike = same.asked(one.spec, same.LOOKS_ALIKE) == same.asked(other.spec, same.LOOKS_ALIKE)
        if not alike or is_comparable(one, other):
            continue
        number += 1
        content = [f"the content of {name}" for name in _other_content(one, other)]
        keys = [*(key for key in other_settings(one, other) if key != "seed"), *content]
        known = nearest.get(other.spec.method)
        nearest[other.spec.method] = keys if known is None or len(keys) < len(known) else known
    return LeftOut(number, nearest)


def other_settings(one: Facts, other: Facts) -> list[str]:
    """Return the settings, method and name apart, in which two single runs differ: what makes a comparison unclean.

    As `same.differing`, and the seed, which is part of an arm there but not of a pair of runs here.
    """
    if one.spec is None or other.spec is None:
        return ["everything"]
    keys = same.differing(one.settings, other.settings)  # worked out once a run, and asked of hundreds
    return keys if one.spec.seed == other.spec.seed else [*keys, "seed"]


def is_clean(one: Facts, other: Facts) -> bool:
    """Tell whether two runs differ in nothing but method and seed."""
    return set(other_settings(one, other)) <= {"seed"}


def curves_beside(facts: Facts, trained: Iterable[tuple[RunFolder, Facts]]) -> list[tuple[RunFolder, Facts]]:
    """Return the runs to draw beside a run: same pair and task, those that differ in method and seed alone first.

    A run that never came as far as a training step has no curve, and is left out.
    """
    spec, order = facts.spec, list(METHODS)
    if spec is None:
        return []
    same = [
        (run, other)
        for run, other in trained
        if other.id != facts.id
        and other.spec is not None
        and question(other.spec) == question(spec)
        and run.file("events.jsonl").exists()
    ]

    def rank(pair: tuple[RunFolder, Facts]) -> tuple:
        other = pair[1].spec
        return not is_clean(facts, pair[1]), other.seed != spec.seed, order.index(other.method), other.seed

    with_curve = (pair for pair in sorted(same, key=rank) if metrics_of(pair[0]).steps)
    return list(islice(with_curve, MOST_CURVES))


def verdict(run: RunFolder, other: RunFolder) -> str:
    """Return one sentence about the difference of two finished runs, paired by test example.

    Raises:
        ParaknowError: the two cannot be compared.
    """
    from paraknow_core.studies import scores as studies

    names = [arm_of(each.spec().method).label for each in (run, other)]
    lines = studies.compare({names[1]: [other], names[0]: [run]}, against=names[1])
    return studies.verdict(lines, arm=names[0], against=names[1])


def unfinished_siblings(place: Workspace, one: Facts) -> int:
    """Return how many runs are waiting or working that `siblings` would give in place of what it gives now."""
    if one.spec is None:
        return 0
    order, shown = queue.read(place), siblings(place, one)
    wanting = {
        other.computes
        for run, other in all_facts(place)[:200]
        if other.spec is not None
        and other.spec.method != one.spec.method
        and is_comparable(one, other)
        and (other.spec.method not in shown or shown[other.spec.method][1].spec.seed != one.spec.seed)
        and (other.spec.method not in shown or other.spec.seed == one.spec.seed)
        and queue.is_active(run, order)
    }
    return len(wanting)


def question(spec: RunSpec) -> frozenset:
    """Return what two runs must share to be drawn beside each other: teacher, student and task."""
    return same.asked(spec, same.PAIR_AND_TASK)
