"""Comparing finished runs: which of them are one arm, what separates two arms, and what may be said. Needs no torch.

In the order of the work: `spec` (what a study runs), `same` (when two runs ask the same), `repeats` (which runs are
there already), `arms` (which runs are one arm), `scores` (what two arms score), `differences` (what separates all of
them), `words` and `names` (how all that is said); `lessons/` are studies with a question and an explanation.
"""

from paraknow_core.studies.arms import NO_EFFECT, Arm, arms_of, settings_that_differ, suggest
from paraknow_core.studies.differences import (
    Contrast,
    adjust,
    contrasts,
    published,
    score_rows,
    scored_by,
    scorers,
    side_by_side,
)
from paraknow_core.studies.names import Named, run_names
from paraknow_core.studies.repeats import SEEDS, missing_seeds, there_already
from paraknow_core.studies.same import asked, computes, content, differing, effective, other_content
from paraknow_core.studies.words import interval_text, p_text, points_text, setting_text

__all__ = [
    "NO_EFFECT",
    "SEEDS",
    "Arm",
    "Contrast",
    "Named",
    "adjust",
    "arms_of",
    "asked",
    "computes",
    "content",
    "contrasts",
    "differing",
    "effective",
    "interval_text",
    "missing_seeds",
    "other_content",
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
