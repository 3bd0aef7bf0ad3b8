"""Lessons: five guided experiments on the bundled models. Each asks, lets people predict, runs, and explains.

A lesson is plain data and one function: the specs of its runs, and what their results say. Nothing about an outcome is
written down here in advance: every sentence is computed from the runs that are there.
"""

from paraknow_core.studies.lessons import kinship, origin, samples, sight, structure
from paraknow_core.studies.lessons.base import Explanation, Lesson, Panel, Preset, Row

LESSONS: tuple[Lesson, ...] = (sight.LESSON, structure.LESSON, kinship.LESSON, samples.LESSON, origin.LESSON)
PRESETS: dict[str, Preset] = {preset.name: preset for one in LESSONS for preset in one.presets}

__all__ = ["LESSONS", "PRESETS", "Explanation", "Lesson", "Panel", "Preset", "Row"]
