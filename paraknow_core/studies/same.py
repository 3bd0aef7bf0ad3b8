"""When do two runs ask the same? The one place that says which settings, data and weights they must share.

A setting counts unless no number depends on it (`effective`). How much of the rest two runs must share depends on why
they are put together: `asked` takes the parts of the spec that matter, and the tuples below name the usual choices.
`differing` lists the settings, other than method and seed, in which two runs differ; `other_content` what their files
held; and `computes` is equal for two specs of which one run can stand for the other.
"""

from collections.abc import Hashable, Mapping
from functools import cache, lru_cache
from typing import Any

from paraknow_core.catalogue import PAPER_METHOD, asks_judge, unread
from paraknow_core.files.remember import once_each
from paraknow_core.runs.table import settings_of
from paraknow_core.spec import RunSpec, Strict

# Which parts of their specs two runs must share ...
PAIR_AND_TASK = ("teacher", "student", "task")  # ... to be drawn beside each other
QUESTION = (*PAIR_AND_TASK, "factorisation", "finetuning")  # ... to answer one question, by whatever method
MEASUREMENT = ("teacher", "task", "sensitivity")  # ... to have measured the same sensitivity
COST = ("teacher", "student", "task.source", "task.subset")  # ... for one to say how long the other will take
LOOKS_ALIKE = ("teacher.source", "student.source", "task.source")  # ... to look alike in a list
HOW_BLOCKS_ARE_CUT = ("factorisation.split",)  # belongs to the method, as the structure does: no part of its question
# What a run that ends at a stage never reads.
_SCORING = ("task.scorers", "task.judge", "task.max_new_tokens", "task.sizes.test")
NOT_MEASURED = (*_SCORING, "task.sizes.validation")
UNREAD_UNTIL: dict[str, tuple[str, ...]] = {
    "sensitivity": (
        *("student", "mapping", "extraction", "factorisation", "injection", "finetuning", "method", "seed"),
        *_SCORING,
    ),
    "extraction": ("finetuning", *_SCORING),
    "training": _SCORING,
    "evaluation": (),
}
_NO_EFFECT = ("version", "name", "until", "references", "finetuning.micro_batch_size")
_JUDGED = ("bundled:open_writing",)  # tasks whose own scorer asks a judge, the teacher by default; a test knows them


@cache
def within(key: str, parts: tuple[str, ...]) -> bool:
    """Tell whether a dotted key is one of these parts of a spec, or lies in one."""
    return any(key == part or key.startswith(f"{part}.") for part in parts)


@once_each
def effective(spec: RunSpec) -> dict[str, Any]:
    """Return every setting that the run's numbers can depend on, by its dotted key; not to be changed."""
    settings: dict[str, Any] = {}
    for part, _ in _counting(spec):
        settings |= part
    return settings


@once_each
def _counting(spec: RunSpec) -> list[tuple[dict[str, Any], frozenset]]:
    """Return the settings that count, top-level key by key, and each part once more as a set.

    Thousands of specs share most of their parts, and what is worked out for those.
    """
    without = _unread(settings_of(spec), judged_by_teacher(spec))
    parts = []
    for name, value in vars(spec).items():
        if isinstance(value, Strict):
            known = _kept_with(value)
            if (name, without) not in known:
                settings = {key: v for key, v in settings_of(spec, (name,)).items() if key not in without}
                known[name, without] = settings, _hashable(settings)
            parts.append(known[name, without])
        elif name not in without:
            own = list(value) if isinstance(value, tuple) else value  # as `settings_of` gives it
            parts.append(({name: own}, frozenset(((name, value),))))
    return parts


@once_each
def _kept_with(part: Strict) -> dict[Hashable, Any]:
    """Return where it is kept what was worked out about a part, which is worked out for thousands of specs."""
    del part
    return {}


def judged_by_teacher(spec: RunSpec) -> bool:
    """Tell whether the teacher judges what the student writes, whatever the method: nobody else is named."""
    by_judge = asks_judge(spec.task.scorers) or (not spec.task.scorers and spec.task.source in _JUDGED)
    return by_judge and spec.task.judge is None


