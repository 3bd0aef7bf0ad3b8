"""All modules in one table, filled layer by layer while the page is looked at."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import streamlit as st

from pages._ui.frame import asking, layout, state
from pages._ui.frame.layout import plain
from pages._ui.mapping.choice import Choice
from pages._ui.mapping.preview import MODULE
from paraknow_core.workbench import desk
from paraknow_core.workbench.desk import Reply, requests

KNOWN = "mapping.known"  # signature of a choice's questions -> folders of the layers answered so far
FILL = "mapping.fill"
EVERY_S = 0.6
LARGE = 300e6  # weights; a table over more is filled when asked for, because it takes minutes
COLUMNS = {
    "student module": None,
    "teacher module": None,
    "taken at": None,
    "captured": "Captured share of S [%]",
    "area": "Share of the area [%]",
    "ratio": "Captured share divided by the area share; 1: no better than chance.",
    "percentile": "Share of all offsets of a window of this size that hold at most as much [%]; 100 for submatrix, "
    "which is the best one by choice.",
    "cosine": "Of the block with the student's own weight.",
    "retained": "Share of the squared norm that rank r keeps [%].",
    "change": "‖s·BA‖ / ‖W‖ [%]: how large the injected product is beside the student's weight.",
}


def known_rows(choice: Choice) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of all layers that were answered so far, and how many layers are missing. Asks nothing."""
    folders = _folders(choice)
    rows = [row for folder in folders for row in _rows(choice, folder)]
    return rows, len(_layers(choice)) - len(folders)


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
            done = len(_layers(choice)) - left
            st.caption(f":material/hourglass_top: {done} of {len(_layers(choice))} layers so far …")
        elif before:
            st.rerun()  # the means above the table are those of all modules now

    st.fragment(tick, run_every=EVERY_S if _missing(choice) else None)()


def _layers(choice: Choice) -> list[list[dict[str, Any]]]:
    """Return the pairings layer by layer, the embeddings first."""
    layers: dict[int | None, list[dict[str, Any]]] = {}
    for pair in choice.pairs:
        layers.setdefault(pair["layer"], []).append(pair)
    return list(layers.values())


def _missing(choice: Choice) -> int:
    return len(_layers(choice)) - len(_folders(choice))


def _folders(choice: Choice) -> list[str]:
    """Return the answers' folders, in the order of the layers; as many as are known."""
    known = st.session_state.setdefault(KNOWN, {})
    signature = f"{choice.plan_id} {requests.TransferLayer(pairs=(), **choice.energy()).model_dump_json()}"
    folders = known.setdefault(signature, [])
    while len(known) > 8:
        del known[next(iter(known))]
    if not all(Path(folder).exists() for folder in folders):  # the desk removes old answers
        folders.clear()
    return folders


def _ask_on(choice: Choice) -> str:
    """Ask for the next layers, one at a time, as long as answers come at once; return what went wrong."""
    folders, layers, deadline = _folders(choice), _layers(choice), time.monotonic() + asking.PATIENCE_S
    while len(folders) < len(layers):
        question = requests.TransferLayer(pairs=layers[len(folders)], **choice.energy())
        try:
            reply = desk.ask(state.place(), question)
        except OSError as error:
            return layout.unwritable(error)
        if reply.state == "failed":
            return reply.error
        if reply.state == "done":
            folders.append(str(reply.folder))
        elif time.monotonic() > deadline:
            return ""
        else:
            time.sleep(asking.STEP_S)
    return ""


@st.cache_data(max_entries=600, show_spinner=False)
def _layer(folder: str) -> list[tuple[dict[str, Any], Any]]:
    """Read one layer's answer: numbers of each module, and its retained energy at rank 1, 2, ..."""
    content = json.loads((Path(folder) / "answer.json").read_text(encoding="utf-8"))
    reply = Reply("done", content["value"], folder=Path(folder))
    return [(row, None if row["problem"] else reply.array(row["student_module"])) for row in reply.value["rows"]]


