"""Comparing finished runs: which of them are one arm, what separates two arms, and what may be said. Needs no torch."""

from paraknow_core.comparison.arms import NO_EFFECT, Arm, arms_of, other_settings, settings_that_differ, suggest
from paraknow_core.comparison.differences import (
    adjust,
    contrasts,
    published,
    score_rows,
    scored_by,
    scorers,
    side_by_side,
)
from paraknow_core.comparison.words import interval_text, p_text, points_text, setting_text

__all__ = [
    "NO_EFFECT", "Arm", "adjust", "arms_of", "contrasts", "interval_text", "other_settings", "p_text", "points_text",
    "published", "score_rows", "scored_by", "scorers", "setting_text", "settings_that_differ", "side_by_side",
    "suggest",
]  # fmt: skip
