"""Sensitivity on several workers: each measures some of the seed samples, and the parts are added up.

S is a sum over samples, so that parts add up exactly, to the rounding of float32, whoever measured them and wherever.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.sensitivity_store import TOTALS, SensitivityStore
from paraknow_core.stages.context import Context
from paraknow_core.stages.reduction import StoreBuilder, full_layout, steps_of
from paraknow_core.stages.sensitivity import own_folder, seed_key


def combine(context: Context, parts: Sequence[Path]) -> SensitivityStore:
    """Add up measured parts of a context's seed samples and keep the sum where the whole would be kept.

    Args:
        context: teacher, task and samples of the whole.
        parts: folders that hold full sensitivities of some of the samples each.

    Raises:
        DataError: a part is of another teacher, precision or task, holds reductions only, or the samples of all parts
            are not those of the whole, each once.
    """
    encoded, key = seed_key(context)
    stores = [SensitivityStore(part) for part in parts]
    facts = _checked(context, stores, [each.id for each in encoded])
    anatomy = context.teacher.anatomy
    final = context.place.sensitivity / key
    with own_folder(final, context.report) as work:
        if not (final / TOTALS).exists():
            builder = StoreBuilder(work / "store", anatomy, full=True)
            steps = steps_of(anatomy, list(full_layout(anatomy)))
            for step in context.follow(list(steps), "adding up the parts"):
                sums = {name: stores[0].full(name, "pt") for name in steps[step]}
                for store in stores[1:]:
                    for name, total in sums.items():
                        sums[name] = total + store.full(name, "pt")
                builder.add(step, sums)
            builder.finish(facts | {"key": key})
            (work / "store").rename(final)
    return SensitivityStore(final)


def _checked(context: Context, stores: Sequence[SensitivityStore], wanted: list[str]) -> dict[str, Any]:
    """Check that the parts make up the whole, and return what sensitivity.json says of it."""
    first = stores[0].totals
    same = {"fingerprint": context.teacher.fingerprint, "template": context.spec.task.template, "dtype": first["dtype"]}
    losses: dict[str, float] = {}
    for store in stores:
        totals = store.totals
        for key, value in same.items():
            if totals.get(key) != value:
                raise DataError(
                    f"{store.folder.name}: is of another {key} than the others; measure all parts with one teacher, "
                    "file, template and dtype"
                )
        if not store.has_full:
            raise DataError(f"{store.folder.name}: holds reductions only; measure the part with --part, which keeps S")
        for sample, loss in zip(totals["sample_ids"], totals["losses"], strict=True):
            if sample in losses or sample not in wanted:
                what = "is in two parts" if sample in losses else "is none of the seed samples"
                raise DataError(f"{store.folder.name}: sample {sample} {what}; give every part of one whole once")
            losses[sample] = loss
    missing = [sample for sample in wanted if sample not in losses]
    if missing:
        raise DataError(
            f"parts: {len(missing)} of {len(wanted)} seed samples are in none, the first is {missing[0]}; "
            "add their part too"
        )
    kept = ("version", "teacher", "task", "template", "fingerprint", "dtype")
    return {key: first[key] for key in kept} | {
        "samples": len(wanted), "sample_ids": wanted, "losses": [losses[sample] for sample in wanted],
        "supervised_tokens": sum(store.totals["supervised_tokens"] for store in stores), "parts": len(stores),
    }  # fmt: skip
