"""The first examples of one split of a task: question, turns and reference, and how the task is rendered and scored."""

from typing import Any

from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import TaskSpec
from paraknow_core.tasks.examples import load_task

MOST = 500
_TEXT = 240  # characters of a plain text that become a prompt


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """Args: request: `task` (a task spec as plain data) and `split` (train, validation or test)."""
    task = load_task(TaskSpec.model_validate(request["task"]), offline=settings.offline)
    split = task.split(str(request.get("split", "test")))
    rows = []
    for example in split[:MOST]:
        if example.text is not None:
            turns = [{"role": "user", "content": example.text[:_TEXT]}]
            rows.append({"id": example.id, "turns": turns, "reference": example.text[_TEXT : 3 * _TEXT]})
        else:
            turns = [{"role": turn.role, "content": turn.content} for turn in example.prompt]
            rows.append({"id": example.id, "turns": turns, "reference": example.reference})
    return {
        "examples": rows,
        "total": len(split),
        "template": "none" if task.is_text else task.template,
        "max_new_tokens": task.max_new_tokens,
        "scorer": task.scorers[0] if task.scorers else "",
    }
