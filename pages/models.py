"""Models & task: who gives, who receives, on which task; what fits and what it will take, before anything loads."""

import streamlit as st

from pages._ui.frame import layout
from pages._ui.models import anatomy as models_anatomy
from pages._ui.models import estimate as models_estimate
from pages._ui.models import pick as models_pick
from pages._ui.task import pick as task_pick
from pages._ui.task import seeds as task_seeds
from pages._ui.task import view as task_view

PARTS = {"models": "Models", "task": "Task", "seeds": "Seed samples", "estimate": "Estimate"}
PART = "models.part"


def choose_part() -> str:
    """Draw which part of the page is shown; the address remembers it."""
    named = st.query_params.get("part", "models")
    if named not in PARTS:
        layout.say_unknown("part", named, PARTS, PARTS["models"])
    st.session_state[PART] = named if named in PARTS else "models"
    st.segmented_control(
        "Part",
        list(PARTS),
        format_func=PARTS.get,
        key=PART,
        required=True,
        label_visibility="collapsed",
        on_change=lambda: st.query_params.update(part=st.session_state[PART]),
    )
    return st.session_state[PART]


def models() -> None:
    """Draw the choice of the two models, and how they compare."""
    pair = {}
    for box, who in zip(
        st.container(key="stack-pictures-pair").columns(2, gap="large"), ("teacher", "student"), strict=True
    ):
        with box:
            models_pick.picker(who)
            pair[who] = models_anatomy.ask_anatomy(who)
    models_anatomy.side_by_side(pair)
    if all(pair.values()):
        st.subheader("What fits where", anchor=False)
        models_anatomy.compatibility()


def task() -> None:
    """Draw the choice of the task, what it holds, and its examples."""
    readable = task_pick.picker()
    task_pick.settings()
    found = task_view.ask_task() if readable else None
    if found is not None:
        task_view.overview(found)
        task_view.view(found)


def seeds() -> None:
    """Draw which training examples the sensitivity is measured on."""
    found = task_view.ask_task()
    if found is not None:
        task_seeds.controls(found["sizes"]["train"])
        task_seeds.body(found)


with layout.page("Models & task"):
    {"models": models, "task": task, "seeds": seeds, "estimate": models_estimate.body}[choose_part()]()
