""" "Vary this": beside a choice on Mapping or Train, what adds its setting to the study draft as a factor."""

from typing import Any

import streamlit as st

from pages._ui.frame import state
from pages._ui.frame.layout import plain
from paraknow_core.workbench.views import study_draft as view


def varied(dotted: str, box: Any = st) -> Any:
    """Return the box for a field; where a study can vary its setting, one with a control in its corner that says so.

    Args:
        dotted: the key of the spec; `method` stands for the arms.
        box: where.
    """
    if dotted not in view.VARIED:
        return box
    inside = box.container(key=f"vary-{dotted.replace('.', '-')}", gap=None)
    field = inside.container()
    tip, key = plain(view.vary_words(state.study(), dotted)), f"vary:{dotted}"
    inside.button("", key=key, icon=":material/science:", type="tertiary", help=tip, on_click=_vary, args=(dotted,))
    return field


def _vary(dotted: str) -> None:
    if state.change_study(**view.vary(state.study(), dotted)):
        words = f"{plain(view.varied_words(state.study(), dotted))} [See it on Ablations](ablations)"
        st.toast(words, icon=":material/science:", duration="long")
