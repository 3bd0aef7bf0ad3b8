"""What a run is called, everywhere: the name that somebody gave it, or one made from what sets it apart."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paraknow_core.catalogue import STRUCTURES
from paraknow_core.display import arm_of, distinct, one_line, source_label, whole_words
from paraknow_core.spec import RunSpec
from paraknow_core.studies.same import UNREAD_UNTIL, effective, within
from paraknow_core.studies.words import setting_text

LONGEST = 40  # characters of a made name; what tells two equal ones apart comes on top
_SHORTEST_TITLE, _PART = 14, 26
_BESIDE = ("teacher.source", "student.source", "task.source", "seed")  # said beside a name, or at its end
# What people vary comes first: where a name would be too long, what stands last is left out.
_ORDER = (
    "method",
    "extraction.origin",
    "extraction.structure",
    "injection.mode",
    "mapping.strategy",
    "mapping.layers",
    "factorisation.rank",
    "factorisation.lora_alpha",
    "factorisation.split",
    "finetuning.learning_rate",
    "finetuning.epochs",
    "finetuning.max_steps",
    "finetuning.batch_size",
    "finetuning.schedule",
    "finetuning.seed",
    "sensitivity.samples",
    "sensitivity.selection",
    "sensitivity.seed",
    "mapping.seed",
    "extraction.seed",
    "task.sizes.train",
    "task.sizes.test",
    "task.template",
)
_WORDS = {
    "factorisation.rank": "r {}",
    "factorisation.lora_alpha": "alpha {}",
    "factorisation.split": "split {}",
    "finetuning.learning_rate": "lr {}",
    "finetuning.epochs": "{} epochs",
    "finetuning.max_steps": "{} steps",
    "finetuning.batch_size": "batch {}",
    "finetuning.schedule": "{} schedule",
    "finetuning.seed": "data order {}",
    "mapping.strategy": "{} layers",
    "injection.mode": "{}",
    "sensitivity.samples": "{} seed samples",
    "sensitivity.selection": "{} samples",
    "sensitivity.seed": "draw {}",
    "mapping.seed": "layer draw {}",
    "extraction.seed": "pick {}",
    "task.sizes.train": "train {}",
    "task.sizes.validation": "validation {}",
    "task.sizes.test": "test {}",
    "task.template": "{} template",
    "teacher.revision": "teacher {}",
    "student.revision": "student {}",
    "task.revision": "data {}",
}


@dataclass(frozen=True)
class Named:
    """A run to be named.

    Attributes:
        id: its folder's name.
        spec: its settings; None where they cannot be read.
        own: the name that somebody gave it, or empty.
    """

    id: str
    spec: RunSpec | None
    own: str = ""


def run_names(
    runs: Iterable[Named], settings_of: Callable[[Named], Mapping[str, Any]] = lambda run: effective(run.spec)
) -> dict[str, str]:
    """Return a name for each run of a workspace, no two alike.

    Args:
        runs: all of them, in any order: the names depend on which there are, not on their order.
        settings_of: `effective` of a run's spec, or what remembers it.

    Returns:
        id -> the run's own name, where somebody gave it one; else its spec's, followed by the settings in which the
        runs of that name, pair and task differ; else these settings alone. A made name has about `LONGEST`
        characters and whole words. Names that are still alike are told apart by task, pair, and the end of the id.
    """
    runs = list(runs)
    names: dict[str, str] = {}
    families: dict[tuple, list[tuple[Named, dict[str, Any]]]] = defaultdict(list)
    for run in runs:
        if run.spec is None:
            names[run.id] = one_line(run.own) or run.id
            continue
        beside = (run.spec.teacher.source, "" if run.spec.until == "sensitivity" else run.spec.student.source)
        family = families[run.spec.until, one_line(run.spec.name), beside, run.spec.task.source]
        unread = UNREAD_UNTIL[run.spec.until]
        settings = settings_of(run)
        family.append((run, {k: v for k, v in settings.items() if not within(k, unread)} if unread else settings))
    titles = Counter(one_line(run.spec.name) for run in runs if run.spec is not None)
    for (until, title, *_), family in families.items():
        varied = _varied([read for _, read in family])
        for run, read in family:
            alone = title and titles[title] == 1
            settings = [(key, read[key], rare[repr(read[key])]) for key, rare in varied.items() if key in read]
            part = "" if alone else _made(run.spec, until, settings, title)
            names[run.id] = one_line(run.own) or _titled(title, part)
    return _told_apart(names, {run.id: run.spec for run in runs if run.spec is not None})


def _varied(family: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the keys in which runs that read them differ, what people vary first.

    Returns:
        key -> the share that each value has of the runs that read the key.
    """
    values: dict[str, Counter[str]] = {}
    for key in dict.fromkeys(key for read in family for key in read):
        own = [read[key] for read in family if key in read]
        if any(value is not own[0] for value in own):  # most are one object: specs share what they have in common
            values[key] = Counter(map(repr, own))
    varied = {key for key, own in values.items() if len(own) > 1} - {*_BESIDE}
    scale, rank = "factorisation.lora_alpha", "factorisation.rank"
    if {scale, rank} <= varied and len({read[scale] / read[rank] for read in family if scale in read}) == 1:
        varied.remove(scale)  # goes with the rank
    ordered = [*(key for key in _ORDER if key in varied), *sorted(varied - {*_ORDER})]
    return {key: {value: n / values[key].total() for value, n in values[key].items()} for key in ordered}


