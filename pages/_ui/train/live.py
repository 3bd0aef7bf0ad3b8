"""A run while it trains and afterwards: where it is, its curves beside its siblings', and what can be done with it."""

from html import escape

import plotly.graph_objects as go
import streamlit as st

from pages._ui.frame import layout, run_panel, state
from pages._ui.frame.fields import kept
from pages._ui.frame.layout import download
from paraknow_core.display import duration, memory, significant
from paraknow_core.figures import train as charts
from paraknow_core.figures.train import Line
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.metrics import Metrics, csv_of, metrics_of
from paraknow_core.runs.status import Status
from paraknow_core.workbench import reading
from paraknow_core.workbench.reading import Facts, Runs, is_clean

PICTURES_S = 2.0
UNFOLD = "train.unfold"  # the run whose settings were just taken: they are shown unfolded
MOST_TICKED = 4  # with the run itself as many lines as can be named at their ends


def follow(run: RunFolder, facts: Facts, trained: Runs) -> None:
    """Draw a run that has not ended, or did not end well, and go on drawing it while it is active."""
    beside = reading.curves_beside(facts, trained)
    run_panel.follow(run, lambda run: _live(run, facts))
    # Pictures cost more than words: they follow every other second, and only they are drawn when a control changes.
    st.fragment(lambda: pictures(run, facts, beside), run_every=PICTURES_S if run.status().active else None)()


def _live(run: RunFolder, facts: Facts) -> None:
    run_panel.panel(run, lambda: _manage(run, facts))
    status = run.status()
    if status.state in ("running", "stopping"):
        _facts(metrics_of(run), status)


def ended(run: RunFolder, facts: Facts, trained: Runs) -> None:
    """Draw the curves of a run that is done; a long one is read piece by piece."""
    beside = reading.curves_beside(facts, trained)
    behind = metrics_of(run).behind
    st.fragment(lambda: pictures(run, facts, beside), run_every=0.3 if behind else None)()


def pictures(run: RunFolder, facts: Facts, beside: Runs) -> None:
    """Draw the numbers of this moment, then the curves with their controls."""
    metrics = metrics_of(run)
    if not metrics.steps:
        if run.status().state in ("running", "stopping"):
            st.caption("The loss will be drawn here as soon as fine-tuning begins.")
        return
    names = _names(run, facts, beside)
    axis, smoothing, chosen = _controls(facts, beside, names)
    shown = [(run, facts), *((other, its) for other, its in beside if other.id in chosen)]
    _charts(shown, names, axis, smoothing)
    named = [(names[other.id], other) for other, _ in shown]
    tip = "All runs that are drawn, every step."
    download("Curves as CSV", lambda: csv_of(named), f"curves-{run.id}.csv", key=f"csv:{run.id}", help=tip)
    if any(metrics_of(other).behind for other, _ in shown):
        st.caption("Long runs: more points are being read …")


def _facts(metrics: Metrics, status: Status) -> None:
    """Draw where the run is: one row of numbers."""
    left, of_what = metrics.seconds_left(status), "this stage"
    cells = []
    if status.stage == "fine-tuning" and metrics.steps:
        cells = [
            ("Step", f"{status.done:,.0f}", f"of {status.total:,.0f}"),
            ("Training loss", significant(metrics.latest("loss"), 4), "nats"),
            ("Validation loss", significant(metrics.latest("validation_loss"), 4), "nats"),
            ("Speed", f"{metrics.latest('tokens_per_s') or 0:,.0f}", "tokens/s"),
            ("Memory", memory(metrics.latest("memory_bytes")), ""),
        ]
        of_what = "fine-tuning"
    if left is not None:
        cells.append((f"Left of {of_what}", f"≈ {duration(left)}", ""))
    if not cells:
        return
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)} <small>{escape(unit)}</small></dd></div>"
        for name, value, unit in cells
    )
    st.html(f'<dl class="pk-facts" data-testid="facts">{rows}</dl>')


def _controls(facts: Facts, beside: Runs, names: dict[str, str]) -> tuple[str, float, list[str]]:
    """Draw how curves are shown: x axis, smoothing, and which siblings stand beside the run."""
    left, right = st.container(key="stack-fields-curves").columns([1, 1], vertical_alignment="bottom")
    words = {"step": "steps", "epoch": "epochs", "elapsed": "time"}
    shown = {"options": list(charts.AXES), "required": True, "format_func": words.get}
    axis = kept(left.segmented_control, "Over", "train.axis", "step", **shown)
    smoothing = kept(
        right.slider,
        "Smoothing",
        "train.smoothing",
        0.6,
        min_value=0.0,
        max_value=0.99,
        step=0.01,
        help="Moving average m_t = β m_(t−1) + (1 − β) x_t, divided by 1 − β^t. The raw values stay visible behind; "
        "validation losses are never smoothed.",
    )
    if not beside:
        return axis, smoothing, []
    ids, key = [run.id for run, _ in beside], f"train.beside:{facts.id}"
    clean = [
        run.id
        for run, other in beside
        if is_clean(facts, other) and other.spec.seed == facts.spec.seed and other.spec.method != facts.spec.method
    ]
    ticked = st.session_state.get(key, clean[:MOST_TICKED])
    st.session_state[key] = [run_id for run_id in ticked if run_id in ids]
    chosen = kept(
        st.pills,
        "Beside it",
        key,
        [],
        options=ids,
        selection_mode="multi",
        format_func=names.get,
        help="Runs of the same pair and task that have a curve. An asterisk (\\*) means: differs from the run "
        "shown in more than method and seed (rank, learning rate, …), so not by the method alone.",
    )
    return axis, smoothing, chosen


