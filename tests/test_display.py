"""Numbers and names as people read them: hand-computed values and properties."""

import math
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paraknow_core import display
from paraknow_core.catalogue import METHODS


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0, 3, "0"),
        (1.2345, 3, "1.23"),
        (0.00012345, 3, "0.000123"),
        (0.000012345, 3, "1.23 × 10⁻⁵"),
        (12345.6, 3, "12,346"),
        (9.999, 3, "10.0"),
        (-0.5, 2, "-0.50"),
        (1e9, 2, "1.0 × 10⁹"),
        (math.nan, 3, "–"),
        (None, 3, "–"),
    ],
)
def test_significant(value, digits, text):
    assert display.significant(value, digits) == text


def test_counted():
    assert [display.counted(n, "example") for n in (0, 1, 2000)] == ["0 examples", "1 example", "2,000 examples"]


@given(st.floats(1e-4, 999, allow_subnormal=False))
def test_significant_is_within_half_of_its_last_digit(value):
    shown = float(display.significant(value).replace(",", ""))
    assert abs(shown - value) <= 0.00501 * value


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.42, "0.4 s"), (12, "12 s"), (59.6, "1 m 00 s"), (130, "2 m 10 s"), (11_100, "3 h 05 m"), (-1, "–")],
)
def test_duration(seconds, text):
    assert display.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(870, "870"), (4_900_000, "4.9 M"), (13e9, "13 B"), (1500, "1.5 k"), (None, "–")]
)
def test_count(number, text):
    assert display.count(number) == text


def test_score_of_a_share_is_percent_with_half_width_and_n():
    score = {"value": 0.412, "low": 0.399, "high": 0.425, "n": 300, "unit": "share"}
    assert display.score_text(score) == "41.2 ± 1.3 % (n = 300)"


def test_score_without_interval_or_value():
    assert display.score_text({"value": 7.25, "unit": "ppl", "n": 40}) == "7.25 ppl (n = 40)"
    assert display.score_text({"value": None}) == display.score_text(None) == "–"


def test_scorer_label_says_the_direction():
    assert display.scorer_label({"scorer": "perplexity", "unit": "ppl"}) == "perplexity [ppl], lower is better"
    assert display.scorer_label({"scorer": "rouge_l", "unit": "share"}) == "ROUGE-L [%], higher is better"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("bundled:word_problems", "word problems"),
        ("/data/x/My-Model", "My-Model"),
        ("owner/name", "owner/name"),
        ("~/m/", "m"),
        ("/", "/"),
    ],
)
def test_source_label(source, text):
    assert display.source_label(source) == text


@given(st.text(max_size=80), st.integers(3, 60))
def test_shorten_keeps_the_limit_and_both_ends(text, limit):
    short = display.shorten(text, limit)
    assert len(short) <= max(limit, 0)
    assert short == text or (text.startswith(short.split("…")[0]) and text.endswith(short.rsplit("…", 1)[1]))


def test_every_method_has_its_own_colour_and_the_published_ones():
    for shade in ("colour", "dark_colour"):
        named = defaultdict(list)
        for method in METHODS:
            named[getattr(display.ARMS[method], shade)].append(method)
        assert [f"{colour} of {names}" for colour, names in named.items() if len(names) > 1] == []
    assert (display.arm_of("seeking").colour, display.arm_of("default_lora").colour) == ("#0072B2", "#999999")
    assert (display.arm_of("olora").shade(dark=True), display.arm_of("olora").shade(dark=False)) == (
        "#F0E442",
        "#B8A200",
    )
    assert display.arm_of("some_new_arm").label == "some new arm"


def test_what_a_run_came_to_is_its_score_else_its_validation_loss():
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "unit": "share", "n": 100}
    validation = {"validation": {"final": 1.2345}}
    assert display.outcome_text({"scores": [score], **validation}) == display.score_text(score)
    assert display.outcome_text(validation) == "validation loss 1.234"
    assert display.outcome_text({"validation": {"final": None}, "diverged": {"step": 3}}) == "diverged"
    assert display.outcome_text(None) == display.outcome_text({"validation": {"final": None}}) == ""
