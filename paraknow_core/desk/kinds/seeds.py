"""Which training examples are the seed samples: `{"task", "sensitivity"}` -> their ids and positions, in order."""

import json
from typing import Any

from paraknow_core.desk.kinds.known import task_of
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import SensitivitySpec


def answer(_place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for one choice of seed samples; see the module."""
    task = task_of(request["task"], settings)
    spec = SensitivitySpec.model_validate_json(json.dumps(request["sensitivity"]))
    place = {example.id: index for index, example in enumerate(task.split("train"))}
    chosen = [example.id for example in task.seed_samples(spec)]
    return {"ids": chosen, "positions": [place[name] for name in chosen], "train": len(place)}
