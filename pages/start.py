"""Start: what this is, one click to the first heatmap, the lessons, and the recent runs."""

import time

import streamlit as st

from pages._ui import layout, state, widgets
from pages._ui.reading import Facts, facts
from paraknow_core.display import arm_of, duration, score_text, shorten
from paraknow_core.engines import queue
from paraknow_core.lessons import LESSONS
from paraknow_core.runs import RunFolder, list_runs
from paraknow_core.spec import RunSpec

SHOWN = 12
COLUMNS = (3.0, 2.3, 1.6, 2.1, 2.5)
STEPS = (
    ("Measure", "pages/sensitivity.py", "Sensitivity of every teacher weight on a few seed samples of the task."),
    ("Map layers", "pages/mapping.py", "The most sensitive teacher layers, one for each student layer."),
    ("Extract", "pages/mapping.py", "From each weight the block of the student's size that carries most."),
    ("Factorise", "pages/mapping.py", "Truncated SVD: the block becomes two thin LoRA factors."),
    ("Inject", "pages/mapping.py", "The student starts from them, its outputs unchanged at step 0."),
    ("Fine-tune", "pages/train.py", "On the task's answers, beside default LoRA and other controls."),
    ("Evaluate", "pages/compare.py", "Test scores with n and 95 % intervals, beside the untouched student."),
)
CSS = """<style>
[class*="st-key-step-"] {border: 1px solid rgba(128,136,140,.4); border-radius: .35rem; padding: .35rem .5rem .55rem;
  min-height: 8.2rem; position: relative;}
[class*="st-key-step-"]:hover {border-color: #2E94D0;}
[class*="st-key-step-"] p {font-size: .83rem; line-height: 1.2rem;}
[class*="st-key-step-"] [data-testid="stPageLink"] a {padding: .1rem .2rem; margin-left: -.2rem;}
[class*="st-key-step-"] [data-testid="stPageLink"] p {font-size: .95rem; font-weight: 650; white-space: nowrap;}
.st-key-steps [data-testid="stColumn"]:not(:last-child) [class*="st-key-step-"]::after {content: "→";
  position: absolute; right: -1.05rem; top: calc(50% - .7rem); opacity: .75;}
@media (max-width: 1150px) {
  .st-key-steps [data-testid="stHorizontalBlock"] {flex-wrap: wrap; row-gap: .8rem;}
  .st-key-steps [data-testid="stColumn"] {min-width: 0; flex: 0 0 calc(25% - 1.5rem);}
  [class*="st-key-step-"] {min-height: 7.4rem;}
  .st-key-steps [data-testid="stColumn"]:nth-child(4) [class*="st-key-step-"]::after {display: none;}
}
@media (max-width: 1080px) {
  .st-key-body > div > [data-testid="stHorizontalBlock"], .st-key-body > [data-testid="stHorizontalBlock"] {
    flex-wrap: wrap;}
  .st-key-body > div > [data-testid="stHorizontalBlock"] > [data-testid="stColumn"],
  .st-key-body > [data-testid="stHorizontalBlock"] > [data-testid="stColumn"] {min-width: 100%;}
}
.st-key-lessons [data-testid="stPageLink"] p {font-size: .92rem; overflow-wrap: anywhere; white-space: normal;}
</style>"""


def picture() -> None:
    """Draw the method as a row of steps, each with the way to the page where it is looked at."""
    st.html(CSS)
    columns = st.container(key="steps").columns(len(STEPS), gap="medium")
    for number, ((name, page, words), column) in enumerate(zip(STEPS, columns, strict=True), 1):
        with column, st.container(key=f"step-{number}", gap=None):
            st.page_link(page, label=f":blue[{number}] {name}", width="stretch")
            st.caption(words)


