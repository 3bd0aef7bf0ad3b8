"""Sensitivity: measure a teacher on a task and see where the task lives: layer x module, then inside a module."""

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from pages._ui import layout, reading, state, widgets
from pages._ui.reading import Facts
from paraknow_core import figures
from paraknow_core.display import percent, significant, source_label
from paraknow_core.runs import RunFolder
from paraknow_core.sensitivity_store import SensitivityStore
from paraknow_core.spec import RunSpec

MODULE = "sensitivity.module"
VALUE = "sensitivity.value"
FORMULAS = {
    "sum": "S = Σ over seed samples of |θ · ∂L/∂θ|, summed over the module's weights",
    "mean": "S per parameter: the module's S divided by its number of weights",
    "share": "S of the module divided by S of the whole teacher",
}
PLOT = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        "toImageButtonOptions": {"format": "svg"}}  # fmt: skip


def controls() -> None:
    """Draw what is measured, and the button that measures it."""
    row = st.container(key="stack-fields")
    teacher, task, samples, button = row.columns([3, 3, 1.3, 1.9], vertical_alignment="bottom")
    with teacher:
        widgets.model_field("Teacher", "teacher.source", "The larger model whose weights are measured.")
    with task:
        widgets.task_field()
    with samples:
        state.field(
            st.number_input, "Seed samples", "sensitivity.samples", min_value=1, max_value=100_000, step=8,
            help="N training examples with their answers. S = Σ over them of |θ · ∂L/∂θ|; the paper uses 32.",
        )  # fmt: skip
    if button.button("Compute sensitivity", type="primary", icon=":material/play_arrow:", width="stretch"):
        name = f"Sensitivity of {source_label(state.draft().teacher.source, 30)}"
        changes = {"until": "sensitivity", "name": state.draft().name or name}
        run = widgets.start(state.draft().with_changes(changes))
        if run is not None:
            show(run.id)
            st.rerun()


def show(run_id: str) -> None:
    """Make a run the one that the page and its address show."""
    st.query_params["run"] = run_id


def chosen_run() -> tuple[RunFolder | None, list[tuple[RunFolder, Facts]]]:
    """Return the run to show (the address's, else an active one, else the newest saved), and all that are saved."""
    place = state.place()
    run, problem = reading.run_in_link(place)
    if problem:
        layout.say(problem)
    saved = reading.runs_with_sensitivity(place)
    if run is None:
        recent = reading.all_facts(place)[:20]
        measuring = (r for r, one in recent if one.spec and one.spec.until == "sensitivity" and r.status().active)
        run = next(measuring, saved[0][0] if saved else None)
    return run, saved


def body(run: RunFolder | None, saved: list[tuple[RunFolder, Facts]]) -> None:
    """Draw the run's heatmap, its progress, or what to do first."""
    if run is None:
        st.info(
            "A map of the teacher will appear here: one row a layer, one column a module, colour for how much the "
            "task depends on it. Press **Compute sensitivity**.",
            icon=":material/grid_on:",
        )
        return
    one = reading.facts(run)
    store = reading.store_of(state.place(), one)
    if store is not None:
        results(run, one, store, saved)
    elif run.status().state == "done" or one.problem:
        layout.say(one.problem or f"run {run.id}: measured no sensitivity; choose another run, or compute it here")
    else:
        widgets.follow(run, widgets.panel)
        widgets.log_tail(run)


def results(run: RunFolder, one: Facts, store: SensitivityStore, saved: list[tuple[RunFolder, Facts]]) -> None:
    """Draw everything about one saved sensitivity."""
    totals = _totals(str(store.folder))
    table = _modules(str(store.folder))
    teacher, task = source_label(str(totals.get("teacher", ""))), source_label(str(totals.get("task", "")))
    about = f"{teacher} on {task.replace('_', ' ')}, n = {totals.get('samples', 0):,} seed samples"
    pictures = st.container(key="stack-pictures")
    picture, detail = pictures.columns([1.32, 1], gap="medium")
    with picture:
        value = _pick_view(run, saved)
        chosen = _heatmap(run, table, value, about)
    with detail:
        _module(store, table, chosen)
    ranking, groups = pictures.columns([1.32, 1], gap="medium")
    kept = [layer for layer in one.result.get("layer_mapping") or [] if layer is not None] or None
    dark = layout.is_dark()
    ranking.plotly_chart(
        figures.layer_ranking(store.layer_scores(), kept, "Layers by sensitivity",
                              "number above the bar: rank" + ("; hatched: not kept" if kept else ""), dark=dark),
        theme=None, config=PLOT, key="layers", alt="Bars: total sensitivity of each teacher layer",
    )  # fmt: skip
    groups.plotly_chart(
        figures.group_shares(totals.get("groups") or {}, "Groups", about, dark=dark),
        theme=None, config=PLOT, key="groups", alt="Bars: share of attention, ffn, embedding and other",
    )  # fmt: skip
    _downloads(run, table, store)


