"""Stage evaluation: one record per test example, a score with n and an interval, references shared between runs."""

import hashlib
import json
import os
import shutil
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from paraknow_core.catalogue import asks_judge
from paraknow_core.context import Context, Model, Work
from paraknow_core.files.atomic import build_folder
from paraknow_core.files.json_file import append_line, open_lines, read_lines, read_object, write_json
from paraknow_core.models.config import declared_ends
from paraknow_core.tasks.scorers import Record, summarise

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

VERSION = 3  # raise when the scores of an unchanged model would change by more than rounding
NOTED_S = 0.1  # of scoring untouched models; less was but looking them up
SCORES, PREDICTIONS = "scores.json", "predictions.jsonl"


def score(work: Work) -> None:
    """Score the trained student, and the untouched models that the spec wants beside it."""
    context, file = work.context, work.folder.file(PREDICTIONS)
    work.result["scores"] = evaluate(context, work.started.peft_model, context.student.tokenizer, file)
    began, timings = time.monotonic(), work.result["timings"]
    work.result["references"] = {name: reference_scores(context, name) for name in work.spec.references}
    spent = round(time.monotonic() - began, 3)
    if spent >= NOTED_S:  # other runs find them done: no part of what a run like this one takes
        timings["references"] = round(timings.get("references", 0.0) + spent, 3)
        timings["evaluation"] = round(timings.get("evaluation", 0.0) - spent, 3)


def evaluate(
    context: Context, model: "torch.nn.Module", tokenizer: "PreTrainedTokenizerBase", file: Path
) -> list[dict]:
    """Score a model on the test split; each record is appended to `file` at once, so that a kill loses none.

    Args:
        context: the run's task and scorers.
        model: in memory; put into evaluation mode.
        tokenizer: the model's.
        file: JSONL; records it already holds are not computed again.

    Returns:
        One score a scorer, as plain data: scorer, value, low, high, n, unit, extra.
    """
    from paraknow_core.tasks.model_scores import evaluate_all

    task, examples = context.task, context.task.split("test")
    finished = _read_records(file, task.scorers)
    lines = open_lines(file)

    def on_records(batch: list[Record]) -> None:
        for record in batch:
            append_line(lines, asdict(record))
        context.report.check_stop()

    try:
        records = evaluate_all(
            model,
            tokenizer,
            task,
            examples,
            task.scorers,
            judge=(context.judge.load(), context.judge.tokenizer) if asks_judge(task.scorers) else None,
            skip={scorer: set(finished[scorer]) for scorer in task.scorers},
            on_records=on_records,
            progress=lambda n, total: context.report.progress(n, total, "test examples"),
        )
    finally:
        os.close(lines)
    scores = []
    for scorer in task.scorers:
        by_id = finished[scorer] | {record.id: record for record in records[scorer]}
        # In the order of the examples: sums of floats, and with them resumed runs, then give the same digits.
        ordered = [by_id[example.id] for example in examples if example.id in by_id]
        scores.append(asdict(summarise(scorer, ordered, task)))
    return scores


def reference_scores(context: Context, name: str) -> list[dict]:
    """Return the scores of the untouched student or teacher, from the cache if they were computed before.

    Args:
        context: the run's.
        name: "student" or "teacher".
    """
    model = context.student if name == "student" else context.teacher
    folder = context.place.evaluations / reference_key(context, model)
    scores = _saved_scores(folder, context)
    if scores is None:
        lock = folder.parent / f".{folder.name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)

        def waiting() -> bool:
            context.report.check_stop()
            context.report.progress(0, 0, f"another run is scoring the untouched {name}; waiting for it")
            return False

        # Its last holder removes the file; whoever waits for the removed one opens it anew (FileLock sees to that).
        with FileLock(lock, poll_interval=0.1).acquire(cancel_check=waiting):
            try:
                scores = _saved_scores(folder, context) or _score_reference(context, model, folder)
            finally:
                lock.unlink(missing_ok=True)
    return scores


def _score_reference(context: Context, model: Model, folder: Path) -> list[dict]:
    """Score an untouched model, and keep its scores and records in a new folder."""
    if folder.exists():
        message = f"the kept scores of {model.source.label} ({folder.name}) are damaged and are computed again"
        context.report.event("warning", message=message)
        shutil.rmtree(folder, ignore_errors=True)
    with build_folder(folder, durable=True) as building:
        loaded = model.load()
        scores = evaluate(context, loaded, model.tokenizer, building / PREDICTIONS)
        write_json(building / SCORES, {"model": model.source.label, "task": context.task.name, "scores": scores})
    return scores


def _saved_scores(folder: Path, context: Context) -> list[dict] | None:
    """Return the scores of a cached reference; None if there are none, or its files are incomplete."""
    task, scores = context.task, read_object(folder / SCORES).get("scores")
    if not isinstance(scores, list) or not all(isinstance(score, dict) for score in scores):
        return None
    records, ids = _read_records(folder / PREDICTIONS, task.scorers), {example.id for example in task.split("test")}
    whole = [score.get("scorer") for score in scores] == list(task.scorers) and all(
        isinstance(score.get("value"), int | float) and ids <= records[score["scorer"]].keys() for score in scores
    )
    return scores if whole else None


def reference_key(context: Context, model: Model) -> str:
    """Hash all that a reference's records depend on, and nothing else."""
    task = context.task
    upstream: list[Any] = [
        VERSION,
        _identity(context, model),
        declared_ends(model.source),
        task.fingerprint("test"),
        list(task.scorers),
        task.template,
        task.max_length,
        task.max_new_tokens,
        [e.id for e in task.split("test")],
    ]
    if asks_judge(task.scorers):
        upstream.append(_identity(context, context.judge))
    return hashlib.sha256(json.dumps(upstream).encode()).hexdigest()[:32]


def _identity(context: Context, model: Model) -> list[Any]:
    """Return what the scores of an untouched model depend on: its files, number format, device, and libraries."""
    from paraknow_core.models.load import pick_device

    return [
        model.fingerprint,
        model.tokenizer_fingerprint,
        model.dtype,
        pick_device(context.settings.device),
        [version(package) for package in ("torch", "transformers", "tokenizers")],
    ]


def _read_records(file: Path, scorers: tuple[str, ...]) -> dict[str, dict[str, Record]]:
    records: dict[str, dict[str, Record]] = defaultdict(dict)
    for line in read_lines(file):
        with suppress(TypeError):  # a hand has changed it: computed again
            record = Record(**line)
            if record.scorer in scorers:
                records[record.scorer][record.id] = record
    return records
