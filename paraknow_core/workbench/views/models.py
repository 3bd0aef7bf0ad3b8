"""What a run is estimated to take beside what the newest run like it took: one row a stage, with ratios."""

from typing import Any

from paraknow_core.display import count, counted, memory
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.spec import RunSpec
from paraknow_core.workbench import reading
from paraknow_core.workbench.desk.requests import Estimate
from paraknow_core.workbench.reading import Facts

WHOLE = "The whole run"
STAGES = {
    "sensitivity": "Measure sensitivity",
    "injection": "Search, factorise, inject",
    "fine-tuning": "Fine-tune",
    "evaluation": "Evaluate",
}


def newest_like(place: Workspace, spec: RunSpec) -> tuple[RunFolder, Facts] | None:
    """Return the newest finished run with a spec's teacher, student and task source, those alike in more first."""
    best: tuple[int, RunFolder, Facts] | None = None
    for run, facts in reading.all_facts(place):
        other = facts.spec
        if other is None or not facts.result or (other.teacher, other.student) != (spec.teacher, spec.student):
            continue
        if other.task.source != spec.task.source:
            continue
        alike = 2 * bool(facts.scores) + (Estimate(spec=other) == Estimate(spec=spec))
        if best is None or alike > best[0]:
            best = (alike, run, facts)
    return best[1:] if best else None


def measured_of(run: RunFolder, facts: Facts) -> dict[str, Any]:
    """Return the seconds of a finished run's stages, its peak memory, and what measuring its sensitivity took."""
    timings = facts.result.get("timings")
    return {
        "timings": timings if isinstance(timings, dict) else {},
        "peak": facts.result.get("peak_memory_bytes"),
        "sensitivity": run.measured(),
    }


def rows(estimate: dict[str, Any], again: dict[str, Any] | None, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row a stage: what is estimated, what was measured, and the ratio measured / estimated.

    Args:
        estimate: of the draft, as the desk answers it.
        again: the estimate of the run that was measured; the ratio compares like with like.
        measured: what `measured_of` gives, or nothing.
    """
    table = []
    timings = measured.get("timings", {})
    for stage, label in STAGES.items():
        need, past = need_of(estimate, stage), need_of(again, stage)
        if need is None:
            continue
        seconds, peak = timings.get(stage), None
        if stage == "evaluation" and seconds is not None:  # of all models, as it is estimated
            seconds += timings.get("references", 0.0)
        if stage == "sensitivity":
            seconds, peak = (measured.get("sensitivity", {}).get(key) for key in ("seconds", "memory"))
        table.append(_row(label, need, past or {}, seconds, peak))
    if table:
        past = [need for stage in STAGES if (need := need_of(again, stage))]
        finished = "evaluation" in timings
        expected = {"memory": max((need["memory"] for need in past), default=None), "seconds": None}
        if len(past) == len(STAGES):
            expected["seconds"] = sum(need["seconds"] or 0 for need in past)
        need = {
            "memory": max(row["memory_bytes"] for row in table),
            "disk": sum(row["disk_bytes"] for row in table),
            "seconds": sum(row["seconds"] or 0 for row in table),
        }
        seconds, peak = (sum(timings.values()), measured.get("peak")) if finished else (None, None)
        table.append(_row(WHOLE, need, expected, seconds, peak))
    return table


def need_of(estimate: dict[str, Any] | None, stage: str) -> dict[str, Any] | None:
    """Return what a stage needs by an estimate; None where nothing is known of it."""
    if estimate is None:
        return None
    if stage != "sensitivity":
        return estimate["student"]["stages"][stage]
    plan = estimate["sensitivity"]["plan"]
    return plan["needs"][plan["way"]] if plan else None


def _row(
    label: str, need: dict[str, Any], past: dict[str, Any], seconds: float | None, peak: float | None
) -> dict[str, Any]:
    return {
        "stage": label,
        "memory_bytes": need["memory"],
        "disk_bytes": need["disk"],
        "seconds": need["seconds"],
        "measured_memory_bytes": peak,
        "measured_seconds": seconds,
        "memory_ratio": _ratio(peak, past.get("memory")),
        "time_ratio": _ratio(seconds, past.get("seconds")),
    }


def _ratio(took: float | None, estimated: float | None) -> float | None:
    return took / estimated if isinstance(took, int | float) and estimated else None


def assumptions(estimate: dict[str, Any], rank: int) -> list[str]:
    """Say in words what an estimate rests on.

    Args:
        estimate: as the desk answers it.
        rank: of the adapter.
    """
    sensitivity, student = estimate["sensitivity"], estimate["student"]
    training, answering = student["training"], student["answering"]
    per_pass = f"{training['passes']:,} forward passes" if training["passes"] > 1 else "one forward pass"
    answers = (
        f"each answer as long as it may be ({answering['new_tokens']:,} tokens)"
        if answering["new_tokens"]
        else "likelihoods are compared, nothing is written"
    )
    left = ", ".join(f"{number:,} of {name}" for name, number in estimate["left_out"].items() if number)
    return [
        *([f"Left out as too long: {left}."] if left else []),
        f"Speed, measured on this machine ({estimate['device']}, {estimate['dtype']}): "
        f"{sensitivity['flops'] / 1e9:,.0f} GFLOP/s on the teacher's shapes, {student['flops'] / 1e9:,.0f} on the "
        f"student's, {memory(student['bytes'])}/s through memory; 1.5 GB/s from disk is assumed. Nothing else runs "
        "meanwhile.",
        f"Sensitivity: {counted(sensitivity['samples'], 'seed sample')} of {sensitivity['tokens']:,} tokens together, "
        f"{sensitivity['supervised']:,} of them learnt; nothing is saved from an earlier run. Its memory is what the "
        "process has of its own; loading the libraries, a few seconds more, is not counted.",
        f"Fine-tuning: {training['steps']:,} optimiser steps of {per_pass} with {training['tokens']:,} tokens each, "
        f"filling included; {count(student['adapters'])} trainable parameters (rank {rank}); the "
        f"validation split is read {training['validations']:,} times. Memory: weights, states of one pass, five copies "
        f"of its logits, optimiser, and {memory(estimate['process'])} for the process with its libraries.",
        f"Evaluation: {answering['models']:,} {'models' if answering['models'] > 1 else 'model'}, "
        f"{answering['batches']:,} batches of {answering['batch']:,}; {answers}. A score saved before costs nothing.",
        "Times are rough, and other work on the machine makes them longer. Lengths come from at most the first 300 "
        "examples of each split.",
    ]
