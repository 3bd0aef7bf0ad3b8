"""A second saved sensitivity beside the first: where they differ, how far they agree, and how stable n samples are."""

from html import escape
from typing import Any

import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.frame.fields import kept, mirror
from pages._ui.frame.layout import info, kept_picture, plain
from pages._ui.sensitivity import measure as sensitivity_measure
from pages._ui.sensitivity.map import VALUE, clickable, heatmap, picture
from pages._ui.sensitivity.matrix import matrix, picker
from paraknow_core.catalogue import MANUAL
from paraknow_core.display import NOT_MEASURED, distinct, shorten, source_label
from paraknow_core.figures import sensitivity as charts
from paraknow_core.runs.folder import RunFolder
from paraknow_core.sensitivity.agreement import Agreement, Correlation, top_overlap
from paraknow_core.spec import GROUP_OF_ROLE
from paraknow_core.workbench.reading import Facts, Runs
from paraknow_core.workbench.views.sensitivity import (
    Saved,
    compared,
    label,
    measuring,
    modules_of,
    names_of,
    of_student,
    same_question,
    saved_of,
    span,
    spec_of_student,
    stability_points,
)

WITH = "sensitivity.with"
KIND = "sensitivity.difference"
FEWER = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def choose_other(cell: Any, run: RunFolder, everything: Runs) -> tuple[RunFolder, Facts] | None:
    """Draw the choice of a second sensitivity, kept in the address, and return it."""
    others = {other.id: (other, facts) for other, facts in everything if other.id != run.id}
    asked = st.query_params.get("with", "")
    named = asked or st.session_state.get(WITH, "")
    if asked and asked not in (*others, run.id, st.session_state.get(WITH)):
        layout.say(
            f"run '{shorten(asked)}': no saved sensitivity of this id to compare with; choose one under Compare with"
        )
    else:
        _into_address(named if named in others else "")
    st.session_state[WITH] = named = named if named in others else ""
    labels = distinct({other_id: label(facts) for other_id, (_, facts) in others.items()})
    mirror(
        cell.selectbox,
        "Compare with",
        f"{WITH}.widget",
        named,
        lambda run_id: compare_with(run_id or ""),
        options=["", *others],
        format_func=lambda run_id: labels.get(run_id, "none"),
        help="Another saved sensitivity: another task, number of seed samples or model.",
    )
    return others.get(named)


def compare_with(run_id: str) -> None:
    """Make this run the second one; an empty id: none."""
    st.session_state[WITH] = run_id
    _into_address(run_id)


def _into_address(run_id: str) -> None:
    if run_id:
        st.query_params["with"] = run_id
    elif "with" in st.query_params:
        del st.query_params["with"]


def offer_student(saved: Saved, everything: Runs, other: Saved | None) -> None:
    """Offer to look at the draft's student beside the teacher, measuring it first where that was not done."""
    spec, student = saved.spec, state.draft().student
    if spec.teacher == student or saved.facts.spec is None:
        return
    name, measured = source_label(student.source, 24), of_student(saved, student, everything)
    if measured is None:
        if st.button(
            plain(f"Measure the student too ({name})"),
            icon=":material/add_chart:",
            type="tertiary",
            help="The student's own sensitivity on the same seed samples, to see it beside the teacher's.",
        ):
            sensitivity_measure.start_beside(spec_of_student(spec, student))
    elif (other is None or other.run.id != measured[0].id) and st.button(
        plain(f"Compare with the student ({name})"),
        icon=":material/compare:",
        type="tertiary",
        help="Teacher and student side by side, on the same seed samples.",
    ):
        compare_with(measured[0].id)
        st.rerun()


def comparison(first: Saved, second: Saved, chosen: str, kept_layers: list[int | None] | None) -> None:
    """Draw both maps, their difference, the chosen module in both, and how far they agree."""
    agreed, names = compared(first, second), names_of(first, second)
    count = len([layer for layer in kept_layers or [] if layer is not None])
    _verdict(agreed, names, count)
    # Shares have one scale in both maps. Totals are not to be compared: they grow with the loss and the samples.
    limits = span(first, second, "share") if st.session_state[VALUE] == "share" else None
    left, right = st.container(key="stack-pictures").columns(2, gap="medium")
    with left:
        heatmap(first, chosen, name=names[0], limits=limits)
    with right:
        heatmap(second, chosen, name=names[1], limits=limits)
    tip = "log-ratio: log₂ of (share in the first / share in the second); difference: in points of the share."
    shown = {"options": list(charts.KINDS), "format_func": charts.KINDS.get, "required": True, "help": tip}
    kind = kept(st.segmented_control, "Difference", KIND, "ratio", label_visibility="collapsed", **shown)
    left, right = st.container(key="stack-pictures-2").columns(2, gap="medium")
    with left:
        _difference(first, second, agreed, names, kind)
    with right:
        _scatter(first, second, agreed, names)
    left, right = st.container(key="stack-pictures-3").columns(2, gap="medium")
    with left:
        _lines(first, second, agreed, names)
    with right:
        _overlap(first, second, agreed, count)
    st.subheader("Inside one module", anchor=False)
    picker(first, chosen)
    left, right = st.container(key="stack-pictures-4").columns(2, gap="medium")
    with left:
        matrix(first, chosen, with_block=True, name=names[0])
    with right:
        if chosen in set(second.table["module"]):
            matrix(second, chosen, with_block=False, name=names[1])
        else:
            info(plain(f"{names[1]} has no {chosen}."), "info")


