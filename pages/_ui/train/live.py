"""A run while it trains and afterwards: where it is, its curves beside its siblings', and what can be done with it."""

from collections.abc import Callable
from html import escape
from itertools import islice

import plotly.graph_objects as go
import streamlit as st

from pages._ui.frame import labelling, layout, reading, state
from pages._ui.frame import run_panel as widgets
from pages._ui.frame.reading import Facts
from pages._ui.train import curves
from paraknow_core.display import ARMS, duration, memory, significant
from paraknow_core.figures import train as charts
from paraknow_core.figures.train import Line
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.status import Status

PLOT = {"displaylogo": False, "toImageButtonOptions": {"format": "svg"}}
PICTURES_S = 2.0
UNFOLD = "train.unfold"  # the run whose settings were just taken: they are shown unfolded
MOST_SIBLINGS, MOST_TICKED = 12, 4  # with the run itself as many lines as can be named at their ends
CSS = """<style>
.pk-facts {display: grid; grid-template-columns: repeat(auto-fit, minmax(7.4rem, 1fr)); gap: .2rem 1rem;
  margin: .1rem 0 .3rem !important; padding: 0 !important;}
.pk-facts div {border-left: 2px solid rgba(128,136,140,.35); padding-left: .6rem;}
.pk-facts dt {font-size: .8rem; opacity: .75; font-weight: 400;}
.pk-facts dd {font-size: 1.15rem; font-weight: 600; margin: 0 !important; white-space: nowrap;}
.pk-facts dd small {font-weight: 400; opacity: .75; font-size: .8rem;}
</style>"""


def follow(run: RunFolder, one: Facts, trained: list[tuple[RunFolder, Facts]]) -> None:
    """Draw a run that has not ended, or did not end well, and go on drawing it while it is active."""
    st.html(CSS)
    beside = siblings(one, trained)
    widgets.follow(run, lambda run: _live(run, one))
    # Pictures cost more than words: they follow every other second, and only they are drawn when a control changes.
    st.fragment(lambda: pictures(run, one, beside), run_every=PICTURES_S if run.status().active else None)()


def _live(run: RunFolder, one: Facts) -> None:
    widgets.panel(run, lambda: _manage(run, one))
    status = run.status()
    if status.state in ("running", "stopping"):
        _facts(curves.metrics_of(run), status)


def ended(run: RunFolder, one: Facts, trained: list[tuple[RunFolder, Facts]]) -> None:
    """Draw the curves of a run that is done; a long one is read piece by piece."""
    st.html(CSS)
    beside = siblings(one, trained)
    behind = curves.metrics_of(run).behind
    st.fragment(lambda: pictures(run, one, beside), run_every=0.3 if behind else None)()


def siblings(one: Facts, trained: list[tuple[RunFolder, Facts]]) -> list[tuple[RunFolder, Facts]]:
    """Return the runs to draw beside a run: same pair and task, those that differ in method and seed alone first.

    A run that never came as far as a training step has no curve, and is left out.
    """
    if one.spec is None:
        return []
    same = [
        (run, other)
        for run, other in trained
        if other.id != one.id
        and other.spec is not None
        and reading.question(other.spec) == reading.question(one.spec)
        and run.file("events.jsonl").exists()
    ]
    order = list(ARMS)

    def rank(pair: tuple[RunFolder, Facts]) -> tuple:
        spec = pair[1].spec
        return not is_clean(one, pair[1]), spec.seed != one.spec.seed, order.index(spec.method), spec.seed

    with_curve = (pair for pair in sorted(same, key=rank) if curves.metrics_of(pair[0]).steps)
    return list(islice(with_curve, MOST_SIBLINGS))


def is_clean(one: Facts, other: Facts) -> bool:
    """Tell whether two runs differ in nothing but method and seed."""
    return set(reading.other_settings(one, other)) <= {"seed"}


