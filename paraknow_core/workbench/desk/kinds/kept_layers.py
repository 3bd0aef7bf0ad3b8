"""Which teacher layers the draft's layer mapping keeps, from saved layer scores.

Request: store (folder name), and of the draft: student, mapping. Answer: `layers`, one entry a student layer.
"""

from typing import Any

from paraknow_core.paths import Workspace, contained
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk.kinds.sensitivity_window import context_of, mapped_layers


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Map the layers."""
    store = SensitivityStore(contained(place.sensitivity, request["store"]))
    return {"layers": mapped_layers(context_of(place, settings, request), store)}
