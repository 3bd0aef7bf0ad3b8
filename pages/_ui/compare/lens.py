"""Before and after on Compare: where a run moved its student's weights, from where, and where sensitivity went."""

import math
from typing import Any

import pandas
import streamlit as st

from pages._ui.compare.link import linked
from pages._ui.compare.scores import PLOT
from pages._ui.frame import layout, reading, state
from pages._ui.frame.asking import answered
from pages._ui.frame.layout import plain
from paraknow_core.display import percent, shorten, significant, source_label
from paraknow_core.figures import compare as charts
from paraknow_core.files.disk import file_stamp
from paraknow_core.runs.folder import RunFolder
from paraknow_core.studies import Arm
from paraknow_core.workbench.desk import requests

NONE = "none"
MEASURED = "compare.measured"  # runs whose sensitivity was asked for in this window
SHOWS = {
    "moved": "where weights moved",
    "inputs": "overlap, inputs",
    "outputs": "overlap, outputs",
    "sensitivity": "where sensitivity moved",
}
HELP = (
    "where weights moved: ‖ΔW‖ / ‖W‖, ΔW against the untouched student. overlap, inputs: ‖ΔW·P‖² / ‖ΔW‖², P onto the "
    "row space of the initial A₀; outputs: ‖P·ΔW‖² / ‖ΔW‖², P onto the column space of B₀; ΔW is what fine-tuning "
    "changed. where sensitivity moved: log₂ of each module's share of S after, over its share before."
)


def draw(arms: list[Arm]) -> None:
    """Draw the view."""
    runs = {run.id: run for g in arms for run in g.runs}
    specs = {run.id: g.spec for g in arms for run in g.runs}
    labels = {run.id: f"{g.label}, seed {seed}" for g in arms for seed, run in zip(g.seeds, g.runs, strict=True)}
    lines = reading.options(state.place(), runs.values())
    show = linked(st.segmented_control, "Show", "lens", list(SHOWS), format_func=SHOWS.get, required=True, help=HELP)
    left, right = st.columns(2)
    with left:
        first = linked(st.selectbox, "Run", "first", list(labels), format_func=lines.get)
    with right:
        rest = [NONE, *(run_id for run_id in labels if run_id != first)]
        other = next((g.runs[0].id for g in arms if all(run.id != first for run in g.runs)), rest[-1])
        second = linked(st.selectbox, "Beside", "beside", rest, other, format_func=lambda i: lines.get(i, "nothing"))
    shown = [run_id for run_id in (first, second) if run_id != NONE]
    if show == "sensitivity":
        _sensitivity({i: runs[i] for i in shown}, labels, specs)
        return
    answers = {
        i: answered(requests.AdapterChange(**_of(runs[i])), f"Reading the adapter of {labels[i]} …") for i in shown
    }
    ready = {i: reply.value["modules"] for i, reply in answers.items() if reply is not None}
    if ready:
        _weights(ready, show, labels, specs)


def _of(run: RunFolder) -> dict[str, Any]:
    return {"run": run.id, "stamp": list(file_stamp(run.file("adapter") / "adapter_model.safetensors"))}


def _weights(ready: dict[str, list[dict]], show: str, labels: dict[str, str], specs: dict[str, Any]) -> None:
    """Draw the map of one number of each run's change, in one scale of colours."""
    records = {
        i: [{**m, "moved": m["change"] / m["weight"] if m["weight"] else None} for m in modules]
        for i, modules in ready.items()
    }
    column = {"moved": "moved", "inputs": "in_share", "outputs": "out_share"}[show]
    kind, words = ("size", "‖ΔW‖ / ‖W‖") if show == "moved" else ("share", "share of ‖ΔW‖²")
    values = [r[column] for modules in records.values() for r in modules if r["layer"] is not None and r[column]]
    titles = {
        "moved": "Where weights moved",
        "inputs": "Overlap with the initial inputs",
        "outputs": "Overlap with the initial outputs",
    }
    boxes = st.container(key="stack-pictures-lens").columns(len(records), gap="medium")
    for place, (box, (run_id, modules)) in enumerate(zip(boxes, records.items(), strict=True)):
        student = source_label(specs[run_id].student.source, 26)
        box.plotly_chart(
            charts.module_map(
                modules,
                column,
                f"{titles[show]}: {shorten(labels[run_id], 80)}",
                f"student {student}",
                kind=kind,
                words=words,
                dark=layout.is_dark(),
                limits=(min(values), max(values)) if values and kind == "size" else None,
            ),
            theme=None,
            config=PLOT,
            key=f"compare.lens.{place}",
            alt=f"Heatmap by layer and module: {titles[show].lower()}, {labels[run_id]}",
        )
        box.caption(plain(_weight_words(modules, show)))
    table = pandas.DataFrame([{"run": i, **r} for i, modules in records.items() for r in modules])
    _csv(table, "weights.csv")


