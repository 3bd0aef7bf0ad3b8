"""Which finished runs are one arm of a comparison, and in which settings two arms differ."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paraknow_core.catalogue import METHODS, PAPER_METHOD, unread
from paraknow_core.display import arm_of, shorten
from paraknow_core.runs.folder import RunFolder, flat_settings
from paraknow_core.spec import RunSpec
from paraknow_core.studies.words import setting_text

_NO_EFFECT = ("version", "name", "until", "references", "finetuning.micro_batch_size")
_JUDGED = ("bundled:open_writing",)  # tasks whose own scorer asks a judge, the teacher by default; a test knows them
_LABEL = 58  # characters
NO_EFFECT = object()  # the value of a setting that an arm's method does not read


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


def effective(spec: RunSpec) -> dict[str, Any]:
    """Return every setting that the run's numbers can depend on, by its dotted key."""
    flat = flat_settings(spec.model_dump(mode="json"))
    without = unread(flat) | {*_NO_EFFECT}
    if spec.finetuning.max_steps is not None:
        without.add("finetuning.epochs")
    by_judge = "win_rate" in spec.task.scorers or (not spec.task.scorers and spec.task.source in _JUDGED)
    if by_judge and spec.task.judge is None:  # then the teacher judges, whatever the method
        without -= {"teacher.source", "teacher.revision"}
    return {key: value for key, value in flat.items() if key not in without}


def other_settings(one: RunSpec, other: RunSpec) -> list[str]:
    """Return the keys, method and seed apart, in which two runs differ: what makes a comparison unclean.

    What only a method with a teacher reads does not count against a method without one.
    """
    return differing(effective(one), effective(other))


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the keys, method and seed apart, that both of two `effective` settings have and in which they differ."""
    shared = (one.keys() & other.keys()) - {"method", "seed"}
    return sorted(key for key in shared if one[key] != other[key])


def settings_that_differ(arms: Sequence[Arm]) -> list[tuple[str, list[Any]]]:
    """Return the keys, seeds apart, in which arms differ, each with one value an arm.

    `NO_EFFECT` stands where an arm's method does not read the setting; that alone is no difference.
    """
    flat = [effective(g.spec) for g in arms]
    keys = sorted({key for own in flat for key in own} - {"seed"})
    rows = [(key, [own.get(key, NO_EFFECT) for own in flat]) for key in keys]
    read = [(key, values, [value for value in values if value is not NO_EFFECT]) for key, values in rows]
    return [(key, values) for key, values, known in read if any(value != known[0] for value in known)]


def question(spec: RunSpec) -> str:
    """Name what a run asks, whatever its method: pair, task, size of the adapter, training."""
    data = spec.model_dump(mode="json")
    data["finetuning"].pop("micro_batch_size")
    data["factorisation"].pop("split")  # as the structure: how a method with a teacher cuts
    if spec.finetuning.max_steps is not None:
        data["finetuning"].pop("epochs")
    asked = [data[key] for key in ("teacher", "student", "task", "factorisation", "finetuning")]
    return json.dumps(asked, sort_keys=True)


def suggest(runs: Sequence[tuple[RunFolder, RunSpec]], most: int = 40) -> list[RunFolder]:
    """Return what to compare when nobody has chosen: the newest finished run and those that ask the same.

    Args:
        runs: finished ones, newest first.
        most: how many at most.
    """
    if not runs:
        return []
    newest = question(runs[0][1])
    return [run for run, spec in runs if question(spec) == newest][:most]


def content(spec: RunSpec, result: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the fingerprints in a run's result of the data and weights that its numbers depend on; {} without any."""
    found = (result or {}).get("fingerprints") or {}
    return {
        name: str(value) for name, value in found.items() if name != "teacher" or "teacher.source" in effective(spec)
    }


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
    found: dict[str, dict[int, tuple[RunFolder, RunSpec]]] = {}
    repeats: dict[str, int] = {}
    prints: dict[str, dict[str, str]] = {}
    for run, spec in runs:
        settings = {key: value for key, value in effective(spec).items() if key != "seed"}
        made_of = content(spec, result_of(run))
        key = hashlib.sha256(json.dumps([settings, made_of], sort_keys=True).encode()).hexdigest()[:16]
        arm, prints[key] = found.setdefault(key, {}), made_of
        repeats[key] = repeats.get(key, 0) + (spec.seed in arm)
        arm.setdefault(spec.seed, (run, spec))
    place = {method: number for number, method in enumerate(METHODS)}
    specs = {key: next(iter(arm.values()))[1] for key, arm in found.items()}
    keys = sorted(found, key=lambda k: place.get(specs[k].method, len(place)))
    labels = _labels([specs[key] for key in keys], [prints[key] for key in keys])
    arms: list[Arm] = []
    for key, label in zip(keys, labels, strict=True):
        seeds = sorted(found[key])
        variant = sum(other.method == specs[key].method for other in arms)
        arms.append(
            Arm(
                key,
                label,
                specs[key].method,
                variant,
                specs[key],
                tuple(found[key][seed][0] for seed in seeds),
                tuple(seeds),
                repeats[key],
            )
        )
    return arms


def _labels(specs: Sequence[RunSpec], prints: Sequence[Mapping[str, str]]) -> list[str]:
    """Name arms by their method and by what separates those of one method: settings, else data and weights."""
    settings = [effective(spec) | {"seed": None} for spec in specs]
    labels: list[str] = []
    for spec, own, made_of in zip(specs, settings, prints, strict=True):
        twins = [other for other, s in zip(prints, settings, strict=True) if s == own]
        rivals = [s for other, s in zip(specs, settings, strict=True) if other.method == spec.method]
        keys = [k for k in own if any(s.get(k) != own[k] for s in rivals)]
        special = spec.method == PAPER_METHOD and spec.injection.mode != "residual" and "injection.mode" not in keys
        parts = [setting_text(k, own[k]) for k in [*(["injection.mode"] if special else []), *keys]]
        parts += [f"{k} {v[:6]}" for k, v in made_of.items() if any(other.get(k) != v for other in twins)]
        label = shorten(", ".join([arm_of(spec.method).label, *parts]), _LABEL)
        again = sum(known == label or known.startswith(f"{label} (") for known in labels)
        labels.append(f"{label} ({again + 1})" if again else label)
    return labels
