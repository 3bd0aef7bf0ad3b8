"""One module's block up close: its place, what it holds beside every other offset, and how it lies to the student."""

from typing import Any

from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk.kinds._transfer import preview_of, store_of


def answer(place: Workspace, settings: Settings, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the block's numbers, and arrays for its pictures.

    Args:
        place, settings: of the desk.
        request: `teacher`, `student`, `store`, `structure`, `seed`, and `pair` as `transfer_plan` gives it.

    Returns:
        Numbers (see `stages.preview.facts`), with `why` where something cannot be shown; arrays `map`, `rows`, `cols`
        (S, of the aligned vocabulary for embeddings), `counts` of all offsets from `lowest` to `highest`, `cosines` of
        random offsets, and what was taken: `kept_rows`, `kept_cols`, `density`.
    """
    from paraknow_core.methods.seeking.preview import facts

    one = preview_of(place, settings, request, request["pair"])
    value = facts(one)
    arrays = {name: tensor.float().cpu().numpy() for name, tensor in one.looks().items()}
    arrays["cosines"] = one.random_cosines().float().numpy()
    if one.offsets is not None:
        arrays["counts"] = one.offsets.counts.numpy()
    value["why"] = ""
    if one.score is None:
        store = store_of(place, request["store"])
        value["why"] = "Only reductions of this sensitivity were kept: what other offsets hold cannot be shown."
        if list(one.weight.shape) == list(request["pair"]["teacher_shape"]):
            module = value["teacher_module"]
            arrays |= {"map": store.block_map(module), "rows": store.row_sums(module), "cols": store.col_sums(module)}
    return value, arrays
