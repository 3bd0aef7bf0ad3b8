"""Before and after on Compare: where a run moved its student's weights, from where, and where sensitivity went."""

from typing import Any

import streamlit as st

from pages._ui.compare.link import linked
from pages._ui.frame import layout, state
from pages._ui.frame.asking import answered
from pages._ui.frame.fields import kept
from pages._ui.frame.layout import download, info, plain
from paraknow_core.display import shorten, source_label
from paraknow_core.figures import compare as charts
from paraknow_core.files.disk import file_stamp
from paraknow_core.runs.folder import RunFolder
from paraknow_core.studies.arms import Arm
from paraknow_core.workbench import reading
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.views import lens as changes

NONE = "none"
MEASURED = "compare.measured"  # runs whose sensitivity was asked for in this window
SHOWS = {
    "moved": "where weights moved",
    "inputs": "overlap, inputs",
    "outputs": "overlap, outputs",
    "sensitivity": "where sensitivity moved",
    "causal": "does sensitivity matter?",
}
TITLES = {
    "moved": "Where weights moved",
    "inputs": "Overlap with the initial inputs",
    "outputs": "Overlap with the initial outputs",
}
HELP = (
    "where weights moved: ‖ΔW‖ / ‖W‖, ΔW against the untouched student. overlap, inputs: ‖ΔW·P‖² / ‖ΔW‖², P onto the "
    "row space of the initial A₀; outputs: ‖P·ΔW‖² / ‖ΔW‖², P onto the column space of B₀; ΔW is what fine-tuning "
    "changed. where sensitivity moved: log₂ of each module's share of S after, over its share before. does sensitivity "
    "matter?: what the run put into one layer is swapped for a random change of the same singular values, and tested."
)


def draw(arms: list[Arm]) -> None:
    """Draw the view."""
    runs = {run.id: run for arm in arms for run in arm.runs}
    students = {run.id: f"student {source_label(a.spec.student.source, 26)}" for a in arms for run in a.runs}
    labels = {run.id: f"{a.label}, seed {seed}" for a in arms for seed, run in zip(a.seeds, a.runs, strict=True)}
    lines = reading.options(state.place(), runs.values())
    show = linked(st.segmented_control, "Show", "lens", list(SHOWS), format_func=SHOWS.get, required=True, help=HELP)
    left, right = st.columns(2)
    first = linked(left.selectbox, "Run", "first", list(labels), format_func=lines.get)
    rest = [NONE, *(run_id for run_id in labels if run_id != first)]
    other = next((arm.runs[0].id for arm in arms if all(run.id != first for run in arm.runs)), rest[-1])
    named = {"format_func": lambda run_id: lines.get(run_id, "nothing")}
    second = linked(right.selectbox, "Beside", "beside", rest, other, **named)
    shown = {run_id: runs[run_id] for run_id in (first, second) if run_id != NONE}
    if show == "sensitivity":
        _sensitivity(shown, labels, students)
        return
    if show == "causal":
        _causal(shown, labels, students)
        return
    answers = {
        i: answered(requests.AdapterChange(**_of(run)), f"Reading the adapter of {labels[i]} …")
        for i, run in shown.items()
    }
    moved = {i: changes.with_moves(reply.value["modules"]) for i, reply in answers.items() if reply is not None}
    if moved:
        _weights(moved, show, labels, students)


def _of(run: RunFolder) -> dict[str, Any]:
    return {"run": run.id, "stamp": list(file_stamp(run.file("adapter") / "adapter_model.safetensors"))}


def _weights(moved: dict[str, list[dict]], show: str, labels: dict[str, str], students: dict[str, str]) -> None:
    """Draw the map of one number of each run's change, in one scale of colours."""
    column = {"moved": "moved", "inputs": "in_share", "outputs": "out_share"}[show]
    limits = changes.span([m for modules in moved.values() for m in modules], column) if show == "moved" else None
    kind, words = ("size", "‖ΔW‖ / ‖W‖") if show == "moved" else ("share", "share of ‖ΔW‖²")
    scale = {"kind": kind, "words": words, "limits": limits, "dark": layout.is_dark()}
    boxes = st.container(key="stack-pictures-lens").columns(len(moved), gap="medium")
    for place, (box, (run_id, modules)) in enumerate(zip(boxes, moved.items(), strict=True)):
        title = f"{TITLES[show]}: {shorten(labels[run_id], 80)}"
        layout.chart(
            charts.module_map(modules, column, title, students[run_id], **scale),
            f"compare.lens.{place}",
            f"Heatmap by layer and module: {TITLES[show].lower()}, {labels[run_id]}",
            box,
        )
        side = "in" if show == "inputs" else "out"
        words = changes.moves_in_words(modules) if show == "moved" else changes.overlap_in_words(modules, side)
        box.caption(plain(words))
    download("These numbers as CSV", changes.table(moved), "weights.csv", key="compare.weights.csv")


