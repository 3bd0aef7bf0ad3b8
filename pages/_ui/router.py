"""Which pages there are, in the order of working."""

from typing import Any

import streamlit as st

ROUTED = "routed"


def navigation() -> Any:
    """Declare the pages and return the one that the address names."""
    return st.navigation(
        [
            st.Page("pages/start.py", title="Start", icon=":material/home:", default=True),
            st.Page("pages/models.py", title="Models & task", icon=":material/hub:"),
            st.Page("pages/sensitivity.py", title="Sensitivity", icon=":material/grid_on:"),
            st.Page("pages/mapping.py", title="Mapping & extraction", icon=":material/conversion_path:"),
            st.Page("pages/train.py", title="Train", icon=":material/show_chart:"),
            st.Page("pages/compare.py", title="Compare", icon=":material/balance:"),
            # Ablations takes its place here: grids of runs, and the verdict on where a gain comes from.
            st.Page("pages/playground.py", title="Playground", icon=":material/chat:"),
            st.Page("pages/lessons.py", title="Lessons", icon=":material/school:"),
        ]
    )


def require_router() -> None:
    """Go through app.py if a page was started without it.

    A new server whose first visitor opens a page's own address has not run app.py yet, and Streamlit takes the folder
    pages/ for an app of its older kind. Declaring the navigation once ends that for the whole server.
    """
    if not st.session_state.get(ROUTED):
        navigation()
        st.session_state[ROUTED] = True  # never in a circle, whatever Streamlit does
        st.rerun()