def _unread(settings: Mapping[str, Any], judged: bool = False) -> frozenset[str]:
    """Return the keys that no number depends on, by themselves or because of another setting.

    Args:
        settings: every setting of a spec.
        judged: whether its teacher's source counts, whatever the method.
    """
    return _without_effect(unread(settings), settings["finetuning.max_steps"] is not None, judged)


@lru_cache(1024)
def _without_effect(unread_keys: frozenset[str], by_steps: bool, judged: bool) -> frozenset[str]:
    """Return the same object for the same keys: what is remembered by it is found at once."""
    keys = unread_keys.union(_NO_EFFECT, ("finetuning.epochs",) if by_steps else ())
    return keys - {"teacher.source", "teacher.revision", "teacher.untrained"} if judged else keys


def asked(spec: RunSpec, parts: tuple[str, ...], apart_from: tuple[str, ...] = ()) -> frozenset:
    """Return what a run asks for in some parts of its spec: equal for two runs that ask for the same there.

    Args:
        spec: of the run.
        parts: such as `PAIR_AND_TASK`, or dotted keys.
        apart_from: parts that may differ.
    """
    if all(within(part, PAIR_AND_TASK) for part in parts):  # these count always; lists ask for them of every run
        known, key = _kept_with(spec.task), (parts, apart_from, spec.teacher, spec.student)
        if key not in known:
            known[key] = _hashable(_within(spec, parts, apart_from))
        return known[key]
    # The paper's method reads all that others read, and more.
    without = _unread(settings_of(spec) | {"method": PAPER_METHOD})
    asks = _within(spec, parts, apart_from)
    return _hashable({key: value for key, value in asks.items() if key not in without})


def _within(spec: RunSpec, parts: tuple[str, ...], apart_from: tuple[str, ...]) -> dict[str, Any]:
    settings = settings_of(spec, {part.partition(".")[0] for part in parts})
    return {key: value for key, value in settings.items() if within(key, parts) and not within(key, apart_from)}


@once_each
def question(spec: RunSpec) -> frozenset:
    """Return what a run asks, whatever its method: pair, task, size of the adapter, training."""
    return asked(spec, QUESTION, apart_from=HOW_BLOCKS_ARE_CUT)


@once_each
def computes(spec: RunSpec) -> tuple[str, tuple[frozenset, ...]]:
    """Return what a run computes: equal for two specs whose numbers cannot differ, whatever they are called."""
    return spec.until, tuple(part for _, part in _counting(spec))


def shows(spec: RunSpec, wanted: RunSpec) -> bool:
    """Tell whether a run shows the untrained models that are asked for beside another that computes the same."""
    has_teacher = "teacher" not in wanted.references or spec.teacher == wanted.teacher
    return has_teacher and set(wanted.references) <= set(spec.references)


@once_each
def run_key(spec: RunSpec) -> Hashable:
    """Return what is equal for two specs of which one run can answer for both, untrained models beside it included."""
    teacher = (spec.teacher.source, spec.teacher.revision) if "teacher" in spec.references else None
    return computes(spec), frozenset(spec.references), teacher


def _hashable(settings: Mapping[str, Any]) -> frozenset:
    """Freeze settings. Equal numbers stay equal: a default may be 16 where a file says 16.0."""
    return frozenset((key, tuple(v) if isinstance(v, list) else v) for key, v in settings.items() if v != {})


def differing(settings: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """Return the keys, method and seed apart, in which two runs differ: what makes a comparison unclean.

    Args:
        settings, others: `effective` of the two. What only one of them reads does not count: a method without a
            teacher is compared with one that has a teacher.
    """
    shared = (settings.keys() & others.keys()) - {"method", "seed"}
    return sorted(key for key in shared if settings[key] != others[key])


def content(spec: RunSpec, result: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the fingerprints in a run's result of the data and weights that its numbers depend on; {} without any."""
    prints = (result or {}).get("fingerprints") or {}
    reads_teacher = "teacher" not in prints or "teacher.source" in effective(spec)
    return {name: str(value) for name, value in prints.items() if name != "teacher" or reads_teacher}


def other_content(prints: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """Return which data and weights are not the same, of those that `content` names for both of two runs."""
    return sorted(name for name in prints.keys() & others.keys() if prints[name] != others[name])
