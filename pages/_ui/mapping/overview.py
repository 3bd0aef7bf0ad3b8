"""What the whole adapter holds: its numbers, and all modules in one table that fills while the page is looked at."""

import time
from html import escape
from pathlib import Path
from typing import Any

import streamlit as st

from pages._ui.frame import asking, layout, state
from pages._ui.frame.layout import download, plain
from pages._ui.mapping.preview import MODULE
from paraknow_core.workbench import desk
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.views.mapping import Choice, layer_rows, measures, modules_table

KNOWN = "mapping.known"  # signature of a choice's questions -> folders of the layers answered so far
FILL = "mapping.fill"
EVERY_S = 0.6
LARGE = 300e6  # weights; a table over more is filled when asked for, because it takes minutes
NUMBERS = {  # column -> its format, and what it means
    "captured": ("%.1f %%", "Captured share of S [%]"),
    "area": ("%.1f %%", "Share of the area [%]"),
    "ratio": ("%.3f", "Captured share divided by the area share; 1: no better than chance."),
    "percentile": (
        "%.1f",
        "Share of all offsets of a window of this size that hold at most as much [%]; 100 for submatrix, "
        "which is the best one by choice.",
    ),
    "cosine": ("%.4f", "Of the block with the student's own weight."),
    "retained": ("%.1f %%", "Share of the squared norm that rank r keeps [%]."),
    "change": ("%.1f %%", "‖s·BA‖ / ‖W‖ [%]: how large the injected product is beside the student's weight."),
}


def numbers(choices: dict[str, Choice]) -> None:
    """Draw what the adapter is and holds, as far as that is known: as cells for one choice, as a table for two."""
    columns = {name: measures(choice, known_rows(choice)) for name, choice in choices.items()}
    if len(columns) == 1:
        [cells] = columns.values()
        parts = [
            f"<div><span>{escape(label)}</span><b>{escape(value)}</b><span>{escape(note)}</span></div>"
            for label, value, note in cells
        ]
        st.html(f'<div class="pk-cells" data-testid="measures">{"".join(parts)}</div>')
        return
    rows = []
    for cells in zip(*columns.values(), strict=True):
        label, notes = cells[0][0], {note for _, _, note in cells}
        shared = len(notes) == 1  # else each choice says what its own number is
        texts = [value if shared else f"{value} ({note})" for _, value, note in cells]
        rows.append([f"{label}: {notes.pop()}" if shared else label, *texts])
    layout.grid(["", *columns], rows, "measures")


def known_rows(choice: Choice) -> list[dict[str, Any]]:
    """Return the rows of all layers that were answered so far. Asks nothing."""
    return [row for folder in _folders(choice) for row in layer_rows(choice, folder)]


def table(choice: Choice, name: str) -> None:
    """Draw the table, and go on filling it while it is looked at.

    Args:
        choice: what is looked at; its store must be there.
        name: what the choice is called, for the keys of widgets.
    """
    large = sum(pair["student_shape"][0] * pair["student_shape"][1] for pair in choice.pairs) > LARGE
    if large and _missing(choice) and st.session_state.get(FILL) != choice.plan_id:
        st.caption("This pair is large: a block of every module takes minutes, while the page is open.")
        if st.button("Fill the table", icon=":material/table:", key=f"mapping.fill:{name}"):
            st.session_state[FILL] = choice.plan_id
            st.rerun()
        return

    _ask_on(choice)  # before the first draw, so that what comes at once needs no second one

    def tick() -> None:
        before = _missing(choice)
        problem = _ask_on(choice) if before else ""
        _draw(choice, name)
        if problem:
            layout.say(problem)
        left = _missing(choice)
        if left:
            done = len(choice.by_layer) - left
            st.caption(f":material/hourglass_top: {done} of {len(choice.by_layer)} layers so far …")
        elif before:
            st.rerun()  # the means above the table are those of all modules now

    st.fragment(tick, run_every=EVERY_S if _missing(choice) else None)()


def _missing(choice: Choice) -> int:
    return len(choice.by_layer) - len(_folders(choice))


def _folders(choice: Choice) -> list[Path]:
    """Return the answers' folders, in the order of the layers; as many as are answered."""
    answered = st.session_state.setdefault(KNOWN, {})
    signature = f"{choice.plan_id} {requests.TransferLayer(pairs=(), **choice.energy()).model_dump_json()}"
    folders = answered.setdefault(signature, [])
    while len(answered) > 8:
        del answered[next(iter(answered))]
    if not all(folder.exists() for folder in folders):  # the desk removes old answers
        folders.clear()
    return folders


def _ask_on(choice: Choice) -> str:
    """Ask for the next layers, one at a time, as long as answers come at once; return what went wrong."""
    folders, layers, deadline = _folders(choice), choice.by_layer, time.monotonic() + asking.PATIENCE_S
    while len(folders) < len(layers):
        question = requests.TransferLayer(pairs=layers[len(folders)], **choice.energy())
        try:
            reply = desk.ask(state.place(), question)
        except OSError as error:
            return layout.unwritable(error)
        if reply.state == "failed":
            return reply.error
        if reply.state == "done":
            folders.append(reply.folder)
        elif time.monotonic() > deadline:
            return ""
        else:
            time.sleep(asking.STEP_S)
    return ""


def _draw(choice: Choice, name: str) -> None:
    rows = known_rows(choice)
    if not rows:
        return
    table = modules_table(rows)
    shown = table.assign(
        **{column: table[column].str.removeprefix("model.") for column in ("student module", "teacher module")}
    )
    key = f"mapping.overview:{name}"

    def choose_row() -> None:
        chosen = layout.selected(key, "rows")
        if chosen and chosen[0] < len(rows):
            st.session_state[MODULE] = rows[chosen[0]]["student_module"]
            st.session_state["mapping.row.chosen"] = True

    st.dataframe(
        shown,
        hide_index=True,
        key=key,
        height=min(420, 38 + 35 * len(shown)),
        selection_mode="single-row",
        on_select=choose_row,
        column_config={
            **{
                column: st.column_config.NumberColumn(format=form, width=66, help=plain(words))
                for column, (form, words) in NUMBERS.items()
            },
            "student module": st.column_config.TextColumn(width=168),
            "teacher module": st.column_config.TextColumn(width=168),
            "taken at": st.column_config.TextColumn(width=66, help="Row and column of the window's upper left corner."),
        },
    )
    if st.session_state.pop("mapping.row.chosen", False):
        st.rerun()  # the pictures above belong to the chosen row
    download("Modules as CSV", table, f"blocks-{name.split()[0].lower()}.csv", key=f"mapping.csv:{name}")
