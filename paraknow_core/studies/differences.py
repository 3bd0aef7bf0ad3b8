"""What separates the arms of a comparison: scores, paired differences and what stands in their way; answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paraknow_core.catalogue import BASELINE, PAPER_METHOD
from paraknow_core.display import SHARE, arm_of, source_label
from paraknow_core.errors import ParaknowError
from paraknow_core.ops.statistics import PairedResult, holm
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec
from paraknow_core.studies import scores
from paraknow_core.studies.arms import Arm
from paraknow_core.studies.same import content, differing, effective
from paraknow_core.studies.words import NATS, p_words, says

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


@dataclass(frozen=True)
class Contrast:
    """How one arm differs from the arm that all are compared with.

    Attributes:
        arm: the one that differs.
        unit: of the difference, which may not be the score's: perplexities are paired by nats.
        n: test examples of the arm's score.
        seeds: how many of them were compared.
        result: the paired difference; None where the scores cannot be paired.
        problem: why not, where that is more than scores that are no averages.
        p_adjusted: the p-value, adjusted for the number of comparisons.
        says: all of this in a sentence.
        cautions: what stands between the difference and its meaning, as parts of a sentence.
    """

    arm: Arm
    unit: str | None
    n: int | None
    seeds: int
    result: PairedResult | None
    problem: str = ""
    p_adjusted: float | None = None
    says: str = ""
    cautions: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """Return the contrast as flat data, for tables and files."""
        own = {"label": self.arm.label, "method": self.arm.method, "variant": self.arm.variant, "key": self.arm.key}
        own |= {"unit": self.unit, "n": self.n, "seeds": self.seeds, "difference": None, "p_value": None}
        own |= scores.columns(self.result) | {"p_adjusted": self.p_adjusted, "says": self.says}
        return own | ({"problem": self.problem} if self.problem else {})


def scorers(arms: Sequence[Arm]) -> list[str]:
    """Return the scorers of the arms' runs, the main ones first."""
    names = [[str(score.get("scorer")) for score in _scores(arm.runs[0])] for arm in arms]
    return list(dict.fromkeys([*(own[0] for own in names if own), *(name for own in names for name in own)]))


def scored_by(arms: Sequence[Arm], scorer: str) -> list[Arm]:
    """Return the arms whose every run was scored by this scorer."""
    return [arm for arm in arms if all(any(s.get("scorer") == scorer for s in _scores(run)) for run in arm.runs)]


def _scores(run: RunFolder) -> list[dict[str, Any]]:
    return (run.result() or {}).get("scores") or []


def score_rows(
    arms: Sequence[Arm], scorer: str, pooled: Callable[..., dict[str, Any]] = scores.pooled
) -> list[dict[str, Any]]:
    """Return each arm's score, and those of the untouched models that were scored beside them.

    Args:
        arms: arms scored by this scorer.
        scorer: its name.
        pooled: `scores.pooled`, or something that remembers what it said.

    Returns:
        Rows of label, method, variant, points (one value a seed), scorer, unit, value, low, high, n, seeds.
    """
    rows: list[dict[str, Any]] = []
    untouched: dict[tuple, dict[str, Any]] = {}
    for arm in arms:
        values = [scores.score_of(run, scorer)["value"] for run in arm.runs]
        row = {"label": arm.label, "method": arm.method, "variant": arm.variant, "points": values}
        rows.append(row | pooled(arm.runs, scorer))
        for name, untrained in ((arm.runs[0].result() or {}).get("references") or {}).items():
            source = getattr(arm.spec, name).source if name in ("student", "teacher") else name
            for score in untrained:
                if score.get("scorer") == scorer:
                    untouched.setdefault((name, source, score.get("value"), score.get("n")), score)
    several = len({source for name, source, *_ in untouched if name == "student"}) > 1
    for (name, source, *_), score in untouched.items():
        label = arm_of(name).label + (f" ({source_label(source, 20)})" if several else "")
        row = {"label": label, "method": name, "variant": 0, "points": [], "seeds": None}
        rows.append(row | scores.plain(score))
    return rows


def contrasts(
    arms: Sequence[Arm], base: Arm, scorer: str, difference: Callable[..., PairedResult | None] = scores.difference
) -> list[Contrast]:
    """Return how each arm differs from one of them, with p-values adjusted for their number.

    Args:
        arms: arms scored by this scorer, the base among them.
        base: what is subtracted.
        scorer: its name.
        difference: `scores.difference`, or something that remembers what it said.

    Returns:
        One an arm, the base apart. An arm that cannot be paired leaves the others their differences.
    """
    contrasted = []
    for arm in arms:
        if arm.key == base.key:
            continue
        own, other, note = matched(arm, base)
        score = scores.score_of(own[0], scorer)
        unit, result, problem = score.get("unit"), None, ""
        try:
            result = difference(own, other, scorer)
            if result is None and unit == "ppl":
                result = difference(own, other, scorer, means_only=False)
                unit = NATS if result else unit
        except ParaknowError as error:
            problem = str(error)
        contrast = Contrast(arm, unit, score.get("n"), len(own), result, problem)
        contrasted.append(replace(contrast, cautions=tuple(cautions(contrast, base, own, other, note))))
    return adjust(contrasted)


def published(contrasts: Sequence[Contrast], base: Arm, scorer: str) -> list[tuple[str, str, float]]:
    """Return the paper's gains where the question is the same in kind: the method against default LoRA.

    Returns:
        (label of the arm, benchmark and pair, points).
    """
    if base.method != BASELINE:
        return []
    labels = [c.arm.label for c in contrasts if c.arm.method == PAPER_METHOD and c.unit == SHARE]
    return [(label, words, points) for label in labels[:1] for words, points in PAPER.get(scorer, ())]


