"""Layer mapping: strategies, the link diagram that is clicked, and the same mapping as a table that is edited."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas
import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.frame.layout import plain
from pages._ui.mapping.choice import PLOT, Choice
from paraknow_core.catalogue import MANUAL, STRATEGIES
from paraknow_core.display import percent
from paraknow_core.figures.mapping import layer_links

PICKED = "mapping.picked"  # (side, layer) clicked first in the diagram
RECEIVES = "receives teacher layer"


def editor(choice: Choice) -> None:
    """Draw the strategy, and the mapping both as links and as a table."""
    plan = choice.plan
    _strategy(choice)
    layers = plan["layers"]
    if layers is None:
        _repair(choice)
        manual = choice.spec.mapping.strategy == MANUAL
        layers = _fitted(choice) if manual else [None] * plan["student_layers"]
    row = st.container(key="stack-pictures-mapping")
    picture, table = row.columns([1.45, 1], gap="medium")
    with picture:
        _diagram(choice, layers)
    with table:
        _table(choice, layers)
        for note in notes(layers, plan["teacher_layers"]) if any(i is not None for i in layers) else []:
            st.caption(f":material/info: {plain(note)}")


def notes(layers: Sequence[int | None], teacher_layers: int) -> list[str]:
    """Return sentences about what is allowed in a mapping but worth knowing: duplicates, gaps, order.

    Args:
        layers: for each student layer the teacher layer, or None.
        teacher_layers: how many the teacher has.
    """
    given = [layer for layer in layers if layer is not None]
    found = []
    twice = sorted({layer for layer in given if given.count(layer) > 1})
    if twice:
        named = ", ".join(map(str, twice))
        found.append(
            f"Teacher layer{'s' if len(twice) > 1 else ''} {named} given more than once: allowed, but those "
            "student layers start alike."
        )
    empty = [i for i, layer in enumerate(layers) if layer is None]
    if empty:
        named = ", ".join(map(str, empty[:12])) + (" …" if len(empty) > 12 else "")
        found.append(f"Student layer{'s' if len(empty) > 1 else ''} {named}: nothing received, starts as default LoRA.")
    if any(a > b for a, b in zip(given[:-1], given[1:], strict=True)):
        found.append("Not in the teacher's order: a later student layer receives an earlier teacher layer.")
    unused = teacher_layers - len(set(given))
    if unused:
        found.append(f"{unused} of {teacher_layers} teacher layers give nothing.")
    return found


def _strategy(choice: Choice) -> None:
    left, right = st.columns([5, 1.2], vertical_alignment="bottom")
    spec = choice.spec.mapping
    key = "mapping.strategy.widget"
    st.session_state[key] = spec.strategy
    shown = choice.plan["layers"] or _fitted(choice)
    left.segmented_control(
        "Strategy",
        list(STRATEGIES),
        key=key,
        required=True,
        on_change=_choose,
        args=(shown,),
        help="Which teacher layer each student layer receives. "
        + "; ".join(f"{name}: {row.text}" for name, row in STRATEGIES.items())
        + ".",
    )
    if "mapping.seed" in STRATEGIES[spec.strategy].reads:
        with right:
            state.field(
                st.number_input,
                "Seed of the draw",
                "mapping.seed",
                min_value=0,
                max_value=2**32 - 1,
                step=1,
                help="Another seed draws other layers.",
            )
    st.caption(plain(f"{spec.strategy}: {STRATEGIES[spec.strategy].text}."))


def _choose(layers: list[int | None]) -> None:
    """Take the chosen strategy; manual starts from the mapping that is shown."""
    strategy = st.session_state["mapping.strategy.widget"]
    if strategy == MANUAL:
        set_links(layers)
    else:
        state.change({"mapping.strategy": strategy, "mapping.layers": []})
    st.session_state.pop(PICKED, None)


def set_links(layers: Sequence[int | None]) -> None:
    """Make this mapping the draft's, set by hand."""
    state.change({"mapping.strategy": MANUAL, "mapping.layers": list(layers)})


def _fitted(choice: Choice) -> list[int | None]:
    """Return the draft's mapping cut or filled to the student's layers, without what the teacher does not have.

    Where it has none, the layers in order.
    """
    plan = choice.plan
    if not choice.spec.mapping.layers:
        return [i if i < plan["teacher_layers"] else None for i in range(plan["student_layers"])]
    kept = [i if i is None or i < plan["teacher_layers"] else None for i in choice.spec.mapping.layers]
    return (kept + [None] * plan["student_layers"])[: plan["student_layers"]]


def _repair(choice: Choice) -> None:
    """Say why the mapping is not one of this pair, and offer one that is."""
    if choice.spec.mapping.strategy != MANUAL:
        st.info(
            plain("Which layers these are is known once the teacher's sensitivity was measured."),
            icon=":material/hourglass_empty:",
        )
        return
    layout.say(choice.plan["problem"])
    with st.container(horizontal=True):
        st.button(
            "Fit to this pair",
            icon=":material/build:",
            on_click=set_links,
            args=(_fitted(choice),),
            help="Keeps what is possible; the rest receives nothing.",
        )
        st.button(
            "Start from sensitivity",
            icon=":material/restart_alt:",
            on_click=lambda: state.change({"mapping.strategy": "sensitivity", "mapping.layers": []}),
        )


