""""Vary this": beside a choice on Mapping or Train, what adds its setting to the study draft as a factor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st

from pages._ui.frame import state
from paraknow_core.errors import SpecError
from paraknow_core.workbench.views import ablations as view


@contextmanager
def varied(dotted: str, box: Any = st) -> Iterator[Any]:
    """Yield the box for a field; where a study can vary its setting, with the control that says so in its corner.

    Args:
        dotted: the key of the spec; `method` stands for the arms.
        box: where.
    """
    if dotted not in (*view.FACTORS, "method"):
        yield box
        return
    inside = box.container(key=f"vary-{dotted.replace('.', '-')}", gap=None)
    yield inside
    words = view.vary_words(state.study(), dotted)
    if inside.button("", key=f"vary:{dotted}", icon=":material/science:", type="tertiary", help=words):
        _vary(dotted)


def _vary(dotted: str) -> None:
    if state.change_study(**view.varied(state.study(), dotted)):
        st.toast(f"{view.added_words(state.study(), dotted)} [Go to Ablations](ablations)", icon=":material/science:")
    else:
        raise SpecError(state.take_problem() or "study draft: it was refused")