def _sensitivity(runs: dict[str, RunFolder], labels: dict[str, str], students: dict[str, str]) -> None:
    """Draw how the student's own sensitivity moved; measured on request, because it takes a few backward passes."""
    count = kept(
        st.number_input,
        "Seed samples",
        "compare.samples",
        4,
        min_value=1,
        max_value=16,
        step=1,
        width=160,
        help="The first seed samples of the run's task, each once forward and backward through the student, without "
        "and with the adapter: S = Σ |θ · ∂L/∂θ|.",
    )
    asked: set = st.session_state.setdefault(MEASURED, set())
    boxes = dict(zip(runs, st.container(key="stack-pictures-lens").columns(len(runs), gap="medium"), strict=True))
    answers: dict[str, dict] = {}
    for place, (run_id, run) in enumerate(runs.items()):
        with boxes[run_id]:
            if (run_id, count) not in asked:
                _offer(place, (run_id, count), labels[run_id])
                continue
            reply = answered(
                requests.SensitivityChange(**_of(run), samples=int(count)),
                f"Measuring the student of {labels[run_id]} twice …",
            )
        if reply is not None:
            answers[run_id] = changes.with_ratios(reply.value)
    largest = changes.largest_ratio(list(answers.values()))
    scale = {"kind": "change", "words": "log₂ share after / before", "limits": (-largest, largest)}
    for place, (run_id, answer) in enumerate(answers.items()):
        title = f"Where sensitivity moved: {shorten(labels[run_id], 80)}"
        about = f"{students[run_id]}, n = {answer['samples']} seed samples"
        layout.chart(
            charts.module_map(answer["modules"], "log2", title, about, dark=layout.is_dark(), **scale),
            f"compare.moved.{place}",
            f"Heatmap by layer and module: change of the share of sensitivity, {labels[run_id]}",
            boxes[run_id],
        )
        boxes[run_id].caption(plain(changes.ratios_in_words(answer)))
    if answers:
        rows = changes.table({run_id: answer["modules"] for run_id, answer in answers.items()})
        download("These numbers as CSV", rows, "sensitivity.csv", key="compare.sensitivity.csv")


def _causal(runs: dict[str, RunFolder], labels: dict[str, str], students: dict[str, str]) -> None:
    """Draw what it costs to swap what a run put into each layer, beside the sensitivity of what it received."""
    left, right = st.columns(2)
    by = kept(left.segmented_control, "Edit", "compare.causal.by", "layer", options=["layer", "module"], required=True)
    examples = kept(
        right.number_input,
        "Test examples",
        "compare.causal.examples",
        200,
        min_value=2,
        max_value=2000,
        width=160,
        help="The first examples of the test split. Each edit reads and answers all of them again.",
    )
    asked: set = st.session_state.setdefault(MEASURED, set())
    answers: dict[str, dict] = {}
    for place, (run_id, run) in enumerate(runs.items()):
        if (run_id, by, examples) not in asked:
            _offer_edits(place, (run_id, by, examples), labels[run_id])
            continue
        question = requests.CausalCheck(**_of(run), by=by, examples=int(examples))
        reply = answered(question, f"Editing {labels[run_id]}, {by} by {by} …")
        if reply is not None:
            answers[run_id] = changes.with_effects(reply.value)
    for place, (run_id, answer) in enumerate(answers.items()):
        about = f"{students[run_id]}, n = {answer['examples']} test examples"
        _draw_effects(place, answer, shorten(labels[run_id], 80), about)
    if answers:
        rows = changes.table({run_id: answer["units"] for run_id, answer in answers.items()})
        download("These numbers as CSV", rows, "edits.csv", key="compare.causal.csv")


def _draw_effects(place: int, answer: dict[str, Any], label: str, about: str) -> None:
    """Draw one run: what it received and what each edit costs, as maps where both are known by module."""
    dark, units = layout.is_dark(), answer["units"]
    if answer["by"] == "module":
        boxes = st.container(key=f"stack-pictures-causal-{place}").columns(2, gap="medium")
        maps = (
            ("sensitivity", "What it received", "S of the teacher's block", "size"),
            ("twin_nats", "What its random twin costs", "nats per token", "change"),
        )
        for box, (column, title, words, kind) in zip(boxes, maps, strict=True):
            layout.chart(
                charts.module_map(units, column, f"{title}: {label}", about, kind=kind, words=words, dark=dark),
                f"compare.causal.{place}.{column}",
                f"Heatmap by layer and module: {title.lower()}, {label}",
                box,
            )
    layout.chart(
        charts.effect_scatter(units, f"Does sensitivity predict the cost? {label}", about, dark=dark),
        f"compare.causal.{place}",
        f"Cost of each edit over the sensitivity of what it received, {label}",
    )
    st.caption(plain(changes.effects_in_words(answer)))


def _offer_edits(place: int, key: tuple[str, str, int], label: str) -> None:
    info(f"What it costs to swap what {plain(label)} put into each {key[1]} will appear here.", "swap_horiz")
    if st.button("Edit and test", key=f"compare.edit.{place}", icon=":material/play_arrow:"):
        st.session_state[MEASURED].add(key)
        st.rerun()


def _offer(place: int, key: tuple[str, int], label: str) -> None:
    info(f"A map of where the sensitivity of {plain(label)} moved will appear here.", "grid_on")
    if st.button("Measure before and after", key=f"compare.measure.{place}", icon=":material/play_arrow:"):
        st.session_state[MEASURED].add(key)
        st.rerun()
