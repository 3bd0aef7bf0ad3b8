"""Which finished runs are one arm of a comparison, how arms are called, and in which settings they differ."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from paraknow_core.catalogue import METHODS, PAPER_METHOD
from paraknow_core.display import arm_of, shorten
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec
from paraknow_core.studies.same import content, effective, question
from paraknow_core.studies.words import setting_text

NO_EFFECT = object()  # the value of a setting that an arm's method does not read
_LABEL = 58  # characters


@dataclass(frozen=True)
class Arm:
    """An arm of a comparison: finished runs that differ in nothing that counts but their seed.

    Attributes:
        key: names its settings.
        label: for people; no two arms of one comparison share it.
        method: gives the colour.
        variant: 0 for the first arm of a method, 1 for the next one: gives shade and marker.
        spec: of its first run.
        runs: one a seed, in the order of the seeds.
        seeds: theirs.
        repeats: older runs of the same settings and seed, left out.
    """

    key: str
    label: str
    method: str
    variant: int
    spec: RunSpec
    runs: tuple[RunFolder, ...]
    seeds: tuple[int, ...]
    repeats: int = 0


def arms_of(
    runs: Sequence[tuple[RunFolder, RunSpec]],
    result_of: Callable[[RunFolder], Mapping[str, Any] | None] = RunFolder.result,
) -> list[Arm]:
    """Put finished runs together into arms, in the order of the methods.

    Args:
        runs: newest first; of several with the same settings, content and seed the first one counts. A file that was
            changed between two runs makes two arms of them; runs without fingerprints stay together.
        result_of: reads a run's result, or remembers it.
    """
    by_seed: dict[str, dict[int, tuple[RunFolder, RunSpec]]] = {}
    repeats: dict[str, int] = {}
    prints: dict[str, dict[str, str]] = {}
    for run, spec in runs:
        settings = {key: value for key, value in effective(spec).items() if key != "seed"}
        own_prints = content(spec, result_of(run))
        key = hashlib.sha256(json.dumps([settings, own_prints], sort_keys=True).encode()).hexdigest()[:16]
        seeds, prints[key] = by_seed.setdefault(key, {}), own_prints
        repeats[key] = repeats.get(key, 0) + (spec.seed in seeds)
        seeds.setdefault(spec.seed, (run, spec))
    specs = {key: next(iter(seeds.values()))[1] for key, seeds in by_seed.items()}
    place = {method: number for number, method in enumerate(METHODS)}
    keys = sorted(by_seed, key=lambda key: place.get(specs[key].method, len(place)))
    labels = _labels([specs[key] for key in keys], [prints[key] for key in keys])
    arms: list[Arm] = []
    for key, label in zip(keys, labels, strict=True):
        method, seeds = specs[key].method, sorted(by_seed[key])
        variant = sum(arm.method == method for arm in arms)
        folders = tuple(by_seed[key][seed][0] for seed in seeds)
        arms.append(Arm(key, label, method, variant, specs[key], folders, tuple(seeds), repeats[key]))
    return arms


def _labels(specs: Sequence[RunSpec], prints: Sequence[Mapping[str, str]]) -> list[str]:
    """Name arms by their method and by what separates those of one method: settings, else data and weights."""
    settings = [effective(spec) | {"seed": None} for spec in specs]
    labels: list[str] = []
    for spec, own, own_prints in zip(specs, settings, prints, strict=True):
        twins = [other for other, s in zip(prints, settings, strict=True) if s == own]
        rivals = [s for other, s in zip(specs, settings, strict=True) if other.method == spec.method]
        keys = [k for k in own if any(s.get(k) != own[k] for s in rivals)]
        if spec.method == PAPER_METHOD and spec.injection.mode != "residual" and "injection.mode" not in keys:
            keys.insert(0, "injection.mode")
        parts = [setting_text(k, own[k]) for k in keys]
        parts += [f"{k} {v[:6]}" for k, v in own_prints.items() if any(other.get(k) != v for other in twins)]
        label = shorten(", ".join([arm_of(spec.method).label, *parts]), _LABEL)
        again = sum(taken == label or taken.startswith(f"{label} (") for taken in labels)
        labels.append(f"{label} ({again + 1})" if again else label)
    return labels


def settings_that_differ(arms: Sequence[Arm]) -> list[tuple[str, list[Any]]]:
    """Return the keys, seeds apart, in which arms differ, each with one value an arm.

    `NO_EFFECT` stands where an arm's method does not read the setting; that alone is no difference.
    """
    settings = [effective(arm.spec) for arm in arms]
    rows = []
    for key in sorted({key for own in settings for key in own} - {"seed"}):
        values = [own.get(key, NO_EFFECT) for own in settings]
        read = [value for value in values if value is not NO_EFFECT]
        if any(value != read[0] for value in read):
            rows.append((key, values))
    return rows


def suggest(runs: Sequence[tuple[RunFolder, RunSpec]], most: int = 40) -> list[RunFolder]:
    """Return what to compare when nobody has chosen: the newest finished run and those that ask the same.

    Args:
        runs: finished ones, newest first.
        most: how many at most.
    """
    if not runs:
        return []
    newest = question(runs[0][1])
    return list(islice((run for run, spec in runs if question(spec) == newest), most))
