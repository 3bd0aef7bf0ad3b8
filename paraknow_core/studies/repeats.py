"""Which runs are there already: what two specs compute is the same, whatever their names and unread settings say."""

from collections.abc import Callable, Iterable, Sequence

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
    keys = [computes(spec) for spec in specs]
    best: dict[int, tuple[int, RunFolder]] = {}
    for run, spec_of_run in runs:
        key = computes(spec_of_run)
        places = [n for n, spec in enumerate(specs) if keys[n] == key and shows(spec_of_run, spec)]
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
    arms = [(spec, computes(spec.model_copy(update={"seed": 0}))) for spec in specs]
    used = {
        key: {own.seed for _, own in runs if computes(own.model_copy(update={"seed": 0})) == key} for _, key in arms
    }
    first = specs[0].seed
    fresh = [(first + number) % 2**32 for number in range(most + sum(map(len, used.values())))]
    tried = list(dict.fromkeys([first, *sorted({seed for own in used.values() for seed in own}), *fresh]))
    grid = {seed: [spec.model_copy(update={"seed": seed}) for spec, _ in arms] for seed in tried}
    there = {seed: there_already(own, runs, state_of) for seed, own in grid.items()}
    # The first one stays; of the others those that most arms have been run with.
    order = sorted(tried[1:], key=lambda seed: -sum(run is not None for run in there[seed]))
    chosen = sorted([first, *order[: most - 1]], key=tried.index)
    return [spec for seed in chosen for spec, run in zip(grid[seed], there[seed], strict=True) if run is None]


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
