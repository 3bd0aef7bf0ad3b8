"""Ablations: studies prepared from presets or ticked factors, started in one click, followed, and judged."""

import streamlit as st

from pages._ui.ablations import draft
from pages._ui.frame.page import page


def prepare() -> None:
    """Draw what a new study is made from."""
    st.subheader("New study", anchor=False)
    draft.draw()


with page("Ablations"):
    prepare()
