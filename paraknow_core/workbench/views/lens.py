"""Before and after a run: how far its student's weights moved, from where, and where sensitivity went.

Modules are plain data as the desk answers them: of `adapter_change` the norms of W (weight), of ΔW (change) and of what
fine-tuning changed (trained), and for inputs (in) and outputs (out) the share of that change in the initial subspace,
the share by chance, and the mean principal cosine; of `sensitivity_change` S before and after.
"""

import math
from collections.abc import Sequence
from typing import Any

from paraknow_core.display import percent, significant

Modules = Sequence[dict[str, Any]]


def with_moves(modules: Modules) -> list[dict[str, Any]]:
    """Return the modules with `moved`, ‖ΔW‖ / ‖W‖; None where W is zero."""
    return [{**m, "moved": m["change"] / m["weight"] if m["weight"] else None} for m in modules]


def span(modules: Modules, column: str) -> tuple[float, float] | None:
    """Return the smallest and largest value of a column inside the layers, zeros apart; None where there is none."""
    values = [m[column] for m in modules if m["layer"] is not None and m[column]]
    return (min(values), max(values)) if values else None


def moves_in_words(modules: Modules) -> str:
    """Say how far all weights together moved, which most, and which outside the layers.

    Args:
        modules: of `with_moves`.
    """
    whole = math.sqrt(sum(m["change"] ** 2 for m in modules)) / math.sqrt(sum(m["weight"] ** 2 for m in modules))
    top = max(modules, key=lambda m: m["moved"] or 0)
    ends = "; ".join(f"{m['role']} {significant(m['moved'])}" for m in modules if m["layer"] is None)
    outside = f" Outside the layers: {ends}." if ends else ""
    return (
        f"All adapted weights together moved by {significant(whole)} of their norm; most: {top['module']} "
        f"({significant(top['moved'])}).{outside}"
    )


def overlap_in_words(modules: Modules, side: str) -> str:
    """Say how much of the change lies in the initial subspace, and how much would by chance.

    Args:
        modules: of the desk.
        side: `in` or `out`.
    """
    moved = [m for m in modules if m[f"{side}_share"] is not None and m["trained"]]
    if not moved:
        return "B₀ = 0: this adapter had no outputs to begin with, so there is no subspace to overlap with."
    energy = sum(m["trained"] ** 2 for m in moved)
    share, chance = (
        sum(m["trained"] ** 2 * m[f"{side}_{what}"] for m in moved) / energy for what in ("share", "chance")
    )
    cosines = [m[f"{side}_cosine"] for m in moved if m[f"{side}_cosine"] is not None]
    turned = ""
    if cosines:
        factor, mean = "A" if side == "in" else "B", sum(cosines) / len(cosines)
        turned = f" The span of {factor} itself kept a mean principal cosine of {mean:.3f}."
    return (
        f"{percent(share)} of the change of all modules lies in the initial subspace; a random subspace of its size "
        f"would hold {percent(chance)}.{turned}"
    )


def with_ratios(answer: dict[str, Any]) -> dict[str, Any]:
    """Add S of all modules and, to each module, log2 of its share after over its share before.

    Args:
        answer: of the desk's `sensitivity_change`.
    """
    before, after = (sum(m[when] for m in answer["modules"]) for when in ("before", "after"))
    modules = []
    for module in answer["modules"]:
        comparable = before > 0 and after > 0 and module["before"] > 0 and module["after"] > 0
        ratio = math.log2(module["after"] / after / (module["before"] / before)) if comparable else None
        modules.append({**module, "log2": ratio})
    return {**answer, "modules": modules, "before": before, "after": after}


def largest_ratio(answers: Sequence[dict[str, Any]]) -> float:
    """Return the largest log2 ratio inside the layers of `with_ratios` answers, whatever its sign; 1 where none is."""
    modules = [m for answer in answers for m in answer["modules"] if m["layer"] is not None and m["log2"] is not None]
    return max((abs(m["log2"]) for m in modules), default=1.0)


def ratios_in_words(answer: dict[str, Any]) -> str:
    """Say what S and the loss were before and after, and what moved outside the layers."""
    ends = [m for m in answer["modules"] if m["layer"] is None and m["log2"] is not None]
    words = "; ".join(f"{m['role']} {m['log2']:+.2f}" for m in ends)
    return (
        f"+1: twice the share, −1: half. S of all modules: {significant(answer['before'])} before, "
        f"{significant(answer['after'])} after; loss on these samples {answer['loss_before']:.3f} before, "
        f"{answer['loss_after']:.3f} after (nats per token).{f' Outside the layers: {words}.' if words else ''}"
    )


def with_effects(answer: dict[str, Any]) -> dict[str, Any]:
    """Add to each unit of a causal check, as plain numbers, what its twin and its loss cost in nats and in score.

    Args:
        answer: of the desk's `causal_check`.
    """
    units = [
        {**unit, "module": unit["name"]}
        | {
            f"{edit}_{side}{end}": effect[key]
            for edit in ("twin", "without")
            for side, effect in unit[edit].items()
            for key, end in (("mean", ""), ("low", "_low"), ("high", "_high"))
        }
        for unit in answer["units"]
    ]
    plain = [{key: value for key, value in unit.items() if not isinstance(value, dict)} for unit in units]
    return {**answer, "units": plain}


def effects_in_words(answer: dict[str, Any]) -> str:
    """Say which edit cost most, and whether the rank of sensitivity predicts the cost.

    Args:
        answer: of `with_effects`.
    """
    top = max(answer["units"], key=lambda unit: unit["twin_nats"])
    clear = sum(unit["twin_nats_low"] > 0 for unit in answer["units"])
    words = (
        f"Costly beyond chance in {clear} of {len(answer['units'])} parts, most in {top['name']} "
        f"({top['twin_nats']:+.3f} nats per token)."
    )
    agreement = answer["agreement"].get("nats")
    if agreement is None:
        return f"{words} This method reads no teacher, so there is no sensitivity to compare with."
    if agreement["rho"] is None:
        return f"{words} {agreement['units']} parts are too few, or too alike, to rank."
    rank = f"Rank correlation of sensitivity with the cost: {agreement['rho']:+.2f}"
    if agreement["low"] is None:
        return f"{words} {rank}, over {agreement['units']} {answer['by']}s: too few for an interval."
    interval = f"95 % interval {agreement['low']:+.2f} to {agreement['high']:+.2f}"
    if agreement["low"] > 0:
        meaning = "what is more sensitive costs more"
    elif agreement["high"] < 0:
        meaning = "what is more sensitive costs less"
    else:
        meaning = "no relation could be seen"
    return f"{words} {rank} ({interval}, {agreement['units']} {answer['by']}s): {meaning}."


def table(modules_of: dict[str, Modules]) -> list[dict[str, Any]]:
    """Return one row a run and module, shapes as text, to be handed out."""
    rows = [{"run": run_id, **module} for run_id, modules in modules_of.items() for module in modules]
    return [{**row, "shape": "{}x{}".format(*row["shape"])} if "shape" in row else row for row in rows]
