"""Giving a run a name, a note and a star, wherever one run is looked at."""

import streamlit as st

from pages._ui.frame import reading, state
from pages._ui.frame import run_panel as widgets
from pages._ui.frame.layout import plain
from pages._ui.frame.reading import Facts
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.labels import MOST_NAME, MOST_NOTE, set_label


def edit(run: RunFolder, one: Facts) -> None:
    """Draw the star and the box for name and note; nothing where this visitor may not change them."""
    if state.access().demo and not state.is_own(run.id):
        return
    starred = one.label.starred
    if st.button(
        "Unstar" if starred else "Star",
        key=f"star:{run.id}",
        icon=":material/star:",
        help=plain("Takes the star away." if starred else "Marks the run with ★ in every list."),
    ):
        widgets.act(lambda: _keep(run, starred=not starred))
    with st.popover("Label", icon=":material/edit_note:", help="A name of your own, and what there is to remember."):
        _form(run, one)


def _form(run: RunFolder, one: Facts) -> None:
    made = reading.names(state.place()).get(run.id, run.id)
    with st.form(f"label:{run.id}", border=False):
        name = st.text_input(
            "Name",
            one.label.name,
            max_chars=MOST_NAME,
            placeholder=made,
            key=f"label.name:{run.id}",
            help="Leave it empty to name the run by the settings in which it differs from others.",
        )
        note = st.text_area("Note", one.label.note, max_chars=MOST_NOTE, height=120, key=f"label.note:{run.id}")
        pressed = st.form_submit_button("Save", icon=":material/check:", type="primary")
    st.caption("Kept beside the run; what it computes stays as it is.")
    if pressed:
        widgets.act(lambda: _keep(run, name=name, note=note))


def _keep(run: RunFolder, **changes: str | bool) -> None:
    state.access().check_label(state.is_own(run.id))  # here, whatever was drawn: the page may be older than the rule
    set_label(run.path, **changes)
