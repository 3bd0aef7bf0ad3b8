"""The one draft spec of a browser session, and widgets that write into it.

Streamlit forgets a widget's value when its page is left; the draft is kept apart from the widgets, so it survives.
"""

from collections.abc import Callable
from typing import Any

import streamlit as st

from paraknow_core.errors import SpecError
from paraknow_core.paths import Workspace, workspace
from paraknow_core.spec import RunSpec

DRAFT = "draft"
PROBLEM = "draft.problem"


def place() -> Workspace:
    """Return the workspace that all pages read and write."""
    return workspace()


def draft() -> RunSpec:
    """Return the draft; a new session starts with the defaults."""
    return st.session_state.setdefault(DRAFT, RunSpec())


def change(changes: dict[str, Any]) -> bool:
    """Replace dotted keys of the draft; a refused value leaves it as it was and is told on the next draw."""
    try:
        st.session_state[DRAFT] = draft().with_changes(changes)
    except SpecError as error:
        st.session_state[PROBLEM] = str(error)
        return False
    return True


def changed_settings() -> list[str]:
    """Return the dotted keys in which the draft differs from the defaults."""
    return differing(RunSpec().model_dump(mode="json"), draft().model_dump(mode="json"))


def differing(one: dict, other: dict, prefix: str = "") -> list[str]:
    """Return the dotted keys in which two specs, as plain data, differ."""
    keys: list[str] = []
    for key, value in one.items():
        if isinstance(value, dict) and isinstance(other.get(key), dict):
            keys.extend(differing(value, other[key], f"{prefix}{key}."))
        elif value != other.get(key):
            keys.append(f"{prefix}{key}")
    return keys


def value_of(dotted: str) -> Any:
    """Return one value of the draft as plain data."""
    node: Any = draft().model_dump(mode="json")
    for key in dotted.split("."):
        node = node[key]
    return node


def field(
    widget: Callable[..., Any], label: str, dotted: str, *, to_widget: Callable[[Any], Any] = lambda value: value,
    to_draft: Callable[[Any], Any] = lambda value: value, **options: Any,
) -> None:  # fmt: skip
    """Draw a widget that shows one key of the draft and writes into it.

    Args:
        widget: a Streamlit widget, e.g. `st.number_input`.
        label: its label.
        dotted: the key of the spec.
        to_widget, to_draft: translate between the draft's value and the widget's.
        options: passed to the widget.
    """
    key = f"field:{dotted}"
    shown = to_widget(value_of(dotted))
    if st.session_state.get(key) != shown:
        st.session_state[key] = shown
    widget(label, key=key, on_change=_store, args=(dotted, key, to_draft), **options)


def _store(dotted: str, key: str, to_draft: Callable[[Any], Any]) -> None:
    value = st.session_state.get(key)
    if value is not None:
        change({dotted: to_draft(value)})


def take_problem() -> str | None:
    """Return what was refused since the last draw, once."""
    return st.session_state.pop(PROBLEM, None)
