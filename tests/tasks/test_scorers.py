"""Scores of given outputs and their summaries, against hand computation and slow twins."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from paraknow_core.errors import DataError
from paraknow_core.ops.statistics import proportion_interval
from paraknow_core.tasks.scorers import Record, score_output, summarise
from tests.tasks.conftest import ask


def records(scores, scorer="exact_match", **detail):
    return [Record(str(i), "p", "r", "o", float(score), dict(detail), scorer) for i, score in enumerate(scores)]


def test_number_match_records():
    example = ask("q", "so 3+4=7\n#### 7")
    right = score_output("number_match", example, "The answer is 7.0")
    assert (right.score, right.detail) == (1.0, {"wanted": "7", "extracted": "7", "strict": 0.0, "failed": False})
    assert (right.id, right.prompt, right.reference, right.scorer) == ("e", "q", "so 3+4=7\n#### 7", "number_match")
    assert score_output("number_match", example, "#### 7").detail["strict"] == 1.0
    assert score_output("number_match", example, "#### 8").score == 0.0
    failed = score_output("number_match", example, "no idea")
    assert (failed.score, failed.detail["failed"], failed.detail["extracted"]) == (0.0, True, None)
    with pytest.raises(DataError, match="holds no number"):
        score_output("number_match", ask("q", "none"), "7")
    score = summarise("number_match", [right, failed])
    assert (score.value, score.n, score.unit) == (0.5, 2, "share")
    assert score.extra == {"strict_accuracy": 0.0, "failed_extractions": 0.5}


def test_exact_match_ignores_white_space_only():
    assert score_output("exact_match", ask("q", "a b"), " a\n b ").score == 1.0
    assert score_output("exact_match", ask("q", "a b"), "A b").score == 0.0


def test_texts_are_compared_in_nfc():
    assert score_output("exact_match", ask("q", "caf\u00e9"), "cafe\u0301").score == 1.0
    assert score_output("exact_match", ask("q", "10\u00b2"), "102").score == 0.0
    assert score_output("rouge_l", ask("q", "un caf\u00e9"), "un cafe\u0301").score == 1.0
    assert score_output("number_match", ask("q", "caf\u00e9 #### 3/4"), "cafe\u0301: 0.75").score == 1.0


def test_zero_one_scores_take_wilson_others_the_bootstrap():
    score = summarise("exact_match", records([1] * 8 + [0] * 2))
    assert (score.low, score.high) == proportion_interval(8, 10)
    values = np.random.default_rng(3).random(200)
    score = summarise("rouge_l", records(values, "rouge_l"))
    normal = 1.96 * values.std() / math.sqrt(200)
    assert score.value == pytest.approx(values.mean())
    assert score.value - score.low == pytest.approx(normal, rel=0.15)
    assert score.high - score.value == pytest.approx(normal, rel=0.15)
    assert score == summarise("rouge_l", records(values, "rouge_l"))
    assert score == summarise("rouge_l", records(values, "rouge_l")[::-1])


def test_perplexity_is_of_the_sums():
    entries = [
        Record("a", "", "", "", 2.0, {"nats": 4.0, "tokens": 2, "bytes": 8}, "perplexity"),
        Record("b", "", "", "", 1.0, {"nats": 8.0, "tokens": 8, "bytes": 16}, "perplexity"),
    ]
    score = summarise("perplexity", entries)
    assert (score.unit, score.n) == ("ppl", 2)
    assert score.value == pytest.approx(math.exp(12 / 10))
    assert score.extra["bits_per_byte"] == pytest.approx(12 / math.log(2) / 24)
    assert score.low == pytest.approx(math.exp(1.0)) and score.high == pytest.approx(math.exp(2.0))
    huge = [Record("a", "", "", "", 900.0, {"nats": 900.0, "tokens": 1, "bytes": 0}, "perplexity")]
    assert math.isfinite(summarise("perplexity", huge).value)


def test_perplexity_interval_resamples_nats_and_tokens_together():
    nats, tokens = [4.0, 90.0, 6.0, 1.0], [2, 30, 9, 1]
    entries = [
        Record(str(i), "", "", "", n / t, {"nats": n, "tokens": t, "bytes": t}, "perplexity")
        for i, (n, t) in enumerate(zip(nats, tokens, strict=True))
    ]
    drawn = np.random.default_rng(0).integers(4, size=(2000, 4)).tolist()
    ratios = [sum(nats[i] for i in row) / sum(tokens[i] for i in row) for row in drawn]
    low, high = np.quantile(ratios, [0.025, 0.975])
    score = summarise("perplexity", entries)
    assert (score.low, score.high) == pytest.approx((math.exp(low), math.exp(high)))


def test_win_rate_summary_counts_outcomes():
    entries = [
        *records([1, 1], "win_rate", outcome="win", stopped="end"),
        *records([0.5], "win_rate", outcome="tie", stopped="context"),
    ]
    score = summarise("win_rate", entries)
    assert score.value == pytest.approx(2.5 / 3)
    assert score.extra == pytest.approx({"win_share": 2 / 3, "tie_share": 1 / 3, "loss_share": 0, "unfinished": 1 / 3})


def test_summaries_are_plain_data_and_refuse_nothing():
    json.dumps(asdict(summarise("exact_match", records([1, 0]))), allow_nan=False)
    with pytest.raises(DataError, match="no example was scored"):
        summarise("exact_match", [])
