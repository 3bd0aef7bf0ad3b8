"""Start: what this is, one click to the first heatmap, the lessons, and the recent runs."""

import time
from html import escape

import streamlit as st

from pages._ui.frame import state, submit
from pages._ui.frame.layout import chip, info, plain
from pages._ui.frame.page import page
from paraknow_core.display import duration, outcome_text
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.spec import RunSpec
from paraknow_core.studies.lessons import LESSONS
from paraknow_core.workbench import reading
from paraknow_core.workbench.reading import Facts

SHOWN = 12
COLUMNS = {"Run": 4.1, "Pair": 2.1, "Task": 1.6, "State": 2.2, "Score": 2.2}
STEPS = (
    ("Measure", "pages/sensitivity.py", "Sensitivity of every teacher weight on a few seed samples of the task."),
    ("Map layers", "pages/mapping.py", "The most sensitive teacher layers, one for each student layer."),
    ("Extract", "pages/mapping.py", "From each weight the block of the student's size that carries most."),
    ("Factorise", "pages/mapping.py", "Truncated SVD: the block becomes two thin LoRA factors."),
    ("Inject", "pages/mapping.py", "The student starts from them, its outputs unchanged at step 0."),
    ("Fine-tune", "pages/train.py", "On the task's answers, beside default LoRA and other controls."),
    ("Evaluate", "pages/compare.py", "Test scores with n and 95 % intervals, beside the untouched student."),
)


def picture() -> None:
    """Draw the method as a row of steps, each with the way to the page where it is looked at."""
    columns = st.container(key="steps").columns(len(STEPS), gap="medium")
    for number, ((name, file, words), column) in enumerate(zip(STEPS, columns, strict=True), 1):
        with column, st.container(key=f"step-{number}", gap=None):
            st.page_link(file, label=f":blue[{number}] {name}", width="stretch")
            st.caption(words)


def lessons() -> None:
    """Draw the guided experiments."""
    st.subheader("Lessons", anchor=False)
    st.caption("Predict, run, explain: minutes each, on the bundled models.")
    with st.container(key="lessons", gap="small"):
        for lesson in LESSONS:
            st.page_link(
                "pages/lessons.py",
                label=f"{lesson.number}. {plain(lesson.title)}",
                icon=":material/school:",
                query_params={"lesson": str(lesson.number)},
                help=lesson.question,
                width="stretch",
            )


def try_it_now() -> None:
    """Draw the one button a newcomer needs."""
    left, right = st.columns([1, 3], vertical_alignment="center")
    pressed = left.button("Try it now", type="primary", icon=":material/play_arrow:", width="stretch")
    right.markdown(
        "Measures the bundled teacher on **32 word problems** and shows where in it the task lives. "
        "On this machine, offline, nothing to set up."
    )
    if pressed:
        run = submit.start(RunSpec(name="Try it now").with_changes({"until": "sensitivity"}))
        if run is not None:
            st.switch_page("pages/sensitivity.py", query_params={"run": run.id})


def recent_runs() -> None:
    """Draw the newest runs, each with a link to where it is looked at."""
    st.subheader("Recent runs", anchor=False)
    runs = list_runs(state.place())
    if not runs:
        info("Runs will be listed here with their state and score. Press **Try it now** for the first one.", "inbox")
        return
    shown = [(run, reading.facts(run)) for run in runs[:SHOWN]]
    questions = {(facts.pair, facts.task) for _, facts in shown}
    columns = dict(COLUMNS)
    if len(questions) == 1 and len(shown) > 1:  # said once, so that names have more room
        st.caption(plain(f"All {', '.join(filter(None, questions.pop()))}"))
        del columns["Pair"], columns["Task"]
    with st.container(gap=None, key="rows"):
        for cell, word in zip(st.columns(list(columns.values()), wrap=False), columns, strict=True):
            cell.caption(word)
        titles = reading.titles(state.place())
        for run, facts in shown:
            _row(run, facts, titles.get(run.id, run.id), columns)
    if len(runs) > SHOWN:
        st.caption(f"{len(runs) - SHOWN} older ones: `python -m paraknow_core runs list`")


def _row(run: RunFolder, facts: Facts, title: str, columns: dict[str, float]) -> None:
    status = run.status()
    only_sensitivity = facts.spec is not None and facts.spec.until == "sensitivity"
    target = "pages/sensitivity.py" if only_sensitivity else "pages/train.py"
    widths = st.columns(list(columns.values()), vertical_alignment="center", wrap=False)
    cells = dict(zip(columns, widths, strict=True))
    tip = plain(", ".join(filter(None, (title, run.id, facts.label.note))))
    icon = ":material/grid_on:" if only_sensitivity else ":material/show_chart:"
    cells["Run"].page_link(target, label=plain(title), icon=icon, query_params={"run": run.id}, help=tip)
    if "Pair" in cells:
        cells["Pair"].markdown(plain(facts.problem or facts.pair))
        cells["Task"].markdown(plain(facts.task))
    if status.active:
        note = f"{status.stage} {100 * status.fraction:.0f} %" if status.stage else "waiting"
    elif status.state == "stopped" and status.message == lifecycle.CANCELLED:
        note = "taken out of the queue"
    else:
        minutes = max(1, (time.time() - status.ended) // 60)
        note = f"{duration(60 * minutes).removesuffix(' 00 s')} ago" if status.ended else status.stage
    cells["State"].html(f'{chip(status.state)} <span class="pk-quiet">{escape(note)}</span>')
    cells["Score"].markdown(plain(outcome_text(facts.result)))


with page("ParaKnow workbench"):
    st.markdown(
        "Takes knowledge out of a larger language model's weights and starts a smaller one's fine-tuning from it. "
        "See where in the teacher a task lives, transfer it, and compare with controls that tell you whether it helped."
    )
    picture()
    try_it_now()
    left, right = st.container(key="body").columns([4.2, 1], gap="medium")
    with right:
        lessons()
    with left:
        recent_runs()
