"""Comparing finished runs: which of them are one arm, what separates two arms, and what may be said. Needs no torch."""

from paraknow_core.studies.arms import (
    NO_EFFECT,
    Arm,
    arms_of,
    content,
    differing,
    effective,
    other_settings,
    settings_that_differ,
    suggest,
)
from paraknow_core.studies.differences import adjust, contrasts, published, score_rows, scored_by, scorers, side_by_side
from paraknow_core.studies.names import Named, run_names
from paraknow_core.studies.repeats import SEEDS, computes, missing_seeds, there_already
from paraknow_core.studies.words import interval_text, p_text, points_text, setting_text

__all__ = [
    "NO_EFFECT",
    "SEEDS",
    "Arm",
    "Named",
    "adjust",
    "arms_of",
    "computes",
    "content",
    "contrasts",
    "differing",
    "effective",
    "interval_text",
    "missing_seeds",
    "other_settings",
    "p_text",
    "points_text",
    "published",
    "run_names",
    "score_rows",
    "scored_by",
    "scorers",
    "setting_text",
    "settings_that_differ",
    "side_by_side",
    "suggest",
    "there_already",
]
