"""What columns a hub data set has: `{"source", "subset", "revision"}` -> splits and the first value of each column."""

from typing import Any

from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import TaskSpec
from paraknow_core.tasks.hub import hub_columns


def answer(_place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for one data set; see the module."""
    spec = TaskSpec(source=request["source"], subset=request["subset"], revision=request["revision"])
    return hub_columns(spec.source.removeprefix("hub:"), spec, offline=settings.offline)
