"""A second saved sensitivity beside the first: where they differ, how far they agree, and how stable n samples are."""

from html import escape

import numpy
import streamlit as st

from pages._ui.frame import layout, reading, state
from pages._ui.frame.reading import Facts
from pages._ui.sensitivity import measure as sensitivity_measure
from pages._ui.sensitivity.map import PLOT, clickable, common_limits, heatmap, kept_picture
from pages._ui.sensitivity.matrix import matrix, picker
from pages._ui.sensitivity.read import Saved, compared, label, names_of, of_student, opened, same_question
from paraknow_core.catalogue import MANUAL
from paraknow_core.display import NOT_MEASURED, distinct, shorten, source_label
from paraknow_core.errors import ParaknowError
from paraknow_core.figures import sensitivity as charts
from paraknow_core.runs.folder import RunFolder
from paraknow_core.sensitivity.agreement import Agreement, Correlation, top_overlap
from paraknow_core.spec import GROUP_OF_ROLE

WITH = "sensitivity.with"
KIND = "sensitivity.difference"
FEWER = (1, 2, 4, 8, 16, 32, 64, 128, 256)
List = list[tuple[RunFolder, Facts]]


def choose_other(cell, run: RunFolder, everything: List) -> tuple[RunFolder, Facts] | None:  # noqa: ANN001
    """Draw the choice of a second sensitivity, kept in the address, and return it."""
    others = {other.id: (other, one) for other, one in everything if other.id != run.id}
    asked = st.query_params.get("with", "")
    named = asked or st.session_state.get(WITH, "")
    if asked and asked not in (*others, run.id, st.session_state.get(WITH)):
        layout.say(
            f"run '{shorten(asked)}': no saved sensitivity of this id to compare with; choose one under Compare with"
        )
    else:
        _into_address(named if named in others else "")
    named = named if named in others else ""
    st.session_state[WITH] = st.session_state[f"{WITH}.widget"] = named
    labels = distinct({other_id: label(one) for other_id, (_, one) in others.items()})
    cell.selectbox(
        "Compare with",
        ["", *others],
        key=f"{WITH}.widget",
        format_func=lambda i: labels.get(i, "none"),
        on_change=_chosen,
        help="Another saved sensitivity: another task, number of seed samples or model.",
    )
    return others.get(named)


def _chosen() -> None:
    st.session_state[WITH] = st.session_state[f"{WITH}.widget"] or ""
    _into_address(st.session_state[WITH])


def compare_with(run_id: str) -> None:
    """Make this run the second one."""
    st.session_state[WITH] = run_id
    _into_address(run_id)


def _into_address(run_id: str) -> None:
    if run_id:
        st.query_params["with"] = run_id
    elif "with" in st.query_params:
        del st.query_params["with"]


def offer_student(saved: Saved, everything: List, other: Saved | None) -> None:
    """Offer to look at the draft's student beside the teacher, measuring it first where that was not done."""
    spec, student = saved.spec, state.draft().student
    if spec.teacher == student or saved.one.spec is None:
        return
    name, found = source_label(student.source, 24), of_student(saved, everything)
    if found is None:
        if st.button(
            layout.plain(f"Measure the student too ({name})"),
            icon=":material/add_chart:",
            type="tertiary",
            help="The student's own sensitivity on the same seed samples, to see it beside the teacher's.",
        ):
            pair = spec.with_changes({"student": student.model_dump(mode="json")})
            sensitivity_measure.start_beside(sensitivity_measure.of_student(pair))
    elif (other is None or other.run.id != found[0].id) and st.button(
        layout.plain(f"Compare with the student ({name})"),
        icon=":material/compare:",
        type="tertiary",
        help="Teacher and student side by side, on the same seed samples.",
    ):
        compare_with(found[0].id)
        st.rerun()


