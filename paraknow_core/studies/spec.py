"""Runs that are planned without a study: a base spec, what each arm changes in it, and seeds, as labelled run specs.

Train's "also run" and the lessons plan their runs here; a study plans its own, in `study`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from paraknow_core.catalogue import BASELINE, METHODS, PAPER_METHOD
from paraknow_core.spec import RunSpec

Changes = Mapping[str, Any]  # dotted keys of a spec and their values
METHOD, BASELINE_LABEL = PAPER_METHOD, METHODS[BASELINE].label
SEEDS = 2**32  # a seed lies below


def labelled(
    base: RunSpec, arms: Mapping[str, Changes], seeds: Iterable[int], title: Callable[[str, int], str] | None = None
) -> dict[tuple[str, int], RunSpec]:
    """Return the spec of every arm with every seed, by both, seed after seed.

    Args:
        base: what all runs share.
        arms: label -> what this arm changes in the base.
        seeds: taken modulo 2^32, so that counting on from a large seed stays possible.
        title: names the run of an arm and a seed; by default all are called as the base is.

    Raises:
        SpecError: a change is unknown or refused.
    """
    specs = {label: base.with_changes(dict(changes)) for label, changes in arms.items()}
    planned = {}
    for seed in seeds:
        for label, spec in specs.items():
            named = {} if title is None else {"name": title(label, seed)[:120]}
            planned[label, seed] = spec.model_copy(update={"seed": seed % SEEDS, **named})
    return planned
