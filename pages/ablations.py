"""Ablations: studies prepared from presets or ticked factors, started in one click, followed, and judged."""

import streamlit as st

from pages._ui.ablations import draft, launch, presets, study
from pages._ui.frame import state
from pages._ui.frame.layout import say
from pages._ui.frame.page import page
from paraknow_core.errors import RunError
from paraknow_core.studies.folder import StudyFolder
from paraknow_core.workbench.study_draft import StudyDraft
from paraknow_core.workbench.views.ablations import named


def asked() -> StudyFolder | None:
    """Return the study that the address names; one that is not there is said, and all studies are shown."""
    name = st.query_params.get(study.PARAMETER, "")
    try:
        return named(state.place(), name) if name else None
    except RunError as error:
        say(error)
        return None


def prepare() -> None:
    """Draw the studies that are there, and what a new one is made from."""
    study.listed()
    untouched = state.whole_study() == StudyDraft()  # then a preset is the way to begin
    label = "**Presets**  each asks one question"
    with st.expander(label, expanded=untouched, icon=":material/apps:", key=f"ablations.presets.{untouched}"):
        presets.draw()
    st.subheader("New study", anchor=False)
    launch.draw(draft.draw())


with page("Ablations"):
    folder = asked()
    if folder is None:
        prepare()
    else:
        study.draw(folder)
