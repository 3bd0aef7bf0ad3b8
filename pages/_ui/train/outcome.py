"""What a run has to show when it is done: its scores beside its siblings', what was checked, and what it cost."""

import streamlit as st

from pages._ui.frame import layout, state, submit
from pages._ui.frame.layout import info, plain, warn
from paraknow_core.catalogue import BASELINE
from paraknow_core.display import (
    NOT_MEASURED,
    arm_of,
    count,
    counted,
    duration,
    memory,
    outcome_text,
    score_text,
    scorer_label,
)
from paraknow_core.errors import ParaknowError
from paraknow_core.figures import maps as figures
from paraknow_core.runs.folder import RunFolder
from paraknow_core.studies.repeats import SEEDS
from paraknow_core.workbench import past_runs, reading
from paraknow_core.workbench.reading import Facts, Runs, left_out, other_settings, siblings, unfinished_siblings
from paraknow_core.workbench.starting import arms_and_seeds, missing_seeds
from paraknow_core.workbench.views.train import extras, largest_difference, score_table


def scores(run: RunFolder, facts: Facts) -> None:
    """Draw the run's scores beside the untouched models' and its siblings', with intervals."""
    if not facts.scores:
        came_to = outcome_text(facts.result)
        info(plain(f"This run ended before evaluation; it has no scores{came_to and f', but: {came_to}'}."), "info")
        return
    related = siblings(state.place(), facts)
    by_method = {**{method: other for method, (_, other) in related.items()}, facts.spec.method: facts}
    for number, score in enumerate(facts.scores):
        if number == 1:
            st.markdown("**Other scorers**, on the same answers")
        table = score_table(score.get("scorer"), facts, by_method)
        row = st.container(key=f"stack-pictures-score-{number}")
        picture, words = row.columns([3, 1], vertical_alignment="center")
        about = f"{facts.pair}, {facts.task}; bars: 95 % intervals over examples"
        layout.chart(
            figures.score_bars(table, f"Test score: {scorer_label(score)}", about, dark=layout.is_dark()),
            f"scores:{run.id}:{number}",
            "Bars: " + "; ".join(f"{r.label} {score_text(r._asdict())}" for r in table.itertuples(index=False)),
            picture,
        )
        words.metric(arm_of(facts.spec.method).label, score_text(score).split(" (")[0], border=True)
        examples = "example" if score.get("n") == 1 else "examples"
        words.caption(plain(f"n = {score.get('n')} test {examples}, one seed. {extras(score)}"))
    waiting = unfinished_siblings(state.place(), facts)
    if waiting:
        _wait_for_siblings(facts, waiting)
    elif not related:
        st.caption("No control has finished for this pair and task yet: tick default LoRA under Also run and start it.")
    _compare(run, facts, related)
    _left_out(facts, related)
    _repeat(facts, [other for _, other in related.values()])


def _left_out(facts: Facts, related: dict[str, tuple[RunFolder, Facts]]) -> None:
    """Say how many runs the chart does not show, and why: unlike ones would stand there as equals."""
    unlike = left_out(state.place(), facts)
    if not unlike.number:
        return
    runs = "run is" if unlike.number == 1 else "runs are"
    words = f"{unlike.number} more finished {runs} left out, because more than method and seed differs."
    for method, keys in unlike.differing.items():
        if method not in related and method != facts.spec.method:
            verb = "differs" if len(keys) == 1 else "differ"
            words += f" Not a clean comparison with {arm_of(method).label}: {', '.join(keys)} also {verb}."
    st.caption(plain(words))


def _compare(run: RunFolder, facts: Facts, related: dict[str, tuple[RunFolder, Facts]]) -> None:
    """Say what the pair of scores shows, or does not: paired by example, and what else differs."""
    if BASELINE in related:
        try:
            st.markdown(plain(reading.verdict(run, related[BASELINE][0])))
        except ParaknowError as error:
            st.caption(plain(error))
    for method, (_, other) in related.items():
        if other_settings(facts, other):
            words = f"Not a clean comparison with {arm_of(method).label}: its seed is {other.spec.seed}."
            st.caption(plain(words))


