"""Which saved sensitivity belongs to a draft: the key that its teacher, task and seed samples have."""

from typing import Any

from paraknow_core.context import Context
from paraknow_core.errors import ParaknowError
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec, parse_spec


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Return `fingerprint` of the teacher's weights, and `key` of the sensitivity (None with a `problem`).

    Args:
        place, settings: of the desk.
        request: `teacher`, `task` and `sensitivity` as in a spec.
    """
    from paraknow_core.sensitivity.measure import seed_key

    keys = ("teacher", "task", "sensitivity")
    spec = parse_spec({**RunSpec().model_dump(mode="json"), **{key: request[key] for key in keys}}, "draft")
    context = Context(spec, settings, place)
    context.teacher.source.weight_files()
    found: dict[str, Any] = {"fingerprint": context.teacher.fingerprint, "key": None, "problem": ""}
    try:
        found["key"] = seed_key(context)[1]
    except ParaknowError as error:
        found["problem"] = str(error)
    return found
