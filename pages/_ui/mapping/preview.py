"""What would be injected into one module: its place, what it holds, its spectrum, how it lies to the student."""

from typing import Any

import streamlit as st

from pages._ui.frame import layout
from pages._ui.frame.asking import answered
from pages._ui.frame.layout import plain
from pages._ui.mapping.choice import PLOT, Choice, totals_of
from paraknow_core.display import percent, shorten, significant
from paraknow_core.errors import ParaknowError
from paraknow_core.figures import mapping as charts
from paraknow_core.workbench.desk import Reply, requests

MODULE = "mapping.module"


def pick_module(choice: Choice) -> str:
    """Draw the choice of a student module and return its name; the one whose teacher module counts most comes first."""
    names = [pair["student_module"] for pair in choice.pairs]
    if st.session_state.get(MODULE) not in names:
        sums = totals_of(str(choice.store.folder))["sums"] if choice.store else {}
        most = max(choice.pairs, key=lambda pair: sums.get(pair["teacher_module"], 0.0))
        st.session_state[MODULE] = most["student_module"]
    labels = {pair["student_module"]: _label(pair) for pair in choice.pairs}
    st.session_state["mapping.module.widget"] = st.session_state[MODULE]
    st.selectbox(
        "Student module",
        names,
        key="mapping.module.widget",
        format_func=labels.get,
        on_change=lambda: st.session_state.update({MODULE: st.session_state["mapping.module.widget"]}),
        help="Or choose a row of the table below.",
    )
    return st.session_state[MODULE]


def _label(pair: dict[str, Any]) -> str:
    where = pair["role"] if pair["layer"] is None else f"layer {pair['layer']}, {pair['role']}"
    return f"{where} ← {shorten(pair['teacher_module'].removeprefix('model.'), 60)}"


def pair_like(choice: Choice, module: str) -> dict[str, Any] | None:
    """Return the pairing of a student module, or of the one in its place in another student."""
    for pair in choice.pairs:
        if pair["student_module"] == module:
            return pair
    return None


def pictures(choices: dict[str, Choice], module: str) -> None:
    """Draw the four pictures of one module: in two rows for one choice, side by side for two."""
    shown = {name: (choice, pair_like(choice, module)) for name, choice in choices.items()}
    asked: dict[str, tuple[Reply | None, Reply | None]] = {}  # a question that both have is asked, and fails, once
    replies = {}
    for name, (choice, pair) in shown.items():
        question = requests.TransferSpectrum(pair=pair, **choice.energy()).model_dump_json() if pair else ""
        if question not in asked:
            asked[question] = _replies(choice, pair)
        replies[name] = asked[question]
    box = st.container(key="stack-pictures-block")
    if len(shown) == 1:
        [(name, (choice, _))] = shown.items()
        rows = ((_place, _mass), (_spectrum, _cosine))
        for row in rows:
            for cell, draw in zip(box.columns(2, gap="medium"), row, strict=True):
                with cell:
                    draw("", choice, *replies[name])
        return
    for draw in (_place, _mass, _spectrum, _cosine):
        for cell, (name, (choice, pair)) in zip(box.columns(2, gap="medium"), shown.items(), strict=True):
            with cell:
                if pair is not None:
                    draw(name, choice, *replies[name])
                elif draw is _place:
                    st.info(f"{name}: nothing is injected into this module.", icon=":material/block:")


def _replies(choice: Choice, pair: dict[str, Any] | None) -> tuple[Reply | None, Reply | None]:
    if pair is None or choice.store is None:
        return None, None
    block = answered(requests.TransferBlock(pair=pair, **choice.blocks()), "Cutting the block …")
    if block is None:
        return None, None
    spectrum = answered(requests.TransferSpectrum(pair=pair, **choice.energy()), "Decomposing the block …")
    return block, spectrum


def _named(name: str, words: str) -> str:
    """Return a chart's second line; of two choices it says which one this is."""
    return f"{name}: {words}" if name else words