def matched(arm: Arm, base: Arm) -> tuple[list[RunFolder], list[RunFolder], str]:
    """Return the runs of two arms that belong together, one pair a seed, and a sentence if that left some out."""
    shared = [seed for seed in arm.seeds if seed in base.seeds]
    if not shared:
        size = min(len(arm.runs), len(base.runs))
        note = "no seed is shared: chance in initialisation and data order is not paired"
        return list(arm.runs[:size]), list(base.runs[:size]), note
    own, other = (dict(zip(each.seeds, each.runs, strict=True)) for each in (arm, base))
    most = max(len(own), len(other))
    note = f"only {len(shared)} of {most} seeds are in both arms" if len(shared) < most else ""
    return [own[seed] for seed in shared], [other[seed] for seed in shared], note


def cautions(
    contrast: Contrast, base: Arm, own: Sequence[RunFolder], other: Sequence[RunFolder], note: str = ""
) -> list[str]:
    """Return what stands between a difference and its meaning, as parts of a sentence.

    Args:
        contrast: the difference.
        base: the arm that it is measured against.
        own, other: the runs of the two arms that were compared.
        note: what `matched` said.
    """
    arm, n = contrast.arm, contrast.n
    parts: list[str] = []
    keys = differing(effective(arm.spec), effective(base.spec))
    if keys:
        parts.append(f"{', '.join(keys)} also {'differs' if len(keys) == 1 else 'differ'}")
    changed = _changed(
        [*((arm.spec, run.result() or {}) for run in own), *((base.spec, r.result() or {}) for r in other)]
    )
    parts += changed
    shared = None if contrast.result is None else contrast.result.n
    if _CONTENT["test"] not in changed and shared is not None and n is not None and shared < n:
        parts.append(f"only {shared:,} of {n:,} test examples are in both")
    if n is not None and n < FEW_EXAMPLES:
        parts.append(f"n = {n} test examples are few")
    if contrast.unit == NATS:
        parts.append("paired by each example's nats per token, long and short ones alike; lower is better")
    seeds = min(len(arm.seeds), len(base.seeds))
    if seeds < FEW_SEEDS:
        parts.append("one seed says nothing about the next one" if seeds == 1 else f"{seeds} seeds are few")
    return [*parts, note] if note else parts


def _changed(runs: Sequence[tuple[RunSpec, Mapping[str, Any]]]) -> list[str]:
    """Say which data, weights and machine settings are not the same in all runs, given by spec and result."""
    prints = [content(spec, result) for spec, result in runs]
    parts = [words for name, words in _CONTENT.items() if len({own[name] for own in prints if name in own}) > 1]
    machines = [result["machine"] for _, result in runs if isinstance(result.get("machine"), dict)]
    keys = sorted({key for machine in machines for key in machine})
    others = [key for key in keys if len({str(machine.get(key)) for machine in machines}) > 1]
    return [*parts, f"computed with another {' and '.join(others)}, which may change numbers"] if others else parts


def adjust(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Add `p_adjusted` (Holm, over all contrasts that have a p-value) and `says` (a sentence)."""
    adjusted = holm([None if c.result is None else c.result.p_value for c in contrasts])
    many = sum(p is not None for p in adjusted) > 1
    return [replace(c, p_adjusted=p, says=_sentence(c, p, many)) for c, p in zip(contrasts, adjusted, strict=True)]


def _sentence(contrast: Contrast, p: float | None, many: bool) -> str:
    """Say a difference.

    Args:
        contrast: what is said.
        p: adjusted.
        many: whether it was adjusted for several comparisons.
    """
    result = contrast.result
    if result is None:
        return contrast.problem or scores.NOT_PAIRED[:1].upper() + scores.NOT_PAIRED[1:]
    how = f"{result.method}, Holm-adjusted p {p_words(p)}" if many and p is not None else result.method
    apart = result.low is not None and not result.low <= 0 <= result.high
    sentence = says(replace(result, p_value=None if apart else p, method=how), contrast.unit)
    return f"Not told from chance: {sentence}" if apart and p is not None and p >= 0.05 else sentence


def side_by_side(
    records: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    scorer: str,
    *,
    lower_is_better: bool = False,
) -> list[dict[str, Any]]:
    """Set the answers of two runs to the same examples side by side.

    Args:
        records, others: of two runs, as `RunFolder.predictions()` gives them.
        scorer: whose scores count.
        lower_is_better: for perplexity.

    Returns:
        One row for each example that both have, in the order of the first: id, prompt, reference, output_a, output_b,
        score_a, score_b, and kind: gained (the second is better), lost, or same.
    """
    second = {record["id"]: record for record in others if record.get("scorer") == scorer and "id" in record}
    rows = []
    for record in records:
        if record.get("scorer") != scorer or record.get("id") not in second:
            continue
        other = second[record["id"]]
        if not scores.same_content(map(scores.content_of, (record, other))):
            continue
        a, b = (float(answer.get("score", 0.0)) for answer in (record, other))
        change = (a - b) if lower_is_better else (b - a)
        kind = "gained" if change > 1e-9 else "lost" if change < -1e-9 else "same"
        texts = {key: str(record.get(key) or "") for key in ("prompt", "reference")}
        outputs = {f"output_{side}": str(r.get("output") or "") for side, r in (("a", record), ("b", other))}
        rows.append({"id": record["id"], "kind": kind, **texts, **outputs, "score_a": a, "score_b": b})
    return rows
