"""The workbench's router: which pages there are. Start it with `python -m paraknow_core ui`."""

import streamlit as st

st.set_page_config(
    page_title="ParaKnow workbench",
    page_icon=":material/conversion_path:",
    layout="wide",
    initial_sidebar_state=210,  # pixels; hidden on small screens
    menu_items={"About": "ParaKnow workbench: parametric knowledge transfer between language models."},
)
st.navigation(
    [
        st.Page("pages/start.py", title="Start", icon=":material/home:", default=True),
        st.Page("pages/sensitivity.py", title="Sensitivity", icon=":material/grid_on:"),
        st.Page("pages/train.py", title="Train", icon=":material/show_chart:"),
    ]
).run()