def _place(name: str, _choice: Choice, block: Reply | None, _: Reply | None) -> None:
    if block is None:
        return
    facts = block.value
    names = ("map", "rows", "cols") if facts["kind"] != "weights" else ("density",)
    extra = ("kept_rows", "kept_cols") if facts["kind"] == "grid" else ()
    size = " × ".join(f"{n:,}" for n in facts["shape"])
    whole = " × ".join(f"{n:,}" for n in facts["teacher_shape"])
    where = f" at row {facts['top_left'][0]:,}, column {facts['top_left'][1]:,}" if facts["top_left"] else ""
    what = {"window": "window", "grid": "rows and columns", "weights": "single weights"}[facts["kind"]]
    try:
        arrays = {key: block.array(key) for key in (*names, *extra)}
    except ParaknowError:
        st.caption("The map of this embedding in the student's vocabulary was not kept with the reductions.")
        return
    words = f"{what} {size} of {whole}{where}"
    title = f"Taken from {shorten(facts['teacher_module'].removeprefix('model.'), 40)}"
    figure = charts.selection_map(facts, arrays, title, _named(name, words), dark=layout.is_dark())
    st.plotly_chart(
        figure,
        theme=None,
        config=PLOT,
        key=f"mapping.place:{name}",
        alt=f"Map of {facts['teacher_module']} with what is taken: {words}",
    )


def _mass(name: str, choice: Choice, block: Reply | None, _: Reply | None) -> None:
    if block is None:
        return
    facts = block.value
    if facts["why"]:
        held = percent(facts["captured_mass"]) if facts["captured_mass"] is not None else "not known"
        st.info(
            plain(f"{facts['why']} The block holds {held} of S on {percent(facts['area_fraction'])} of the area."),
            icon=":material/info:",
        )
        return
    if facts["positions"] == 1:
        st.info(
            "The student's weight is as large as the teacher's here: everything is taken, there is no other place.",
            icon=":material/select_all:",
        )
        return
    if facts["offsets"] is None:
        st.info(
            "This module's sensitivity is zero everywhere: no place is better than another.", icon=":material/info:"
        )
        return
    words = _standing(choice, facts)
    figure = charts.mass_histogram(
        facts,
        block.array("counts"),
        "Captured share of S, against every offset",
        _named(name, words),
        dark=layout.is_dark(),
    )
    st.plotly_chart(
        figure,
        theme=None,
        config=PLOT,
        key=f"mapping.mass:{name}",
        alt=f"Histogram of the captured share at all offsets; {words}",
    )


def _standing(choice: Choice, facts: dict[str, Any]) -> str:
    """Say in a few words where the block stands among all offsets."""
    offsets, places = facts["offsets"], f"{facts['positions']:,} offsets"
    if choice.structure == "submatrix":
        return f"best of {places} by choice; their median holds {percent(offsets['median'])}"
    if offsets["at_most"] == 1:
        return f"more than any of {places}; their median holds {percent(offsets['median'])}"
    return f"more than {percent(offsets['at_most'])} of {places}; their median holds {percent(offsets['median'])}"


def _spectrum(name: str, choice: Choice, block: Reply | None, spectrum: Reply | None) -> None:
    if block is None or spectrum is None:
        return
    values, rank = spectrum.array("values"), choice.rank
    if rank > len(values):
        st.info(plain(f"Rank {rank} is more than this module can hold ({len(values)})."), icon=":material/info:")
        return
    total = spectrum.value["total_squared"]
    kept = min(1.0, float((values[:rank].astype(float) ** 2).sum()) / total) if total else 1.0
    what = "block − student's weight" if choice.mode == "difference" else "block"
    whole = (
        f"all {len(values)} values, exact"
        if spectrum.value["whole"]
        else (f"the first {len(values)}, randomised; the rest from the Frobenius norm")
    )
    figure = charts.spectrum_cut(
        values, rank, kept, f"Singular values of the {what}", _named(name, whole), dark=layout.is_dark()
    )
    st.plotly_chart(
        figure,
        theme=None,
        config=PLOT,
        key=f"mapping.spectrum:{name}",
        alt=f"Singular values; the first {rank} hold {percent(kept)} of the squared norm",
    )


def _cosine(name: str, _choice: Choice, block: Reply | None, _: Reply | None) -> None:
    if block is None:
        return
    others, own = block.array("cosines"), block.value["cosine"]
    about = f"{len(others)} blocks at random offsets beside it" if len(others) else "no other offset to compare with"
    figure = charts.cosine_strip(
        own, others, "Cosine with the student's own weight", _named(name, about), dark=layout.is_dark()
    )
    st.plotly_chart(
        figure,
        theme=None,
        config=PLOT,
        key=f"mapping.cosine:{name}",
        alt=f"Cosine of the block {significant(own)}; {about}",
    )
