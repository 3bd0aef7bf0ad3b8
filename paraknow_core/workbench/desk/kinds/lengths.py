"""How many tokens a split's examples have: `{"task", "model", "split"}` -> arrays `whole`, `prompt`, and their rows.

The lengths are those before any cut, so that another limit needs no new answer. Of plain text, which is cut into
windows of the limit, each window is one row.
"""

from typing import Any

import numpy

from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.tasks.task import Example, Task
from paraknow_core.tasks.templates import encode, windows
from paraknow_core.workbench.desk.kinds.known import anatomy_of, task_of, tokenizer_of

MOST = 2000  # examples of a split that are looked at
SNIPPET = 160  # characters of a question that a table shows
NO_LIMIT = 1 << 30


def answer(
    _place: Workspace, settings: Settings, request: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, numpy.ndarray]]:
    """Answer for one split; see the module."""
    task, model = task_of(request["task"], settings), request["model"]
    tokenizer, context = tokenizer_of(model, settings), anatomy_of(model, settings).max_position_embeddings
    examples = task.split(request["split"])
    rows = rows_of(examples[:MOST], task, tokenizer, context)
    value = {
        "ids": [row[0] for row in rows],
        "texts": [row[1] for row in rows],
        "answers": [row[2] for row in rows],
        "context": context,
        "examples": len(examples),
        "looked_at": min(len(examples), MOST),
    }
    return value, {
        "whole": numpy.array([row[3] for row in rows], dtype=numpy.int32),
        "prompt": numpy.array([row[4] for row in rows], dtype=numpy.int32),
    }


def rows_of(
    examples: tuple[Example, ...], task: Task, tokenizer: Any, context: int
) -> list[tuple[str, str, str, int, int]]:
    """Return (id, start of the question, start of the answer, tokens, tokens of the prompt) for each example."""
    if task.is_text:
        length = min(task.max_length, context)
        named = {example.id: example for example in examples}
        return [
            (each.id, "", _short(named[each.id].reference), len(each.input_ids), each.prompt_length)
            for each in windows(examples, tokenizer, length)
        ]
    encoded = ((example, encode(example, task.template, tokenizer, NO_LIMIT)) for example in examples)
    return [
        (example.id, _short(example.question), _short(example.reference), len(each.input_ids), each.prompt_length)
        for example, each in encoded
    ]


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= SNIPPET else plain[: SNIPPET - 1] + "…"
