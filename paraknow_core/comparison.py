"""Comparing finished runs: which of them are one arm, what separates two arms, and what may be said. Needs no torch."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paraknow_core import studies
from paraknow_core.display import SHARE, arm_of, compact, shorten, significant, source_label
from paraknow_core.errors import ParaknowError
from paraknow_core.runs import RunFolder, flat_settings
from paraknow_core.spec import RunSpec

ORDER = ("seeking", "default_lora", "pissa", "olora", "random_offset")
NATS = "nats per token"  # perplexities are paired by the logarithm of each example's
FEW_EXAMPLES, FEW_SEEDS = 100, 3
# What a method without a teacher does not read: a difference there separates no two runs.
_TEACHER_ONLY = ("teacher.", "sensitivity.", "mapping.", "extraction.structure", "extraction.seed", "injection.",
                 "factorisation.split")  # fmt: skip
_WITHOUT_TEACHER = ("default_lora", "pissa", "olora")
_NO_EFFECT = ("version", "name", "until", "references", "finetuning.micro_batch_size")
_WORDS = {
    "teacher.source": "teacher", "student.source": "student", "task.source": "task", "mapping.strategy": "mapping",
    "mapping.layers": "layers", "extraction.structure": "", "extraction.origin": "origin", "injection.mode": "",
    "factorisation.rank": "rank", "factorisation.split": "split", "finetuning.learning_rate": "learning rate",
    "sensitivity.samples": "seed samples", "sensitivity.ids": "seed sample ids",
}  # fmt: skip
_CONTENT = {
    "test": "the test examples are not the same", "train": "the training examples are not the same",
    "validation": "the validation examples are not the same", "student": "the student's weights are not the same",
    "teacher": "the teacher's weights are not the same", "tokenizer": "the tokenizer is not the same",
}  # fmt: skip
_LABEL = 58  # characters
NO_EFFECT = object()  # the value of a setting that an arm's method does not read
# Published gains of the method over default LoRA, in points, by what their benchmark shares with a scorer here.
# LLaMA-1 7B students; teachers of 13 and 30 billion weights. Source: Zhong et al., ICLR 2024, arXiv:2310.11451.
PAPER: dict[str, tuple[tuple[str, float], ...]] = {
    "number_match": (("GSM8K, 13B → 7B", 1.47), ("GSM8K, 30B → 7B", 1.37)),
    "multiple_choice": (("MMLU, 13B → 7B", 0.60), ("MMLU, 30B → 7B", 1.77)),
    "exact_match": (("Super-NI exact match, 13B → 7B", 1.60), ("Super-NI exact match, 30B → 7B", 2.10)),
    "rouge_l": (("Super-NI ROUGE-L, 13B → 7B", 1.88), ("Super-NI ROUGE-L, 30B → 7B", 2.59)),
    "win_rate": (("AlpacaFarm, 13B → 7B", 0.21), ("AlpacaFarm, 30B → 7B", 0.33)),
}


@dataclass(frozen=True)
class Group:
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
    flat = {key: value for key, value in flat_settings(spec.model_dump(mode="json")).items() if key not in _NO_EFFECT}
    if spec.method in _WITHOUT_TEACHER:
        judged = "win_rate" in spec.task.scorers and spec.task.judge is None
        flat = {
            k: v for k, v in flat.items() if not k.startswith(_TEACHER_ONLY) or (judged and k.startswith("teacher."))
        }
    return flat


def other_settings(one: RunSpec, other: RunSpec) -> list[str]:
    """Return the keys, method and seed apart, in which two runs differ: what makes a comparison unclean.

    What only a method with a teacher reads does not count against a method without one.
    """
    a, b = effective(one), effective(other)
    shared = (a.keys() & b.keys()) - {"method", "seed"}
    return sorted(key for key in shared if a[key] != b[key])


def settings_that_differ(groups: Sequence[Group]) -> list[tuple[str, list[Any]]]:
    """Return the keys, seeds apart, in which arms differ, each with one value an arm.

    `NO_EFFECT` stands where an arm's method does not read the setting; that alone is no difference.
    """
    flat = [effective(g.spec) for g in groups]
    keys = sorted({key for own in flat for key in own} - {"seed"})
    rows = [(key, [own.get(key, NO_EFFECT) for own in flat]) for key in keys]
    read = [(key, values, [value for value in values if value is not NO_EFFECT]) for key, values in rows]
    return [(key, values) for key, values, known in read if any(value != known[0] for value in known)]


def question(spec: RunSpec) -> str:
    """Name what a run asks, whatever its method: pair, task, size of the adapter, training."""
    data = spec.model_dump(mode="json")
    data["finetuning"].pop("micro_batch_size")
    return json.dumps([data[key] for key in ("teacher", "student", "task", "factorisation", "finetuning")])


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


def group(
    runs: Sequence[tuple[RunFolder, RunSpec]],
    result_of: Callable[[RunFolder], Mapping[str, Any] | None] = RunFolder.result,
) -> list[Group]:
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
    place = {method: number for number, method in enumerate(ORDER)}
    specs = {key: next(iter(arm.values()))[1] for key, arm in found.items()}
    keys = sorted(found, key=lambda k: place.get(specs[k].method, len(place)))
    labels = _labels([specs[key] for key in keys], [prints[key] for key in keys])
    groups: list[Group] = []
    for key, label in zip(keys, labels, strict=True):
        seeds = sorted(found[key])
        variant = sum(other.method == specs[key].method for other in groups)
        groups.append(Group(key, label, specs[key].method, variant, specs[key],
                            tuple(found[key][seed][0] for seed in seeds), tuple(seeds), repeats[key]))  # fmt: skip
    return groups


def scorers(groups: Sequence[Group]) -> list[str]:
    """Return the scorers of the arms' runs, the main ones first."""
    names = [[str(score.get("scorer")) for score in (g.runs[0].result() or {}).get("scores") or []] for g in groups]
    return list(dict.fromkeys([*(own[0] for own in names if own), *(name for own in names for name in own)]))