def _names(run: RunFolder, facts: Facts, beside: Runs) -> dict[str, str]:
    """Name the run and its siblings as everywhere, with an asterisk where more than method and seed differs."""
    titles = reading.titles(state.place())
    return {
        folder.id: titles.get(folder.id, folder.id) + ("" if is_clean(facts, other) else " *")
        for folder, other in [(run, facts), *beside]
    }


def lines(
    shown: Runs, names: dict[str, str], column: str, axis: str, smoothing: float, validation: bool = False
) -> list[Line]:
    """Return one line a run; the first is the one that the page is about, and is drawn last, on top."""
    drawn: list[Line] = []
    of_arm: dict[str, int] = {}
    limit = charts.LARGE_POINTS if validation else charts.SMALL_POINTS
    for number, (run, facts) in enumerate(shown):
        metrics, arm = metrics_of(run), facts.spec.method if facts.spec else ""
        raw = charts.points(metrics, column, axis, limit=limit)
        if not len(raw[0]) and not validation:
            continue
        drawn.append(
            Line(
                names[run.id],
                arm,
                charts.points(metrics, column, axis, smoothing, limit) if smoothing else raw,
                raw if smoothing else None,
                charts.points(metrics, "validation_loss", axis) if validation else None,
                number == 0,
                of_arm.get(arm, 0),
            )
        )
        of_arm[arm] = of_arm.get(arm, 0) + 1
    return drawn[::-1]


def _charts(shown: Runs, names: dict[str, str], axis: str, smoothing: float) -> None:
    run, facts = shown[0]
    dark = layout.is_dark()
    about = f"{names[run.id]}; " if len(shown) == 1 else ""
    pale = "pale: as measured; " if smoothing else ""
    words = f"{about}{facts.pair}, {facts.task}; {pale}dashed: validation"
    versions = tuple(
        (str(r.path), metrics_of(r).version, names[r.id], other.spec.method if other.spec else "") for r, other in shown
    )

    def loss() -> go.Figure:
        return charts.loss(
            lines(shown, names, "loss", axis, smoothing, True), axis, "Loss on answers", words, dark=dark
        )

    layout.chart(
        layout.kept_picture("train.loss", (axis, smoothing, words, versions), loss),
        f"loss:{run.id}",
        f"Curves: training and validation loss of {', '.join(names[other.id] for other, _ in shown)}",
    )
    row = st.container(key="stack-fields-small").columns(len(charts.SMALL))
    for box, column in zip(row, charts.SMALL, strict=True):
        weight = 0.0 if column == "learning_rate" else smoothing

        def metric(column: str = column, weight: float = weight) -> go.Figure | None:
            curves = lines(shown, names, column, axis, weight)
            return charts.metric(curves, column, axis, dark=dark) if curves else None

        figure = layout.kept_picture(f"train.{column}", (axis, weight, versions), metric)
        if figure is not None:
            layout.chart(figure, f"{column}:{run.id}", f"Curves: {charts.SMALL[column][0].lower()}", box)


def manage(run: RunFolder, facts: Facts) -> None:
    """Draw what is done with a run as a whole: take its settings, delete it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        _manage(run, facts)


def _manage(run: RunFolder, facts: Facts) -> None:
    if facts.spec is not None and st.button(
        "Duplicate and tweak",
        icon=":material/content_copy:",
        key=f"copy:{run.id}",
        help="Takes this run's settings as the draft. Change what you like, then start it as a new run.",
    ):
        if state.replace_spec(facts.spec):
            st.session_state[UNFOLD] = run.id
            st.toast("The draft now has this run's settings.", icon=":material/content_copy:")
        st.rerun()
    run_panel.edit_label(run, facts)
    _delete(run)


def _delete(run: RunFolder) -> None:
    if state.access().demo or run.status().active:
        return
    with st.popover("Delete", icon=":material/delete:", type="tertiary"):
        st.markdown("Removes the run's folder with its scores, curves and adapters. This cannot be undone.")
        if st.button("Delete for good", key=f"delete:{run.id}", type="primary", icon=":material/delete_forever:"):
            run_panel.act(lambda: _delete_for_good(run))


def _delete_for_good(run: RunFolder) -> None:
    state.access().check_delete()  # here, whatever was drawn: the page may be older than the rule
    lifecycle.delete(run)
    st.query_params.pop("run", None)
