"""Whether a run's examples fit its models: `{"spec"}` -> why the run would be refused, and what it would leave out.

It is what the run itself checks in "prepare", on the first examples of each split.
"""

from typing import Any

from paraknow_core.errors import DataError, ModelError
from paraknow_core.methods import method
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.training.preparation import check_examples
from paraknow_core.workbench.desk.kinds.known import run_context, spec_of

MOST = 2000  # examples of a split that are looked at


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> dict[str, Any]:
    """Answer for one spec; see the module."""
    spec = spec_of(request["spec"])
    context = run_context(spec, place, settings)
    try:
        notes = check_examples(context, needs_teacher=method(spec.method).needs_teacher, most=MOST)
    except (DataError, ModelError) as error:
        return {"problem": str(error), "notes": [], "left_out": {}}
    return {"problem": "", "notes": notes, "left_out": context.left_out}