def scored_by(groups: Sequence[Group], scorer: str) -> list[Group]:
    """Return the arms whose every run was scored by this scorer."""

    def has(run: RunFolder) -> bool:
        return any(score.get("scorer") == scorer for score in (run.result() or {}).get("scores") or [])

    return [g for g in groups if all(has(run) for run in g.runs)]


def score_rows(
    groups: Sequence[Group], scorer: str, pooled: Callable[..., dict[str, Any]] = studies.pooled
) -> list[dict[str, Any]]:
    """Return each arm's score, and those of the untouched models that were scored beside them.

    Args:
        groups: arms scored by this scorer.
        scorer: its name.
        pooled: `studies.pooled`, or something that remembers what it said.

    Returns:
        Rows of label, method, variant, points (one value a seed), scorer, unit, value, low, high, n, seeds.
    """
    rows: list[dict[str, Any]] = []
    untouched: dict[tuple, dict[str, Any]] = {}
    for g in groups:
        values = [studies.score_of(run, scorer)["value"] for run in g.runs]
        row = {"label": g.label, "method": g.method, "variant": g.variant, "points": values}
        rows.append(row | pooled(g.runs, scorer))
        for name, scores in ((g.runs[0].result() or {}).get("references") or {}).items():
            for score in scores:
                if score.get("scorer") == scorer:
                    source = getattr(g.spec, name).source if name in ("student", "teacher") else name
                    untouched.setdefault(
                        (name, source, score.get("value"), score.get("n")), {"source": source, **score}
                    )
    several = len({key[1] for key in untouched if key[0] == "student"}) > 1
    for (name, source, *_), score in untouched.items():
        label = arm_of(name).label + (f" ({source_label(source, 20)})" if several else "")
        plain = {key: score.get(key) for key in ("scorer", "unit", "value", "low", "high", "n")}
        rows.append({"label": label, "method": name, "variant": 0, "points": [], "seeds": None, **plain})
    return rows


def contrasts(
    groups: Sequence[Group], base: Group, scorer: str, difference: Callable[..., dict[str, Any]] = studies.difference
) -> list[dict[str, Any]]:
    """Return how each arm differs from one of them, with p-values adjusted for their number.

    Args:
        groups: arms scored by this scorer, the base among them.
        base: what is subtracted.
        scorer: its name.
        difference: `studies.difference`, or something that remembers what it said.

    Returns:
        Rows of label, method, variant, key, unit, n, seeds (compared), difference, difference_low, difference_high,
        p_value, paired, shared, p_adjusted, says (a sentence) and cautions (parts of a sentence). An arm that cannot be
        paired has a problem (a sentence) instead; the others keep their differences.
    """
    rows = []
    for g in groups:
        if g.key == base.key:
            continue
        own, other, note = matched(g, base)
        results = tuple([run.result() or {} for run in arm] for arm in (own, other))
        score = studies.score_of(own[0], scorer)
        row = {"label": g.label, "method": g.method, "variant": g.variant, "key": g.key, "unit": score.get("unit"),
               "n": score.get("n"), "seeds": len(own), "difference": None, "p_value": None}  # fmt: skip
        row |= _paired(own, other, scorer, row["unit"], difference)
        row["cautions"] = cautions(g, base, row, results, note)
        rows.append(row)
    return adjust(rows)


