"""What a run will take, before any weight is loaded, and beside it what the newest run like it did take."""

import time
from html import escape
from typing import Any

import pandas
import streamlit as st

from pages._ui.frame import asking, reading, state
from pages._ui.frame.layout import plain, say
from pages._ui.frame.reading import Facts
from pages._ui.models.anatomy import CSS
from paraknow_core.display import NOT_MEASURED, count, counted, duration, memory, significant
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec
from paraknow_core.workbench import desk
from paraknow_core.workbench.desk.requests import Estimate

STAGES = {
    "sensitivity": "Measure sensitivity",
    "injection": "Search, factorise, inject",
    "fine-tuning": "Fine-tune",
    "evaluation": "Evaluate",
}
FREE_FOR_S = 300  # what was free so long ago is looked at again


def asked_now(spec: RunSpec) -> Estimate:
    """Return the question what a spec will take now: how much memory and disk is free decides the plan, and changes."""
    return Estimate(spec=spec, moment=int(time.time() // FREE_FOR_S))


def body() -> None:
    """Draw estimate, measured values and assumptions for the draft."""
    spec = state.draft()
    reply = asking.answered(asked_now(spec), "Measuring this machine for a second …")
    if reply is None:
        return
    found = reply.value
    problem = asking.fit_problem(spec)
    if problem:
        say(problem)
    _limits(found)
    run, one = newest_like(spec)
    measured = measured_of(run, one) if run else {}
    again = None
    if run and Estimate(spec=one.spec) != Estimate(spec=spec):
        past = asking.answered(asked_now(one.spec), "Estimating the run that was measured …")
        again = past.value if past else None
    elif run:
        again = found
    table = rows(found, again, measured)
    st.html(CSS + _html(table))
    _about_measured(run, one, spec)
    with st.container(horizontal=True):
        st.download_button(
            "Estimate as CSV",
            pandas.DataFrame(table).to_csv(index=False),
            "estimate.csv",
            "text/csv",
            icon=":material/download:",
            on_click="ignore",
        )
        if st.button(
            "Measure this machine again",
            icon=":material/speed:",
            help="The rates below were measured when this question was first asked; other work on the machine "
            "slows them.",
        ):
            desk.forget(reply)
            st.rerun()
    _assumptions(found, spec)


def _limits(found: dict[str, Any]) -> None:
    """Draw how the teacher will be measured, and whether memory and disk suffice."""
    sensitivity, plan = found["sensitivity"], found["sensitivity"]["plan"]
    if plan is None:
        say(sensitivity["problem"])
        return
    way = "held in memory as a whole" if plan["way"] == "resident" else "streamed layer by layer from its files"
    st.markdown(
        plain(
            f"The teacher will be {way} on {found['device']}: {plan['reason']}. "
            f"{memory(found['budget'])} of memory may be used, {memory(found['free_disk'])} of disk are free."
        ),
        help="Whole: weights and S at once, 8 bytes each. Streamed: one layer at a time, twice over; the numbers "
        "are the same.",
    )
    most = max(need["memory"] for need in found["student"]["stages"].values())
    if most > found["budget"]:
        st.warning(
            plain(
                f"Fine-tuning or evaluation may need {memory(most)}, more than the {memory(found['budget'])} "
                "that is free: lower the batch of one forward pass (finetuning.micro_batch_size) or the max "
                "length."
            ),
            icon=":material/memory:",
        )
    disk = plan["needs"][plan["way"]]["disk"]
    if disk > found["free_disk"]:
        st.warning(
            plain(
                f"The sensitivity needs {memory(disk)} of disk and {memory(found['free_disk'])} are free: "
                "free some space, or keep only reductions."
            ),
            icon=":material/hard_drive:",
        )


def newest_like(spec: RunSpec) -> tuple[RunFolder | None, Facts | None]:
    """Return the newest finished run with the draft's teacher, student and task source, those alike in more first."""
    best: tuple[int, RunFolder, Facts] | None = None
    for run, one in reading.all_facts(state.place()):
        other = one.spec
        if other is None or not one.result or (other.teacher, other.student) != (spec.teacher, spec.student):
            continue
        if other.task.source != spec.task.source:
            continue
        alike = 2 * bool(one.scores) + (Estimate(spec=other) == Estimate(spec=spec))
        if best is None or alike > best[0]:
            best = (alike, run, one)
    return (best[1], best[2]) if best else (None, None)


def measured_of(run: RunFolder, one: Facts) -> dict[str, Any]:
    """Return what a finished run took: of the measurement of its sensitivity, seconds of its stages, peak memory."""
    timings = one.result.get("timings")
    taken: dict[str, Any] = {
        "timings": timings if isinstance(timings, dict) else {},
        "peak": one.result.get("peak_memory_bytes"),
    }
    taken["sensitivity"] = run.measured()
    return taken


def rows(found: dict[str, Any], again: dict[str, Any] | None, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row a stage: what is estimated, what was measured, and the ratio measured / estimated.

    Args:
        found: the estimate of the draft.
        again: the estimate of the run that was measured; the ratio compares like with like.
        measured: what `measured_of` gives, or nothing.
    """
    made = []
    for stage, label in STAGES.items():
        need, past = _need(found, stage), _need(again, stage) if again else None
        if need is None:
            continue
        if stage == "sensitivity":
            took = measured.get("sensitivity", {})
            seconds, peak = took.get("seconds"), took.get("memory")
        else:
            seconds, peak = measured.get("timings", {}).get(stage), None
        made.append(
            {
                "stage": label,
                "memory_bytes": need["memory"],
                "disk_bytes": need["disk"],
                "seconds": need["seconds"],
                "measured_memory_bytes": peak,
                "measured_seconds": seconds,
                "memory_ratio": _ratio(peak, past and past["memory"]),
                "time_ratio": _ratio(seconds, past and past["seconds"]),
            }
        )
    if made:
        made.append(_whole(made, again, measured))
    return made


def _whole(made: list[dict[str, Any]], again: dict[str, Any] | None, measured: dict[str, Any]) -> dict[str, Any]:
    timings = measured.get("timings", {})
    seconds = sum(timings.values()) if "evaluation" in timings else None
    past = [_need(again, stage) for stage in STAGES] if again else []
    known = [need for need in past if need]
    expected = sum(need["seconds"] or 0 for need in known) if len(known) == len(STAGES) else None
    peak = measured.get("peak") if seconds is not None else None
    most = max((need["memory"] for need in known), default=None)
    return {
        "stage": "The whole run",
        "memory_bytes": max(row["memory_bytes"] for row in made),
        "disk_bytes": sum(row["disk_bytes"] for row in made),
        "seconds": sum(row["seconds"] or 0 for row in made),
        "measured_memory_bytes": peak,
        "measured_seconds": seconds,
        "memory_ratio": _ratio(peak, most),
        "time_ratio": _ratio(seconds, expected),
    }


def _need(found: dict[str, Any] | None, stage: str) -> dict[str, Any] | None:
    if found is None:
        return None
    if stage != "sensitivity":
        return found["student"]["stages"][stage]
    plan = found["sensitivity"]["plan"]
    return plan["needs"][plan["way"]] if plan else None


def _ratio(took: float | None, estimated: float | None) -> float | None:
    return took / estimated if isinstance(took, int | float) and estimated else None


def _html(table: list[dict[str, Any]]) -> str:
    body = "".join(
        f'<tr class="{"pk-other" if row["stage"] == "The whole run" else ""}"><td>{escape(row["stage"])}</td>'
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


def _about_measured(run: RunFolder | None, one: Facts | None, spec: RunSpec) -> None:
    if run is None or one is None or one.spec is None:
        st.caption("Measured values will stand here after the first finished run of this teacher, student and task.")
        return
    differs = [
        key
        for key in state.differing(spec.model_dump(mode="json"), one.spec.model_dump(mode="json"))
        if key not in ("name", "until")
    ]
    said = f"Measured: run {run.id}."
    if differs:
        said += (
            f" It differs from the draft in {', '.join(differs[:6])}{' and more' if len(differs) > 6 else ''}; "
            "its ratio is to the estimate of its own settings."
        )
    st.caption(plain(said + " The ratio is measured / estimated."))


def _assumptions(found: dict[str, Any], spec: RunSpec) -> None:
    """Say in words what the estimate rests on."""
    sensitivity, student = found["sensitivity"], found["student"]
    training, answering = student["training"], student["answering"]
    per_pass = f"{training['passes']:,} forward passes" if training["passes"] > 1 else "one forward pass"
    answers = (
        f"each answer as long as it may be ({answering['new_tokens']:,} tokens)"
        if answering["new_tokens"]
        else "likelihoods are compared, nothing is written"
    )
    left = ", ".join(f"{number:,} of {name}" for name, number in found["left_out"].items() if number)
    lines = [
        *([f"Left out as too long: {left}."] if left else []),
        f"Speed, measured on this machine ({found['device']}, {found['dtype']}): "
        f"{sensitivity['flops'] / 1e9:,.0f} GFLOP/s on the teacher's shapes, {student['flops'] / 1e9:,.0f} on the "
        f"student's, {memory(student['bytes'])}/s through memory; 1.5 GB/s from disk is assumed. Nothing else runs "
        "meanwhile.",
        f"Sensitivity: {counted(sensitivity['samples'], 'seed sample')} of {sensitivity['tokens']:,} tokens together, "
        f"{sensitivity['supervised']:,} of them learnt; nothing is saved from an earlier run. Its memory is what the "
        "process has of its own; loading the libraries, a few seconds more, is not counted.",
        f"Fine-tuning: {training['steps']:,} optimiser steps of {per_pass} with {training['tokens']:,} tokens each, "
        f"filling included; {count(student['adapters'])} trainable parameters (rank {spec.factorisation.rank}); the "
        f"validation split is read {training['validations']:,} times. Memory: weights, states of one pass, five copies "
        f"of its logits, optimiser, and {memory(found['process'])} for the process with its libraries.",
        f"Evaluation: {answering['models']:,} {'models' if answering['models'] > 1 else 'model'}, "
        f"{answering['batches']:,} batches of {answering['batch']:,}; {answers}. A score saved before costs nothing.",
        "Times are rough, and other work on the machine makes them longer. Lengths come from at most the first 300 "
        "examples of each split.",
    ]
    with st.expander("Assumptions", icon=":material/rule:", expanded=True):
        st.markdown("\n".join(f"- {plain(line)}" for line in lines))
