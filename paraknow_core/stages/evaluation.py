"""Stage evaluation: one record per test example, a score with n and an interval, references shared between runs."""

import hashlib
import json
import os
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.paths import append_line, build_folder, open_lines, read_json, read_lines, write_json
from paraknow_core.stages.context import Context, Model
from paraknow_core.tasks.scorers import Record, summarise

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

VERSION = 3  # raise when the scores of an unchanged model would change
SCORES, PREDICTIONS = "scores.json", "predictions.jsonl"


def evaluate(
    context: Context, model: "torch.nn.Module", tokenizer: "PreTrainedTokenizerBase", file: Path
) -> list[dict]:
    """Score a model on the test split; every record is appended to `file` at once, so that a kill loses none.

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
    known = _read_records(file, task.scorers)

    lines = open_lines(file)

    def on_records(batch: list[Record]) -> None:
        for record in batch:
            append_line(lines, asdict(record))
        context.report.check_stop()

    try:
        records = evaluate_all(
            model, tokenizer, task, examples, task.scorers, judge=_judge(context),
            skip={s: set(known[s]) for s in task.scorers}, on_records=on_records,
            progress=lambda n, total: context.report.progress(n, total, "test examples"),
        )  # fmt: skip
    finally:
        os.close(lines)
    scores = []
    for scorer in task.scorers:
        by_id = known[scorer] | {record.id: record for record in records[scorer]}
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
    folder = context.place.evaluations / _reference_key(context, model)
    if not (folder / SCORES).exists():
        with build_folder(folder) as building:
            loaded = model.load()
            scores = evaluate(context, loaded, model.tokenizer, building / PREDICTIONS)
            write_json(building / SCORES, {"model": model.source.label, "task": context.task.name, "scores": scores})
    return read_json(folder / SCORES)["scores"]


def reference_predictions(context: Context, name: str) -> Path:
    """Return the file with the per-example records of a reference."""
    model = context.student if name == "student" else context.teacher
    return context.place.evaluations / _reference_key(context, model) / PREDICTIONS


def _reference_key(context: Context, model: Model) -> str:
    task = context.task
    upstream: list[Any] = [
        VERSION, model.fingerprint, model.tokenizer_fingerprint, task.fingerprint("test"), list(task.scorers),
        task.template, task.max_length, task.max_new_tokens, context.student.dtype, [e.id for e in task.split("test")],
    ]  # fmt: skip
    if "win_rate" in task.scorers:
        upstream.append(context.judge.fingerprint)
    return hashlib.sha256(json.dumps(upstream).encode()).hexdigest()[:32]


def _judge(context: Context) -> tuple | None:
    if "win_rate" not in context.task.scorers:
        return None
    return context.judge.load(), context.judge.tokenizer


def _read_records(file: Path, scorers: tuple[str, ...]) -> dict[str, dict[str, Record]]:
    known: dict[str, dict[str, Record]] = defaultdict(dict)
    for line in read_lines(file):
        if line.get("scorer") in scorers:
            known[line["scorer"]][line["id"]] = Record(**line)
    return known
