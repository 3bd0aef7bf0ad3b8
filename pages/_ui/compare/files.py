"""What can be taken away from a comparison: the report, records, specs and adapters; and a way back into the draft."""

import shlex
from collections.abc import Callable

import streamlit as st

from pages._ui.compare.link import linked
from pages._ui.frame import layout, state
from pages._ui.frame.layout import plain, say
from pages._ui.frame.run_panel import edit_label
from paraknow_core.display import memory
from paraknow_core.errors import RunError
from paraknow_core.figures import report as reports
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.packing import ADAPTER_FILES, is_linked, read_inside
from paraknow_core.studies.arms import NO_EFFECT, Arm, settings_that_differ
from paraknow_core.workbench import reading
from paraknow_core.workbench.views.compare import shown_setting

LARGEST = 500_000_000  # bytes of an adapter that the pages' server packs in its memory


def draw(arms: list[Arm]) -> None:
    """Draw the view."""
    _together(arms)
    _differences(arms)
    _one_run(arms)


def _together(arms: list[Arm]) -> None:
    st.subheader("This comparison", anchor=False)
    runs = sum(len(arm.runs) for arm in arms)
    st.caption(
        plain(
            f"{len(arms)} arm{'s' if len(arms) > 1 else ''}, {runs} run{'s' if runs > 1 else ''}. The "
            "report holds scores, differences in words, curves, settings, versions and how to reproduce; it "
            "opens without a network."
        )
    )
    try:
        reports.refuse_linked(arms)
    except RunError as error:
        say(error)
        return
    base = st.query_params.get("base") or st.session_state.get("compare.base") or ""
    with st.container(horizontal=True):
        report = {"icon": "description", "type": "primary"}
        _download("Report as HTML", lambda: reports.html_report(arms, base), "html", **report)
        tip = "One line a run, scorer and example: prompt, reference, output, score."
        _download("Records as CSV", lambda: reports.records_table(arms), "records.csv", help=tip)
        _download("Records as Parquet", lambda: reports.records_parquet(arms), "records.parquet")


def _differences(arms: list[Arm]) -> None:
    """Draw the settings in which the arms differ, one column an arm."""
    rows = settings_that_differ(arms)
    st.subheader("Settings that differ", anchor=False)
    if not rows:
        st.caption("All chosen runs have the same settings, seeds apart.")
        return
    labels = ["setting", *(arm.label for arm in arms)]
    texts = [
        [key, *("no effect" if value is NO_EFFECT else shown_setting(key, value, 40) for value in values)]
        for key, values in rows
    ]
    columns = dict(zip(labels, map(list, zip(*texts, strict=True)), strict=True))
    st.dataframe(columns, hide_index=True, alt="Table of the settings that differ between the arms")
    if any(value is NO_EFFECT for _, values in rows for value in values):
        st.caption("no effect: the arm's method does not read this setting.")


def _one_run(arms: list[Arm]) -> None:
    """Draw what one run has to give, and the ways on from it."""
    st.subheader("One run", anchor=False)
    runs = {run.id: run for arm in arms for run in arm.runs}
    options = reading.options(state.place(), runs.values())
    chosen = linked(st.selectbox, "Run", "first", list(runs), width=560, format_func=options.get)
    run = runs[chosen]
    name = reports.safe_name(run.id)
    with st.container(horizontal=True):
        linked_in = any(is_linked(run.path, f"adapter/{file}") for file in ADAPTER_FILES)
        trained = run.file("adapter").is_dir() and not linked_in
        size = file_stamp(run.file("adapter") / "adapter_model.safetensors")[1]
        if trained and size <= LARGEST:
            _download(
                "Adapter as zip",
                lambda: reports.adapter_zip(run),
                f"adapter-{name}.zip",
                help="adapter_config.json, adapter_model.safetensors and README.md, for the untouched student: "
                "PeftModel.from_pretrained(student, 'adapter').",
            )
        _download("spec.yaml", lambda: read_inside(run.path, "spec.yaml"), f"{name}.yaml")
        if st.button(
            "Duplicate and tweak",
            icon=":material/content_copy:",
            help="Makes this run's spec the draft, and opens Train to change and start it.",
        ):
            if not state.replace_spec(run.spec()):
                st.rerun()
            st.switch_page("pages/train.py")
        edit_label(run, reading.facts(run))
    if trained and size > LARGEST:
        st.caption(
            plain(
                f"The adapter ({memory(size)}) is too large to hand through the browser; it lies in "
                f"{state.place().root.name}/runs/{run.id}/adapter/."
            )
        )
    if trained and not state.access().demo:
        st.caption(
            "The student with the trained change in its weights, as a whole model folder that transformers and "
            "this workbench load (as large as the student):"
        )
        command = f"python -m paraknow_core runs export {shlex.quote(run.id)} --merged --out {name}-merged"
        st.code(command, language="bash")
    st.page_link(
        "pages/train.py", label="Open this run on Train", icon=":material/show_chart:", query_params={"run": run.id}
    )


def _download(label: str, make: Callable[[], object], name: str, **options: object) -> None:
    layout.download(label, make, name, key=f"compare.take.{label}", **options)