def _made(spec: RunSpec, until: str, settings: Sequence[tuple[str, Any, float]], title: str) -> str:
    """Return the part of a name that is made from settings: those that tell most, as many as are short; the seed.

    Args:
        spec, until: of the run.
        settings: key, value, and how common the value is: a rare one tells more.
        title: the name that its spec has.
    """
    heads = {"sensitivity": ["sensitivity"], "extraction": ["extraction"], "training": ["training only"]}.get(until, [])
    if not title and not heads and not settings:
        heads = [_part("method", spec.method)]
    heads = [] if title else heads
    tail = [] if until == "sensitivity" else [f"seed {spec.seed}"]
    parts = {key: _part(key, value) for key, value, _ in settings}
    kept: set[str] = {"method"} & parts.keys()
    for key, _, _ in sorted(settings, key=lambda setting: setting[2]):
        chosen = [text for name, text in parts.items() if name in kept or name == key]
        if not kept or len(", ".join([*heads, *chosen, *tail])) <= LONGEST:
            kept.add(key)
    return ", ".join([*heads, *(text for key, text in parts.items() if key in kept), *tail])


def _part(key: str, value: Any) -> str:
    if key == "method":
        return arm_of(str(value)).label.replace(" (the method)", "")
    if key == "extraction.origin":
        return "all modules" if value == ["all"] else f"{'+'.join(value)} only"
    if key == "extraction.structure":
        return STRUCTURES[value].label
    if isinstance(value, list) and len(text := "-".join("x" if v is None else str(v) for v in value)) > _PART - 8:
        return f"{len(value)} {key.rpartition('.')[2]}"
    if isinstance(value, list):
        return f"{key.rpartition('.')[2]} {text}"
    if key == "finetuning.max_steps" and value is None:
        return "by epochs"
    if key not in _WORDS:
        return whole_words(setting_text(key, value), _PART)
    shown = "all" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return whole_words(_WORDS[key].format(shown.replace("_", " ")), _PART)


def _titled(title: str, part: str) -> str:
    if not title or not part:
        return whole_words(title, LONGEST) or part
    return f"{whole_words(title, max(_SHORTEST_TITLE, LONGEST - len(part) - 3))} · {part}"


def _told_apart(names: dict[str, str], specs: Mapping[str, RunSpec]) -> dict[str, str]:
    """Add to names that are alike what the runs are about where that differs, else the end of their id."""
    for source in (lambda s: s.task.source, lambda s: s.student.source, lambda s: s.teacher.source):
        alike: dict[str, list[str]] = defaultdict(list)
        for name in specs:
            alike[names[name]].append(name)
        for ids in alike.values():
            if len({source(specs[name]) for name in ids}) > 1:
                names |= {name: f"{names[name]}, {source_label(source(specs[name]), 20)}" for name in ids}
    return distinct(names)
