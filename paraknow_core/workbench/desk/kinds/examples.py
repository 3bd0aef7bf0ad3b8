"""Examples as a model reads them: `{"task", "model", "split", "start", "count"}` -> their tokens and what is learnt.

Nothing is cut: the page marks what a limit would leave out, so that another limit needs no new answer.
"""

from typing import Any

from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.tasks.fitting import Reader, template_notes
from paraknow_core.tasks.pieces import marks, token_texts
from paraknow_core.tasks.task import Example, Task
from paraknow_core.tasks.templates import Encoded, encode, windows
from paraknow_core.workbench.desk.kinds.known import anatomy_of, task_of, tokenizer_of

NO_LIMIT = 1 << 30
MOST_TOKENS = 4000  # of one example that are sent to a page


def answer(_place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for some examples; see the module."""
    task, model = task_of(request["task"], settings), request["model"]
    tokenizer, anatomy = tokenizer_of(model, settings), anatomy_of(model, settings)
    context, rows = anatomy.max_position_embeddings, anatomy.vocab_size
    start, part = request["start"], task.split(request["split"])
    chosen = part[start : start + request["count"]]
    return {
        "of": len(part),
        "start": start,
        "context": context,
        "eos": tokenizer.eos_token,
        "examples": [_described(example, task, tokenizer, context, rows) for example in chosen],
        "notes": template_notes(chosen, task, [Reader(model["source"], tokenizer, context, rows)]),
    }


def _described(example: Example, task: Task, tokenizer: Any, context: int, rows: int) -> dict[str, Any]:
    encoded = _encoded(example, task, tokenizer, context)
    ids = encoded.input_ids[:MOST_TOKENS] if encoded else ()
    special = marks(tokenizer)
    return {
        "id": example.id,
        "texts": token_texts(example, task.template, tokenizer, ids),
        "ids": list(ids),
        "special": [index for index, token in enumerate(ids) if token in special],
        "prompt": encoded.prompt_length if encoded else 0,
        "tokens": len(encoded.input_ids) if encoded else 0,
        "choices": list(example.choices),
        "without_row": _without_row(encoded, rows, tokenizer),
    }


def _without_row(encoded: Encoded | None, rows: int, tokenizer: Any) -> str:
    """Name the first token that the model's embedding has no row for; empty if there is none."""
    found = next((token for token in encoded.input_ids if token >= rows), None) if encoded else None
    return "" if found is None else f"{tokenizer.convert_ids_to_tokens(found)} (id {found}, {rows:,} rows)"


def _encoded(example: Example, task: Task, tokenizer: Any, context: int) -> Encoded | None:
    """Encode one example; of a text its first window."""
    if task.is_text:
        return next(iter(windows([example], tokenizer, min(task.max_length, context))), None)
    return encode(example, task.template, tokenizer, NO_LIMIT)
