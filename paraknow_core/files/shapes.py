"""The shapes that files of runs and caches must have, so that a file edited by hand breaks no reader.

A shape is a kind (`NUMBER`, `WHOLE`, `TEXT`, `FLAG`), a list `[shape]`, a mapping of any keys `Each(shape)`, or a dict
of known keys; other keys of a dict are kept as they are. `fit` keeps what has its shape and names the rest.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic_core import SchemaValidator, core_schema

MOST = 2**63  # far beyond any count, size or time of a run


@dataclass(frozen=True)
class Kind:
    """One kind of plain value; an optional one may be None."""

    name: str
    optional: bool = False

    def holds(self, value: Any) -> bool:
        """Tell whether a value is of this kind; a number has to be finite, and an integer below `MOST`."""
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
    """A dict of known keys, some of which are needed: without a valid value for each, the whole dict is left out."""

    keys: tuple[str, ...]
    shape: dict[str, Any]


NUMBER, WHOLE, TEXT, FLAG = (Kind(name) for name in ("number", "whole", "text", "flag"))
MAYBE_NUMBER, MAYBE_WHOLE, MAYBE_TEXT = (Kind(name, True) for name in ("number", "whole", "text"))


def _keys(kind: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), kind)


_CHECK = _keys(NUMBER, "max_abs tolerance") | {"passed": FLAG}
SCORE = Needed(
    ("scorer", "value"),
    {"scorer": TEXT, "value": NUMBER, "n": MAYBE_WHOLE, "unit": MAYBE_TEXT, "extra": Each(None)}
    | _keys(MAYBE_NUMBER, "low high"),
)
RESULT: dict[str, Any] = {
    **_keys(NUMBER, "trainable_parameters peak_memory_bytes"),
    **_keys(Each(TEXT), "fingerprints versions"),
    "sensitivity": {"key": TEXT, "samples": WHOLE},
    "references": Each([SCORE]),
    "step0": Each(_CHECK),
    "export_check": _CHECK,
    "timings": Each(NUMBER),
    "task": {"name": TEXT, "sizes": Each(NUMBER)},
    "training": {"steps": NUMBER}
    | _keys(MAYBE_NUMBER, "first_loss first_validation_loss last_loss last_validation_loss"),
    "budget": _keys(MAYBE_NUMBER, "steps examples tokens supervised_tokens trainable_parameters forward_flops"),
    "validation": _keys(MAYBE_NUMBER, "final final_step best best_step"),
    "diverged": {"step": NUMBER, "message": TEXT},
    "revisions": Each(MAYBE_TEXT),
    "machine": Each(None),
    "scores": [SCORE],
    "warnings": [TEXT],
    "layer_mapping": [MAYBE_WHOLE],
}
PREDICTION = Needed(
    ("scorer", "id", "score"),
    {"scorer": TEXT, "id": TEXT, "score": NUMBER, "detail": Each(None)} | _keys(MAYBE_TEXT, "prompt reference output"),
)
METRICS = Needed(
    ("step",), _keys(NUMBER, "step epoch loss validation_loss learning_rate grad_norm tokens_per_s memory_bytes time")
)
EXTRACTION = {"modules": Each(_keys(MAYBE_NUMBER, "captured_mass cosine_with_student area_fraction"))}
_MODULE = _keys(TEXT, "role group") | _keys(NUMBER, "sum mean share") | {"layer": MAYBE_WHOLE, "shape": [WHOLE]}
TOTALS = Needed(
    ("modules", "layers"),
    {
        **_keys(TEXT, "teacher task template fingerprint"),
        "samples": WHOLE,
        "total": NUMBER,
        "layers": [NUMBER],
        "groups": Each(NUMBER),
        "measured": _keys(MAYBE_NUMBER, "seconds memory"),
        "choices": Each(Each(Each(None))),
        "modules": Each(Needed(tuple(_MODULE), _MODULE)),
    },
)
MISSING = object()


def fits(value: Any, shape: Any) -> bool:
    """Tell whether plain data has its shape throughout: nearly all files do, and this takes half as long as `fit`."""
    if shape is None:
        return True
    if isinstance(shape, Kind):
        return shape.holds(value)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(inner, shape[0]) for inner in value)
    if not isinstance(value, dict):
        return False
    if isinstance(shape, Each):
        return shape.shape is None or all(fits(inner, shape.shape) for inner in value.values())
    if isinstance(shape, Needed):
        if not all(key in value for key in shape.keys):
            return False
        shape = shape.shape
    return all(fits(inner, shape[key]) for key, inner in value.items() if key in shape)


def fit_result(value: Any) -> tuple[Any, list[str]]:
    """Return `fit` of a value and `RESULT`: lists ask for it of thousands of runs, and nearly all fit."""
    return (value, []) if _fits_result()(value) else fit(value, RESULT)


@cache
def _fits_result() -> Callable[[Any], bool]:
    """Return a check that takes only what `fits` takes, a fifth of the time, and leaves rare values to that."""
    return SchemaValidator(_schema(RESULT)).isinstance_python


def _schema(shape: Any) -> core_schema.CoreSchema:
    if shape is None:
        return core_schema.any_schema()
    if isinstance(shape, Kind):
        kind = {
            "text": core_schema.str_schema,
            "flag": core_schema.bool_schema,
            "whole": lambda strict: core_schema.int_schema(gt=-MOST, lt=MOST, strict=strict),
            "number": lambda strict: core_schema.float_schema(gt=-MOST, lt=MOST, allow_inf_nan=False, strict=strict),
        }[shape.name](strict=True)
        return core_schema.nullable_schema(kind) if shape.optional else kind
    if isinstance(shape, list):
        return core_schema.list_schema(_schema(shape[0]), strict=True)
    if isinstance(shape, Each):
        return core_schema.dict_schema(values_schema=_schema(shape.shape), strict=True)
    needed, keys = (shape.keys, shape.shape) if isinstance(shape, Needed) else ((), shape)
    fields = {key: core_schema.typed_dict_field(_schema(own), required=key in needed) for key, own in keys.items()}
    return core_schema.typed_dict_schema(fields, extra_behavior="ignore", strict=True)


def fit(value: Any, shape: Any, where: str = "") -> tuple[Any, list[str]]:
    """Return plain data without the parts that do not have their shape.

    Args:
        value: plain data as JSON gives it.
        shape: see the module; None takes anything.
        where: dotted keys of the value.

    Returns:
        What is left (`MISSING`: nothing), and the dotted keys of what was left out.
    """
    if shape is None or fits(value, shape):
        return value, []
    if isinstance(shape, Kind):
        return (value, []) if shape.holds(value) else (MISSING, [where])
    if isinstance(shape, list):
        if not isinstance(value, list):
            return MISSING, [where]
        parts = [fit(inner, shape[0], where) for inner in value]
        return [part for part, _ in parts if part is not MISSING], [key for _, lost in parts for key in lost]
    needed = shape.keys if isinstance(shape, Needed) else ()
    inner_shape = shape.shape if isinstance(shape, Needed) else shape
    if not isinstance(value, dict):
        return MISSING, [where]
    kept, lost = {}, []
    for key, inner in value.items():
        own = inner_shape.shape if isinstance(inner_shape, Each) else inner_shape.get(key)
        place = f"{where}.{key}" if where else str(key)
        part, of_part = fit(inner, own, place[:120])
        lost += of_part
        if part is not MISSING:
            kept[key] = part
    if any(key not in kept for key in needed):
        return MISSING, lost or [where]
    return kept, lost
