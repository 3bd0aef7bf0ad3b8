"""What fields a data set, file or folder has: `{"source", "subset", "revision"}` -> first values, and what is what."""

from typing import Any

from paraknow_core.files.naming import named
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import TaskSpec
from paraknow_core.tasks.hub import hub_columns
from paraknow_core.tasks.sources import path_columns


def answer(_place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for one data set, file or folder; see the module."""
    spec = TaskSpec(source=request["source"], subset=request["subset"], revision=request["revision"])
    found = named(spec.source)
    if found.path is None:
        return hub_columns(found.name, spec, offline=settings.offline)
    return path_columns(found.path)
