"""What a task holds: `{"task"}`, the part of a spec -> sizes of its splits, scorers, warnings. Reads no model."""

from typing import Any

from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk.kinds.known import task_of


def answer(_place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for one task; see the module."""
    task = task_of(request["task"], settings)
    return {
        "name": task.name,
        "label": task.label,
        "sizes": {name: len(part) for name, part in task.splits.items()},
        "scorers": list(task.scorers),
        "max_new_tokens": task.max_new_tokens,
        "is_text": task.is_text,
        "warnings": list(task.warnings),
        "revision": task.revision,
        "fields": dict(task.fields),
        "choices": sum(bool(example.choices) for part in task.splits.values() for example in part),
    }
