"""What a run has to show: curves while it trains, scores and checks when it is done."""

from typing import Any

import pandas
import streamlit as st

from pages._ui.frame import layout, seeds, state
from pages._ui.frame.reading import Facts, left_out, other_settings, siblings, unfinished_siblings, verdict
from pages._ui.train import estimate as train_estimate
from paraknow_core.catalogue import BASELINE, METHODS
from paraknow_core.display import (
    NOT_MEASURED,
    SHARE,
    arm_of,
    count,
    duration,
    memory,
    percent,
    score_text,
    scorer_label,
    significant,
)
from paraknow_core.errors import ParaknowError
from paraknow_core.figures import maps as figures
from paraknow_core.runs.folder import RunFolder

PLOT = {"displaylogo": False, "toImageButtonOptions": {"format": "svg"}}


def scores(run: RunFolder, one: Facts) -> None:
    """Draw the run's scores beside the untouched models' and its siblings', with intervals."""
    if not one.scores:
        st.info("This run ended before evaluation; it has no scores.", icon=":material/info:")
        return
    related = siblings(state.place(), one)
    by_method = {**{method: other for method, (_, other) in related.items()}, one.spec.method: one}
    for number, score in enumerate(one.scores):
        if number == 1:
            st.markdown("**Other scorers**, on the same answers")
        table = _bars(score.get("scorer"), one, by_method)
        figure = figures.score_bars(
            table,
            f"Test score: {scorer_label(score)}",
            f"{one.pair}, {one.task}; bars: 95 % intervals over examples",
            dark=layout.is_dark(),
        )
        row = st.container(key=f"stack-pictures-score-{number}")
        picture, facts = row.columns([3, 1], vertical_alignment="center")
        picture.plotly_chart(
            figure,
            theme=None,
            config=PLOT,
            key=f"scores:{run.id}:{number}",
            alt="Bars: " + "; ".join(f"{r.label} {score_text(r._asdict())}" for r in table.itertuples(index=False)),
        )
        facts.metric(arm_of(one.spec.method).label, score_text(score).split(" (")[0], border=True)
        extra = "; ".join(
            f"{str(name).replace('_', ' ')} {_extra(value, score)}"
            for name, value in (score.get("extra") or {}).items()
            if isinstance(value, int | float)
        )
        examples = "example" if score.get("n") == 1 else "examples"
        facts.caption(layout.plain(f"n = {score.get('n')} test {examples}, one seed. {extra}"))
    waiting = unfinished_siblings(state.place(), one)
    if waiting:
        _wait_for_siblings(one, waiting)
    elif not related:
        st.caption("No control has finished for this pair and task yet: tick default LoRA under Also run and start it.")
    _compare(run, one, related)
    _left_out(one, related)
    seeds.repeat(one, [other for _, other in related.values()])


def _left_out(one: Facts, related: dict[str, tuple[RunFolder, Facts]]) -> None:
    """Say how many runs the chart does not show, and why: unlike ones would stand there as equals."""
    found = left_out(state.place(), one)
    if not found.number:
        return
    runs = "run is" if found.number == 1 else "runs are"
    words = f"{found.number} more finished {runs} left out, because more than method and seed differs."
    for method, keys in found.differing.items():
        if method not in related and method != one.spec.method:
            verb = "differs" if len(keys) == 1 else "differ"
            words += f" Not a clean comparison with {arm_of(method).label}: {', '.join(keys)} also {verb}."
    st.caption(layout.plain(words))


def _compare(run: RunFolder, one: Facts, related: dict[str, tuple[RunFolder, Facts]]) -> None:
    """Say what the pair of scores shows, or does not: paired by example, and what else differs."""
    if BASELINE in related:
        try:
            st.markdown(layout.plain(verdict(run, related[BASELINE][0])))
        except ParaknowError as error:
            st.caption(layout.plain(error))
    for method, (_, other) in related.items():
        if other_settings(one, other):
            words = f"Not a clean comparison with {arm_of(method).label}: its seed is {other.spec.seed}."
            st.caption(layout.plain(words))


def _wait_for_siblings(one: Facts, waiting: int) -> None:
    """Say how many runs to compare with are still going on, and draw the page again when one of them ends."""

    def tick() -> None:
        still = unfinished_siblings(state.place(), one)
        if still < waiting:
            st.rerun()
        st.caption(f"{still} more run{'s' if still > 1 else ''} of this pair and task will be added when done.")

    st.fragment(tick, run_every=2.0)()


