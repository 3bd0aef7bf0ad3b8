"""Layer mapping: strategies, the link diagram that is clicked, and the same mapping as a table that is edited."""

import streamlit as st

from pages._ui.frame import layout, state
from pages._ui.frame.fields import mirror, number
from pages._ui.frame.layout import info, plain
from pages._ui.frame.vary import varied
from pages._ui.mapping.actions import extract
from paraknow_core.catalogue import MANUAL, STRATEGIES
from paraknow_core.figures.mapping import layer_links, layer_similarity
from paraknow_core.workbench.views.mapping import (
    Choice,
    Layers,
    after_click,
    after_edit,
    fitted,
    layers_table,
    notes,
    reads_states,
    similarity_words,
)

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
        layers = fitted(choice) if manual else [None] * plan["student_layers"]
    row = st.container(key="stack-pictures-mapping")
    picture, table = row.columns([1.45, 1], gap="medium")
    with picture:
        _diagram(choice, layers)
    with table:
        _table(choice, layers)
        for note in notes(layers, plan["teacher_layers"]) if any(i is not None for i in layers) else []:
            st.caption(f":material/info: {plain(note)}")
    _similarity(choice, layers)


def _strategy(choice: Choice) -> None:
    left, right = st.columns([5, 1.2], vertical_alignment="bottom")
    strategy = choice.spec.mapping.strategy
    layers = choice.plan["layers"] or fitted(choice)
    words = "; ".join(f"{name}: {row.text}" for name, row in STRATEGIES.items())
    mirror(
        varied("mapping.strategy", left).segmented_control,
        "Strategy",
        "mapping.strategy.widget",
        strategy,
        lambda chosen: _choose(chosen, layers),
        options=list(STRATEGIES),
        required=True,
        help=f"Which teacher layer each student layer receives. {words}.",
    )
    if "mapping.seed" in STRATEGIES[strategy].reads:
        number("mapping.seed", right)
    st.caption(plain(f"{strategy}: {STRATEGIES[strategy].text}."))


def _choose(strategy: str, layers: Layers) -> None:
    """Take the chosen strategy; manual starts from the mapping that is shown."""
    if strategy == MANUAL:
        set_links(layers)
    else:
        state.change({"mapping.strategy": strategy, "mapping.layers": []})
    st.session_state.pop(PICKED, None)


def set_links(layers: Layers) -> None:
    """Make this mapping the draft's, set by hand."""
    state.change({"mapping.strategy": MANUAL, "mapping.layers": list(layers)})


def _repair(choice: Choice) -> None:
    """Say why the mapping is not one of this pair, and offer one that is."""
    if reads_states(choice.spec):
        _compare(choice)
        return
    if choice.spec.mapping.strategy != MANUAL:
        info("Which layers these are is known once the teacher's sensitivity was measured.", "hourglass_empty")
        return
    layout.say(choice.plan["problem"])
    with st.container(horizontal=True):
        st.button(
            "Fit to this pair",
            icon=":material/build:",
            on_click=set_links,
            args=(fitted(choice),),
            help="Keeps what is possible; the rest receives nothing.",
        )
        st.button(
            "Start from sensitivity",
            icon=":material/restart_alt:",
            on_click=lambda: state.change({"mapping.strategy": "sensitivity", "mapping.layers": []}),
        )


def _compare(choice: Choice) -> None:
    """Offer to compare the layers of both models, or say why they cannot be."""
    if choice.unlike:
        layout.say(choice.unlike)
        return
    info(
        "Which layers these are is worked out from the hidden states of both models on the seed samples: by a run when "
        "it starts, or here before.",
        "hourglass_empty",
    )
    if st.button(
        "Compute similarity",
        type="primary",
        icon=":material/play_arrow:",
        key="mapping.compare",
        help="Compares every layer of the student with every layer of the teacher, measures the teacher where that was "
        "not done yet, and extracts; trains nothing.",
    ):
        extract("Layer similarity")


def _similarity(choice: Choice, layers: Layers) -> None:
    """Draw how alike the layers are, where the mapping rests on that."""
    if choice.similarity is None:
        return
    table, dark = choice.similarity[choice.spec.mapping.strategy], layout.is_dark()
    name = {"cka": "CKA", "stitch": "R²"}[choice.spec.mapping.strategy]
    words = similarity_words(choice)
    figure = layer_similarity(table, layers, name, "How alike the layers are", words, dark=dark)
    alt = f"Map of {name} between student and teacher layers; {words}"
    layout.chart(figure, "mapping.similarity", alt, without=layout.NO_SELECTION)


def _diagram(choice: Choice, layers: Layers) -> None:
    picked, scores = st.session_state.get(PICKED), choice.plan["scores"]
    about = f"{choice.about()}; width: S of the layer" if scores else choice.about()
    title, dark = "Which layer goes where", layout.is_dark()
    figure = layer_links(layers, choice.plan["teacher_layers"], scores, title, about, picked=picked, dark=dark)
    words = ", ".join(f"{i} from {'nothing' if t is None else t}" for i, t in enumerate(layers))
    layout.chart(
        figure,
        "mapping.links",
        f"Links from teacher to student layers: student layer {words}",
        without=layout.NO_SELECTION,
        selection_mode="points",
        on_select=lambda: _clicked(layers),
    )
    if picked:
        other = (
            "student layer that should receive it" if picked[0] == "teacher" else "teacher layer that it should receive"
        )
        st.caption(f":material/ads_click: {picked[0].capitalize()} layer {picked[1]} is chosen: click the {other}.")


def _clicked(layers: Layers) -> None:
    data = layout.chosen_point("mapping.links")
    end = (str(data[0]), int(data[1])) if data else None
    st.session_state[PICKED], linked = after_click(end, st.session_state.get(PICKED), layers)
    if linked is not None:
        set_links(linked)


def _table(choice: Choice, layers: Layers) -> None:
    teacher_layers = choice.plan["teacher_layers"]
    key = f"mapping.table:{teacher_layers}:{layers}"  # a new mapping makes a new, unedited table
    st.data_editor(
        layers_table(layers, choice.plan["scores"], RECEIVES),
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
                max_value=teacher_layers - 1,
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


def _edited(key: str, layers: Layers) -> None:
    mapping = after_edit((st.session_state.get(key) or {}).get("edited_rows") or {}, RECEIVES, layers)
    if all(layer is None for layer in mapping):
        state.tell("mapping: no student layer would receive anything; give at least one a teacher layer")
    elif mapping != list(layers):
        set_links(mapping)
