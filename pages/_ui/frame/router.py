"""Which pages there are, in the order of working."""

from typing import Any

import streamlit as st

ROUTED = "routed"


# File, title, and the name of a Material symbol.
PAGES = (
    ("start", "Start", "home"),
    ("models", "Models & task", "hub"),
    ("sensitivity", "Sensitivity", "grid_on"),
    ("mapping", "Mapping & extraction", "conversion_path"),
    ("train", "Train", "show_chart"),
    ("compare", "Compare", "balance"),
    ("ablations", "Ablations", "science"),
    ("playground", "Playground", "chat"),
    ("lessons", "Lessons", "school"),
)


def navigation() -> Any:
    """Declare the pages and return the one that the address names.

    They have no icons here: a browser would fetch the current one's from the network, for its tab. See `icons`.
    """
    return st.navigation(
        [st.Page(f"pages/{file}.py", title=title, default=file == "start") for file, title, _ in PAGES]
    )


def icons() -> str:
    """Return the style that draws the pages' icons in the sidebar, in the font that the server itself has."""
    rules = [
        f'[data-testid="stSidebarNavItems"] > :nth-child({number}) [data-testid="stSidebarNavLink"]::before '
        f'{{content: "{icon}";}}'
        for number, (_, _, icon) in enumerate(PAGES, 1)
    ]
    shared = (
        '[data-testid="stSidebarNavLink"]::before {font-family: "Material Symbols Rounded"; font-size: 1.1rem; '
        "line-height: 1; font-feature-settings: 'liga'; flex: none; width: 1.25rem; overflow: hidden;}"
    )
    return f"<style>{shared}{' '.join(rules)}</style>"


def require_router() -> None:
    """Go through app.py if a page was started without it.

    A new server whose first visitor opens a page's own address has not run app.py yet, and Streamlit takes the folder
    pages/ for an app of its older kind. Declaring the navigation once ends that for the whole server.
    """
    if not st.session_state.get(ROUTED):
        navigation()
        st.session_state[ROUTED] = True  # never in a circle, whatever Streamlit does
        st.rerun()
