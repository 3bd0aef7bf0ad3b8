"""How a comparison is said."""

import pytest

from paraknow_core.ops.statistics import PairedResult, Verdict
from paraknow_core.studies.words import p_text, points_text, says, verdict_line, verdict_sentence


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (0.0001, "< 0.001"), (0.0123, "0.012"), (0.21, "0.21"), (1.0, "1.00")]
)
def test_p_values_as_people_write_them(p, text):
    assert p_text(p) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.0213, "share", "+2.1"), (-0.0001, "share", "+0.0"), (None, "share", "–"), (-0.5, "nats per token", "-0.500")],
)
def test_differences_carry_their_sign(value, unit, text):
    assert points_text(value, unit) == text


def test_sentences():
    assert says(PairedResult(0.001, -0.006, 0.009, 200, 0.7, "5 seeds"), "share") == (
        "No difference larger than 0.9 points (95 % interval -0.6 to +0.9, 5 seeds)."
    )
    assert says(PairedResult(0.021, 0.009, 0.033, 200, 0.01, "5 seeds")) == (
        "+2.1 points (95 % interval +0.9 to +3.3, 5 seeds)."
    )
    assert says(PairedResult(-0.021, -0.033, -0.009, 200, None, "5 seeds")).startswith("-2.1 points")
    assert says(PairedResult(0.021, 0.001, 0.04, 200, 0.06, "x")).startswith("No difference larger than 4.0 points")
    wide = (0.021, -0.082, 0.124, 60)
    assert says(PairedResult(*wide, 0.34, "60 examples, sign-flip test")) == (
        "No difference was found: +2.1 points (95 % interval -8.2 to +12.4, 60 examples, sign-flip test, p = 0.34)."
    )
    assert says(PairedResult(*wide, 0.34, "sign-flip test, Holm-adjusted p 0.6")).endswith("Holm-adjusted p 0.6).")
    assert says(PairedResult(*wide, 0.34, "5 seeds")).endswith("to +12.4, 5 seeds).")
    assert says(PairedResult(0.021, -0.01, 0.05, 60, 0.2, "x")).startswith("No difference larger than 5.0 points")
    assert says(PairedResult(0.5, -9.0, 9.0, 9, 0.4, "x"), "ppl").startswith("No difference larger than 9.000 ppl")
    assert says(PairedResult(0.5, 0.25, 0.75, 9, 0.01, "x"), "ppl") == "+0.500 ppl (95 % interval +0.250 to +0.750, x)."


def verdict(word="undecided", **changed):
    ends = {"low": -0.003, "high": 0.031, "equivalence_low": -0.001, "equivalence_high": 0.028}
    counts = {"seeds": 6, "n": 1319, "comparisons": 1, "method": "", "p_interval": 0.1, "p_adjusted": None}
    own = {"difference": 0.014, "p_value": 0.09, "smallest_detectable": 0.026, "verdict": word, "margin": 0.01}
    return Verdict(**(own | ends | counts | changed))


def test_the_line_of_a_verdict():
    line = "+1.4 (-0.3 to +3.1), 6 seeds x 1,319 examples, smallest detectable 2.6: undecided"
    assert verdict_line(verdict()) == line
    assert verdict_line(verdict(seeds=1, n=60, smallest_detectable=None, low=None, high=None)) == (
        "+1.4 (no interval), 1 seed x 60 examples, smallest detectable none: undecided"
    )
    assert verdict_line(verdict(difference=-0.5, low=-0.75, high=-0.25, smallest_detectable=0.2), "nats") == (
        "-0.500 (-0.750 to -0.250), 6 seeds x 1,319 examples, smallest detectable 0.200: undecided"
    )


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (
            verdict("better", low=0.002),
            "Better by 1.4 points (95 % interval +0.2 to +3.1 points): more than chance in seeds and examples "
            "explains.",
        ),
        (
            verdict("worse", margin=0.05),
            "Worse by 1.4 points (95 % interval -0.3 to +3.1 points), below the declared margin of 5.0 points: more "
            "than chance in seeds and examples explains.",
        ),
        (
            verdict("equivalent", margin=0.05),
            "Equivalent: any difference is below the declared margin of 5.0 points (90 % interval -0.1 to +2.8 "
            "points).",
        ),
        (
            verdict(),
            "Undecided: anything in -0.3 to +3.1 points is possible; an effect below 2.6 points would mostly be "
            "missed.",
        ),
        (
            verdict(seeds=3, smallest_detectable=None),
            "Undecided: anything in -0.3 to +3.1 points is possible; 3 seeds cannot tell an effect from chance, 6 are "
            "needed.",
        ),
        (
            verdict(comparisons=4, smallest_detectable=None),
            "Undecided: anything in -0.3 to +3.1 points is possible; 6 seeds cannot tell an effect from chance, 8 are "
            "needed for 4 comparisons.",
        ),
        (
            verdict(low=None, smallest_detectable=None),
            "Undecided: nothing bounds the difference; no effect, however large, would be seen.",
        ),
    ],
)
def test_the_sentence_of_a_verdict(result, says):
    assert verdict_sentence(result) == says
