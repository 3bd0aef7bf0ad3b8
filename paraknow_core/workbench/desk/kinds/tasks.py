"""Questions about tasks and data files: sizes, examples as a model reads them, token counts, seed samples, uploads."""

from typing import Any

import numpy

from paraknow_core.context import Context
from paraknow_core.errors import DataError
from paraknow_core.files.naming import named
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.tasks.fitting import Reader, template_notes
from paraknow_core.tasks.hub import hub_columns
from paraknow_core.tasks.pieces import marks, token_texts
from paraknow_core.tasks.sources import path_columns
from paraknow_core.tasks.task import Example, Task
from paraknow_core.tasks.templates import Encoded, encode, windows
from paraknow_core.tasks.uploads import columns_of, guess_of, load_upload, mapped, write_chat
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.desk.kinds.known import anatomy_of, run_context, task_of, tokenizer_of

NO_LIMIT = 1 << 30
MOST_TOKENS = 4000  # of one example that are sent to a page
MOST_LENGTHS = 2000  # examples of a split whose tokens are counted
MOST_PROMPTS = 500  # examples of a split that the playground offers
SNIPPET = 160  # characters of a question that a table shows
TEXT = 240  # characters of a plain text that become a prompt


def task(_place: Workspace, settings: Settings, question: requests.Task) -> dict[str, Any]:
    """Return the sizes of the splits, scorers, warnings and what else a page says of a task. Reads no model."""
    content = task_of(question.task, settings)
    return {
        "sizes": {name: len(split) for name, split in content.splits.items()},
        "scorers": list(content.scorers),
        "max_new_tokens": content.max_new_tokens,
        "is_text": content.is_text,
        "warnings": list(content.warnings),
        "revision": content.revision,
        "fields": dict(content.fields),
    }


def task_examples(_place: Workspace, settings: Settings, question: requests.TaskExamples) -> dict[str, Any]:
    """Return id, turns and reference of each example, and how the task is rendered and scored."""
    content = task_of(question.task, settings)
    return {
        "examples": [_prompt(example) for example in content.split(question.split)[:MOST_PROMPTS]],
        "template": "none" if content.is_text else content.template,
        "max_new_tokens": content.max_new_tokens,
        "scorer": content.scorers[0] if content.scorers else "",
    }


def _prompt(example: Example) -> dict[str, Any]:
    if example.text is not None:
        turns = [{"role": "user", "content": example.text[:TEXT]}]
        return {"id": example.id, "turns": turns, "reference": example.text[TEXT : 3 * TEXT]}
    turns = [{"role": turn.role, "content": turn.content} for turn in example.prompt]
    return {"id": example.id, "turns": turns, "reference": example.reference}


def examples(_place: Workspace, settings: Settings, question: requests.Examples) -> dict[str, Any]:
    """Return tokens and what is learnt of each example.

    Nothing is cut: the page marks what a limit would leave out, so that another limit needs no new answer.
    """
    content, tokenizer = task_of(question.task, settings), tokenizer_of(question.model, settings)
    model = anatomy_of(question.model, settings)
    context, rows = model.max_position_embeddings, model.vocab_size
    chosen = content.split(question.split)[question.start : question.start + question.count]
    return {
        "context": context,
        "examples": [_tokens(example, content, tokenizer, context, rows) for example in chosen],
        "notes": template_notes(chosen, content, [Reader(question.model.source, tokenizer, context, rows)]),
    }


def _tokens(example: Example, content: Task, tokenizer: Any, context: int, rows: int) -> dict[str, Any]:
    if content.is_text:  # its first window
        encoded = next(iter(windows([example], tokenizer, min(content.max_length, context))), None)
    else:
        encoded = encode(example, content.template, tokenizer, NO_LIMIT)
    ids = encoded.input_ids[:MOST_TOKENS] if encoded else ()
    special = marks(tokenizer)
    return {
        "id": example.id,
        "texts": token_texts(example, content.template, tokenizer, ids),
        "ids": list(ids),
        "special": [index for index, token in enumerate(ids) if token in special],
        "prompt": encoded.prompt_length if encoded else 0,
        "tokens": len(encoded.input_ids) if encoded else 0,
        "choices": list(example.choices),
        "without_row": _without_row(encoded, rows, tokenizer),
    }


