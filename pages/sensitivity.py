"""Sensitivity: measure a model on a task and see where the task lives: layer x module, inside a module, compared."""

import streamlit as st

from pages._ui.frame import layout, reading, state
from pages._ui.frame import run_panel as widgets
from pages._ui.frame.reading import Facts
from pages._ui.sensitivity import compare as sensitivity_compare
from pages._ui.sensitivity import map as maps
from pages._ui.sensitivity import matrix as sensitivity_matrix
from pages._ui.sensitivity import measure
from pages._ui.sensitivity.read import Saved, label, opened
from paraknow_core.display import distinct
from paraknow_core.runs.folder import RunFolder, list_runs

BESIDE_DETAIL = 560  # pixels: as tall as what stands beside it, and whole in a window of 900
List = list[tuple[RunFolder, Facts]]


def chosen_run() -> tuple[RunFolder | None, List]:
    """Return the run to show (the address's, else an active one, else the newest saved), and all that are saved."""
    place = state.place()
    run, problem = reading.run_in_link(place)
    if problem:
        layout.say(problem)
    saved = reading.runs_with_sensitivity(place)
    if run is None:
        beside = st.session_state.get(measure.PENDING, [])
        recent = (r for r in list_runs(place)[:20] if r.id not in beside and r.status().active)
        measuring = (r for r in recent if (spec := reading.facts(r).spec) and spec.until == "sensitivity")
        run = next(measuring, None)
        if run is not None:
            measure.show(run.id)  # whoever watches it stays with it when it is stopped
        elif saved:
            run = saved[0][0]
    return run, saved


def body(run: RunFolder | None, everything: List) -> None:
    """Draw the run's heatmap, its progress, or what to do first."""
    if run is None:
        st.info(
            "A map of the teacher will appear here: one row a layer, one column a module, colour for how much the "
            "task depends on it. Press **Compute sensitivity**.",
            icon=":material/grid_on:",
        )
        measure.prediction()
        return
    one = reading.facts(run)
    store = reading.store_of(state.place(), one)
    if store is not None:
        measure.beside()
        results(opened(run, one, store), everything)
    elif run.status().state == "done" or one.problem:
        layout.say(one.problem or f"run {run.id}: measured no sensitivity; choose another run, or compute it here")
    else:
        widgets.follow(run, measure.progress)
        widgets.log_tail(run)


def results(saved: Saved, everything: List) -> None:
    """Draw everything about one saved sensitivity, and a second one beside it if one was chosen."""
    other = look_fields(saved, everything)
    chosen = maps.chosen_module(saved.table)
    with st.container(horizontal=True, vertical_alignment="center"):
        sensitivity_compare.offer_student(saved, everything, other)
        measure.prediction()
    if other is not None:
        kept = sensitivity_matrix.kept_layers(saved)
        sensitivity_compare.comparison(saved, other, chosen, kept)
    else:
        alone(saved, chosen)
    sensitivity_compare.stability(saved, everything)
    measure.about_measurement(saved)
    downloads(saved, other)


def alone(saved: Saved, chosen: str) -> None:
    """Draw one sensitivity: its map, the chosen module, layers and groups."""
    pictures = st.container(key="stack-pictures")
    picture, detail = pictures.columns([1.32, 1], gap="medium")
    with picture:
        maps.heatmap(saved, chosen, height=BESIDE_DETAIL)
    with detail:
        sensitivity_matrix.picker(saved, chosen)
        sensitivity_matrix.matrix(saved, chosen, with_block=True)
    ranking, groups = pictures.columns([1.32, 1], gap="medium")
    with ranking:
        kept = sensitivity_matrix.kept_layers(saved)
        layers = [layer for layer in kept or [] if layer is not None]
        maps.ranking(saved, layers or None, state.draft().student.source)
    with groups:
        maps.groups(saved)


def look_fields(saved: Saved, everything: List) -> Saved | None:
    """Draw what is shown, beside what, and how; return the second sensitivity if one was chosen."""
    row = st.container(key="stack-fields-look")
    showing, beside, value, log = row.columns([2.15, 2.15, 1.95, 0.8], vertical_alignment="bottom")
    ids = [r.id for r, _ in everything]
    labels = distinct({r.id: label(one) for r, one in everything})
    if saved.run.id not in ids:  # an older run of the same saved sensitivity
        ids.insert(0, saved.run.id)
    st.session_state["sensitivity.run"] = saved.run.id
    showing.selectbox(
        "Showing",
        ids,
        key="sensitivity.run",
        format_func=lambda i: labels.get(i, i),
        on_change=lambda: measure.show(st.session_state["sensitivity.run"]),
        help="Every saved sensitivity; a run with the same teacher and seed samples uses it again.",
    )
    found = sensitivity_compare.choose_other(beside, saved.run, everything)
    maps.view_fields(value, log)
    store = reading.store_of(state.place(), found[1]) if found else None
    return opened(*found, store) if found and store is not None else None


def downloads(saved: Saved, other: Saved | None) -> None:
    """Draw the numbers as a table and as files."""
    table, run_id = saved.table, saved.run.id
    with st.expander("Numbers", icon=":material/table:"):
        st.dataframe(
            table.sort_values("sum", ascending=False),
            hide_index=True,
            height=320,
            column_config={
                "share": st.column_config.NumberColumn(format="%.4f"),
                "sum": st.column_config.NumberColumn("S, total", format="%.5g"),
                "mean": st.column_config.NumberColumn("S per parameter", format="%.4g"),
            },
        )
    with st.container(horizontal=True):
        _download("Modules as CSV", lambda: table.to_csv(index=False), f"sensitivity-{run_id}.csv")
        layers = "\n".join(["layer,sum", *(f"{i},{s!r}" for i, s in enumerate(saved.store.layer_scores()))])
        _download("Layers as CSV", lambda: layers + "\n", f"layers-{run_id}.csv")
        if other is not None:
            _download(
                "Comparison as CSV",
                lambda: sensitivity_compare.comparison_csv(saved, other),
                f"comparison-{run_id}.csv",
            )
    st.caption("Each chart saves itself as SVG: the camera in its upper right corner.")


def _download(text: str, content, name: str) -> None:  # noqa: ANN001 - called when the file is asked for
    st.download_button(text, content, name, "text/csv", icon=":material/download:", on_click="ignore")


with layout.page("Sensitivity"):
    measure.controls()
    body(*chosen_run())
