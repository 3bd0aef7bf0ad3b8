"""What fields a data set, file or folder has: `{"source", "subset", "revision"}` -> first values, and what is what."""

from pathlib import Path
from typing import Any

from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import TaskSpec
from paraknow_core.tasks.hub import hub_columns
from paraknow_core.tasks.sources import path_columns


def answer(_place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for one data set, file or folder; see the module."""
    spec = TaskSpec(source=request["source"], subset=request["subset"], revision=request["revision"])
    if spec.source.startswith("hub:"):
        return hub_columns(spec.source.removeprefix("hub:"), spec, offline=settings.offline)
    return path_columns(Path(spec.source).expanduser())
