"""Lessons: guided experiments on the bundled models. Each asks, lets people predict, runs, and explains.

A lesson is plain data and one function: the specs of its runs, and what their results say. Nothing about an outcome is
written down here in advance: every sentence is computed from the runs that are there. To add one, write a module with a
`LESSON` beside these and name it in `LESSONS`; the page, its pictures and the addresses of its presets follow.
"""

from importlib import import_module

from paraknow_core.studies.lessons.base import Explanation, Lesson, Panel, Preset, Row

LESSONS: tuple[Lesson, ...] = tuple(
    import_module(f"{__name__}.{module}").LESSON for module in ("sight", "structure", "kinship", "samples", "origin")
)
PRESETS: dict[str, Preset] = {preset.name: preset for lesson in LESSONS for preset in lesson.presets}

__all__ = ["LESSONS", "PRESETS", "Explanation", "Lesson", "Panel", "Preset", "Row"]
