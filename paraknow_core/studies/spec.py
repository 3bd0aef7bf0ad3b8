"""What a study runs: a base spec, what each arm changes in it, and seeds, turned into labelled run specs.

Train's "also run", the command `demo` and the lessons all plan their runs here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from paraknow_core.catalogue import BASELINE, METHODS, PAPER_METHOD
from paraknow_core.errors import RunError
from paraknow_core.spec import RunSpec

Changes = Mapping[str, Any]  # dotted keys of a spec and their values
METHOD, BASELINE_LABEL = PAPER_METHOD, METHODS[BASELINE].label
# What makes the run of a method an arm beside others; all else (modules, rank, steps, data, seed) is the same in all.
CONTROLS: dict[str, Changes] = {
    name: {"method": name, **({"injection.mode": "residual"} if "injection" in row.reads else {})}
    for name, row in METHODS.items()
}
# Arms by the name people see, the method last.
STANDARD = (*(row.label for name, row in METHODS.items() if row.standard and name != METHOD), METHOD)
ARMS: dict[str, Changes] = {
    **{METHODS[name].label: changes for name, changes in CONTROLS.items() if name != METHOD},
    METHOD: CONTROLS[METHOD],
    f"{METHOD}, difference": {"method": METHOD, "injection.mode": "difference"},
}
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


def standard(base: RunSpec, seeds: Iterable[int], names: Sequence[str] = STANDARD) -> dict[tuple[str, int], RunSpec]:
    """Return the specs of a comparison of `ARMS`, each named after the base and its arm; see `labelled`.

    Raises:
        RunError: an arm is unknown.
    """
    unknown = [name for name in names if name not in ARMS]
    if unknown:
        raise RunError(f"study: arm '{unknown[0]}' is unknown; choose from {', '.join(ARMS)}")
    prefix = f"{base.name} " if base.name else ""
    return labelled(base, {name: ARMS[name] for name in names}, seeds, lambda name, _: prefix + name)
