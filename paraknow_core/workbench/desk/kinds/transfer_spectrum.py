"""The singular values of one module's block (or of its difference to the student's weight)."""

from typing import Any

from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk.kinds._transfer import preview_of


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return `total_squared`, `own_squared` and `whole`, and the array `values`, descending.

    Args:
        place, settings: of the desk.
        request: as for `transfer_block`, and `mode` (block or difference) and `rank`, the largest one that is looked at
            (small weights give all values).
    """
    from paraknow_core.ops.metrics import sum_of_squares

    one = preview_of(place, settings, request, request["pair"])
    found = one.spectrum(request["mode"], request["rank"])
    value = {"total_squared": found.total_squared, "whole": found.whole, "own_squared": sum_of_squares(one.own)}
    return value, {"values": found.values.float().numpy()}