def _wait_for_siblings(facts: Facts, waiting: int) -> None:
    """Say how many runs to compare with are still going on, and draw the page again when one of them ends."""

    def tick() -> None:
        still = unfinished_siblings(state.place(), facts)
        if still < waiting:
            st.rerun()
        st.caption(f"{still} more run{'s' if still > 1 else ''} of this pair and task will be added when done.")

    st.fragment(tick, run_every=2.0)()


def _repeat(facts: Facts, controls: list[Facts]) -> None:
    """Draw what too few seeds mean, and the button that runs those that are missing.

    Args:
        facts: of the run that is looked at, with scores.
        controls: of the runs that stand beside it.
    """
    missing = missing_seeds(state.place(), facts, controls)
    if not missing:
        st.caption(plain(f"{SEEDS} seeds of each are there or in the queue; Compare takes them together."))
        return
    words, button = st.columns([4, 1.25], vertical_alignment="center")
    words.caption("One seed is one throw of the dice: repeat with at least three before calling anything better.")
    arms, seeds = arms_and_seeds(missing)
    pressed = button.button(
        f"Run {seeds}",
        key=f"seeds:{facts.id}",
        icon=":material/casino:",
        width="stretch",
        help=plain(f"Puts {counted(len(missing), 'run')} into the queue, everything else equal: {arms}, {seeds}."),
    )
    if pressed and submit.start(*missing) is not None:
        st.rerun()


def checks(run: RunFolder, facts: Facts, trained: Runs) -> None:
    """Draw what was verified, and what the run cost beside what was to be expected.

    Args:
        run, facts: the run that is done.
        trained: all runs that train, newest first.
    """
    st.subheader("Checks and cost", anchor=False)
    result, difference = facts.result, largest_difference
    step0, export = (result.get("step0") or {}).get("evaluation") or {}, result.get("export_check") or {}
    cells = st.container(key="stack-fields-checks").columns(4)
    cells[0].metric(
        "Step-0 identity",
        difference(step0.get("max_abs")),
        border=True,
        help="Largest change of a logit by injecting, before any training. In residual mode 0 up to rounding "
        f"(tolerance {difference(step0.get('tolerance'))}); additive, difference and LoRA-One change the student on "
        "purpose.",
    )
    passed = {True: "passed", False: "not passed"}.get(export.get("passed"), NOT_MEASURED)
    if export.get("passed") is True and export.get("merges") is False:
        passed = "not merged"
    merged = f"; merged, {difference(export.get('merged_max_abs'))}" if "merges" in export else ""
    cells[1].metric(
        "Export check",
        passed,
        border=True,
        help=f"The saved adapter, loaded on the untouched student, against the trained model: largest logit difference "
        f"{difference(export.get('max_abs'))}{merged}; tolerance {difference(export.get('tolerance'))}.",
    )
    cells[2].metric("Trainable parameters", count(result.get("trainable_parameters")), border=True)
    timings = result.get("timings") or {}
    seconds, peak = sum(timings.values()), f"Peak memory {memory(result.get('peak_memory_bytes'))}."
    cells[3].metric("Time", duration(seconds) if timings else NOT_MEASURED, border=True, help=peak)
    if timings:
        stages = "; ".join(f"{stage} {duration(spent)}" for stage, spent in timings.items())
        st.caption(plain(f"{stages}. {peak}"))
        st.caption(plain(_expected(run, facts, trained, seconds)))
    for warning in result.get("warnings") or []:
        warn(warning, "warning")


def _expected(run: RunFolder, facts: Facts, trained: Runs, took: float) -> str:
    """Say how long the run was to take, judging by the runs that had finished before it began."""
    past = past_runs.past_runs(facts.spec, trained, before=run.status().started or 0.0)
    if not past:
        return "No estimate was possible before it began: it was the first of its pair and task."
    estimate = past_runs.estimate(facts.spec, past, past_runs.processes_of(facts.result))
    seconds = estimate.seconds - estimate.start + past_runs.start_of(facts.spec, facts.result)
    return (
        f"Estimated before it began, from {counted(estimate.runs, 'earlier run')}: "
        f"{duration(seconds)} and {memory(estimate.memory)}; measured: {duration(took)} and "
        f"{memory(facts.result.get('peak_memory_bytes'))}."
    )