def _rows(choice: Choice, folder: str) -> list[dict[str, Any]]:
    found = []
    for row, retained in _layer(folder):
        one: dict[str, Any] = {
            "student_module": row["student_module"],
            "teacher_module": row["teacher_module"],
            "problem": row["problem"],
        }
        if not row["problem"]:
            kept = float(retained[choice.rank - 1]) if choice.rank <= len(retained) else None
            one |= {
                "top_left": row["top_left"],
                "kind": row["kind"],
                "captured": row["captured_mass"],
                "area": row["area_fraction"],
                "cosine": row["cosine"],
                "retained": kept,
                "at_most": row["offsets"] and row["offsets"]["at_most"],
                "positions": row["positions"],
                "change": _change(choice, row, kept),
            }
        found.append(one)
    return found


def _change(choice: Choice, row: dict[str, Any], kept: float | None) -> float | None:
    """Return ‖s·BA‖ / ‖W‖ of a module; in difference mode s·BA itself approximates the target."""
    if kept is None or not row["own_squared"]:
        return None
    scale = 1.0 if choice.mode == "difference" else choice.scaling
    return scale * (kept * row["total_squared"] / row["own_squared"]) ** 0.5


def as_frame(rows: list[dict[str, Any]]) -> pandas.DataFrame:
    """Return the table as it is shown and downloaded: shares as percent."""

    def percent_of(value: float | None) -> float | None:
        return None if value is None else 100 * value

    def place(row: dict[str, Any]) -> str:
        if row["problem"]:
            return row["problem"]
        return "{}, {}".format(*row["top_left"]) if row.get("top_left") else row["kind"]

    return pandas.DataFrame(
        [
            {
                "student module": row["student_module"],
                "teacher module": row["teacher_module"],
                "taken at": place(row),
                "captured": percent_of(row.get("captured")),
                "area": percent_of(row.get("area")),
                "ratio": row["captured"] / row["area"] if row.get("captured") is not None else None,
                "percentile": percent_of(row.get("at_most")),
                "cosine": row.get("cosine"),
                "retained": percent_of(row.get("retained")),
                "change": percent_of(row.get("change")),
            }
            for row in rows
        ],
        columns=list(COLUMNS),
    )


def _draw(choice: Choice, name: str) -> None:
    rows, _ = known_rows(choice)
    if not rows:
        return
    frame = as_frame(rows)
    shown = frame.assign(
        **{column: [text.removeprefix("model.") for text in frame[column]] for column in COLUMNS if "module" in column}
    )
    key = f"mapping.overview:{name}"
    st.dataframe(
        shown,
        hide_index=True,
        key=key,
        height=min(420, 38 + 35 * len(shown)),
        selection_mode="single-row",
        on_select=_selecting(key, [row["student_module"] for row in rows]),
        column_config=_config(),
    )
    if st.session_state.pop("mapping.row.chosen", False):
        st.rerun()  # the pictures above belong to the chosen row
    st.download_button(
        "Modules as CSV",
        frame.to_csv(index=False),
        f"blocks-{name.split()[0].lower()}.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
        key=f"mapping.csv:{name}",
    )


def _selecting(key: str, modules: list[str]) -> Callable[[], None]:
    def chosen() -> None:
        rows = ((st.session_state.get(key) or {}).get("selection") or {}).get("rows") or []
        if rows and rows[0] < len(modules):
            st.session_state[MODULE] = modules[rows[0]]
            st.session_state["mapping.row.chosen"] = True

    return chosen


def _config() -> dict[str, Any]:
    formats = {
        "captured": "%.1f %%",
        "area": "%.1f %%",
        "ratio": "%.3f",
        "percentile": "%.1f",
        "cosine": "%.4f",
        "retained": "%.1f %%",
        "change": "%.1f %%",
    }
    config: dict[str, Any] = {
        column: st.column_config.NumberColumn(format=formats[column], width=66, help=plain(COLUMNS[column]))
        for column in formats
    }
    config |= {column: st.column_config.TextColumn(width=168) for column in ("student module", "teacher module")}
    config["taken at"] = st.column_config.TextColumn(width=66, help="Row and column of the window's upper left corner.")
    return config