def pictures(run: RunFolder, one: Facts, beside: list[tuple[RunFolder, Facts]]) -> None:
    """Draw the numbers of this moment, then the curves with their controls."""
    metrics = curves.metrics_of(run)
    if not metrics.steps:
        if run.status().state in ("running", "stopping"):
            st.caption("The loss will be drawn here as soon as fine-tuning begins.")
        return
    names = _names(run, one, beside)
    axis, smoothing, chosen = _controls(one, beside, names)
    shown = [(run, one), *((r, other) for r, other in beside if r.id in chosen)]
    _charts(shown, names, axis, smoothing)
    st.download_button(
        "Curves as CSV",
        curves.csv_of([(names[r.id], r) for r, _ in shown]),
        f"curves-{run.id}.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        key=f"csv:{run.id}",
        help="All runs that are drawn, every step.",
    )
    if any(curves.metrics_of(other).behind for other, _ in shown):
        st.caption("Long runs: more points are being read …")


def _facts(metrics: curves.Metrics, status: Status) -> None:
    """Draw where the run is: one row of numbers."""
    left, of_what = eta(metrics, status), "this stage"
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


def eta(metrics: curves.Metrics, status: Status) -> float | None:
    """Return the seconds that the stage will still take at its speed so far; None before that can be said."""
    remaining = status.total - status.done
    if status.total <= 0 or remaining < 0:
        return None
    if status.stage == "fine-tuning":
        rate = metrics.rate()
        return remaining / rate if rate else None
    spent = status.heartbeat - metrics.stage_began
    known = status.done > 0 and metrics.stage == status.stage and spent > 0
    return remaining * spent / status.done if known else None


def _controls(one: Facts, beside: list[tuple[RunFolder, Facts]], names: dict[str, str]) -> tuple[str, float, list[str]]:
    """Draw how curves are shown: x axis, smoothing, and which siblings stand beside the run."""
    left, right = st.container(key="stack-fields-curves").columns([1, 1], vertical_alignment="bottom")
    st.session_state.setdefault("train.axis", "step")
    st.session_state.setdefault("train.smoothing", 0.6)
    axis = left.segmented_control(
        "Over",
        list(charts.AXES),
        key="train.axis",
        required=True,
        persist_state="session",
        format_func={"step": "steps", "epoch": "epochs", "elapsed": "time"}.get,
    )
    smoothing = right.slider(
        "Smoothing",
        0.0,
        0.99,
        step=0.01,
        key="train.smoothing",
        persist_state="session",
        help="Moving average m_t = β m_(t−1) + (1 − β) x_t, divided by 1 − β^t. The raw values stay visible behind; "
        "validation losses are never smoothed.",
    )
    if not beside:
        return axis or "step", smoothing, []
    ids = [run.id for run, _ in beside]
    key = f"train.beside:{one.id}"
    clean = [
        run.id
        for run, other in beside
        if is_clean(one, other) and other.spec.seed == one.spec.seed and other.spec.method != one.spec.method
    ]
    st.session_state.setdefault(key, clean[:MOST_TICKED])
    st.session_state[key] = [name for name in st.session_state[key] if name in ids]
    chosen = st.pills(
        "Beside it",
        ids,
        selection_mode="multi",
        key=key,
        format_func=lambda i: names[i],
        persist_state="session",
        help="Runs of the same pair and task that have a curve. An asterisk (\\*) means: differs from the run "
        "shown in more than method and seed (rank, learning rate, …), so not by the method alone.",
    )
    return axis or "step", smoothing, list(chosen or [])


def _names(run: RunFolder, one: Facts, beside: list[tuple[RunFolder, Facts]]) -> dict[str, str]:
    """Name the run and its siblings as everywhere, with an asterisk where more than method and seed differs."""
    titles = reading.titles(state.place())
    return {
        folder.id: titles.get(folder.id, folder.id) + ("" if is_clean(one, other) else " *")
        for folder, other in [(run, one), *beside]
    }