def _pick_view(run: RunFolder, saved: list[tuple[RunFolder, Facts]]) -> str:
    left, right = st.columns([1.6, 1.55], vertical_alignment="top")
    ids = [r.id for r, _ in saved]
    labels = {r.id: _label(one) for r, one in saved}
    if run.id not in ids:  # an older run of the same saved sensitivity
        ids.insert(0, run.id)
    st.session_state["sensitivity.run"] = run.id
    left.selectbox(
        "Showing", ids, key="sensitivity.run", format_func=lambda i: labels.get(i, i),
        on_change=lambda: show(st.session_state["sensitivity.run"]),
        help="Every saved sensitivity; a run with the same teacher and seed samples uses it again.",
    )  # fmt: skip
    st.session_state.setdefault(VALUE, "sum")
    with right:
        value = st.segmented_control(
            "Show", list(figures.VALUES), format_func=figures.VALUES.get, key="sensitivity.value.widget",
            default=st.session_state[VALUE], required=True, help="; ".join(FORMULAS.values()),
        )  # fmt: skip
    st.session_state[VALUE] = value or "sum"
    return st.session_state[VALUE]


def _label(one: Facts) -> str:
    spec = one.spec or RunSpec()
    when = f"{one.id[4:6]}-{one.id[6:8]} {one.id[9:11]}:{one.id[11:13]}" if one.id[:8].isdigit() else one.id
    return (
        f"{source_label(spec.teacher.source, 24)} · {source_label(spec.task.source, 24)} · "
        f"{spec.sensitivity.samples} samples · {when}"
    )


def _heatmap(run: RunFolder, table, value: str, about: str) -> str:  # noqa: ANN001 - pandas stays out of the signature
    chosen = st.session_state.get(MODULE)
    if chosen not in set(table["module"]):
        inside = table[table["layer"].notna()]
        chosen = (inside if len(inside) else table).sort_values("share", ascending=False)["module"].iloc[0]
        st.session_state[MODULE] = chosen
    title = {"sum": "Sensitivity by layer and module", "mean": "Sensitivity per parameter",
             "share": "Share of the teacher's sensitivity"}[value]  # fmt: skip
    key = f"heatmap:{run.id}:{value}"
    st.plotly_chart(
        figures.sensitivity_heatmap(table, value, title, about, chosen=chosen, dark=layout.is_dark()),
        theme=None, config=PLOT, key=key, on_select=lambda: _clicked(key), selection_mode="points",
        alt=f"Heatmap: {title}, layers upwards, modules from left to right; the table below holds the numbers",
    )  # fmt: skip
    return chosen


def _clicked(key: str) -> None:
    event = st.session_state.get(key)
    points = (event.get("selection") or {}).get("points") if isinstance(event, Mapping) else None
    if points and points[0].get("customdata"):
        data = points[0]["customdata"]
        st.session_state[MODULE] = data[0] if isinstance(data, list | tuple) else data["0"]


def _module(store: SensitivityStore, table, chosen: str) -> None:  # noqa: ANN001
    names = list(table["module"])
    st.session_state["sensitivity.pick"] = chosen
    st.selectbox(
        "Module", names, key="sensitivity.pick", help="Or click a cell of the map.",
        on_change=lambda: st.session_state.update({MODULE: st.session_state["sensitivity.pick"]}),
    )  # fmt: skip
    row = table[table["module"] == chosen].iloc[0]
    facts = (
        f"{row['rows']:,} x {row['cols']:,}, {row['role']} ({row['group']}), share {percent(row['share'])}, "
        f"S {significant(row['sum'])}"
    )
    figure = figures.matrix_map(
        store.block_map(chosen), store.row_sums(chosen), store.col_sums(chosen), None,
        chosen.removeprefix("model."), facts, dark=layout.is_dark(),
    )  # fmt: skip
    st.plotly_chart(
        figure, theme=None, config=PLOT, key=f"module:{chosen}",
        alt=f"Map of {chosen}: block means of S, sums by row at the right and by column below",
    )  # fmt: skip


def _downloads(run: RunFolder, table, store: SensitivityStore) -> None:  # noqa: ANN001
    with st.expander("Numbers", icon=":material/table:"):
        st.dataframe(
            table.sort_values("sum", ascending=False), hide_index=True, height=320,
            column_config={"share": st.column_config.NumberColumn(format="%.4f"),
                           "sum": st.column_config.NumberColumn("S, total", format="%.5g"),
                           "mean": st.column_config.NumberColumn("S per parameter", format="%.4g")},
        )  # fmt: skip
    with st.container(horizontal=True):
        st.download_button(
            "Modules as CSV", table.to_csv(index=False), f"sensitivity-{run.id}.csv", "text/csv",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
        layers = "\n".join(["layer,sum", *(f"{i},{s!r}" for i, s in enumerate(store.layer_scores()))])
        st.download_button(
            "Layers as CSV", layers + "\n", f"layers-{run.id}.csv", "text/csv", icon=":material/download:",
            on_click="ignore",
        )  # fmt: skip
    st.caption("Each chart saves itself as SVG: the camera in its upper right corner.")


# A saved sensitivity never changes: its key names its content.
@st.cache_data(max_entries=64, show_spinner=False)
def _totals(folder: str) -> dict:
    return SensitivityStore(Path(folder)).totals


@st.cache_data(max_entries=64, show_spinner=False)
def _modules(folder: str):  # noqa: ANN202
    return SensitivityStore(Path(folder)).modules()


with layout.page("Sensitivity"):
    controls()
    body(*chosen_run())
