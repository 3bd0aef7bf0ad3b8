"""Measuring a sensitivity: the controls, the progress with what is left, and what it took beside what was predicted."""

import time

import streamlit as st

from pages._ui.frame import asking, fields, layout, run_panel, state, submit
from pages._ui.frame.layout import plain
from paraknow_core.display import counted, duration, significant
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.metrics import metrics_of
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.views.sensitivity import Saved, amounts, measuring, planned_need, seconds_left

PENDING = "sensitivity.pending"  # ids of runs that were started beside the one that is shown
PREDICT = "sensitivity.predict"
FORMULA = "S = Σ over N seed samples of |θ · ∂L/∂θ|"


def controls() -> None:
    """Draw what is measured, and the button that measures it."""
    row = st.container(key="stack-fields")
    teacher, task, samples, button = row.columns([3, 3, 1.3, 1.9], vertical_alignment="bottom")
    fields.model_field("Teacher", "teacher.source", "The larger model whose weights are measured.", teacher)
    fields.task_field(task)
    fields.number("sensitivity.samples", samples)
    spec = measuring(state.draft())
    problem = asking.seeds_problem(spec) or asking.fit_problem(spec)
    if problem:
        layout.say(problem)
    if button.container(key="guarded-compute").button(
        "Compute sensitivity", type="primary", icon=":material/play_arrow:", width="stretch", disabled=bool(problem)
    ):
        unseen = state.changed_unseen()
        if unseen:
            layout.say(unseen)
            return
        run = submit.start(spec)
        if run is not None:
            st.query_params["run"] = run.id
            st.rerun()


def prediction() -> None:
    """Offer to say, before anything is loaded, what measuring the draft will take."""
    asked = st.session_state.get(PREDICT, False)
    if st.button(
        "Hide the estimate" if asked else "What will it take?",
        icon=":material/timer:",
        type="tertiary",
        help="Memory and time of this measurement on this machine, before any weight is loaded.",
    ):
        st.session_state[PREDICT] = not asked
        st.rerun()
    if not asked:
        return
    reply = asking.answered(asking.estimate_now(state.draft()), waiting="Measuring this machine for a second …")
    if reply is None:
        return
    estimate = reply.value["sensitivity"]
    plan = estimate.get("plan") or {}
    what = f"{counted(estimate['samples'], 'seed sample')}, {counted(estimate['tokens'], 'token')}"
    st.caption(
        plain(
            estimate["problem"]
            or f"About {amounts(planned_need(plan))} for {what}: {plan.get('way')} on {plan.get('device')}, "
            f"because {plan.get('reason')}."
        )
    )


def start_beside(*specs: RunSpec) -> None:
    """Start measurements while the page goes on showing what it shows."""
    new = submit.start_all(*specs)
    if new:
        st.session_state[PENDING] = [*st.session_state.get(PENDING, []), *(run.id for run in new)]
        st.rerun()


def beside() -> None:
    """Draw measurements that were started beside the one that is shown, until they are done."""
    runs = [RunFolder(state.place().runs / name) for name in st.session_state.get(PENDING, [])]
    unfinished = [run for run in runs if run.path.exists() and run.status().state != "done"]
    st.session_state[PENDING] = [run.id for run in unfinished]
    if not unfinished:
        return
    first = next((run for run in unfinished if run.status().state in ("running", "stopping")), unfinished[0])
    with st.container(border=True):
        if len(unfinished) > 1:
            st.caption(f"{len(unfinished)} measurements are under way or waiting; this page goes on meanwhile.")
        run_panel.follow(first, progress)


def progress(run: RunFolder) -> None:
    """Draw a measurement that is not done: its state, how far it is, and how long it will still take."""
    run_panel.panel(run)
    status, metrics = run.status(), metrics_of(run)
    if not status.active:
        return
    words, left, plan = [], seconds_left(metrics, status, time.time()), metrics.plan
    if left is not None:
        words.append(f"About **{plain(duration(left))}** left")
    if plan:
        way = f"{plan.get('way', '')} on {plan.get('device')}"
        words.append(plain(f"predicted: {amounts(planned_need(plan))}; {way}"))
    if words:
        st.caption(" · ".join(words))


def about_measurement(saved: Saved) -> None:
    """Say, folded, what was measured, how long it took beside the prediction, and what the numbers are not."""
    totals = saved.totals
    with st.expander("About this measurement", icon=":material/info:"):
        ids = [str(name) for name in totals.get("sample_ids") or []]
        tokens, losses = totals.get("supervised_tokens"), totals.get("losses") or []
        lines = [
            f"**What.** {plain(FORMULA)}, the absolute value taken sample by sample. "
            f"{counted(saved.samples, 'seed sample')} of the training split"
            + (f", {tokens:,} answer tokens" if tokens else "")
            + (f", mean loss {significant(sum(losses) / len(losses))} nats" if losses else "")
            + ".",
            "**What it is not.** A measurement on these samples, with no test set: other samples give other numbers; "
            "the stability curve says how different. Norms and biases are no cells of the map; they count in the "
            "layer totals and in *other*.",
        ]
        plan, measured = totals.get("plan") or {}, totals.get("measured")
        if measured:
            predicted = f" (predicted {plain(amounts(planned_need(plan)))})" if plan else ""
            way = f"{plan.get('way', '')} on {plan.get('device', 'this machine')}, {totals.get('dtype')}"
            lines.append(f"**What it took.** {plain(amounts(measured))}{predicted}; {plain(way)}.")
        if ids:
            shown = ", ".join(ids[:12]) + (f" and {len(ids) - 12} more" if len(ids) > 12 else "")
            lines.append(f"**Seed samples.** {plain(shown)}")
        st.markdown("\n\n".join(lines))
