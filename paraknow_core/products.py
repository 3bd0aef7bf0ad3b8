"""Sensitivity or extraction alone, without a run: some of `pipeline.STAGES`, which leave their product in a folder."""

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.context import Context, Work
from paraknow_core.errors import RunError
from paraknow_core.files.disk import disk_trouble
from paraknow_core.files.json_file import read_json
from paraknow_core.pipeline import new_work, run_stages
from paraknow_core.runs.folder import RunFolder
from paraknow_core.sensitivity.store import TOTALS
from paraknow_core.training.preparation import check_examples, refuse_unfit

if TYPE_CHECKING:
    from paraknow_core.sensitivity.store import SensitivityStore


def sensitivity_to(context: Context, out: Path, parts: Sequence[Path] = ()) -> dict[str, Any]:
    """Compute the sensitivity of the context's teacher (or take it from the cache) and copy the store to `out`.

    Args:
        context: teacher, task and seed samples.
        out: an existing or new folder.
        parts: add these measured parts up instead.

    Returns:
        The content of `out`/sensitivity.json.
    """
    from paraknow_core.methods import wanted
    from paraknow_core.sensitivity.measure import sensitivity
    from paraknow_core.sensitivity.parts import combine

    _warn(context, needs_teacher=True)
    new_work(context, RunFolder(out), {})  # for torch's threads
    store = combine(context, parts) if parts else sensitivity(context, wanted(context))
    _copy_store(store, out)
    return store.totals


def extract_to(context: Context, out: Path) -> dict[str, Any]:
    """Run sensitivity, mapping, extraction and injection, and leave extraction.json and init_adapter/ in `out`.

    Returns:
        The content of `out`/extraction.json.
    """
    from paraknow_core.methods.start import start_adapter

    work = new_work(context, RunFolder(out), {})
    refuse_unfit(work)
    _warn(context, needs_teacher=work.measured)
    out.mkdir(parents=True, exist_ok=True)
    run_stages(work, "sensitivity", "sensitivity", _told)
    if work.store:
        _copy_store(work.store, out)
    run_stages(work, "plan", "learn", _told)
    start_adapter(context, work.method, work.store, work.plan, out, work.student)
    return read_json(out / "extraction.json")


def _warn(context: Context, *, needs_teacher: bool) -> None:
    for warning in check_examples(context, needs_teacher=needs_teacher):
        context.report.event("warning", message=warning)


def _told(work: Work, shown: str) -> AbstractContextManager:
    work.context.report.stage("extraction" if shown == "injection" else shown)
    return nullcontext()


def _copy_store(store: "SensitivityStore", out: Path) -> None:
    """Copy a store's files.

    Raises:
        RunError: the disk of `out` has no room for them.
    """
    files = [file for file in store.folder.rglob("*") if file.is_file()]
    try:
        for file in sorted(files, key=lambda file: file.name == TOTALS):  # TOTALS last: where it is, all is there
            copy = out / file.relative_to(store.folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
    except OSError as error:
        if disk_trouble(error) is None:
            raise
        size = sum(file.stat().st_size for file in files)
        raise RunError(
            f"output: has no room for the {size / 1e6:,.0f} MB of the sensitivity, which is kept in the workspace; "
            "free some space, or give another folder, and start again"
        ) from None
