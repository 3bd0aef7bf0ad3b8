"""What a study has found so far: verdicts, where a gain comes from, charts, the table of arms, files to take away."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from pages._ui.frame import layout
from pages._ui.frame.fields import linked
from pages._ui.frame.layout import download, grid, info, plain, sentences
from paraknow_core.display import score_text
from paraknow_core.figures import ablations as charts
from paraknow_core.figures import report as reports
from paraknow_core.studies.folder import StudyFolder
from paraknow_core.studies.outcome import StudyOutcome
from paraknow_core.studies.report import methods_text, records_parquet
from paraknow_core.workbench.views import ablations as view

if TYPE_CHECKING:
    import plotly.graph_objects as go

EVERY_S = 5.0  # while it is going on
COMPARED = 60  # runs that a link to Compare names
MOST_WARNINGS = 4


def draw(folder: StudyFolder, progress: view.Progress) -> None:
    """Draw the results, and while the study is going on what there is so far."""
    known = [progress]
    st.subheader("Results", anchor=False)
    views = {"verdict": "Verdict", "factors": "By factor", "rates": "Learning rates", "arms": "Arms and runs"}
    shown = linked(
        "ablations",
        st.segmented_control,
        "View",
        "view",
        list(views),
        format_func=views.get,
        required=True,
        label_visibility="collapsed",
    )

    def tick() -> None:
        with sentences():
            now = known.pop() if known else view.progress(folder)
            outcome = view.result(now)
            if not any(group.seeds for group in outcome.groups) and shown != "rates":
                info(
                    "Verdicts with their intervals, charts by factor and the table of arms appear here as soon as the "
                    "first runs are scored, and grow narrower with every seed.",
                    "hourglass_empty",
                )
                return
            VIEWS[shown](outcome, now.version)
            if shown != "rates":
                _warnings(outcome)

    st.fragment(tick, run_every=EVERY_S if folder.status().active else None)()
    with sentences():
        _take(folder, view.result(progress))


def _chart(name: str, version: tuple, make: Callable[..., "go.Figure"], *of: Any) -> None:
    """Draw a chart; anew only when the study has found something else."""
    figure = layout.kept_picture(f"ablations.{name}", version, partial(make, *of, dark=layout.is_dark()))
    layout.chart(figure, f"ablations.{name}:{version[0]}", figure.layout.meta["alt"], without=layout.NO_SELECTION)


def _verdict(outcome: StudyOutcome, version: tuple) -> None:
    for number, (point, found, unit) in enumerate(view.attributions(outcome)):
        st.markdown(f"{f'**{plain(point)}**: ' if point else ''}{plain(found.paragraph)}")
        _chart(f"waterfall:{number}", version, partial(charts.waterfall, unit=unit), found)
    _chart("forest", version, charts.forest, outcome)
    missing = view.missing_controls(outcome.study)
    if missing:
        words = f"Where a gain comes from is drawn for studies that have these arms, too: {', '.join(missing)}."
        st.caption(plain(f"{words} The preset of the full control set has them."))
    untouched = [f"{name} {score_text(score)}" for name, score in outcome.references.items()]
    if untouched:
        st.caption(plain(f"Untouched beside them: {'; '.join(untouched)}."))
    if outcome.state != "done":
        st.caption("Partial: of the runs that are done so far. Words may still change.")


def _factors(outcome: StudyOutcome, version: tuple) -> None:
    if not outcome.study.factors:
        info("This study varies its arms alone: tick a factor in a new one, and its chart appears here.", "tune")
        return
    for factor in outcome.study.factors:
        _chart(f"factor:{factor}", version, charts.by_factor, outcome, factor)
        if any(contrast.factor == factor for contrast in outcome.contrasts):
            _chart(f"levels:{factor}", version, charts.levels, outcome, factor)


def _rates(outcome: StudyOutcome, version: tuple) -> None:
    _chart("rates", version, charts.rate_curves, outcome)


def _arms(outcome: StudyOutcome, _: tuple) -> None:
    grid(view.ARM_COLUMNS, view.arm_rows(outcome), "arms")
    download("Numbers as CSV", view.flat_rows(outcome), f"{view.file_name(outcome.study)}.csv", key="ablations.csv")
    groups = {group.key: group for group in outcome.groups}
    chosen = st.selectbox(
        "Runs of", list(groups), format_func=lambda key: groups[key].label, key="ablations.runs", width=560
    )
    runs, compared = view.runs_of(groups[chosen], outcome)
    with st.container(horizontal=True):
        for seed, run in runs.items():
            icon = ":material/show_chart:"
            st.page_link("pages/train.py", label=f"seed {seed}", icon=icon, query_params={"run": run})
    if compared:
        _compare("Compare them example by example", run=",".join(compared[:COMPARED]))


def _compare(label: str, **query: str) -> None:
    st.page_link("pages/compare.py", label=label, icon=":material/balance:", query_params=query)


def _warnings(outcome: StudyOutcome) -> None:
    for words in outcome.warnings[:MOST_WARNINGS]:
        st.caption(f":material/warning: {plain(words)}")
    if len(outcome.warnings) > MOST_WARNINGS:
        with st.expander(f"{len(outcome.warnings) - MOST_WARNINGS} more cautions", icon=":material/warning:"):
            for words in outcome.warnings[MOST_WARNINGS:]:
                st.markdown(f"- {plain(words)}")


def _take(folder: StudyFolder, outcome: StudyOutcome) -> None:
    """Draw what can be taken away."""
    name = view.file_name(outcome.study)
    scored = [run for group in outcome.groups for run in group.runs.values()]
    with st.container(horizontal=True, vertical_alignment="center"):
        if scored:
            report = {"icon": "description", "type": "primary"}
            _download("Report as HTML", lambda: reports.report_html(outcome), f"{name}.html", **report)
            tip = "One line a run, scorer and example."
            _download("Records as Parquet", lambda: records_parquet(folder), f"{name}.parquet", help=tip)
        _download("study.yaml", outcome.study.to_yaml, f"{name}.yaml")
        with st.popover("Methods text", icon=":material/notes:"):
            st.caption("What was held equal, seeds, tests and limits, as a paper would say it.")
            st.code(methods_text(outcome), language=None, wrap_lines=True)
        if scored:
            _compare("Compare these runs", study=outcome.id)


def _download(label: str, make: Callable[[], object], name: str, **options: object) -> None:
    download(label, make, name, key=f"ablations.take.{label}", **options)


VIEWS = {"verdict": _verdict, "factors": _factors, "rates": _rates, "arms": _arms}
