"""Repeating a run with other seeds, beside its controls: one seed is one throw of the dice."""

import streamlit as st

from pages._ui.frame import launching, reading, state
from pages._ui.frame import run_panel as widgets
from pages._ui.frame.layout import plain
from pages._ui.frame.reading import Facts
from paraknow_core import studies as comparison
from paraknow_core.display import counted
from paraknow_core.spec import RunSpec


def repeat(one: Facts, controls: list[Facts]) -> None:
    """Draw what too few seeds mean, and the button that runs those that are missing.

    Args:
        one: the run that is looked at, with scores.
        controls: the runs that stand beside it.
    """
    missing = _missing(one, controls)
    said = "One seed is one throw of the dice: repeat with at least three before calling anything better."
    if not missing:
        st.caption(plain(f"{comparison.SEEDS} seeds of each are there or in the queue; Compare takes them together."))
        return
    words, button = st.columns([4, 1.25], vertical_alignment="center")
    words.caption(plain(said))
    arms = " and ".join(dict.fromkeys(launching.arm_name(spec.method) for spec in missing))
    numbers = launching.seed_words(sorted({spec.seed for spec in missing}))
    pressed = button.button(
        f"Run {numbers}",
        key=f"seeds:{one.id}",
        icon=":material/casino:",
        width="stretch",
        help=plain(f"Puts {counted(len(missing), 'run')} into the queue, everything else equal: {arms}, {numbers}."),
    )
    if pressed and widgets.start(*missing) is not None:
        st.rerun()


def _missing(one: Facts, controls: list[Facts]) -> list[RunSpec]:
    arms = [each.spec for each in (one, *controls) if each.spec is not None]
    methods = {spec.method for spec in arms}
    runs = [
        (run, other.spec)
        for run, other in reading.all_facts(state.place())
        if other.spec is not None and other.spec.method in methods and reading.is_comparable(one, other)
    ]
    # A run with its seed alone changed is comparable to itself, so these are all that can count.
    return comparison.missing_seeds(arms, runs, launching.state_of)
