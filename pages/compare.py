"""Being built."""

import streamlit as st

from pages._ui import layout

with layout.page("compare"):
    st.info("…")
