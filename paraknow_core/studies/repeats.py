"""Which runs are there already: what two specs compute is the same, whatever their names and unread settings say."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import islice

from paraknow_core.files.naming import named
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec
from paraknow_core.studies.same import computes, effective, shows

STATES = ("done", "running", "queued")  # of runs that answer for a spec, the best one first
SEEDS = 3  # with fewer, nothing is called better
_SOURCES = (
    *("task.source", "task.test_source", "student.source", "teacher.source", "task.judge.source"),
    "sensitivity.task",
)
_MOST_FILES = 1_000


def there_already(
    specs: Sequence[RunSpec],
    runs: Iterable[tuple[RunFolder, RunSpec]],
    state_of: Callable[[RunFolder], str],
    states: Sequence[str] = STATES,
) -> list[RunFolder | None]:
    """Return for each spec the run that has computed it, or is about to; None where it has to be run.

    Args:
        specs: what is wanted.
        runs: what to look among, newest first.
        state_of: a run's state.
        states: of runs that answer for a spec, the best one first; a run in any other answers for nothing.

    A finished run counts only while the files that it read are as old as it: a data file or a model that was written
    since then would give other numbers under the same name. A run that lacks an untrained reference does not count.
    """
    wanted: dict[Hashable, list[int]] = {}
    for number, spec in enumerate(specs):
        wanted.setdefault(computes(spec), []).append(number)
    plain = set(map(_plainly, specs))
    best: dict[int, tuple[int, RunFolder]] = {}
    for run, spec_of_run in runs:
        if _plainly(spec_of_run) not in plain:
            continue
        places = [n for n in wanted.get(computes(spec_of_run), ()) if shows(spec_of_run, specs[n])]
        if not places:
            continue
        state = state_of(run)
        if state not in states or (state != "queued" and _is_stale(run, spec_of_run)):
            continue
        rank = states.index(state)
        for place in places:
            if place not in best or rank < best[place][0]:
                best[place] = (rank, run)
    return [best[number][1] if number in best else None for number in range(len(specs))]


def missing_seeds(
    specs: Sequence[RunSpec],
    runs: Sequence[tuple[RunFolder, RunSpec]],
    state_of: Callable[[RunFolder], str],
    most: int = SEEDS,
) -> list[RunSpec]:
    """Return what has to be run so that each of several arms has been run with the same `most` seeds.

    Args:
        specs: one of each arm; the first one's seed is among the seeds.
        runs: what is there, newest first.
        state_of: as in `there_already`.
        most: how many seeds.

    Returns:
        Specs seed by seed; seeds that arms have already come first, then the next ones in order.
    """
    used: dict[Hashable, set[int]] = {_arm(spec): set() for spec in specs}
    for _, own in runs:
        if (key := _arm(own)) in used:
            used[key].add(own.seed)
    first = specs[0].seed
    fresh = [(first + number) % 2**32 for number in range(most + sum(map(len, used.values())))]
    tried = list(dict.fromkeys([first, *sorted({seed for own in used.values() for seed in own}), *fresh]))
    grid = {seed: [spec.model_copy(update={"seed": seed}) for spec in specs] for seed in tried}
    found = iter(there_already([spec for own in grid.values() for spec in own], runs, state_of))
    there = {seed: list(islice(found, len(own))) for seed, own in grid.items()}
    # The first one stays; of the others those that most arms have been run with.
    order = sorted(tried[1:], key=lambda seed: -sum(run is not None for run in there[seed]))
    chosen = sorted([first, *order[: most - 1]], key=tried.index)
    return [spec for seed in chosen for spec, run in zip(grid[seed], there[seed], strict=True) if run is None]


def _plainly(spec: RunSpec) -> Hashable:
    """Return what specs share that compute the same, at a glance: thousands of runs are told apart by it."""
    return spec.until, spec.method, spec.seed


def _arm(spec: RunSpec) -> Hashable:
    """Return what runs share that differ in their seed alone."""
    return computes(spec.model_copy(update={"seed": 0}))


def _is_stale(run: RunFolder, spec: RunSpec) -> bool:
    """Tell whether a local file that a run read was written after the run had started."""
    started = run.status().started
    read = effective(spec)
    sources = [read.get(key) for key in _SOURCES]
    return any(_written(str(source)) > started for source in sources if source)


def _written(source: str) -> float:
    """Return when a local file or a folder's newest file was written or put in place; 0 for what is not local."""
    path = named(source).path
    if path is None:
        return 0.0
    try:
        files = (
            [path] if path.is_file() else [file for file, _ in zip(path.iterdir(), range(_MOST_FILES), strict=False)]
        )
        stats = [file.stat() for file in files]
    except (OSError, ValueError):
        return 0.0
    # A file that was moved here keeps the time of its writing, but not that of its entry.
    return max((max(stat.st_mtime, stat.st_ctime) for stat in stats), default=0.0)
