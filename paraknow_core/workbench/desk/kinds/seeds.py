"""Which training examples are the seed samples: `{"task", "sensitivity"}` -> their ids and positions, in order.

Where the task leaves out what is too long, the question also names the pair and what reads the splits besides
(`teacher`, `student`, `references`, `until`); the positions are those in the whole train split.
"""

import json
from typing import Any

from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec, SensitivitySpec
from paraknow_core.workbench.desk.kinds.known import run_context, spec_of, task_of


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for one choice of seed samples; see the module."""
    task = task_of(request["task"], settings)
    spec = SensitivitySpec.model_validate_json(json.dumps(request["sensitivity"]))
    known = {example.id: index for index, example in enumerate(task.split("train"))}
    if "teacher" in request:
        samples = run_context(spec_of(RunSpec().model_dump(mode="json") | request), place, settings).seed_samples
    else:
        samples = task.seed_samples(spec)
    chosen = [example.id for example in samples]
    return {"ids": chosen, "positions": [known[name] for name in chosen], "train": len(known)}
