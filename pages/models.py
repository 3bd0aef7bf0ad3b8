"""Models & task: who gives, who receives, on which task; what fits and what it will take, before anything loads."""

import streamlit as st

from pages._ui.frame import layout
from pages._ui.frame.fields import mirror
from pages._ui.frame.page import page
from pages._ui.models import anatomy, estimate
from pages._ui.models.pick import picker
from pages._ui.task import pick as task_pick
from pages._ui.task import seeds as task_seeds
from pages._ui.task import view as task_view

PARTS = {"models": "Models", "task": "Task", "seeds": "Seed samples", "estimate": "Estimate"}


def choose_part() -> str:
    """Draw which part of the page is shown; the address remembers it."""
    named = st.query_params.get("part", "models")
    if named not in PARTS:
        layout.say_unknown("part", named, PARTS, PARTS["models"])
        named = "models"
    shown = {"options": list(PARTS), "format_func": PARTS.get, "required": True, "label_visibility": "collapsed"}
    return mirror(
        st.segmented_control, "Part", "models.part", named, lambda part: st.query_params.update(part=part), **shown
    )


def models() -> None:
    """Draw the choice of the two models, and how they compare."""
    pair = {}
    boxes = st.container(key="stack-pictures-pair").columns(2, gap="large")
    for box, who in zip(boxes, ("teacher", "student"), strict=True):
        with box:
            picker(who)
            pair[who] = anatomy.ask_anatomy(who)
    anatomy.side_by_side(pair)
    if all(pair.values()):
        st.subheader("What fits where", anchor=False)
        anatomy.compatibility()


def task() -> None:
    """Draw the choice of the task, what it holds, and its examples."""
    readable = task_pick.picker()
    task_pick.settings()
    answer = task_view.ask_task() if readable else None
    if answer is not None:
        task_view.overview(answer)
        task_view.view(answer)


def seeds() -> None:
    """Draw which training examples the sensitivity is measured on."""
    answer = task_view.ask_task()
    if answer is not None:
        task_seeds.controls(answer["sizes"]["train"])
        task_seeds.body(answer)


with page("Models & task"):
    {"models": models, "task": task, "seeds": seeds, "estimate": estimate.body}[choose_part()]()
