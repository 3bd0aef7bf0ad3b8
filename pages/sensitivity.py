"""Sensitivity: measure a model on a task and see where the task lives: layer x module, inside a module, compared."""

import streamlit as st

from pages._ui.frame import layout, run_panel, state
from pages._ui.frame.fields import mirror
from pages._ui.frame.layout import download, info
from pages._ui.frame.page import page
from pages._ui.sensitivity import compare as sensitivity_compare
from pages._ui.sensitivity import map as maps
from pages._ui.sensitivity import matrix as sensitivity_matrix
from pages._ui.sensitivity import measure
from paraknow_core.display import distinct
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.workbench import reading
from paraknow_core.workbench.reading import Runs
from paraknow_core.workbench.views.sensitivity import Saved, comparison_rows, label, opened

BESIDE_DETAIL = 560  # pixels: as tall as what stands beside it, and whole in a window of 900


def chosen_run() -> tuple[RunFolder | None, Runs]:
    """Return the run to show (the address's, else an active one, else the newest saved), and all that are saved."""
    place = state.place()
    run, problem = state.run_in_link()
    if problem:
        layout.say(problem)
    saved = reading.runs_with_sensitivity(place)
    if run is None:
        beside = st.session_state.get(measure.PENDING, [])
        recent = (r for r in list_runs(place)[:20] if r.id not in beside and r.status().active)
        measuring = (r for r in recent if (spec := reading.facts(r).spec) and spec.until == "sensitivity")
        run = next(measuring, None)
        if run is not None:
            st.query_params["run"] = run.id  # whoever watches it stays with it when it is stopped
        elif saved:
            run = saved[0][0]
    return run, saved


def body(run: RunFolder | None, everything: Runs) -> None:
    """Draw the run's heatmap, its progress, or what to do first."""
    if run is None:
        info(
            "A map of the teacher will appear here: one row a layer, one column a module, colour for how much the "
            "task depends on it. Press **Compute sensitivity**.",
            "grid_on",
        )
        measure.prediction()
        return
    facts = reading.facts(run)
    store = reading.store_of(state.place(), facts)
    if store is not None:
        measure.beside()
        results(opened(run, facts, store), everything)
    elif run.status().state == "done" or facts.problem:
        layout.say(facts.problem or f"run {run.id}: measured no sensitivity; choose another run, or compute it here")
    else:
        run_panel.follow(run, measure.progress)
        run_panel.log_tail(run)


def results(saved: Saved, everything: Runs) -> None:
    """Draw everything about one saved sensitivity, and a second one beside it if one was chosen."""
    other = look_fields(saved, everything)
    chosen = maps.chosen_module(saved)
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


def look_fields(saved: Saved, everything: Runs) -> Saved | None:
    """Draw what is shown, beside what, and how; return the second sensitivity if one was chosen."""
    row = st.container(key="stack-fields-look")
    showing, beside, value, log = row.columns([2.15, 2.15, 1.95, 0.8], vertical_alignment="bottom")
    ids = [r.id for r, _ in everything]
    labels = distinct({r.id: label(facts) for r, facts in everything})
    if saved.run.id not in ids:  # an older run of the same saved sensitivity
        ids.insert(0, saved.run.id)
    tip = "Every saved sensitivity; a run with the same teacher and seed samples uses it again."
    shown = {"options": ids, "format_func": lambda run_id: labels.get(run_id, run_id), "help": tip}
    mirror(
        showing.selectbox,
        "Showing",
        "sensitivity.run",
        saved.run.id,
        lambda run_id: st.query_params.update(run=run_id),
        **shown,
    )
    other = sensitivity_compare.choose_other(beside, saved.run, everything)
    maps.view_fields(value, log)
    store = reading.store_of(state.place(), other[1]) if other else None
    return opened(*other, store) if other and store is not None else None


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
        download("Modules as CSV", table, f"sensitivity-{run_id}.csv")
        layers = [{"layer": layer, "sum": total} for layer, total in enumerate(saved.store.layer_scores())]
        download("Layers as CSV", layers, f"layers-{run_id}.csv")
        if other is not None:
            download("Comparison as CSV", lambda: comparison_rows(saved, other), f"comparison-{run_id}.csv")
    st.caption("Each chart saves itself as SVG: the camera in its upper right corner.")


with page("Sensitivity"):
    measure.controls()
    body(*chosen_run())