def _verdict(agreed: Agreement, names: tuple[str, str], count: int) -> None:
    """Say in words how far the two agree; `count` is how many layers the draft keeps, 0 while nobody knows."""
    lines = [
        f"<b>{escape(names[0])}</b> against <b>{escape(names[1])}</b>: "
        f"modules: {_says(agreed.modules)}; layers: {_says(agreed.layers)}."
    ]
    rows = len(agreed.by_layer[0])
    if 0 < count < rows and not agreed.by_depth:
        common = int(top_overlap(*agreed.by_layer)[count - 1])
        chance = f"{count * count / rows:.1f} expected by chance"
        lines.append(f"Of the {count} most sensitive layers, {common} are the same ({chance}).")
    if agreed.by_depth:
        lines.append(
            f"They have {agreed.depths[0]} and {agreed.depths[1]} layers: each row is the same relative depth, "
            "and a layer that reaches into two rows is divided between them."
        )
    st.html(f'<div data-testid="agreement">{" ".join(lines)}</div>')


def _says(correlation: Correlation) -> str:
    values = (correlation.spearman, correlation.kendall)
    numbers = [NOT_MEASURED if value is None else f"{value:.2f}".replace("-", "−") for value in values]
    return f"Spearman ρ {numbers[0]}, Kendall τ {numbers[1]} (n = {correlation.n})"


def _difference(first: Saved, second: Saved, agreed: Agreement, names: tuple[str, str], kind: str) -> None:
    dark, about = layout.is_dark(), f"orange: more in {names[0]}; blue: more in {names[1]}"

    def draw() -> Any:
        modules = {} if agreed.by_depth else modules_of(first)
        return charts.difference_map(agreed, kind, names, "Where they differ", about, modules=modules, dark=dark)

    clickable(
        kept_picture("difference", (first.key, second.key, kind), draw),
        f"difference:{first.store.folder.name}:{second.store.folder.name}:{kind}",
        f"Heatmap of the {charts.KINDS[kind]} of shares between {names[0]} and {names[1]}",
    )


def _scatter(first: Saved, second: Saved, agreed: Agreement, names: tuple[str, str]) -> None:
    dark, says = layout.is_dark(), _says(agreed.modules)
    picture(
        "scatter",
        (first.key, second.key),
        f"Scatter: each module's share in {names[0]} against its share in {names[1]}",
        lambda: charts.share_scatter(agreed, names, "Module by module", says, groups=GROUP_OF_ROLE, dark=dark),
    )


def _lines(first: Saved, second: Saved, agreed: Agreement, names: tuple[str, str]) -> None:
    dark, about = layout.is_dark(), "share of the whole model's S, norms included"
    picture(
        "lines",
        (first.key, second.key),
        "Lines: each layer's share of S in both",
        lambda: charts.layer_lines(agreed, names, "Layers", about, dark=dark),
    )


def _overlap(first: Saved, second: Saved, agreed: Agreement, count: int) -> None:
    dark, about = layout.is_dark(), "of the k most sensitive layers of each, how many are common"
    most = None if agreed.by_depth else count or None  # a row by depth is no layer that a student could receive

    def draw() -> Any:
        common = top_overlap(*agreed.by_layer).tolist()
        return charts.top_overlap_curve(common, most, "The same layers on top?", about, dark=dark)

    alt = "Line: share of common layers among the k most sensitive, beside chance"
    picture("overlap", (first.key, second.key, most), alt, draw)


def stability(saved: Saved, everything: Runs) -> None:
    """Draw how close fewer seed samples come to the largest number that was measured, or offer to measure them."""
    if saved.facts.spec is None:
        return
    family = {saved.samples: saved}
    for run, facts in everything:
        if (
            facts.spec
            and facts.spec.sensitivity.samples not in family
            and same_question(facts.spec, saved.spec, apart_from=("sensitivity.samples",))
        ):
            other = saved_of(state.place(), run, facts)
            if other is not None and other.totals.get("fingerprint") == saved.totals.get("fingerprint"):
                family[other.samples] = other
    with st.expander("How many seed samples are enough?", expanded=len(family) > 1, icon=":material/timeline:"):
        if len(family) > 1:
            _stability_curve([family[n] for n in sorted(family)])
        _offer_fewer(saved, family)


def _stability_curve(family: list[Saved]) -> None:
    largest, dark = family[-1], layout.is_dark()
    whole = compared(largest, largest)
    about = f"Spearman ρ of shares, {whole.modules.n} modules, {whole.layers.n} layers"
    picture(
        "stability",
        tuple(saved.key for saved in family),
        "Lines: rank correlation with the largest number of seed samples",
        lambda: charts.stability_curve(
            stability_points(family), "Stability", f"{largest.teacher} on {largest.task}; {about}", dark=dark
        ),
    )
    if largest.spec.sensitivity.selection == "first":
        st.caption("The smaller sets are the first samples of the larger one, so the curve is a little kind to them.")


def _offer_fewer(saved: Saved, family: dict[int, Saved]) -> None:
    missing = [n for n in FEWER if n < saved.samples and n not in family][-4:]
    if saved.spec.sensitivity.selection == MANUAL or (not missing and len(family) > 1):
        return
    if not missing:
        st.caption("Measure the same task with more seed samples, and the curve will appear here.")
        return
    st.caption(
        "The rank correlation of smaller seed sets with this one: where the curve is flat, more samples change little."
    )
    words = f"Measure with {', '.join(str(n) for n in missing)} sample{'s' if missing != [1] else ''}"
    if st.button(words, icon=":material/add_chart:"):
        spec = measuring(saved.spec)
        sensitivity_measure.start_beside(*(spec.with_changes({"sensitivity.samples": n}) for n in missing))
