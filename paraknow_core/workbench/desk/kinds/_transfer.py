"""What the questions about a transfer share: the pair's context, and blocks that were cut a moment ago."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from paraknow_core.context import Context
from paraknow_core.paths import Workspace, contained
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.settings import Settings
from paraknow_core.spec import parse_spec
from paraknow_core.workbench.desk.questions import question_key

if TYPE_CHECKING:
    from torch import Tensor

    from paraknow_core.methods.seeking.preview import Preview

KEPT_BYTES = 4e8  # of weights, blocks and scores held for the next question about the same modules


def context_of(place: Workspace, settings: Settings, request: Mapping[str, Any]) -> Context:
    """Return the context of a request's pair, origin and seed; see `context_of_parts`."""
    extraction = {key: request[key] for key in ("origin", "seed") if key in request}
    pair = {"teacher": request["teacher"], "student": request["student"]}
    return context_of_parts(place, settings, {**pair, "extraction": extraction})


def context_of_parts(place: Workspace, settings: Settings, parts: Mapping[str, Any]) -> Context:
    """Return the context of a spec of which some parts are given; the last few are kept with what they read."""
    # The key holds the state of the models' files, so that changed files are read again.
    return _context(place, settings, json.dumps(parts, sort_keys=True), question_key("pair", dict(parts)))


@lru_cache(maxsize=12)
def _context(place: Workspace, settings: Settings, parts: str, _stamp: str) -> Context:
    return Context(parse_spec(json.loads(parts)), settings, place)


def store_of(place: Workspace, name: str) -> SensitivityStore:
    """Return a saved sensitivity of the workspace by its folder's name."""
    return SensitivityStore(contained(place.sensitivity, name))


def weights_of(context: Context) -> "tuple[Mapping[str, Tensor], Mapping[str, Tensor]]":
    """Return the teacher's and the student's weights; files are opened once a context."""
    known = vars(context).setdefault("_weights", None)
    if known is None:
        known = vars(context)["_weights"] = (context.teacher.weights(), context.student.weights())
    return known


class _Recent:
    """The blocks cut last, as many as a limit of memory allows."""

    def __init__(self) -> None:
        self.blocks: dict[str, Preview] = {}

    def get(self, key: str) -> "Preview | None":
        if key in self.blocks:
            self.blocks[key] = self.blocks.pop(key)
        return self.blocks.get(key)

    def put(self, key: str, one: "Preview") -> None:
        self.blocks[key] = one
        while len(self.blocks) > 1 and sum(_size(each) for each in self.blocks.values()) > KEPT_BYTES:
            del self.blocks[next(iter(self.blocks))]


_RECENT = _Recent()


def _size(one: "Preview") -> int:
    held = (one.weight, one.own, one.block.weight, one.block.received, one.score)
    return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)


def preview_of(place: Workspace, settings: Settings, request: Mapping[str, Any], pair: Mapping[str, Any]) -> "Preview":
    """Cut one pairing's block, or return it if it was cut a moment ago.

    Args:
        place, settings: of the desk.
        request: teacher, student, store, structure and seed.
        pair: a pairing as `transfer_plan` gives it.
    """
    from paraknow_core.methods.seeking.preview import preview
    from paraknow_core.models.compat import Pairing

    upstream = {key: request[key] for key in ("teacher", "student", "store", "structure", "seed")}
    key = question_key("preview", {**upstream, "modules": [pair["student_module"], pair["teacher_module"]]})
    known = _RECENT.get(key)
    if known is not None:
        return known
    context = context_of(place, settings, request)
    one = preview(
        context,
        store_of(place, request["store"]),
        request["structure"],
        Pairing(**{name: pair[name] for name in Pairing.__dataclass_fields__}),
        *weights_of(context),
    )
    _RECENT.put(key, one)
    return one
