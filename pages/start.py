"""Start: what this is, one click to the first heatmap, and the recent runs."""

import time

import streamlit as st

from pages._ui import layout, state, widgets
from pages._ui.reading import Facts, facts
from paraknow_core.display import arm_of, duration, score_text, shorten
from paraknow_core.runs import RunFolder, list_runs
from paraknow_core.spec import RunSpec

SHOWN = 12
COLUMNS = (2.2, 2.4, 1.5, 1.9, 2.2)
PICTURE = """<ol class="pk-steps">
<li><b>Measure</b><span>Sensitivity of every teacher weight on a few seed samples of the task.</span></li>
<li><b>Map layers</b><span>The most sensitive teacher layers, one for each student layer.</span></li>
<li><b>Extract</b><span>From each weight the block of the student's size that carries most.</span></li>
<li><b>Factorise</b><span>Truncated SVD: the block becomes two thin LoRA factors.</span></li>
<li><b>Inject</b><span>The student starts from them, its outputs unchanged at step 0.</span></li>
<li><b>Fine-tune</b><span>On the task's answers, beside default LoRA and other controls.</span></li>
<li><b>Evaluate</b><span>Test scores with n and 95 % intervals, beside the untouched student.</span></li>
</ol>"""


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
    icon = ":material/grid_on:" if only_sensitivity else ":material/show_chart:"
    name.page_link(target, label=layout.plain(_title(one)), icon=icon, query_params={"run": run.id}, help=run.id)
    pair.markdown(layout.plain(one.pair if one.spec else one.problem))
    task.markdown(layout.plain(one.task))
    if status.active:
        note = f"{status.stage} {100 * status.fraction:.0f} %" if status.stage else "waiting"
    else:
        note = f"{_ago(status.ended)} ago" if status.ended else status.stage
    state_cell.html(f'{layout.chip(status.state)} <span class="pk-quiet">{layout.escape(note)}</span>')
    score.markdown(layout.plain(score_text(one.scores[0])) if one.scores else "")


def _ago(moment: float) -> str:
    return duration(max(60.0, time.time() - moment) // 60 * 60).removesuffix(" 00 s")


def _title(one: Facts) -> str:
    if one.spec is None:
        return one.id
    return shorten(one.spec.name, 44) if one.spec.name else arm_of(one.spec.method).label


with layout.page("ParaKnow workbench"):
    st.markdown(
        "Takes knowledge out of a larger language model's weights and starts a smaller one's fine-tuning from it. "
        "See where in the teacher a task lives, transfer it, and compare with controls that tell you whether it helped."
    )
    st.html(PICTURE)
    try_it_now()
    recent_runs()
