"""The workbench's router, nothing computed. Start it with `python -m paraknow_core ui`."""

from pathlib import Path

import streamlit as st

from pages._ui.frame import router, state

st.set_page_config(
    page_title="ParaKnow workbench",
    # A file: an icon by name would be fetched from the network.
    page_icon=str(Path(__file__).parent / "pages" / "_ui" / "icon.svg"),
    layout="wide",
    initial_sidebar_state=232,  # pixels; hidden on small screens
    menu_items={"About": "ParaKnow workbench: parametric knowledge transfer between language models."},
)
st.session_state[router.ROUTED] = True
state.declare_address()
router.navigation().run()
