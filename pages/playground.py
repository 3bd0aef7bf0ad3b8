"""Being built."""

import streamlit as st

from pages._ui import layout

with layout.page("playground"):
    st.info("…")
