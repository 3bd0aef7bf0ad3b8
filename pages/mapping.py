"""Mapping & extraction: which teacher layer each student layer receives, what is cut, and what would be injected."""

import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.frame.layout import plain
from pages._ui.mapping import held as mapping_held
from pages._ui.mapping import numbers as mapping_numbers
from pages._ui.mapping import overview as mapping_overview
from pages._ui.mapping import preview as mapping_preview
from pages._ui.mapping.actions import actions, extraction_outcome
from pages._ui.mapping.choice import Choice, choice_of
from pages._ui.mapping.layers import editor
from pages._ui.mapping.settings import rank_problem, settings
from pages._ui.mapping.source import source_line
from paraknow_core.catalogue import METHODS, PAPER_METHOD
from paraknow_core.display import arm_of

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
    if choice.store is None or choice.plan["layers"] is None or not choice.pairs:
        st.caption("The blocks will be drawn here as soon as layers are mapped and the teacher was measured.")
        _skipped(choice)
        return
    if rank_problem(choice):
        st.caption("The blocks will be drawn here as soon as the rank fits.")
        _skipped(choice)
        return
    choices = {MINE: choice}
    held = mapping_held.held_choice()
    if held is not None:
        mapping_held.differences(choice, held)
        problem = rank_problem(held)
        if problem:
            layout.say(f"Held choice: {problem}")
        else:
            choices[HELD] = held
    above = st.container()  # drawn last: its means are over the table's rows
    module = mapping_preview.pick_module(choice)
    mapping_preview.pictures(choices, module)
    _notes(choice)
    for name, one in choices.items():
        st.markdown(f"**All modules{'' if len(choices) == 1 else f': {name.lower()}'}**")
        mapping_overview.table(one, name)
    with above:
        mapping_numbers.numbers({name: (one, mapping_overview.known_rows(one)[0]) for name, one in choices.items()})
    _skipped(choice)


def _method_line(choice: Choice) -> None:
    method = choice.spec.method
    if method == PAPER_METHOD:
        return
    if METHODS[method].structure:
        words = "The draft's method is the control random offset: windows lie at random places, whatever the structure."
    else:
        words = f"The draft's method is {arm_of(method).label}, which takes nothing from the teacher; shown is seeking."
    left, right = st.columns([4, 1.3], vertical_alignment="center")
    left.info(plain(words), icon=":material/info:")
    right.button("Use seeking", on_click=lambda: state.change({"method": PAPER_METHOD}), width="stretch")


def _notes(choice: Choice) -> None:
    notes = choice.plan["notes"]
    if notes:
        st.caption(plain("About this pair: " + "; ".join(notes) + "."))


def _skipped(choice: Choice) -> None:
    """List modules of the origin that receive nothing, with the reason."""
    skipped = [pair for pair in choice.plan["pairs"] if pair["action"] == "skip"]
    if skipped:
        with st.expander(f"{len(skipped)} modules receive nothing", icon=":material/block:"):
            st.dataframe(
                [{"student module": p["student_module"], "why": p["reason"]} for p in skipped], hide_index=True
            )


with layout.page("Mapping & extraction"):
    actions()
    extraction_outcome()
    body()