def _without_row(encoded: Encoded | None, rows: int, tokenizer: Any) -> str:
    """Name the first token that the model's embedding has no row for; empty if there is none."""
    token = next((token for token in encoded.input_ids if token >= rows), None) if encoded else None
    return "" if token is None else f"{tokenizer.convert_ids_to_tokens(token)} (id {token}, {rows:,} rows)"


def lengths(
    _place: Workspace, settings: Settings, question: requests.Lengths
) -> tuple[dict[str, Any], dict[str, numpy.ndarray]]:
    """Return the start of question and answer of each example, and arrays of tokens: `whole`, and of the `prompt`.

    They are counted before any cut, so that another limit needs no new answer. Of plain text, which is cut into
    windows of the limit, each window counts.
    """
    content, tokenizer = task_of(question.task, settings), tokenizer_of(question.model, settings)
    context = anatomy_of(question.model, settings).max_position_embeddings
    split = content.split(question.split)
    looked_at = split[:MOST_LENGTHS]
    if content.is_text:
        of_id = {example.id: example for example in looked_at}
        encoded = list(windows(looked_at, tokenizer, min(content.max_length, context)))
        rows = [(window.id, "", of_id[window.id].reference) for window in encoded]
    else:
        encoded = [encode(example, content.template, tokenizer, NO_LIMIT) for example in looked_at]
        rows = [(example.id, example.question, example.reference) for example in looked_at]
    value = {
        "ids": [row[0] for row in rows],
        "texts": [_snippet(row[1]) for row in rows],
        "answers": [_snippet(row[2]) for row in rows],
        "context": context,
        "examples": len(split),
        "looked_at": len(looked_at),
    }
    return value, {
        "whole": numpy.array([len(entry.input_ids) for entry in encoded], dtype=numpy.int32),
        "prompt": numpy.array([entry.prompt_length for entry in encoded], dtype=numpy.int32),
    }


def _snippet(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= SNIPPET else plain[: SNIPPET - 1] + "…"


def seeds(place: Workspace, settings: Settings, question: requests.Seeds) -> dict[str, Any]:
    """Return `ids` of the seed samples in order, their `positions` in the whole train split, and its size."""
    content, spec = task_of(question.spec.task, settings), question.spec
    if question.with_models or spec.sensitivity.task:
        context = (run_context if question.with_models else Context)(spec, settings, place)
        samples = context.seed_samples
        content = context.seed_task if spec.sensitivity.task else content
    else:
        samples = content.seed_samples(spec.sensitivity)
    positions = {example.id: index for index, example in enumerate(content.split("train"))}
    ids = [example.id for example in samples]
    return {"ids": ids, "positions": [positions[name] for name in ids], "train": len(positions)}


def columns(_place: Workspace, settings: Settings, question: requests.Columns) -> dict[str, Any]:
    """Return the first value of each field, and which field most likely is which part of the prompt."""
    source = named(question.task.source)
    if source.path is None:
        return hub_columns(source.name, question.task, offline=settings.offline)
    return path_columns(source.path)


def upload(place: Workspace, _settings: Settings, question: requests.Upload) -> dict[str, Any]:
    """Return what was read of an uploaded file, or why it is refused; which is an answer, not a failure.

    With columns the file is written anew beside it, as `<name>.mapped.jsonl`.
    """
    path = question.path.resolve()
    if path.parent != place.uploads.resolve() or not path.is_file():
        return _upload(refused="the upload is not there any more; upload the file again")
    anew = path.with_suffix(".mapped.jsonl")
    try:
        if question.columns:
            anew.unlink(missing_ok=True)
            data = mapped(path, question.columns)
            write_chat(data, anew)
            path, layout = anew, load_upload(anew).format
        else:
            data = load_upload(path)
            layout = data.format
    except DataError as error:
        anew.unlink(missing_ok=True)
        offered = columns_of(path) if path.suffix != ".txt" else {}
        return _upload(refused=str(error), columns=offered, guess=guess_of(offered))
    return _upload(
        format=layout, examples=len(data.parts[0]), file=path.name, fields=dict(data.fields), notes=list(data.notes)
    )


def _upload(**facts: Any) -> dict[str, Any]:
    empty = {"refused": "", "columns": {}, "guess": {}, "format": "", "examples": 0, "file": "", "fields": {}}
    return {**empty, "notes": [], **facts}
