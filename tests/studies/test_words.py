"""How a comparison is said."""

import pytest

from paraknow_core.ops.statistics import PairedResult
from paraknow_core.studies.words import p_text, points_text, says


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
