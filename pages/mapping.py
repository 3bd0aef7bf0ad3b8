"""Mapping & extraction: which teacher layer each student layer receives, what is cut, and what would be injected."""

import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.frame.layout import info, plain
from pages._ui.frame.page import page
from pages._ui.mapping import overview, preview
from pages._ui.mapping.actions import actions, extraction_outcome
from pages._ui.mapping.choice import choice_of, differences, held_choice
from pages._ui.mapping.layers import editor
from pages._ui.mapping.settings import settings
from pages._ui.mapping.source import source_line
from paraknow_core.catalogue import METHODS, PAPER_METHOD, STRUCTURES
from paraknow_core.display import arm_of
from paraknow_core.workbench.views.mapping import Choice

MINE, HELD = "This choice", "Held choice"


def body() -> None:
    """Draw the draft's choice and, where one is held, the other beside it."""
    choice = choice_of(state.draft())
    if choice is None:
        st.page_link("pages/models.py", label="Choose models and task", icon=":material/hub:")
        return
    _method_line(choice)
    source_line(choice)
    st.subheader("Layer mapping", anchor=False)
    editor(choice)
    st.subheader("Extraction and injection", anchor=False)
    settings(choice)
    st.subheader("What would be injected", anchor=False)
    for sentence in choice.plan["blocking"]:
        layout.say(sentence)
    what = "layers are mapped and the teacher was measured" if not choice.can_be_shown else "the rank fits"
    if not choice.can_be_shown or choice.rank_problem():
        st.caption(f"The blocks will be drawn here as soon as {what}.")
        _skipped(choice)
        return
    choices = {MINE: choice}
    held = held_choice()
    if held is not None:
        differences(choice, held)
        problem = held.rank_problem()
        if problem:
            layout.say(f"Held choice: {problem}")
        else:
            choices[HELD] = held
    above = st.container()  # drawn last: its means are over the table's rows
    preview.pictures(choices, preview.pick_module(choice))
    if choice.plan["notes"]:
        st.caption(plain("About this pair: " + "; ".join(choice.plan["notes"]) + "."))
    for name, shown in choices.items():
        st.markdown(f"**All modules{'' if len(choices) == 1 else f': {name.lower()}'}**")
        overview.table(shown, name)
    with above:
        overview.numbers(choices)
    _skipped(choice)


def _method_line(choice: Choice) -> None:
    method = choice.spec.method
    if method == PAPER_METHOD:
        return
    if METHODS[method].structure:
        taken = STRUCTURES[METHODS[method].structure].text.partition(":")[0]
        words = f"The draft's method is the control {arm_of(method).label}: {taken}, whatever the structure."
    elif METHODS[method].needs_teacher:
        words = f"The draft's method is the control {arm_of(method).label}; shown is the block that it begins with."
    else:
        words = f"The draft's method is {arm_of(method).label}, which takes nothing from the teacher; shown is seeking."
    left, right = st.columns([4, 1.3], vertical_alignment="center")
    info(plain(words), "info", left)
    right.button("Use seeking", on_click=lambda: state.change({"method": PAPER_METHOD}), width="stretch")


def _skipped(choice: Choice) -> None:
    """List modules of the origin that receive nothing, with the reason."""
    skipped = [pair for pair in choice.plan["pairs"] if pair["action"] == "skip"]
    if skipped:
        with st.expander(f"{len(skipped)} modules receive nothing", icon=":material/block:"):
            st.dataframe(
                [{"student module": p["student_module"], "why": p["reason"]} for p in skipped], hide_index=True
            )


with page("Mapping & extraction"):
    actions()
    extraction_outcome()
    body()
