"""Sensitivity on several workers: each measures some of the seed samples, and the parts are added up.

S is a sum over samples, so that parts add up to the whole, whoever measured them and wherever.
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.context import Context
from paraknow_core.errors import DataError
from paraknow_core.sensitivity.build import StoreBuilder, full_layout, steps_of
from paraknow_core.sensitivity.measure import VERSION, sample_digest, seed_key
from paraknow_core.sensitivity.store import SensitivityStore
from paraknow_core.sensitivity.work_folder import disk_errors, own_folder

if TYPE_CHECKING:
    from paraknow_core.tasks.templates import Encoded


def combine(context: Context, parts: Sequence[Path]) -> SensitivityStore:
    """Add up measured parts of a context's seed samples and keep the sum where the whole would be kept.

    Args:
        context: teacher, task and samples of the whole.
        parts: folders that hold full sensitivities of some of the samples each.

    Raises:
        DataError: a part is of another teacher, precision or version, holds reductions only, or the samples of all
            parts, as they were tokenised, are not those of the whole, each once.
    """
    encoded, key = seed_key(context)
    stores = [SensitivityStore(part) for part in parts]
    facts = _checked(context, stores, encoded)
    anatomy = context.teacher.anatomy
    final = context.place.sensitivity / key
    with own_folder(final, context.report) as work, disk_errors(context.teacher.source.label):
        whole = SensitivityStore(final)
        if not (whole.has_full and whole.is_whole):
            shutil.rmtree(work / "store", ignore_errors=True)
            builder = StoreBuilder(work / "store", anatomy, full=True)
            steps = steps_of(anatomy, list(full_layout(anatomy)))
            for step in context.follow(list(steps), "adding up the parts"):
                sums = {name: stores[0].full(name, "pt") for name in steps[step]}
                for store in stores[1:]:
                    for name, total in sums.items():
                        sums[name] = total + store.full(name, "pt")
                builder.add(step, sums)
            builder.finish(facts | {"key": key})
            shutil.rmtree(final, ignore_errors=True)
            (work / "store").rename(final)
    return SensitivityStore(final)


def _checked(context: Context, stores: Sequence[SensitivityStore], encoded: "Sequence[Encoded]") -> dict[str, Any]:
    """Check that the parts make up the whole, and return what sensitivity.json says of it."""
    first = stores[0].totals
    same = {"version": VERSION, "fingerprint": context.teacher.fingerprint, "dtype": context.teacher.dtype}
    digests = [sample_digest(sample) for sample in encoded]
    expected = Counter(digests)
    losses: dict[str, list[float]] = defaultdict(list)
    for store in stores:
        totals = store.totals
        for key, value in same.items():
            if totals.get(key) != value:
                raise DataError(
                    f"{store.folder.name}: is of another {key} ({totals.get(key)}, not {value}); measure all parts and "
                    "add them with one teacher, one dtype and one version"
                )
        if not store.has_full:
            raise DataError(f"{store.folder.name}: holds reductions only; measure the part with --part, which keeps S")
        for name, sample, loss in zip(totals["sample_ids"], totals["sample_digests"], totals["losses"], strict=True):
            losses[sample].append(loss)
            if len(losses[sample]) > expected[sample]:
                what = "is in two parts" if expected[sample] else "is none of the seed samples as tokenised here"
                raise DataError(f"{store.folder.name}: sample {name} {what}; give every part of one whole once")
    missing = [s.id for s, digest in zip(encoded, digests, strict=True) if len(losses[digest]) < expected[digest]]
    if missing:
        raise DataError(
            f"parts: {len(missing)} of {len(encoded)} seed samples are in none, the first is {missing[0]}; "
            "add their part too"
        )
    kept = ("version", "teacher", "task", "template", "fingerprint", "dtype")
    return {key: first[key] for key in kept} | {
        "samples": len(encoded),
        "sample_ids": [sample.id for sample in encoded],
        "sample_digests": digests,
        "losses": [losses[digest].pop(0) for digest in digests],
        "supervised_tokens": sum(store.totals["supervised_tokens"] for store in stores),
        "parts": len(stores),
    }
