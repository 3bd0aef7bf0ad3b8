"""Inside one module: its block-reduced map with profiles, the block that the student would receive, and zoom."""

from typing import Any

import plotly.graph_objects as go
import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.frame.asking import answered
from pages._ui.frame.fields import mirror
from pages._ui.frame.layout import kept_picture, plain, say
from pages._ui.sensitivity.map import LOG, MODULE
from paraknow_core.display import percent, shorten, significant, source_label
from paraknow_core.errors import ParaknowError
from paraknow_core.figures import maps as figures
from paraknow_core.figures import sensitivity as charts
from paraknow_core.figures.sensitivity import Region, region_of_box
from paraknow_core.workbench.desk import Reply, requests
from paraknow_core.workbench.views.sensitivity import Saved

REGION = "sensitivity.region"
BOX_ONLY = ("lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "zoom2d")


def picker(saved: Saved, chosen: str) -> None:
    """Draw the select box that does what a click on the map does."""

    def store(module: str) -> None:
        st.session_state[MODULE] = module

    options = {"options": list(saved.table["module"]), "help": "Or click a cell of the map."}
    mirror(st.selectbox, "Module", "sensitivity.pick", chosen, store, **options)


def matrix(saved: Saved, module: str, *, with_block: bool, name: str = "") -> None:
    """Draw one module, whole or the region that was chosen.

    Args:
        saved: the sensitivity.
        module: one of its modules.
        with_block: also ask for the block that the draft's student would receive, and draw it.
        name: of the model, where two stand side by side.
    """
    row = saved.table[saved.table["module"] == module].iloc[0]
    shape = (int(row["rows"]), int(row["cols"]))
    region = _region(saved, module, shape)
    place, below = st.container(), st.container()
    with below:
        block = _block(saved, module) if with_block and saved.spec.teacher != state.draft().student else {}
        zoomed = _zoomed(saved, module, region) if region else None
        _zoom_fields(saved, module, shape, region, block)
        _sentences(saved, block)
    title = shorten(f"{name}: " if name else "", 30) + module.removeprefix("model.")
    size = f"{shape[0]:,} x {shape[1]:,}"
    facts = f"{size}, {row['role']} ({row['group']}), share {percent(row['share'])}, S {significant(row['sum'])}"
    if zoomed is not None:
        part = zoomed.value["sum"] / row["sum"] if row["sum"] else 0.0
        rows, cols = (f"{region[i]:,}–{region[i] + region[i + 2] - 1:,}" for i in (0, 1))
        facts = f"rows {rows}, columns {cols} of {size}; {percent(part)} of the module's S"
    try:
        figure = _figure(saved, module, title, facts, zoomed, region, block)
    except ParaknowError as error:  # a store that lost a file: the rest of the page is still there
        with place:
            say(error)
        return
    key = f"module:{saved.store.folder.name}:{module}:{region}"
    alt = f"Map of {module}: block means of S, sums by row at the right and by column below"
    on_select = (lambda: _boxed(key, saved, module, shape)) if saved.store.has_full else "ignore"
    layout.chart(figure, key, alt, place, without=BOX_ONLY, selection_mode="box", on_select=on_select)


def _figure(
    saved: Saved, module: str, title: str, facts: str, zoomed: Reply | None, region: Region | None, block: dict
) -> go.Figure:
    """Return the picture; kept, because a click on another chart draws it again as it was."""
    dark, log = layout.is_dark(), st.session_state[LOG]
    window = block.get("window")

    def draw() -> go.Figure:
        store = saved.store
        parts = (
            [zoomed.array(n) for n in ("map", "rows", "cols")]
            if zoomed is not None
            else [store.block_map(module), store.row_sums(module), store.col_sums(module)]
        )
        origin = (region[0], region[1]) if zoomed is not None else (0, 0)
        figure = figures.matrix_map(
            *parts, tuple(window) if window else None, title, facts, dark=dark, origin=origin, log=log
        )
        if block.get("kind") == "grid":
            charts.mark_picked(figure, block["rows"], block["cols"])
        if store.has_full:
            charts.box_targets(figure, origin, (len(parts[1]), len(parts[2])))
        return figure

    zoom = str(zoomed.folder) if zoomed is not None else ""
    return kept_picture("matrix", (saved.key, module, title, facts, zoom, region, str(block), log), draw)


def kept_layers(saved: Saved) -> list[int | None] | None:
    """Return which layers the draft's mapping keeps for its student; None until that is known, or cannot be."""
    question = requests.KeptLayers(spec=state.draft(), store=saved.store.folder.name)
    reply = answered(question, waiting="Mapping the layers …")
    return reply.value["layers"] if reply is not None else None


def _block(saved: Saved, module: str) -> dict[str, Any]:
    spec = state.draft().model_copy(update={"teacher": saved.spec.teacher})
    question = requests.SensitivityWindow(spec=spec, store=saved.store.folder.name, module=module)
    reply = answered(question, waiting="Looking for the student's block …")
    return reply.value if reply is not None else {}


def _zoomed(saved: Saved, module: str, region: Region) -> Reply | None:
    store, teacher = saved.store.folder.name, saved.spec.teacher
    question = requests.Zoom(store=store, module=module, region=region, teacher=teacher)
    return answered(question, waiting="Reading this region …")


def _region(saved: Saved, module: str, shape: tuple[int, int]) -> Region | None:
    """Return the region that was chosen for this module, if any and if it can be read."""
    region = st.session_state.get(REGION, {}).get((saved.store.folder.name, module))
    return region if region and saved.store.has_full and region[2:] != shape else None


def _set_region(saved: Saved, module: str, region: Region | None) -> None:
    st.session_state[REGION] = {**st.session_state.get(REGION, {}), (saved.store.folder.name, module): region}


def _boxed(key: str, saved: Saved, module: str, shape: tuple[int, int]) -> None:
    boxes = layout.selected(key, "box")
    if boxes:
        _set_region(saved, module, region_of_box(boxes[0]["x"], boxes[0]["y"], shape))


def _zoom_fields(saved: Saved, module: str, shape: tuple[int, int], region: Region | None, block: dict) -> None:
    if not saved.store.has_full:
        return
    with st.container(horizontal=True):
        if region and st.button("Back to the whole", icon=":material/zoom_out_map:", key=f"whole:{module}"):
            _go(saved, module, None)
        window = tuple(block.get("window") or ())
        if window not in ((), region) and window[2:] != shape:
            tip = "Zoom to the frame: what the draft's student would receive."
            if st.button("To the block", icon=":material/crop_free:", key=f"block:{module}", help=tip):
                _go(saved, module, window)
        with st.popover("Region", icon=":material/zoom_in:", help="Or draw a box on the map."):
            _region_form(saved, module, shape, region)


def _region_form(saved: Saved, module: str, shape: tuple[int, int], region: Region | None) -> None:
    row, col, height, width = region or (0, 0, *shape)
    ends = []
    with st.form(f"region:{saved.store.folder.name}:{module}:{region}", border=False):
        cells = [cell for _ in range(2) for cell in st.columns(2)]
        fields = (
            ("First row", row, shape[0]),
            ("Last row", row + height - 1, shape[0]),
            ("First column", col, shape[1]),
            ("Last column", col + width - 1, shape[1]),
        )
        for cell, (label, value, size) in zip(cells, fields, strict=True):
            ends.append(int(cell.number_input(label, 0, size - 1, value, help=f"0 to {size - 1:,}")))
        if st.form_submit_button("Zoom", icon=":material/zoom_in:", width="stretch"):
            (top, bottom), (left, right) = sorted(ends[:2]), sorted(ends[2:])
            _go(saved, module, (top, left, bottom - top + 1, right - left + 1))


def _go(saved: Saved, module: str, region: Region | None) -> None:
    _set_region(saved, module, region)
    st.rerun()


def _sentences(saved: Saved, block: dict) -> None:
    student = source_label(state.draft().student.source, 30)
    lines = []
    if block.get("inside") is not None and block["kind"] in ("window", "grid"):
        what = "Frame: what" if block["kind"] == "window" else "Bars at the edges: the rows and columns that"
        where = f"layer {block['serves']} of {student}" if block.get("serves") is not None else student
        not_kept = "" if block.get("serves") is not None else " if the layer mapping kept this layer"
        lines.append(
            f"{what} {where} would receive{not_kept}: {percent(block['inside'])} of S on "
            f"{percent(block['area'])} of the area."
        )
    elif block.get("window") or block.get("kind") == "grid":
        lines.append(f"Drawn: what {student} would receive, {percent(block['area'])} of the area.")
    elif block.get("note"):
        lines.append(f"No block drawn: {block['note']}.")
    if not saved.store.has_full:
        lines.append(
            "Only reductions were kept of this sensitivity: there is no zoom, and a block is known only for "
            "the student and structures that it was measured for."
        )
    if lines:
        st.caption(plain(" ".join(lines)))