def lessons() -> None:
    """Draw the guided experiments."""
    st.subheader("Lessons", anchor=False)
    st.caption("Predict, run, explain: minutes each, on the bundled models.")
    with st.container(key="lessons", gap="small"):
        for one in LESSONS:
            st.page_link(
                "pages/lessons.py", label=f"{one.number}. {layout.plain(one.title)}", icon=":material/school:",
                query_params={"lesson": str(one.number)}, help=one.question, width="stretch",
            )  # fmt: skip


def try_it_now() -> None:
    """Draw the one button a newcomer needs."""
    left, right = st.columns([1, 3], vertical_alignment="center")
    pressed = left.button("Try it now", type="primary", icon=":material/play_arrow:", width="stretch")
    right.markdown(
        "Measures the bundled teacher on **32 word problems** and shows where in it the task lives. "
        "On this machine, offline, nothing to set up."
    )
    if pressed:
        run = widgets.start(RunSpec(name="Try it now").with_changes({"until": "sensitivity"}))
        if run is not None:
            st.switch_page("pages/sensitivity.py", query_params={"run": run.id})


def recent_runs() -> None:
    """Draw the newest runs, each with a link to where it is looked at."""
    st.subheader("Recent runs", anchor=False)
    runs = list_runs(state.place())
    if not runs:
        st.info(
            "Runs will be listed here with their state and score. Press **Try it now** for the first one.",
            icon=":material/inbox:",
        )
        return
    with st.container(gap=None, key="rows"):
        for cell, word in zip(st.columns(COLUMNS, wrap=False), ("Run", "Pair", "Task", "State", "Score"), strict=True):
            cell.caption(word)
        for run in runs[:SHOWN]:
            _row(run, facts(run))
    if len(runs) > SHOWN:
        st.caption(f"{len(runs) - SHOWN} older ones: `python -m paraknow_core runs list`")


def _row(run: RunFolder, one: Facts) -> None:
    status = run.status()
    only_sensitivity = one.spec is not None and one.spec.until == "sensitivity"
    target = "pages/sensitivity.py" if only_sensitivity else "pages/train.py"
    name, pair, task, state_cell, score = st.columns(COLUMNS, vertical_alignment="center", wrap=False)
    full = f"{one.spec.name}, {run.id}" if one.spec and one.spec.name else run.id  # the line itself may be cut
    tip = layout.plain(full)
    icon = ":material/grid_on:" if only_sensitivity else ":material/show_chart:"
    name.page_link(target, label=layout.plain(_title(one)), icon=icon, query_params={"run": run.id}, help=tip)
    pair.markdown(layout.plain(one.pair if one.spec else one.problem))
    task.markdown(layout.plain(one.task))
    if status.active:
        note = f"{status.stage} {100 * status.fraction:.0f} %" if status.stage else "waiting"
    elif status.state == "stopped" and status.message == queue.CANCELLED:
        note = "taken out of the queue"
    else:
        note = f"{_ago(status.ended)} ago" if status.ended else status.stage
    state_cell.html(f'{layout.chip(status.state)} <span class="pk-quiet">{layout.escape(note)}</span>')
    score.markdown(layout.plain(score_text(one.scores[0])) if one.scores else "")


def _ago(moment: float) -> str:
    return duration(max(60.0, time.time() - moment) // 60 * 60).removesuffix(" 00 s")


def _title(one: Facts) -> str:
    if one.spec is None:
        return one.id
    if one.spec.until == "sensitivity":
        return shorten(one.spec.name, 44) if one.spec.name else "Sensitivity"
    arm = f"{arm_of(one.spec.method).label}, seed {one.spec.seed}"
    return f"{shorten(one.spec.name, 30)} · {arm.replace(' (the method)', '')}" if one.spec.name else arm


with layout.page("ParaKnow workbench"):
    st.markdown(
        "Takes knowledge out of a larger language model's weights and starts a smaller one's fine-tuning from it. "
        "See where in the teacher a task lives, transfer it, and compare with controls that tell you whether it helped."
    )
    picture()
    try_it_now()
    left, right = st.container(key="body").columns([3.6, 1], gap="large")
    with right:
        lessons()
    with left:
        recent_runs()
