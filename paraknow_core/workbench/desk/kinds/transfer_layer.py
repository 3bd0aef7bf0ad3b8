"""All blocks of one student layer: one row of the overview a module."""

from typing import Any

from paraknow_core.errors import ParaknowError
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk.kinds._transfer import preview_of


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `rows` of numbers and, by the student module's name, the array of its retained energy at rank 1, 2, ...

    Args:
        place, settings: of the desk.
        request: as for `transfer_block`, but `pairs` instead of `pair`; `mode` (block or difference) and `rank`, the
            largest one that is looked at (small weights give all).
    """
    from paraknow_core.methods.seeking.preview import facts
    from paraknow_core.ops.metrics import sum_of_squares

    rows, arrays = [], {}
    for pair in request["pairs"]:
        if pair["action"] == "skip":
            continue
        try:
            one = preview_of(place, settings, request, pair)
            found = one.spectrum(request["mode"], request["rank"])
        except ParaknowError as error:
            rows.append(
                {
                    "student_module": pair["student_module"],
                    "teacher_module": pair["teacher_module"],
                    "problem": str(error),
                }
            )
            continue
        rows.append(
            {
                **facts(one),
                "total_squared": found.total_squared,
                "whole": found.whole,
                "own_squared": sum_of_squares(one.own),
                "problem": "",
            }
        )
        arrays[pair["student_module"]] = found.retained.float().numpy()
    return {"rows": rows}, arrays