def comparison(first: Saved, second: Saved, chosen: str, kept: list[int | None] | None) -> None:
    """Draw both maps, their difference, the chosen module in both, and how far they agree."""
    found, names = compared(first, second), names_of(first, second)
    _verdict(found, names, kept)
    limits = common_limits(first, second)
    pictures = st.container(key="stack-pictures")
    left, right = pictures.columns(2, gap="medium")
    with left:
        heatmap(first, chosen, name=names[0], limits=limits)
    with right:
        heatmap(second, chosen, name=names[1], limits=limits)
    kind = _difference_kind()
    left, right = st.container(key="stack-pictures-2").columns(2, gap="medium")
    with left:
        _difference(first, second, found, names, kind)
    with right:
        _scatter(first, second, found, names)
    left, right = st.container(key="stack-pictures-3").columns(2, gap="medium")
    with left:
        _lines(first, second, found, names)
    with right:
        _overlap(first, second, found, kept)
    st.subheader("Inside one module", anchor=False)
    picker(first, chosen)
    left, right = st.container(key="stack-pictures-4").columns(2, gap="medium")
    with left:
        matrix(first, chosen, with_block=True, name=names[0])
    with right:
        same = chosen if chosen in set(second.table["module"]) else None
        if same is None:
            st.info(layout.plain(f"{names[1]} has no {chosen}."), icon=":material/info:")
        else:
            matrix(second, same, with_block=False, name=names[1])


def _verdict(found: Agreement, names: tuple[str, str], kept: list[int | None] | None) -> None:
    """Say in words how far the two agree."""
    lines = [
        f"<b>{escape(names[0])}</b> against <b>{escape(names[1])}</b>: "
        f"modules: {_says(found.modules)}; layers: {_says(found.layers)}."
    ]
    rows, count = len(found.by_layer[0]), len([layer for layer in kept or [] if layer is not None])
    if 0 < count < rows and not found.by_depth:
        common = int(top_overlap(*found.by_layer)[count - 1])
        chance = f"{count * count / rows:.1f} expected by chance"
        lines.append(f"Of the {count} most sensitive layers, {common} are the same ({chance}).")
    if found.by_depth:
        lines.append(
            f"They have {found.depths[0]} and {found.depths[1]} layers: each row is the same relative depth, "
            "and a layer that reaches into two rows is divided between them."
        )
    st.html(f'<div data-testid="agreement">{" ".join(lines)}</div>')


def _says(one: Correlation) -> str:
    numbers = [NOT_MEASURED if v is None else f"{v:.2f}".replace("-", "−") for v in (one.spearman, one.kendall)]
    return f"Spearman ρ {numbers[0]}, Kendall τ {numbers[1]} (n = {one.n})"


def _difference_kind() -> str:
    st.session_state.setdefault(KIND, "ratio")
    kind = (
        st.segmented_control(
            "Difference",
            list(charts.KINDS),
            format_func=charts.KINDS.get,
            key=f"{KIND}.widget",
            required=True,
            default=st.session_state[KIND],
            label_visibility="collapsed",
            help="log-ratio: log₂ of (share in the first / share in the second); difference: in points of the share.",
        )
        or "ratio"
    )
    st.session_state[KIND] = kind
    return kind


def _difference(first: Saved, second: Saved, found: Agreement, names: tuple[str, str], kind: str) -> None:
    modules = (
        {}
        if found.by_depth
        else {
            (int(layer), role): name
            for layer, role, name in zip(first.table["layer"], first.table["role"], first.table["module"], strict=True)
            if layer == layer
        }
    )
    dark = layout.is_dark()
    figure = kept_picture(
        "difference",
        (first.key, second.key, kind),
        lambda: charts.difference_map(
            found,
            kind,
            names,
            "Where they differ",
            f"orange: more in {names[0]}; blue: more in {names[1]}",
            modules=modules,
            dark=dark,
        ),
    )
    clickable(
        figure,
        f"difference:{first.store.folder.name}:{second.store.folder.name}:{kind}",
        f"Heatmap of the {charts.KINDS[kind]} of shares between {names[0]} and {names[1]}",
    )


def _scatter(first: Saved, second: Saved, found: Agreement, names: tuple[str, str]) -> None:
    dark = layout.is_dark()
    figure = kept_picture(
        "scatter",
        (first.key, second.key),
        lambda: charts.share_scatter(
            found, names, "Module by module", _says(found.modules), groups=GROUP_OF_ROLE, dark=dark
        ),
    )
    st.plotly_chart(
        figure,
        theme=None,
        config=PLOT,
        key="scatter",
        alt=f"Scatter: each module's share in {names[0]} against its share in {names[1]}",
    )


