"""The scores of arms, their paired differences, what stands between a difference and its meaning, and answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paraknow_core.catalogue import BASELINE, PAPER_METHOD
from paraknow_core.display import SHARE, arm_of, source_label
from paraknow_core.errors import ParaknowError
from paraknow_core.runs.folder import RunFolder
from paraknow_core.studies import scores as studies
from paraknow_core.studies.arms import Arm, content, other_settings
from paraknow_core.studies.words import p_words

NATS = "nats per token"  # perplexities are paired by the logarithm of each example's
FEW_EXAMPLES, FEW_SEEDS = 100, 3
_CONTENT = {
    "test": "the test examples are not the same",
    "train": "the training examples are not the same",
    "validation": "the validation examples are not the same",
    "student": "the student's weights are not the same",
    "teacher": "the teacher's weights are not the same",
    "tokenizer": "the tokenizer is not the same",
}
# Published gains of the method over default LoRA, in points, by what their benchmark shares with a scorer here.
# LLaMA-1 7B students; teachers of 13 and 30 billion weights. Source: Zhong et al., ICLR 2024, arXiv:2310.11451.
PAPER: dict[str, tuple[tuple[str, float], ...]] = {
    "number_match": (("GSM8K, 13B → 7B", 1.47), ("GSM8K, 30B → 7B", 1.37)),
    "multiple_choice": (("MMLU, 13B → 7B", 0.60), ("MMLU, 30B → 7B", 1.77)),
    "exact_match": (("Super-NI exact match, 13B → 7B", 1.60), ("Super-NI exact match, 30B → 7B", 2.10)),
    "rouge_l": (("Super-NI ROUGE-L, 13B → 7B", 1.88), ("Super-NI ROUGE-L, 30B → 7B", 2.59)),
    "win_rate": (("AlpacaFarm, 13B → 7B", 0.21), ("AlpacaFarm, 30B → 7B", 0.33)),
}


def scorers(arms: Sequence[Arm]) -> list[str]:
    """Return the scorers of the arms' runs, the main ones first."""
    names = [[str(score.get("scorer")) for score in (g.runs[0].result() or {}).get("scores") or []] for g in arms]
    return list(dict.fromkeys([*(own[0] for own in names if own), *(name for own in names for name in own)]))


def scored_by(arms: Sequence[Arm], scorer: str) -> list[Arm]:
    """Return the arms whose every run was scored by this scorer."""

    def has(run: RunFolder) -> bool:
        return any(score.get("scorer") == scorer for score in (run.result() or {}).get("scores") or [])

    return [g for g in arms if all(has(run) for run in g.runs)]


def score_rows(
    arms: Sequence[Arm], scorer: str, pooled: Callable[..., dict[str, Any]] = studies.pooled
) -> list[dict[str, Any]]:
    """Return each arm's score, and those of the untouched models that were scored beside them.

    Args:
        arms: arms scored by this scorer.
        scorer: its name.
        pooled: `studies.pooled`, or something that remembers what it said.

    Returns:
        Rows of label, method, variant, points (one value a seed), scorer, unit, value, low, high, n, seeds.
    """
    rows: list[dict[str, Any]] = []
    untouched: dict[tuple, dict[str, Any]] = {}
    for g in arms:
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
    arms: Sequence[Arm], base: Arm, scorer: str, difference: Callable[..., dict[str, Any]] = studies.difference
) -> list[dict[str, Any]]:
    """Return how each arm differs from one of them, with p-values adjusted for their number.

    Args:
        arms: arms scored by this scorer, the base among them.
        base: what is subtracted.
        scorer: its name.
        difference: `studies.difference`, or something that remembers what it said.

    Returns:
        Rows of label, method, variant, key, unit, n, seeds (compared), difference, difference_low, difference_high,
        p_value, paired, shared, p_adjusted, says (a sentence) and cautions (parts of a sentence). An arm that cannot be
        paired has a problem (a sentence) instead; the others keep their differences.
    """
    rows = []
    for g in arms:
        if g.key == base.key:
            continue
        own, other, note = matched(g, base)
        results = tuple([run.result() or {} for run in arm] for arm in (own, other))
        score = studies.score_of(own[0], scorer)
        row = {
            "label": g.label,
            "method": g.method,
            "variant": g.variant,
            "key": g.key,
            "unit": score.get("unit"),
            "n": score.get("n"),
            "seeds": len(own),
            "difference": None,
            "p_value": None,
        }
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


def published(rows: Sequence[Mapping[str, Any]], base: Arm, scorer: str) -> list[tuple[str, str, float]]:
    """Return the paper's gains where the question is the same in kind: the method against default LoRA.

    Returns:
        (label of the row, benchmark and pair, points).
    """
    if base.method != BASELINE:
        return []
    labels = [row["label"] for row in rows if row["method"] == PAPER_METHOD and row.get("unit") == SHARE]
    return [(label, words, points) for label in labels[:1] for words, points in PAPER.get(scorer, ())]


def matched(one: Arm, other: Arm) -> tuple[list[RunFolder], list[RunFolder], str]:
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
    one: Arm, other: Arm, row: Mapping[str, Any], results: tuple[Sequence[Mapping], Sequence[Mapping]], note: str = ""
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


def _changed(one: Arm, other: Arm, results: tuple[Sequence[Mapping], Sequence[Mapping]]) -> list[str]:
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


def side_by_side(
    one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], scorer: str, *, lower_is_better: bool = False
) -> list[dict[str, Any]]:
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
        rows.append(
            {
                "id": record["id"],
                "kind": kind,
                "prompt": _text(record, "prompt"),
                "reference": _text(record, "reference"),
                "output_a": _text(record, "output"),
                "output_b": _text(match, "output"),
                "score_a": a,
                "score_b": b,
            }
        )
    return rows


def _text(record: Mapping[str, Any], key: str) -> str:
    return str(record.get(key) or "")
