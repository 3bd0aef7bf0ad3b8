"""How a comparison is said."""

import pytest

from paraknow_core.studies.words import p_text, points_text


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
