"""The pipeline: the stages of a run, in order. Read this first.

Each stage takes what stages before it put into the `Work` (see `context`), and leaves its product there and in the run
folder or, shared between runs, in the cache: a run that was stopped or killed goes on after the last finished one.

    prepare      models, task                   refuses what cannot work; notes what the run computes with
    sensitivity  teacher, seed samples          sensitivity.json, `store`
    plan         `store`, both anatomies        `plan`: layer mapping, pairs of modules
    learn        `store`, `plan`, the student   what the method fits before it starts
    extraction   `store`, `plan`, both models   extraction.json, init_adapter/, `started`: the student with its adapter
    training     `started`, train, validation   checkpoints/, metrics
    export       `started`                      adapter/
    evaluation   `started`, test, references    predictions.jsonl, scores
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pkgutil import resolve_name
from typing import Any

from paraknow_core.context import Context, Work
from paraknow_core.errors import ParaknowError
from paraknow_core.files.json_file import read_object, write_json
from paraknow_core.memory import peak_bytes
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.status import Status
from paraknow_core.runs.writer import RunWriter, errors_told, stopped_by_signals
from paraknow_core.settings import Settings
from paraknow_core.training.amounts import threads_of
from paraknow_core.training.checkpoints import prune
from paraknow_core.training.inputs import pinned


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: as a spec's `until` names it.
        shown: as the run folder, and with it every page, calls it; neighbours of one name are shown and timed as one.
        needed: whether a run needs it.
        code: `module:name`, below `paraknow_core`, of the function that does it. It is loaded when its turn comes, so
            that a process takes hold of its run folder before it loads torch.
    """

    name: str
    shown: str
    needed: Callable[[Work], bool]
    code: str


def _always(_work: Work) -> bool:
    return True


def _measured(work: Work) -> bool:
    return work.measured


STAGES = (
    Stage("prepare", "prepare", _always, "training.preparation:prepare"),
    Stage("sensitivity", "sensitivity", _measured, "methods.stages:measure"),
    Stage("plan", "injection", _measured, "methods.stages:plan"),
    Stage("learn", "injection", _always, "methods.stages:learn"),
    Stage("extraction", "injection", _always, "methods.stages:extract"),
    Stage("training", "fine-tuning", _always, "training.finetuning:train"),
    Stage("export", "export", _always, "adapters.export:export"),
    Stage("evaluation", "evaluation", _always, "training.evaluation:score"),
)


def run_stages(work: Work, first: str, last: str, around: Callable[[Work, str], AbstractContextManager]) -> None:
    """Run the stages between two names, both with them; `around` is entered around those that are shown as one."""
    names = [stage.name for stage in STAGES]
    chosen = STAGES[names.index(first) : names.index(last) + 1]
    for shown, group in groupby((stage for stage in chosen if stage.needed(work)), key=lambda stage: stage.shown):
        with around(work, shown):
            for stage in group:
                resolve_name(f"paraknow_core.{stage.code}")(work)


def execute(
    run: RunFolder, place: Workspace, settings: Settings, on_change: Callable[[Status], None] | None = None
) -> dict[str, Any] | None:
    """Execute a run folder from its first unfinished stage to the end.

    Args:
        run: an existing folder with a frozen spec.
        place: the workspace whose caches are shared with other runs.
        settings: where and how to compute.
        on_change: called with every new status.

    Returns:
        The result (also in result.json), or None if the run was asked to stop.

    Raises:
        ParaknowError: what a user can mend, one sentence; the folder's state is then `failed`.
    """
    with opened(run, place, settings, on_change) as work, stopped_by_signals(work.context.report.signal_stop):
        run_stages(work, "prepare", work.spec.until, recorded)
        return finished(work)


@contextmanager
def opened(
    run: RunFolder, place: Workspace, settings: Settings, on_change: Callable[[Status], None] | None
) -> Iterator[Work]:
    """Take hold of a run folder, and write into it how what is done inside the `with` block ended."""
    spec = run.spec()
    with errors_told(run), RunWriter(run, on_change) as writer, errors_told(run):
        result = _so_far(run)
        yield new_work(Context(pinned(spec, result), settings, place, writer), run, result)


def finished(work: Work) -> dict[str, Any]:
    """Write the result of a run whose last stage is done."""
    result, run = work.result, work.folder
    result.pop("settings", None)  # the spec lies beside
    write_json(run.file("result.json"), result)
    run.file("partial.json").unlink(missing_ok=True)
    # What ends before export leaves nothing that could go on from its last save.
    prune(run.file("checkpoints"), 0 if work.spec.until == "training" else 1)
    return result


def new_work(context: Context, folder: RunFolder, result: dict[str, Any]) -> Work:
    """Return what the stages of a run work on, torch set up for it."""
    import torch

    from paraknow_core.methods import method

    work = Work(context, folder, method(context.spec.method), result)
    with suppress(ParaknowError):  # a model that cannot be read: the first stage says so
        teacher = context.teacher.anatomy.parameters if work.measured else 0
        torch.set_num_threads(threads_of(context.student.anatomy.parameters, teacher, context.settings))
    return work


def _so_far(run: RunFolder) -> dict[str, Any]:
    """Return what earlier attempts have noted, or the result of a run that is done."""
    noted = read_object(run.file("partial.json")) or run.result() or {}
    return {**noted, "timings": noted["timings"] if isinstance(noted.get("timings"), dict) else {}}


@contextmanager
def recorded(work: Work, shown: str, together: int = 1) -> Iterator[None]:
    """Say that a stage begins; keep what it noted, how long it took, and how much memory, also when it is cut off.

    Of a stage that several runs do together, each one notes its share of the time.
    """
    work.context.report.stage(shown)
    began = time.monotonic()
    try:
        yield
    finally:  # a stage that is resumed adds to its own time
        timings = work.result["timings"]
        timings[shown] = round(timings.get(shown, 0.0) + (time.monotonic() - began) / together, 3)
        work.result["peak_memory_bytes"] = max(work.result.get("peak_memory_bytes", 0), peak_bytes())
        write_json(work.folder.file("partial.json"), work.result)
