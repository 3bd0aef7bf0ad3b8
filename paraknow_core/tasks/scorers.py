"""Scores: one record per example, and the summary of records as a value with its 95 % interval. No torch.

Every score is larger-is-better, except perplexity, whose record score is the mean nats per token. Texts are compared
in NFC: see `answers` for numbers and texts, `rouge` for words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from paraknow_core.catalogue import SCORERS
from paraknow_core.errors import DataError
from paraknow_core.ops.statistics import bootstrap_interval, proportion_interval
from paraknow_core.tasks.answers import extract_number, normalise_answer, same_number
from paraknow_core.tasks.rouge import rouge_l
from paraknow_core.tasks.task import Example, Task
from paraknow_core.tasks.thoughts import judged

GENERATIVE = tuple(name for name, row in SCORERS.items() if row.by == "writing")
LIKELIHOOD = tuple(name for name, row in SCORERS.items() if row.by == "likelihood")
RESAMPLES = 2000  # of the examples, for an interval


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


def score_output(scorer: str, example: Example, output: str) -> Record:
    """Score a written answer by number_match, exact_match or rouge_l: what comes after the model's thoughts, if any.

    Raises:
        DataError: number_match, and the reference holds no number.
    """
    given, against = judged(output, example.reference)
    score, detail = _SCORE[scorer](example if against == example.reference else example.with_answer(against), given)
    return record(scorer, example, output, score, detail)


def record(scorer: str, example: Example, output: str, score: float, detail: dict[str, Any]) -> Record:
    """Make the record of an example."""
    return Record(example.id, example.question, example.reference, output, score, detail, scorer)


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
    if scorer == "perplexity":
        return _summarise_perplexity(ordered)
    values = [entry.score for entry in ordered]
    if set(values) <= {0.0, 1.0}:
        low, high = proportion_interval(int(sum(values)), len(values))
    else:
        low, high = _bootstrap(values)
    return Score(scorer, math.fsum(values) / len(values), low, high, len(values), "share", _extra(scorer, ordered))


def _bootstrap(values: Sequence[float], weights: Sequence[float] | None = None) -> tuple[float, float]:
    """Return the interval of a mean, or of sum(values) / sum(weights); NaN for a model whose losses are no numbers."""
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    return bootstrap_interval(values, weights, resamples=RESAMPLES)


def _number_match(example: Example, output: str) -> tuple[float, dict]:
    wanted, found = extract_number(example.reference), extract_number(output)
    if wanted is None:
        raise DataError(f"example {example.id}: its answer holds no number; use exact_match, not number_match")
    strict = same_number(wanted, extract_number(output, strict=True))
    detail = {"wanted": wanted, "extracted": found, "strict": float(strict), "failed": found is None}
    return float(same_number(wanted, found)), detail


def _exact_match(example: Example, output: str) -> tuple[float, dict]:
    return float(normalise_answer(example.reference) == normalise_answer(output)), {}


def _rouge_l(example: Example, output: str) -> tuple[float, dict]:
    return rouge_l(example.reference, output), {}


_SCORE = {"number_match": _number_match, "exact_match": _exact_match, "rouge_l": _rouge_l}


def _share(records: Sequence[Record], key: str) -> float:
    return sum(float(entry.detail[key]) for entry in records) / len(records)


def _extra(scorer: str, records: Sequence[Record]) -> dict[str, float]:
    extra: dict[str, float] = {}
    if scorer == "number_match":
        extra = {"strict_accuracy": _share(records, "strict"), "failed_extractions": _share(records, "failed")}
    if scorer == "win_rate":
        outcomes = [entry.detail["outcome"] for entry in records]
        extra = {f"{name}_share": outcomes.count(name) / len(outcomes) for name in ("win", "tie", "loss")}
    if all("stopped" in entry.detail for entry in records):
        extra["unfinished"] = sum(entry.detail["stopped"] != "end" for entry in records) / len(records)
    return extra


def _summarise_perplexity(records: Sequence[Record]) -> Score:
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
    return Score("perplexity", value, low, high, len(records), "ppl", extra)
