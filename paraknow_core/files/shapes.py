"""What files of a run and of the caches must look like, so that one of them edited by hand breaks no reader.

A shape is a kind (`NUMBER`, `WHOLE`, `TEXT`, `FLAG`), a list `[shape]`, a mapping of any keys `Each(shape)`, or a dict
of known keys; other keys of a dict are kept as they are. `fit` keeps what has its shape and names what had not.
"""

import math
from dataclasses import dataclass
from typing import Any

MOST = 2**63  # no count, size or time of a run comes near


@dataclass(frozen=True)
class Kind:
    """One kind of plain value, `None` among them where it may be."""

    name: str
    optional: bool = False

    def holds(self, value: Any) -> bool:
        """Tell whether a value is of this kind; a number is finite and of this world."""
        if value is None:
            return self.optional
        if self.name == "text":
            return isinstance(value, str)
        if self.name == "flag":
            return isinstance(value, bool)
        if isinstance(value, bool) or not isinstance(value, int if self.name == "whole" else int | float):
            return False
        return abs(value) < MOST if isinstance(value, int) else math.isfinite(value)


@dataclass(frozen=True)
class Each:
    """A mapping whose keys are free and whose values have one shape."""

    shape: Any


@dataclass(frozen=True)
class Needed:
    """A dict of known keys of which some must be there and right, or the whole is left out."""

    keys: tuple[str, ...]
    shape: dict[str, Any]


NUMBER, WHOLE, TEXT, FLAG = (Kind(name) for name in ("number", "whole", "text", "flag"))
MAYBE_NUMBER, MAYBE_WHOLE, MAYBE_TEXT = (Kind(name, True) for name in ("number", "whole", "text"))
SCORE = Needed(("scorer", "value"), {
    "scorer": TEXT, "value": NUMBER, "low": MAYBE_NUMBER, "high": MAYBE_NUMBER, "n": MAYBE_WHOLE, "unit": MAYBE_TEXT,
    "extra": Each(None),
})  # fmt: skip
_CHECK = {"max_abs": NUMBER, "tolerance": NUMBER, "passed": FLAG}
RESULT = {
    "sensitivity": {"key": TEXT, "samples": WHOLE}, "references": Each([SCORE]), "step0": Each(_CHECK),
    "export_check": _CHECK, "timings": Each(NUMBER), "task": {"name": TEXT, "sizes": Each(NUMBER)},
    "training": {"steps": NUMBER, **{f"{when}_{what}": MAYBE_NUMBER for when in ("first", "last")
                                     for what in ("loss", "validation_loss")}},
    "revisions": Each(MAYBE_TEXT), "fingerprints": Each(TEXT), "versions": Each(TEXT), "machine": Each(None),
    "scores": [SCORE], "warnings": [TEXT], "trainable_parameters": NUMBER, "peak_memory_bytes": NUMBER,
    "layer_mapping": [MAYBE_WHOLE],
}  # fmt: skip
PREDICTION = Needed(("scorer", "id", "score"), {
    "scorer": TEXT, "id": TEXT, "score": NUMBER, "prompt": MAYBE_TEXT, "reference": MAYBE_TEXT, "output": MAYBE_TEXT,
    "detail": Each(None),
})  # fmt: skip
METRICS = Needed(("step",), {"step": NUMBER, **dict.fromkeys((
    "epoch", "loss", "validation_loss", "learning_rate", "grad_norm", "tokens_per_s", "memory_bytes", "time",
), NUMBER)})  # fmt: skip
EXTRACTION = {"modules": Each({
    "captured_mass": MAYBE_NUMBER, "cosine_with_student": MAYBE_NUMBER, "area_fraction": MAYBE_NUMBER,
})}  # fmt: skip
TOTALS = Needed(("modules", "layers"), {
    "teacher": TEXT, "task": TEXT, "template": TEXT, "fingerprint": TEXT, "samples": WHOLE, "total": NUMBER,
    "layers": [NUMBER], "groups": Each(NUMBER), "measured": {"seconds": MAYBE_NUMBER, "memory": MAYBE_NUMBER},
    "choices": Each(Each(Each(None))),
    "modules": Each(Needed(("role", "group", "layer", "shape", "sum", "mean", "share"), {
        "role": TEXT, "group": TEXT, "layer": MAYBE_WHOLE, "shape": [WHOLE], "sum": NUMBER, "mean": NUMBER,
        "share": NUMBER,
    })),
})  # fmt: skip
MISSING = object()


def fit(value: Any, shape: Any, where: str = "") -> tuple[Any, list[str]]:
    """Keep of plain data what has its shape.

    Args:
        value: plain data as JSON gives it.
        shape: see the module; None takes anything.
        where: dotted keys of the value.

    Returns:
        What is left (`MISSING`: nothing), and the dotted keys of what was left out.
    """
    if shape is None:
        return value, []
    if isinstance(shape, Kind):
        return (value, []) if shape.holds(value) else (MISSING, [where])
    if isinstance(shape, list):
        return _fit_list(value, shape[0], where)
    needed = shape.keys if isinstance(shape, Needed) else ()
    known = shape.shape if isinstance(shape, Needed) else shape
    if not isinstance(value, dict):
        return MISSING, [where]
    kept, lost = {}, []
    for key, inner in value.items():
        own = known.shape if isinstance(known, Each) else known.get(key)
        place = f"{where}.{key}" if where else str(key)
        found, more = fit(inner, own, place[:120])
        lost += more
        if found is not MISSING:
            kept[key] = found
    if any(key not in kept for key in needed):
        return MISSING, lost or [where]
    return kept, lost


def _fit_list(value: Any, shape: Any, where: str) -> tuple[Any, list[str]]:
    if not isinstance(value, list):
        return MISSING, [where]
    kept, lost = [], []
    for inner in value:
        found, more = fit(inner, shape, where)
        lost += more
        if found is not MISSING:
            kept.append(found)
    return kept, lost
