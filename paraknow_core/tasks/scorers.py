"""Scorers: what a model did with an example becomes a record, and the records of a split one score. No torch.

To add a scorer, write its row in `catalogue.SCORERS` and the function that the row's `code` names, in this module:

    def my_scorer(example: Example, evidence: Evidence) -> tuple[float, dict[str, Any]]

It returns the score (0 to 1, larger is better) and what the score rests on, as plain data for the record. The row's
`by` says what the model does with the example (`model_scores` lets it), and with it which parts of the evidence are
filled in. Only perplexity is not a share: its record's score is the mean nats per token.

Texts are compared in NFC: see `answers` for numbers and texts, `rouge` for words.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paraknow_core.catalogue import SCORERS, implementation
from paraknow_core.errors import DataError
from paraknow_core.ops.statistics import bootstrap_interval, proportion_interval
from paraknow_core.tasks.answers import extract_number, normalise_answer, same_number
from paraknow_core.tasks.characters import same_text
from paraknow_core.tasks.rouge import rouge_l
from paraknow_core.tasks.task import Example, Task
from paraknow_core.tasks.thoughts import judged

RESAMPLES = 2000  # of the examples, for an interval
TIE = 1e-6  # nats per token


@dataclass(frozen=True)
class Evidence:
    """What a model did with one example; which parts are filled in depends on the `by` of the scorer's row.

    Attributes:
        text: what it wrote, without its thoughts (writing, judge); the choice that it finds likeliest (choice).
        log_probs: choice -> its log-probability in nats (choice).
        nats, tokens, bytes: the reference's, summed over it (reading).
        judge_means: of what the model wrote and of the reference, the judge's mean log-probability per token (judge).
    """

    text: str = ""
    log_probs: Mapping[str, float] = field(default_factory=dict)
    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0
    judge_means: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Record:
    """How one example went.

    Attributes:
        id: of the example.
        prompt, reference, output: texts; the output is what the model wrote or chose.
        score: between 0 and 1; for perplexity, mean nats per token.
        detail: what the score rests on, as plain data.
        scorer: which scorer gave it.
    """

    id: str
    prompt: str
    reference: str
    output: str
    score: float
    detail: dict[str, Any] = field(default_factory=dict)
    scorer: str = ""


@dataclass(frozen=True)
class Score:
    """A scorer's value over a split.

    Attributes:
        value, low, high: the value and its 95 % interval over examples (not over seeds).
        n: examples.
        unit: "share" (0 to 1, shown as %) or "ppl".
        extra: further numbers, e.g. strict accuracy, share of failed extractions, bits per byte.
    """

    scorer: str
    value: float
    low: float
    high: float
    n: int
    unit: str
    extra: dict[str, float] = field(default_factory=dict)


# --- one function a scorer ------------------------------------------------------------------------------------------


def number_match(example: Example, evidence: Evidence) -> tuple[float, dict[str, Any]]:
    """Compare the numbers that the reference and the written text give as their answers.

    Raises:
        DataError: the reference holds no number.
    """
    wanted, extracted = extract_number(example.reference), extract_number(evidence.text)
    if wanted is None:
        raise DataError(f"example {example.id}: its answer holds no number; use exact_match, not number_match")
    strict = float(same_number(wanted, extract_number(evidence.text, strict=True)))
    detail = {"wanted": wanted, "extracted": extracted, "strict": strict, "failed": extracted is None}
    return float(same_number(wanted, extracted)), detail


def exact_match(example: Example, evidence: Evidence) -> tuple[float, dict[str, Any]]:
    """Compare whole texts, white space aside."""
    return float(normalise_answer(example.reference) == normalise_answer(evidence.text)), {}


def rouge(example: Example, evidence: Evidence) -> tuple[float, dict[str, Any]]:
    """Score the words that both texts have in one order; see `rouge.rouge_l`."""
    return rouge_l(example.reference, evidence.text), {}


def multiple_choice(example: Example, evidence: Evidence) -> tuple[float, dict[str, Any]]:
    """Compare the likeliest choice with the right one."""
    return float(same_text(evidence.text, example.reference)), {"log_probs": dict(evidence.log_probs)}


def perplexity(example: Example, evidence: Evidence) -> tuple[float, dict[str, Any]]:  # noqa: ARG001
    """Return the mean nats per token of the reference."""
    detail = {"nats": evidence.nats, "tokens": evidence.tokens, "bytes": evidence.bytes}
    return evidence.nats / evidence.tokens, detail


def win_rate(example: Example, evidence: Evidence) -> tuple[float, dict[str, Any]]:  # noqa: ARG001
    """Let the judge's mean log-probability per token decide between text and reference; an empty text loses."""
    own, other = evidence.judge_means
    score = 0.0 if not evidence.text or own < other - TIE else 1.0 if own > other + TIE else 0.5
    outcome = {1.0: "win", 0.5: "tie", 0.0: "loss"}[score]
    return score, {"outcome": outcome, "output_nats": -own if evidence.text else None, "reference_nats": -other}