def _diagram(choice: Choice, layers: list[int | None]) -> None:
    picked = st.session_state.get(PICKED)
    figure = layer_links(
        layers,
        choice.plan["teacher_layers"],
        choice.plan["scores"],
        "Which layer goes where",
        f"{choice.about()}; width: S of the layer" if choice.plan["scores"] else choice.about(),
        picked=picked,
        dark=layout.is_dark(),
    )
    said = ", ".join(f"{i} from {'nothing' if t is None else t}" for i, t in enumerate(layers))
    st.plotly_chart(
        figure,
        theme=None,
        config=PLOT,
        key="mapping.links",
        selection_mode="points",
        on_select=lambda: _clicked(layers),
        alt=f"Links from teacher to student layers: student layer {said}",
    )
    if picked:
        other = (
            "student layer that should receive it" if picked[0] == "teacher" else "teacher layer that it should receive"
        )
        st.caption(f":material/ads_click: {picked[0].capitalize()} layer {picked[1]} is chosen: click the {other}.")


def _clicked(layers: list[int | None]) -> None:
    event = st.session_state.get("mapping.links")
    points = (event.get("selection") or {}).get("points") if isinstance(event, Mapping) else None
    data = points[0].get("customdata") if points else None
    if data is not None and not isinstance(data, list | tuple):
        data = [data[str(i)] for i in range(2)]
    picked, linked = after_click((str(data[0]), int(data[1])) if data else None, st.session_state.get(PICKED), layers)
    st.session_state[PICKED] = picked
    if linked is not None:
        set_links(linked)


def after_click(
    clicked: tuple[str, int] | None, picked: tuple[str, int] | None, layers: Sequence[int | None]
) -> tuple[tuple[str, int] | None, list[int | None] | None]:
    """Take a click: the first chooses one end of a link, the second, on the other side, sets it.

    Args:
        clicked: ("teacher" or "student", layer), or None where a choice was clicked once more.
        picked: what was chosen before.
        layers: the mapping as it is.

    Returns:
        What is chosen now, and the new mapping if there is one.
    """
    if clicked is None or picked is None or picked[0] == clicked[0]:
        return clicked, None
    ends = dict([clicked, picked])
    if not 0 <= ends["student"] < len(layers):
        return None, None
    new = list(layers)
    new[ends["student"]] = ends["teacher"]
    return None, new


def _table(choice: Choice, layers: list[int | None]) -> None:
    scores = choice.plan["scores"]
    total = sum(scores) if scores else 0.0
    table = pandas.DataFrame({"student layer": range(len(layers)), RECEIVES: pandas.array(layers, dtype="Int64")})
    if scores:
        table["S"] = [None if i is None else scores[i] for i in layers]
        table["share"] = ["" if i is None else percent(scores[i] / total if total else 0.0) for i in layers]
    key = f"mapping.table:{choice.plan['teacher_layers']}:{layers}"  # a new mapping makes a new, unedited table
    st.data_editor(
        table,
        hide_index=True,
        key=key,
        on_change=_edited,
        args=(key, layers),
        height="content" if len(layers) < 13 else 480,
        disabled=["student layer", "S", "share"],
        placeholder="–",
        column_config={
            RECEIVES: st.column_config.NumberColumn(
                min_value=0,
                max_value=choice.plan["teacher_layers"] - 1,
                step=1,
                width=155,
                help="Type a number; empty: this layer receives nothing. Editing makes the strategy manual.",
            ),
            "student layer": st.column_config.NumberColumn(width=92),
            "S": st.column_config.NumberColumn(format="%.4g", width=58, help="Σ S over all parameters of the layer."),
            "share": st.column_config.TextColumn(width=58, help="S of the layer divided by S of all layers."),
        },
        alt="Table: for each student layer the teacher layer it receives",
    )
    st.caption("Type in the table, or click a teacher layer and then a student layer in the picture.")


def _edited(key: str, layers: list[int | None]) -> None:
    new = after_edit((st.session_state.get(key) or {}).get("edited_rows") or {}, layers)
    if all(layer is None for layer in new):
        state.tell("mapping: no student layer would receive anything; give at least one a teacher layer")
    elif new != list(layers):
        set_links(new)


def after_edit(edited: Mapping[Any, Mapping[str, Any]], layers: Sequence[int | None]) -> list[int | None]:
    """Return the mapping with the table's edits (row number -> column -> value) in it."""
    new = list(layers)
    for row, cells in edited.items():
        if RECEIVES in cells and 0 <= int(row) < len(new):
            new[int(row)] = None if cells[RECEIVES] is None else int(cells[RECEIVES])
    return new