def _extra(value: float, score: dict) -> str:
    return percent(value) if score.get("unit") == SHARE and 0 <= value <= 1 else significant(value)


def _bars(scorer: str | None, one: Facts, by_method: dict[str, Facts]) -> pandas.DataFrame:
    rows: list[dict[str, Any]] = []
    references = one.result.get("references") or {}
    for name in ("student", "teacher"):
        rows.extend(_row(name, arm_of(name).label, s) for s in references.get(name) or [] if s.get("scorer") == scorer)
    for method in [m for m in METHODS if m in by_method]:
        other = by_method[method]
        label = arm_of(method).label + (" (this run)" if other is one else "")
        label += "" if other.spec.seed == one.spec.seed else f", seed {other.spec.seed}"
        rows.extend(_row(method, label, s) for s in other.scores if s.get("scorer") == scorer)
    return pandas.DataFrame(rows)


def _row(arm: str, label: str, score: dict) -> dict[str, Any]:
    return {"arm": arm, "label": label, **{key: score.get(key) for key in ("value", "low", "high", "n", "unit")}}


def checks(run: RunFolder, one: Facts, trained: list[tuple[RunFolder, Facts]]) -> None:
    """Draw what was verified, and what the run cost beside what was to be expected.

    Args:
        run, one: the run that is done.
        trained: all runs that train, newest first.
    """
    st.subheader("Checks and cost", anchor=False)
    result = one.result
    step0, export = (result.get("step0") or {}).get("evaluation") or {}, result.get("export_check") or {}
    cells = st.container(key="stack-fields-checks").columns(4)
    cells[0].metric(
        "Step-0 identity",
        _difference(step0.get("max_abs")),
        border=True,
        help="Largest change of a logit by injecting, before any training. In residual mode 0 up to rounding "
        f"(tolerance {_difference(step0.get('tolerance'))}); additive and difference change the student on purpose.",
    )
    passed = {True: "passed", False: "not passed"}.get(export.get("passed"), NOT_MEASURED)
    if export.get("passed") is True and export.get("merges") is False:
        passed = "not merged"
    merged = f"; merged, {_difference(export.get('merged_max_abs'))}" if "merges" in export else ""
    cells[1].metric(
        "Export check",
        passed,
        border=True,
        help=f"The saved adapter, loaded on the untouched student, against the trained model: largest logit difference "
        f"{_difference(export.get('max_abs'))}{merged}; tolerance {_difference(export.get('tolerance'))}.",
    )
    cells[2].metric("Trainable parameters", count(result.get("trainable_parameters")), border=True)
    timings = result.get("timings") or {}
    cells[3].metric(
        "Time",
        duration(sum(timings.values())) if timings else NOT_MEASURED,
        border=True,
        help=f"Peak memory {memory(result.get('peak_memory_bytes'))}.",
    )
    words = [f"{stage} {duration(seconds)}" for stage, seconds in timings.items()]
    if words:
        st.caption(layout.plain(f"{'; '.join(words)}. Peak memory {memory(result.get('peak_memory_bytes'))}."))
        st.caption(layout.plain(_expected(run, one, trained, sum(timings.values()))))
    for warning in result.get("warnings") or []:
        st.warning(layout.plain(warning), icon=":material/warning:")


def _expected(run: RunFolder, one: Facts, trained: list[tuple[RunFolder, Facts]], took: float) -> str:
    """Say how long the run was to take, judging by the runs that had finished before it began."""
    past = train_estimate.past_runs(one.spec, trained, before=run.status().started or 0.0)
    if not past:
        return "No estimate was possible before it began: it was the first of its pair and task."
    found = train_estimate.estimate(one.spec, past)
    return (
        f"Estimated before it began, from {found.runs} earlier run{'s' if found.runs > 1 else ''}: "
        f"{duration(found.seconds)} and {memory(found.memory)}; measured: {duration(took)} and "
        f"{memory(one.result.get('peak_memory_bytes'))}."
    )


def _difference(value: float | None) -> str:
    return NOT_MEASURED if value is None else significant(float(value), 2)
