"""Measuring a sensitivity: the controls, the progress with what is left, and what it took beside what was predicted."""

import time
from typing import Any

import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.frame import run_panel as widgets
from pages._ui.frame.asking import answered, fit_problem, seeds_problem
from pages._ui.models.estimate import asked_now
from pages._ui.sensitivity.read import Saved
from pages._ui.train.curves import metrics_of
from paraknow_core.display import counted, duration, memory, significant, source_label
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec

PENDING = "sensitivity.pending"  # ids of runs that were started beside the one that is shown
PREDICT = "sensitivity.predict"
FORMULA = "S = Σ over N seed samples of |θ · ∂L/∂θ|"


def controls() -> None:
    """Draw what is measured, and the button that measures it."""
    row = st.container(key="stack-fields")
    teacher, task, samples, button = row.columns([3, 3, 1.3, 1.9], vertical_alignment="bottom")
    with teacher:
        widgets.model_field("Teacher", "teacher.source", "The larger model whose weights are measured.")
    with task:
        widgets.task_field()
    with samples:
        state.field(
            st.number_input,
            "Seed samples",
            "sensitivity.samples",
            min_value=1,
            max_value=100_000,
            step=8,
            help=f"N training examples with their answers. {FORMULA}; the paper uses 32.",
        )
    problem = seeds_problem(measuring(state.draft())) or fit_problem(measuring(state.draft()))
    if problem:
        layout.say(problem)
    if button.container(key="guarded-compute").button(
        "Compute sensitivity", type="primary", icon=":material/play_arrow:", width="stretch", disabled=bool(problem)
    ):
        _compute()


def _compute() -> None:
    unseen = state.changed_unseen()
    if unseen:
        layout.say(unseen)
        return
    run = widgets.start(measuring(state.draft()))
    if run is not None:
        show(run.id)
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
    reply = answered(asked_now(state.draft()), waiting="Measuring this machine for a second …")
    if reply is None:
        return
    found = reply.value["sensitivity"]
    plan = found.get("plan") or {}
    what = f"{counted(found['samples'], 'seed sample')}, {counted(found['tokens'], 'token')}"
    st.caption(
        layout.plain(
            found["problem"]
            or f"About {_amounts(_need(plan))} for {what}: {plan.get('way')} on {plan.get('device')}, "
            f"because {plan.get('reason')}."
        )
    )


def measuring(spec: RunSpec) -> RunSpec:
    """Return the spec that measures its teacher and nothing more."""
    name = spec.name or f"Sensitivity of {source_label(spec.teacher.source, 30)}"
    return spec.with_changes({"until": "sensitivity", "name": name})


def of_student(spec: RunSpec) -> RunSpec:
    """Return the spec that measures a spec's student, on the same seed samples, as if it were the teacher."""
    student = spec.student.model_dump(mode="json")
    name = f"Sensitivity of {source_label(spec.student.source, 30)}"
    return spec.with_changes({"until": "sensitivity", "name": name, "teacher": student, "student": student})


def show(run_id: str) -> None:
    """Make a run the one that the page and its address show."""
    st.query_params["run"] = run_id


def start_beside(*specs: RunSpec) -> None:
    """Start measurements while the page goes on showing what it shows."""
    new = widgets.start_all(*specs)
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
        widgets.follow(first, progress)


def progress(run: RunFolder) -> None:
    """Draw a measurement that is not done: its state, how far it is, and how long it will still take."""
    widgets.panel(run)
    status = run.status()
    if not status.active:
        return
    plan, left = _plan(run)
    words = []
    if left is not None:
        words.append(f"About **{layout.plain(duration(left))}** left")
    if plan:
        words.append(layout.plain(f"predicted: {_amounts(_need(plan))}; {plan.get('way', '')} on {plan.get('device')}"))
    if words:
        st.caption(" · ".join(words))


def _plan(run: RunFolder) -> tuple[dict[str, Any], float | None]:
    """Return what was planned, and the seconds still to go as the progress since then says."""
    status, known = run.status(), metrics_of(run)
    plan, since = known.plan, known.planned
    if status.stage != "sensitivity" or not since > 0:
        return plan, None
    if not 0 < status.done < status.total:
        seconds = _need(plan).get("seconds")
        return plan, max(0.0, seconds - (time.time() - since)) if seconds and not status.done else None
    return plan, (time.time() - since) / status.done * (status.total - status.done)


def _need(plan: dict[str, Any]) -> dict[str, Any]:
    return (plan.get("needs") or {}).get(plan.get("way")) or {}


def _amounts(need: dict[str, Any]) -> str:
    return f"{duration(need.get('seconds'))}, {memory(need.get('memory'))} of memory"


def about_measurement(saved: Saved) -> None:
    """Say, folded, what was measured, how long it took beside the prediction, and what the numbers are not."""
    totals = saved.totals
    with st.expander("About this measurement", icon=":material/info:"):
        ids = [str(name) for name in totals.get("sample_ids") or []]
        tokens, losses = totals.get("supervised_tokens"), totals.get("losses") or []
        lines = [
            f"**What.** {layout.plain(FORMULA)}, the absolute value taken sample by sample. "
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
            predicted = f" (predicted {layout.plain(_amounts(_need(plan)))})" if plan else ""
            way = f"{plan.get('way', '')} on {plan.get('device', 'this machine')}, {totals.get('dtype')}"
            lines.append(f"**What it took.** {layout.plain(_amounts(measured))}{predicted}; {layout.plain(way)}.")
        if ids:
            shown = ", ".join(ids[:12]) + (f" and {len(ids) - 12} more" if len(ids) > 12 else "")
            lines.append(f"**Seed samples.** {layout.plain(shown)}")
        st.markdown("\n\n".join(lines))
