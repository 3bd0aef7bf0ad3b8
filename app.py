"""The workbench's router, nothing computed. Start it with `python -m paraknow_core ui`."""

import streamlit as st

from pages._ui import router, state

st.set_page_config(
    page_title="ParaKnow workbench",
    page_icon=":material/conversion_path:",
    layout="wide",
    initial_sidebar_state=232,  # pixels; hidden on small screens
    menu_items={"About": "ParaKnow workbench: parametric knowledge transfer between language models."},
)
st.session_state[router.ROUTED] = True
state.declare_address()
router.navigation().run()