def _weight_words(modules: list[dict[str, Any]], show: str) -> str:
    """Say the picture in a sentence, with what the picture leaves out."""
    outside = [m for m in modules if m["layer"] is None]
    if show == "moved":
        whole = math.sqrt(sum(m["change"] ** 2 for m in modules)) / math.sqrt(sum(m["weight"] ** 2 for m in modules))
        top = max(modules, key=lambda m: m["moved"] or 0)
        ends = "; ".join(f"{m['role']} {significant(m['moved'])}" for m in outside)
        return (
            f"All adapted weights together moved by {significant(whole)} of their norm; most: {top['module']} "
            f"({significant(top['moved'])}).{f' Outside the layers: {ends}.' if ends else ''}"
        )
    side = "in" if show == "inputs" else "out"
    known = [m for m in modules if m[f"{side}_share"] is not None and m["trained"]]
    if not known:
        return "B₀ = 0: this adapter had no outputs to begin with, so there is no subspace to overlap with."
    energy = sum(m["trained"] ** 2 for m in known)
    share = sum(m["trained"] ** 2 * m[f"{side}_share"] for m in known) / energy
    chance = sum(m["trained"] ** 2 * m[f"{side}_chance"] for m in known) / energy
    cosines = [m[f"{side}_cosine"] for m in known if m[f"{side}_cosine"] is not None]
    factor = "A" if side == "in" else "B"
    mean = f"{sum(cosines) / len(cosines):.3f}" if cosines else ""
    turned = f" The span of {factor} itself kept a mean principal cosine of {mean}." if mean else ""
    return (
        f"{percent(share)} of the change of all modules lies in the initial subspace; a random subspace of its size "
        f"would hold {percent(chance)}.{turned}"
    )


def _sensitivity(runs: dict[str, RunFolder], labels: dict[str, str], specs: dict[str, Any]) -> None:
    """Draw how the student's own sensitivity moved; measured on request, because it takes a few backward passes."""
    count = state.kept(
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
    found: dict[str, dict] = {}
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
            found[run_id] = _with_ratios(reply.value)
    largest = max(
        (
            abs(m["log2"])
            for v in found.values()
            for m in v["modules"]
            if m["layer"] is not None and m["log2"] is not None
        ),
        default=1.0,
    )
    for place, (run_id, value) in enumerate(found.items()):
        with boxes[run_id]:
            student = source_label(specs[run_id].student.source, 26)
            _moved(place, labels[run_id], f"student {student}, n = {value['samples']} seed samples", value, largest)
    if found:
        _csv(pandas.DataFrame([{"run": i, **m} for i, v in found.items() for m in v["modules"]]), "sensitivity.csv")


def _offer(place: int, key: tuple[str, int], label: str) -> None:
    st.info(f"A map of where the sensitivity of {plain(label)} moved will appear here.", icon=":material/grid_on:")
    if st.button("Measure before and after", key=f"compare.measure.{place}", icon=":material/play_arrow:"):
        st.session_state[MEASURED].add(key)
        st.rerun()


def _with_ratios(value: dict[str, Any]) -> dict[str, Any]:
    """Add S of all modules and, to each module, log2 of its share after over its share before."""
    before, after = (sum(m[when] for m in value["modules"]) for when in ("before", "after"))
    modules = []
    for module in value["modules"]:
        known = before > 0 and after > 0 and module["before"] > 0 and module["after"] > 0
        ratio = math.log2(module["after"] / after / (module["before"] / before)) if known else None
        modules.append({**module, "log2": ratio})
    return {**value, "modules": modules, "before": before, "after": after}


def _moved(place: int, label: str, subtitle: str, value: dict[str, Any], largest: float) -> None:
    st.plotly_chart(
        charts.module_map(
            value["modules"],
            "log2",
            f"Where sensitivity moved: {shorten(label, 80)}",
            subtitle,
            kind="change",
            words="log₂ share after / before",
            limits=(-largest, largest),
            dark=layout.is_dark(),
        ),
        theme=None,
        config=PLOT,
        key=f"compare.moved.{place}",
        alt=f"Heatmap by layer and module: change of the share of sensitivity, {label}",
    )
    outside = "; ".join(
        f"{m['role']} {m['log2']:+.2f}" for m in value["modules"] if m["layer"] is None and m["log2"] is not None
    )
    st.caption(
        plain(
            f"+1: twice the share, −1: half. S of all modules: {significant(value['before'])} before, "
            f"{significant(value['after'])} after; loss on these samples {value['loss_before']:.3f} before, "
            f"{value['loss_after']:.3f} after (nats per token).{f' Outside the layers: {outside}.' if outside else ''}"
        )
    )


def _csv(table: pandas.DataFrame, name: str) -> None:
    table = table.assign(shape=table["shape"].map(lambda s: f"{s[0]}x{s[1]}")) if "shape" in table else table
    st.download_button(
        "These numbers as CSV",
        table.to_csv(index=False),
        name,
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        key=f"compare.{name}",
    )