def _lines(first: Saved, second: Saved, found: Agreement, names: tuple[str, str]) -> None:
    dark = layout.is_dark()
    figure = kept_picture(
        "lines",
        (first.key, second.key),
        lambda: charts.layer_lines(found, names, "Layers", "share of the whole model's S, norms included", dark=dark),
    )
    st.plotly_chart(figure, theme=None, config=PLOT, key="lines", alt="Lines: each layer's share of S in both")


def _overlap(first: Saved, second: Saved, found: Agreement, kept: list[int | None] | None) -> None:
    dark, count = layout.is_dark(), len([layer for layer in kept or [] if layer is not None]) or None
    count = None if found.by_depth else count  # a row is then no layer that a student could receive
    figure = kept_picture(
        "overlap",
        (first.key, second.key, count),
        lambda: charts.top_overlap_curve(
            top_overlap(*found.by_layer).tolist(),
            count,
            "The same layers on top?",
            "of the k most sensitive layers of each, how many are common",
            dark=dark,
        ),
    )
    st.plotly_chart(
        figure,
        theme=None,
        config=PLOT,
        key="overlap",
        alt="Line: share of common layers among the k most sensitive, beside chance",
    )


def comparison_csv(first: Saved, second: Saved) -> str:
    """Return one line a cell of the common grid."""
    found, lines = compared(first, second), ["row,role,share,other_share,difference_points,log2_ratio"]
    for row, column in numpy.ndindex(*found.shares[0].shape):
        numbers = (found.shares[0], found.shares[1], found.difference(), found.log_ratio())
        values = ",".join("" if numpy.isnan(n[row, column]) else repr(float(n[row, column])) for n in numbers)
        lines.append(f"{charts.row_name(found, row)},{found.roles[column]},{values}")
    return "\n".join(lines) + "\n"


def stability(saved: Saved, everything: List) -> None:
    """Draw how close fewer seed samples come to the largest number that was measured, or offer to measure them."""
    if saved.one.spec is None:
        return
    family = {saved.samples: saved}
    for run, one in everything:
        if (
            one.spec
            and one.spec.sensitivity.samples not in family
            and same_question(one.spec, saved.spec, apart_from=("sensitivity.samples",))
        ):
            other = _open(run, one)
            if other is not None and other.totals.get("fingerprint") == saved.totals.get("fingerprint"):
                family[other.samples] = other
    with st.expander("How many seed samples are enough?", expanded=len(family) > 1, icon=":material/timeline:"):
        if len(family) > 1:
            _stability_curve([family[n] for n in sorted(family)])
        _offer_fewer(saved, family)


def _open(run: RunFolder, one: Facts) -> Saved | None:
    store = reading.store_of(state.place(), one)
    try:
        return opened(run, one, store) if store is not None else None
    except ParaknowError:
        return None


def _stability_curve(family: list[Saved]) -> None:
    largest, points = family[-1], []
    for one in family:
        found = compared(one, largest)
        points.append((one.samples, found.modules.spearman, found.layers.spearman))
    nested = largest.spec.sensitivity.selection == "first"
    dark, n = layout.is_dark(), found.modules.n
    figure = kept_picture(
        "stability",
        tuple(one.key for one in family),
        lambda: charts.stability_curve(
            points,
            "Stability",
            f"{largest.teacher} on {largest.task}; Spearman ρ of shares, {n} modules, {found.layers.n} layers",
            dark=dark,
        ),
    )
    st.plotly_chart(
        figure,
        theme=None,
        config=PLOT,
        key="stability",
        alt="Lines: rank correlation with the largest number of seed samples",
    )
    if nested:
        st.caption("The smaller sets are the first samples of the larger one, so the curve is a little kind to them.")


def _offer_fewer(saved: Saved, family: dict[int, Saved]) -> None:
    missing = [n for n in FEWER if n < saved.samples and n not in family][-4:]
    if saved.spec.sensitivity.selection == MANUAL or (not missing and len(family) > 1):
        return
    if not missing:
        st.caption("Measure the same task with more seed samples, and the curve will appear here.")
        return
    words = f"Measure with {', '.join(str(n) for n in missing)} sample{'s' if missing != [1] else ''}"
    st.caption(
        "The rank correlation of smaller seed sets with this one: where the curve is flat, more samples change little."
    )
    if st.button(words, icon=":material/add_chart:"):
        spec = sensitivity_measure.measuring(saved.spec)
        sensitivity_measure.start_beside(*(spec.with_changes({"sensitivity.samples": n}) for n in missing))
