"""Which sensitivity the page looks at, and what to do when there is none yet."""

import time

import streamlit as st

from pages._ui.frame import run_panel, state, submit
from pages._ui.frame.layout import info, plain, warn
from paraknow_core.catalogue import PAPER_METHOD
from paraknow_core.display import counted, source_label
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec
from paraknow_core.workbench import reading
from paraknow_core.workbench.uploads import task_label
from paraknow_core.workbench.views.mapping import Choice, totals_of

MEASURING = "mapping.measuring"  # id of the run that this page started
REDUCED = "Only its reductions were kept: no distribution over offsets, and no structure it was not measured for."
RECENT_S = 7 * 24 * 3600.0


def source_line(choice: Choice) -> None:
    """Say which measurement S is from; where that is not the draft's own, offer to measure it."""
    if choice.problem:
        warn(f"The draft's seed samples cannot be read: {choice.problem}", "warning")
    if choice.store is None:
        _empty(choice)
        return
    totals = totals_of(choice.store)
    task = task_label(str(totals["task"]), 32).replace("_", " ")
    when = time.strftime("%d %b %H:%M", time.localtime(totals["saved"]))
    samples = counted(totals["samples"], "seed sample")
    what = f"{source_label(str(totals['teacher']), 32)} on {task}, {samples}, measured {when}"
    if choice.exact:
        reduced = "" if choice.plan["full"] else f" {REDUCED}"
        st.caption(f":material/check: S from {plain(what + '.' + reduced)}")
        return
    if choice.problem:
        st.caption(plain(f"Shown with S of the same teacher from another measurement: {what}."))
        return
    left, right = st.columns([4, 1.3], vertical_alignment="center")
    warn(
        f"Shown with S of the same teacher from another measurement: {what}. A run measures "
        f"{_seed_samples(choice.spec)} first, and may choose other layers and blocks.",
        "info",
        left,
    )
    with right:
        _measure_button(choice.spec)
    _progress(choice.spec)


def _seed_samples(spec: RunSpec) -> str:
    task = task_label(spec.task.source, 32).replace("_", " ")
    return f"{counted(spec.sensitivity.samples, 'seed sample')} of {task}"


def _empty(choice: Choice) -> None:
    if _progress(choice.spec):
        return
    info(
        "For every weight the block that would be injected will appear here: its place in the teacher, how much of the "
        "task's sensitivity it holds, its singular values. The teacher has to be measured once for that.",
        "conversion_path",
    )
    _measure_button(choice.spec)


def _measure_button(spec: RunSpec) -> None:
    if st.button(
        "Compute sensitivity",
        type="primary",
        icon=":material/play_arrow:",
        key="mapping.measure",
        help=plain(f"S = Σ over {_seed_samples(spec)} of |θ · ∂L/∂θ|, for every teacher weight."),
    ):
        name = f"Sensitivity of {source_label(spec.teacher.source, 30)}"
        run = submit.start(spec.with_changes({"until": "sensitivity", "name": name, "method": PAPER_METHOD}))
        if run is not None:
            st.session_state[MEASURING] = run.id
            st.rerun()


def _progress(spec: RunSpec) -> bool:
    """Draw the measurement that is under way, or did not end well; return whether there is one."""
    run = _measuring(spec)
    if run is None or run.status().state == "done":
        return False
    run_panel.follow(run, run_panel.panel)
    return True


def _measuring(spec: RunSpec) -> RunFolder | None:
    """Return the newest run that measures this teacher on these seed samples, if it is not long over."""
    for run, facts in reading.all_facts(state.place())[:30]:
        other = facts.spec
        same = other and all(getattr(other, part) == getattr(spec, part) for part in ("teacher", "task", "sensitivity"))
        if same and other.until == "sensitivity":
            over = run.status().ended
            return run if not over or time.time() - over < RECENT_S else None
    return None