def lines(
    shown: list[tuple[RunFolder, Facts]],
    names: dict[str, str],
    column: str,
    axis: str,
    smoothing: float,
    validation: bool = False,
) -> list[Line]:
    """Return one line a run; the first is the one that the page is about, and is drawn last, on top."""
    made: list[Line] = []
    seen: dict[str, int] = {}
    for number, (run, one) in enumerate(shown):
        metrics, arm = curves.metrics_of(run), one.spec.method if one.spec else ""
        limit = charts.LARGE_POINTS if validation else charts.SMALL_POINTS
        raw = metrics.line(column, axis, limit=limit)
        if not len(raw[0]) and not validation:
            continue
        made.append(
            Line(
                names[run.id],
                arm,
                metrics.line(column, axis, smoothing, limit) if smoothing else raw,
                raw if smoothing else None,
                metrics.line("validation_loss", axis) if validation else None,
                number == 0,
                seen.get(arm, 0),
            )
        )
        seen[arm] = seen.get(arm, 0) + 1
    return made[::-1]


def _charts(shown: list[tuple[RunFolder, Facts]], names: dict[str, str], axis: str, smoothing: float) -> None:
    run, one = shown[0]
    dark = layout.is_dark()
    about = f"{names[run.id]}; {one.pair}, {one.task}" if len(shown) == 1 else f"{one.pair}, {one.task}"
    drawn = "pale: as measured; " if smoothing else ""
    words = f"{about}; {drawn}dashed: validation"
    now = tuple(
        (str(r.path), curves.metrics_of(r).version, names[r.id], o.spec.method if o.spec else "") for r, o in shown
    )
    st.plotly_chart(
        _drawn(
            ("loss", axis, smoothing, dark, words, now),
            lambda: charts.loss(
                lines(shown, names, "loss", axis, smoothing, True), axis, "Loss on answers", words, dark=dark
            ),
        ),
        theme=None,
        config=PLOT,
        key=f"loss:{run.id}",
        alt=f"Curves: training and validation loss of {', '.join(names[other.id] for other, _ in shown)}",
    )
    row = st.container(key="stack-fields-small").columns(len(charts.SMALL))
    for box, column in zip(row, charts.SMALL, strict=True):
        weight = 0.0 if column == "learning_rate" else smoothing

        def draw(column: str = column, weight: float = weight) -> go.Figure | None:
            found = lines(shown, names, column, axis, weight)
            return charts.metric(found, column, axis, dark=dark) if found else None

        figure = _drawn((column, axis, weight, dark, "", now), draw)
        if figure is not None:
            box.plotly_chart(
                figure,
                theme=None,
                config=PLOT,
                key=f"{column}:{run.id}",
                alt=f"Curves: {charts.SMALL[column][0].lower()}",
            )


# Plotly takes a tenth of a second for the five pictures: windows that watch the same run share them, and none is made
# again before the run has written more. Nobody changes what comes out.
@st.cache_resource(max_entries=60, show_spinner=False)
def _drawn(key: tuple, _draw: Callable[[], go.Figure | None]) -> go.Figure | None:
    del key
    return _draw()


def manage(run: RunFolder, one: Facts) -> None:
    """Draw what is done with a run as a whole: take its settings, delete it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        _manage(run, one)


def _manage(run: RunFolder, one: Facts) -> None:
    if one.spec is not None and st.button(
        "Duplicate and tweak",
        icon=":material/content_copy:",
        key=f"copy:{run.id}",
        help="Takes this run's settings as the draft. Change what you like, then start it as a new run.",
    ):
        if state.replace_spec(one.spec):
            st.session_state[UNFOLD] = run.id
            st.toast("The draft now has this run's settings.", icon=":material/content_copy:")
        st.rerun()
    labelling.edit(run, one)
    _delete(run)


def _delete(run: RunFolder) -> None:
    if state.access().demo or run.status().active:
        return
    with st.popover("Delete", icon=":material/delete:", type="tertiary"):
        st.markdown("Removes the run's folder with its scores, curves and adapters. This cannot be undone.")
        if st.button("Delete for good", key=f"delete:{run.id}", type="primary", icon=":material/delete_forever:"):
            widgets.act(lambda: _delete_for_good(run))


def _delete_for_good(run: RunFolder) -> None:
    state.access().check_delete()  # here, whatever was drawn: the page may be older than the rule
    lifecycle.delete(run)
    st.query_params.pop("run", None)
