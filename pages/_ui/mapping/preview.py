"""What would be injected into one module: its place, what it holds, its spectrum, how it lies to the student."""

from typing import Any

import streamlit as st

from pages._ui.frame import layout
from pages._ui.frame.asking import answered
from pages._ui.frame.fields import mirror
from pages._ui.frame.layout import info, plain
from paraknow_core.display import percent, shorten, significant
from paraknow_core.errors import ParaknowError
from paraknow_core.figures import mapping as charts
from paraknow_core.workbench.desk import Reply, requests
from paraknow_core.workbench.views.mapping import Choice, kept_energy, most_sensitive_pair, standing

MODULE = "mapping.module"


def pick_module(choice: Choice) -> str:
    """Draw the choice of a student module and return its name; the one whose teacher module counts most comes first."""
    labels = {pair["student_module"]: _label(pair) for pair in choice.pairs}
    if st.session_state.get(MODULE) not in labels:
        st.session_state[MODULE] = most_sensitive_pair(choice)["student_module"]

    def store(module: str) -> None:
        st.session_state[MODULE] = module

    shown = {"options": list(labels), "format_func": labels.get, "help": "Or choose a row of the table below."}
    return mirror(st.selectbox, "Student module", f"{MODULE}.widget", st.session_state[MODULE], store, **shown)


def _label(pair: dict[str, Any]) -> str:
    where = pair["role"] if pair["layer"] is None else f"layer {pair['layer']}, {pair['role']}"
    return f"{where} ← {shorten(pair['teacher_module'].removeprefix('model.'), 60)}"


def pictures(choices: dict[str, Choice], module: str) -> None:
    """Draw the four pictures of one module: in two rows for one choice, side by side for two."""
    asked: dict[str, tuple[Reply | None, Reply | None]] = {}  # by question: two choices may ask the same one
    cells: dict[str, tuple[Choice, Reply | None, Reply | None] | None] = {}
    for name, choice in choices.items():
        pair = next((pair for pair in choice.pairs if pair["student_module"] == module), None)
        question = requests.TransferSpectrum(pair=pair, **choice.energy()).model_dump_json() if pair else ""
        if question not in asked:
            asked[question] = _replies(choice, pair)
        cells[name] = None if pair is None else (choice, *asked[question])
    box = st.container(key="stack-pictures-block")
    if len(cells) == 1:
        [cell] = cells.values()
        for row in ((_place, _mass), (_spectrum, _cosine)):
            for column, draw in zip(box.columns(2, gap="medium"), row, strict=True):
                with column:
                    draw("", *cell)
        return
    for draw in (_place, _mass, _spectrum, _cosine):
        for column, (name, cell) in zip(box.columns(2, gap="medium"), cells.items(), strict=True):
            with column:
                if cell is not None:
                    draw(name, *cell)
                elif draw is _place:
                    info(f"{name}: nothing is injected into this module.", "block")


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
    _chart(
        charts.selection_map(facts, arrays, title, _named(name, words), dark=layout.is_dark()),
        f"mapping.place:{name}",
        f"Map of {facts['teacher_module']} with what is taken: {words}",
    )


def _chart(figure: Any, key: str, alt: str) -> None:
    layout.chart(figure, key, alt, without=layout.NO_SELECTION)


def _mass(name: str, choice: Choice, block: Reply | None, _: Reply | None) -> None:
    if block is None:
        return
    facts = block.value
    if facts["why"]:
        held = percent(facts["captured_mass"]) if facts["captured_mass"] is not None else "not known"
        area = percent(facts["area_fraction"])
        info(plain(f"{facts['why']} The block holds {held} of S on {area} of the area."), "info")
    elif facts["positions"] == 1:
        info(
            "The student's weight is as large as the teacher's here: everything is taken, there is no other place.",
            "select_all",
        )
    elif facts["offsets"] is None:
        info("This module's sensitivity is zero everywhere: no place is better than another.", "info")
    else:
        words, title = standing(choice, facts), "Captured share of S, against every offset"
        counts, dark = block.array("counts"), layout.is_dark()
        figure = charts.mass_histogram(facts, counts, title, _named(name, words), dark=dark)
        _chart(figure, f"mapping.mass:{name}", f"Histogram of the captured share at all offsets; {words}")


def _spectrum(name: str, choice: Choice, block: Reply | None, spectrum: Reply | None) -> None:
    if block is None or spectrum is None:
        return
    values, rank = spectrum.array("values"), choice.rank
    if rank > len(values):
        info(plain(f"Rank {rank} is more than this module can hold ({len(values)})."), "info")
        return
    kept = kept_energy(values, rank, spectrum.value["total_squared"])
    what = "block − student's weight" if choice.mode == "difference" else "block"
    words = f"the first {len(values)}, randomised; the rest from the Frobenius norm"
    words = f"all {len(values)} values, exact" if spectrum.value["whole"] else words
    title, dark = f"Singular values of the {what}", layout.is_dark()
    figure = charts.spectrum_cut(values, rank, kept, title, _named(name, words), dark=dark)
    alt = f"Singular values; the first {rank} hold {percent(kept)} of the squared norm"
    _chart(figure, f"mapping.spectrum:{name}", alt)


def _cosine(name: str, _choice: Choice, block: Reply | None, _: Reply | None) -> None:
    if block is None:
        return
    others, own = block.array("cosines"), block.value["cosine"]
    about = f"{len(others)} blocks at random offsets beside it" if len(others) else "no other offset to compare with"
    title, dark = "Cosine with the student's own weight", layout.is_dark()
    figure = charts.cosine_strip(own, others, title, _named(name, about), dark=dark)
    _chart(figure, f"mapping.cosine:{name}", f"Cosine of the block {significant(own)}; {about}")