# --- records and their summary --------------------------------------------------------------------------------------


def record(scorer: str, example: Example, output: str, evidence: Evidence) -> Record:
    """Score what a model did with an example.

    Args:
        scorer: a name in `catalogue.SCORERS`.
        example: with its reference, thoughts included.
        output: what the record shows as the model's.
        evidence: what the scorer looks at.
    """
    reference = judged("", example.reference)[1] if SCORERS[scorer].writes else example.reference
    compared = example if reference == example.reference else example.with_answer(reference)
    score, detail = implementation(SCORERS[scorer])(compared, evidence)
    return Record(example.id, example.question, example.reference, output, score, detail, scorer)


def score_output(scorer: str, example: Example, output: str) -> Record:
    """Score a written answer: what comes after the model's thoughts, if any.

    Args:
        scorer: one by writing.

    Raises:
        DataError: number_match, and the reference holds no number.
    """
    return record(scorer, example, output, Evidence(judged(output, example.reference)[0]))


def summarise(scorer: str, records: Sequence[Record], task: Task | None = None) -> Score:
    """Summarise records of one scorer.

    Intervals: Wilson when every score is 0 or 1, else percentile bootstrap over examples (2000 resamples, fixed seed).
    Perplexity is exp(sum of nats / sum of tokens), bits per byte sum of nats / ln 2 / sum of bytes.

    Raises:
        DataError: there is no record.
    """
    if not records:
        where = f"task {task.name}" if task else scorer
        raise DataError(f"{where}: no example was scored; give a test split with at least one")
    ordered = sorted(records, key=lambda entry: entry.id)  # so that the order of arrival changes no digit
    if SCORERS[scorer].unit == "ppl":
        return _perplexity_of(scorer, ordered)
    values = [entry.score for entry in ordered]
    if set(values) <= {0.0, 1.0}:
        low, high = proportion_interval(int(sum(values)), len(values))
    else:
        low, high = _bootstrap(values)
    return Score(scorer, math.fsum(values) / len(values), low, high, len(values), "share", _extra(ordered))


def _bootstrap(values: Sequence[float], weights: Sequence[float] | None = None) -> tuple[float, float]:
    """Return the interval of a mean, or of sum(values) / sum(weights); NaN for a model whose losses are no numbers."""
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    return bootstrap_interval(values, weights, resamples=RESAMPLES)


def _extra(records: Sequence[Record]) -> dict[str, float]:
    """Return further numbers from the details, as far as all records have them."""
    count = len(records)
    details = [entry.detail for entry in records]
    present = set.intersection(*map(set, details))
    extra: dict[str, float] = {}
    if {"strict", "failed"} <= present:
        extra["strict_accuracy"] = sum(float(detail["strict"]) for detail in details) / count
        extra["failed_extractions"] = sum(float(detail["failed"]) for detail in details) / count
    if "outcome" in present:
        outcomes = [detail["outcome"] for detail in details]
        extra |= {f"{name}_share": outcomes.count(name) / count for name in ("win", "tie", "loss")}
    if "stopped" in present:
        extra["unfinished"] = sum(detail["stopped"] != "end" for detail in details) / count
    return extra


def _perplexity_of(scorer: str, records: Sequence[Record]) -> Score:
    nats, tokens, sizes = ([float(entry.detail[key]) for entry in records] for key in ("nats", "tokens", "bytes"))
    mean = math.fsum(nats) / math.fsum(tokens)
    low, high = _bootstrap(nats, tokens)
    extra = {"nats_per_token": mean, "tokens": math.fsum(tokens), "bytes": math.fsum(sizes)}
    if min(sizes) > 0:
        bits_low, bits_high = (edge / math.log(2) for edge in _bootstrap(nats, sizes))
        extra |= {
            "bits_per_byte": math.fsum(nats) / math.log(2) / math.fsum(sizes),
            "bits_per_byte_low": bits_low,
            "bits_per_byte_high": bits_high,
        }
    value, low, high = (math.exp(min(edge, 700.0)) for edge in (mean, low, high))  # exp(700) still is a number
    return Score(scorer, value, low, high, len(records), "ppl", extra)