def _paired(
    own: Sequence[RunFolder], other: Sequence[RunFolder], scorer: str, unit: str | None, difference: Callable
) -> dict[str, Any]:
    try:
        paired = difference(own, other, scorer)
        if paired or unit != "ppl":
            return paired
        paired = difference(own, other, scorer, means_only=False)
    except ParaknowError as error:
        return {"problem": str(error)}
    return paired | ({"unit": NATS} if paired and "problem" not in paired else {})


def published(rows: Sequence[Mapping[str, Any]], base: Group, scorer: str) -> list[tuple[str, str, float]]:
    """Return the paper's gains where the question is the same in kind: the method against default LoRA.

    Returns:
        (label of the row, benchmark and pair, points).
    """
    if base.method != "default_lora":
        return []
    labels = [row["label"] for row in rows if row["method"] == "seeking" and row.get("unit") == SHARE]
    return [(label, words, points) for label in labels[:1] for words, points in PAPER.get(scorer, ())]


def matched(one: Group, other: Group) -> tuple[list[RunFolder], list[RunFolder], str]:
    """Return the runs of two arms that belong together, one pair a seed, and a sentence if that left some out."""
    shared = [seed for seed in one.seeds if seed in other.seeds]
    if not shared:
        size = min(len(one.runs), len(other.runs))
        note = "no seed is shared: chance in initialisation and data order is not paired"
        return list(one.runs[:size]), list(other.runs[:size]), note
    of = [dict(zip(arm.seeds, arm.runs, strict=True)) for arm in (one, other)]
    most = max(len(one.seeds), len(other.seeds))
    note = f"only {len(shared)} of {most} seeds are in both arms" if len(shared) < most else ""
    return [of[0][seed] for seed in shared], [of[1][seed] for seed in shared], note


def cautions(
    one: Group,
    other: Group,
    row: Mapping[str, Any],
    results: tuple[Sequence[Mapping], Sequence[Mapping]],
    note: str = "",
) -> list[str]:
    """Return what stands between a difference and its meaning, as parts of a sentence.

    Args:
        one, other: the two arms.
        row: of their scores: n, and shared if they were paired.
        results: of their runs that were compared.
        note: what `matched` said.
    """
    said: list[str] = []
    keys = other_settings(one.spec, other.spec)
    if keys:
        said.append(f"{', '.join(keys)} also {'differs' if len(keys) == 1 else 'differ'}")
    changed = _changed(one, other, results)
    said += changed
    if (
        _CONTENT["test"] not in changed
        and row.get("shared") is not None
        and row.get("n") is not None
        and row["shared"] < row["n"]
    ):
        said.append(f"only {row['shared']:,} of {row['n']:,} test examples are in both")
    if row.get("n") is not None and row["n"] < FEW_EXAMPLES:
        said.append(f"n = {row['n']} test examples are few")
    if row.get("unit") == NATS:
        said.append("paired by each example's nats per token, long and short ones alike; lower is better")
    seeds = min(len(one.seeds), len(other.seeds))
    if seeds < FEW_SEEDS:
        said.append("one seed says nothing about the next one" if seeds == 1 else f"{seeds} seeds are few")
    return [*said, note] if note else said


def _changed(one: Group, other: Group, results: tuple[Sequence[Mapping], Sequence[Mapping]]) -> list[str]:
    """Say which data, weights and machine settings are not the same in all runs of two arms."""
    pairs = [(arm.spec, result) for arm, own in zip((one, other), results, strict=True) for result in own]
    prints = [content(spec, result) for spec, result in pairs]
    said = [words for name, words in _CONTENT.items() if len({own[name] for own in prints if name in own}) > 1]
    machines = [result["machine"] for _, result in pairs if isinstance(result.get("machine"), dict)]
    keys = sorted({key for machine in machines for key in machine})
    differing = [key for key in keys if len({str(machine.get(key)) for machine in machines}) > 1]
    return [*said, f"computed with another {' and '.join(differing)}, which may change numbers"] if differing else said


