"""Presets by address: `?preset=NAME` on any page puts a draft in place, and asks first where one would be lost."""

import streamlit as st

from pages._ui.frame import state
from paraknow_core.display import shorten
from paraknow_core.studies.lessons import PRESETS, Preset

PARAMETER = "preset"


def take() -> str:
    """Put the draft of the address's preset in place; where the draft has changes of its own, ask first.

    Returns:
        A sentence where there is no such preset, else nothing.
    """
    name = st.query_params.get(PARAMETER, "")
    if not name:
        return ""
    preset = PRESETS.get(name)
    if preset is None:
        return (
            f"preset '{shorten(name)}': there is none of this name; known are {', '.join(PRESETS)}; the lessons "
            "link to them"
        )
    # Nothing of a person's own is lost where the draft is at its defaults, or a preset that was not changed.
    if not state.changed_settings() or state.draft() in [other.spec for other in PRESETS.values()]:
        _put(preset)
        return ""
    with st.container(border=True):
        st.markdown(f"**{preset.label}**: this link brings settings of its own and replaces those of your draft.")
        with st.container(horizontal=True):
            if st.button("Replace the draft", type="primary", icon=":material/check:", key="preset.yes"):
                _put(preset)
            if st.button("Keep my draft", key="preset.no"):
                del st.query_params[PARAMETER]
                st.rerun()
    return ""


def _put(preset: Preset) -> None:
    del st.query_params[PARAMETER]
    if state.replace_spec(preset.spec):
        state.change_beside(arms=preset.arms, seeds=preset.seeds)
        st.toast(f"Draft: {preset.label}", icon=":material/edit_note:")
    st.rerun()
