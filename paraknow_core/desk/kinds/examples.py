"""Examples as a model reads them: `{"task", "model", "split", "start", "count"}` -> their tokens and what is learnt.

Nothing is cut: the page marks what a limit would leave out, so that another limit needs no new answer.
"""

from typing import Any

from paraknow_core.desk.kinds.known import anatomy_of, task_of, tokenizer_of
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.tasks.pieces import marks, token_texts
from paraknow_core.tasks.task import Example, Task
from paraknow_core.tasks.templates import Encoded, encode, windows

NO_LIMIT = 1 << 30
MOST_TOKENS = 4000  # of one example that are sent to a page


def answer(_place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for some examples; see the module."""
    task, model = task_of(request["task"], settings), request["model"]
    tokenizer, context = tokenizer_of(model, settings), anatomy_of(model, settings).max_position_embeddings
    start, part = request["start"], task.split(request["split"])
    chosen = part[start : start + request["count"]]
    return {
        "of": len(part), "start": start, "context": context, "eos": tokenizer.eos_token,
        "examples": [_described(example, task, tokenizer, context) for example in chosen],
    }  # fmt: skip


def _described(example: Example, task: Task, tokenizer: Any, context: int) -> dict[str, Any]:
    encoded = _encoded(example, task, tokenizer, context)
    ids = encoded.input_ids[:MOST_TOKENS] if encoded else ()
    special = marks(tokenizer)
    return {
        "id": example.id, "texts": token_texts(example, task.template, tokenizer, ids), "ids": list(ids),
        "special": [index for index, token in enumerate(ids) if token in special],
        "prompt": encoded.prompt_length if encoded else 0, "tokens": len(encoded.input_ids) if encoded else 0,
        "spans_border": bool(encoded) and not encoded.prefix_ok, "choices": list(example.choices),
    }  # fmt: skip


def _encoded(example: Example, task: Task, tokenizer: Any, context: int) -> Encoded | None:
    """Encode one example; of a text its first window."""
    if task.is_text:
        return next(iter(windows([example], tokenizer, min(task.max_length, context))), None)
    return encode(example, task.template, tokenizer, NO_LIMIT)