def adjust(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add `p_adjusted` (Holm, over all rows that have a p-value) and `says` (a sentence) to rows of differences."""
    from paraknow_core.ops.statistics import PairedResult, holm, says

    adjusted = holm([row.get("p_value") for row in rows])
    many = sum(value is not None for value in adjusted)
    for row, value in zip(rows, adjusted, strict=True):
        row["p_adjusted"] = value
        if row.get("difference") is None:
            row["says"] = row.get("problem") or "The scores are no averages over examples, so they are not paired."
            continue
        how = row["paired"] if many < 2 or value is None else f"{row['paired']}, Holm-adjusted p {p_words(value)}"
        numbers = [row[key] for key in ("difference", "difference_low", "difference_high", "shared")]
        low, high = row["difference_low"], row["difference_high"]
        apart, chance = low is not None and not low <= 0 <= high, value is not None and value >= 0.05
        sentence = says(PairedResult(*numbers, None if apart else value, how), row["unit"])
        row["says"] = f"Not told from chance: {sentence}" if apart and chance else sentence
    return rows


def p_text(p: float | None) -> str:
    """Return a p-value as people write it: `0.21`, `0.003`, `< 0.001`."""
    if p is None or p != p:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_words(p: float | None) -> str:
    """Return a p-value for a sentence: `= 0.21`, `< 0.001`."""
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def points_text(value: float | None, unit: str | None) -> str:
    """Return a difference with its sign: shares in points (hundredths), anything else in its own unit."""
    if value is None or value != value:
        return "–"
    points = 100 * value if abs(value) >= 0.0005 else 0.0  # never a minus before 0.0
    return f"{points:+.1f}" if unit == SHARE else f"{'+' if value >= 0 else '-'}{significant(abs(value))}"


def interval_text(low: float | None, high: float | None, unit: str | None) -> str:
    """Return an interval of a difference, as `points_text` writes its ends."""
    return "none" if low is None or high is None else f"{points_text(low, unit)} to {points_text(high, unit)}"


def side_by_side(
    one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], scorer: str, *, lower_is_better: bool = False
) -> list[dict[str, Any]]:  # fmt: skip
    """Set the answers of two runs to the same examples side by side.

    Args:
        one, other: records of two runs as `RunFolder.predictions()` gives them.
        scorer: whose scores count.
        lower_is_better: for perplexity.

    Returns:
        One row for each example that both have, in the order of the first: id, prompt, reference, output_a, output_b,
        score_a, score_b, and kind: gained (the second is better), lost, or same.
    """
    second = {record["id"]: record for record in other if record.get("scorer") == scorer and "id" in record}
    rows = []
    for record in one:
        if record.get("scorer") != scorer or record.get("id") not in second:
            continue
        match = second[record["id"]]
        if not studies.same_content(map(studies.content_of, (record, match))):
            continue
        a, b = float(record.get("score", 0.0)), float(match.get("score", 0.0))
        change = (a - b) if lower_is_better else (b - a)
        kind = "gained" if change > 1e-9 else "lost" if change < -1e-9 else "same"
        rows.append({
            "id": record["id"], "kind": kind,
            "prompt": _text(record, "prompt"), "reference": _text(record, "reference"),
            "output_a": _text(record, "output"), "output_b": _text(match, "output"), "score_a": a, "score_b": b,
        })  # fmt: skip
    return rows


def setting_text(key: str, value: Any) -> str:
    """Return one setting in few words: `rank 8`, `student kin`, `difference`."""
    word = _WORDS.get(key, key.rpartition(".")[2].replace("_", " "))
    if isinstance(value, list | tuple):
        shown = "+".join("–" if each is None else str(each) for each in value)
    elif key.endswith("source") and isinstance(value, str):
        shown = source_label(value, 20)
    elif isinstance(value, float):
        shown = compact(value)
    else:
        shown = "all" if value is None else str(value)
    return shorten(f"{word} {shown.replace('_', ' ')}".strip(), 34)


def _labels(specs: Sequence[RunSpec], prints: Sequence[Mapping[str, str]]) -> list[str]:
    """Name arms by their method and by what separates those of one method: settings, else data and weights."""
    settings = [effective(spec) | {"seed": None} for spec in specs]
    labels: list[str] = []
    for spec, own, made_of in zip(specs, settings, prints, strict=True):
        twins = [other for other, s in zip(prints, settings, strict=True) if s == own]
        rivals = [s for other, s in zip(specs, settings, strict=True) if other.method == spec.method]
        keys = [k for k in own if any(s.get(k) != own[k] for s in rivals)]
        special = spec.method == "seeking" and spec.injection.mode != "residual" and "injection.mode" not in keys
        parts = [setting_text(k, own[k]) for k in [*(["injection.mode"] if special else []), *keys]]
        parts += [f"{k} {v[:6]}" for k, v in made_of.items() if any(other.get(k) != v for other in twins)]
        label = shorten(", ".join([arm_of(spec.method).label, *parts]), _LABEL)
        again = sum(known == label or known.startswith(f"{label} (") for known in labels)
        labels.append(f"{label} ({again + 1})" if again else label)
    return labels


def _text(record: Mapping[str, Any], key: str) -> str:
    return str(record.get(key) or "")
