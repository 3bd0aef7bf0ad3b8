"""What a run will take, before any weight is loaded, and beside it what the newest run like it did take."""

from html import escape
from typing import Any

import streamlit as st

from pages._ui.frame import asking, state
from pages._ui.frame.layout import download, plain, say, warn
from paraknow_core.display import NOT_MEASURED, duration, memory, significant
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec
from paraknow_core.workbench import desk
from paraknow_core.workbench.desk.requests import Estimate
from paraknow_core.workbench.draft import differing
from paraknow_core.workbench.reading import Facts
from paraknow_core.workbench.views import models as view


def body() -> None:
    """Draw estimate, measured values and assumptions for the draft."""
    spec = state.draft()
    reply = asking.answered(asking.estimate_now(spec), "Measuring this machine for a second …")
    if reply is None:
        return
    estimate = reply.value
    problem = asking.fit_problem(spec)
    if problem:
        say(problem)
    _limits(estimate)
    past = view.newest_like(state.place(), spec)
    measured = view.measured_of(*past) if past else {}
    again = estimate if past else None
    if past and Estimate(spec=past[1].spec) != Estimate(spec=spec):
        earlier = asking.answered(asking.estimate_now(past[1].spec), "Estimating the run that was measured …")
        again = earlier.value if earlier else None
    table = view.rows(estimate, again, measured)
    st.html(_html(table))
    _about_measured(past, spec)
    with st.container(horizontal=True):
        download("Estimate as CSV", table, "estimate.csv")
        if st.button(
            "Measure this machine again",
            icon=":material/speed:",
            help="The rates below were measured when this question was first asked; other work on the machine "
            "slows them.",
        ):
            desk.forget(reply)
            st.rerun()
    with st.expander("Assumptions", icon=":material/rule:", expanded=True):
        lines = view.assumptions(estimate, spec.factorisation.rank)
        st.markdown("\n".join(f"- {plain(line)}" for line in lines))


def _limits(estimate: dict[str, Any]) -> None:
    """Draw how the teacher will be measured, and whether memory and disk suffice."""
    sensitivity, plan = estimate["sensitivity"], estimate["sensitivity"]["plan"]
    if plan is None:
        say(sensitivity["problem"])
        return
    way = "held in memory as a whole" if plan["way"] == "resident" else "streamed layer by layer from its files"
    budget, free = memory(estimate["budget"]), memory(estimate["free_disk"])
    st.markdown(
        plain(
            f"The teacher will be {way} on {estimate['device']}: {plan['reason']}. {budget} of memory may be used, "
            f"{free} of disk are free."
        ),
        help="Whole: weights and S at once, 8 bytes each. Streamed: one layer at a time, twice over; the numbers "
        "are the same.",
    )
    most = max(need["memory"] for need in estimate["student"]["stages"].values())
    if most > estimate["budget"]:
        warn(
            f"Fine-tuning or evaluation may need {memory(most)}, more than the {budget} that is free: lower the batch "
            "of one forward pass (finetuning.micro_batch_size) or the max length.",
            "memory",
        )
    disk = plan["needs"][plan["way"]]["disk"]
    if disk > estimate["free_disk"]:
        warn(
            f"The sensitivity needs {memory(disk)} of disk and {free} are free: free some space, or keep only "
            "reductions.",
            "hard_drive",
        )


def _html(table: list[dict[str, Any]]) -> str:
    body = "".join(
        f'<tr class="{"pk-other" if row["stage"] == view.WHOLE else ""}"><td>{escape(row["stage"])}</td>'
        + _cells(memory(row["memory_bytes"]), memory(row["measured_memory_bytes"]), row["memory_ratio"])
        + _cells(duration(row["seconds"]), duration(row["measured_seconds"]), row["time_ratio"])
        + f'<td class="pk-num">{memory(row["disk_bytes"]) if row["disk_bytes"] else "–"}</td></tr>'
        for row in table
    )
    heads = "".join(
        f'<th class="pk-num">{word}</th>'
        for word in ("Memory", "measured", "ratio", "Time", "measured", "ratio", "Disk")
    )
    return (
        f'<div class="pk-scroll"><table class="pk-table" data-testid="estimate"><tr><th>Stage</th>{heads}</tr>'
        f"{body}</table></div>"
    )


def _cells(estimated: str, measured: str, ratio: float | None) -> str:
    shown = f"× {significant(ratio, 2)}" if ratio is not None else NOT_MEASURED
    return (
        f'<td class="pk-num">{estimated}</td><td class="pk-num pk-quiet">{measured}</td>'
        f'<td class="pk-num pk-quiet">{shown}</td>'
    )


def _about_measured(past: tuple[RunFolder, Facts] | None, spec: RunSpec) -> None:
    if past is None:
        st.caption("Measured values will stand here after the first finished run of this teacher, student and task.")
        return
    run, facts = past
    keys = [key for key in differing(spec, facts.spec) if key not in ("name", "until")]
    words = f"Measured: run {run.id}."
    if keys:
        more = " and more" if len(keys) > 6 else ""
        words += (
            f" It differs from the draft in {', '.join(keys[:6])}{more}; its ratio is to the estimate of its own "
            "settings."
        )
    st.caption(plain(f"{words} The ratio is measured / estimated."))
