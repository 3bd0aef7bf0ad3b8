"""Uploading a data file: the field, and what becomes of a file: read by the desk, mapped, refused, or used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from pages._ui.frame import asking, state
from pages._ui.frame.layout import say, unwritable, warn
from paraknow_core.display import shorten
from paraknow_core.errors import DataError
from paraknow_core.paths import Workspace
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.uploads import SUFFIXES, accept, discard, field_text, keep, sweep

PENDING, REFUSED = "uploads.pending", "uploads.refused"
FIELD = "uploads.file"
LAYOUTS = """One example a line:

- `.jsonl`: `{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}`,
  `{"question": …, "answer": …}`, with `choices`, `context`, `input` or `system` too, `{"instruction": …, "output": …}`
  and other usual layouts; other fields can be mapped
- `.csv`: with a header of such names; or question, four choices and the letter of the right one, without a header
- `.txt`: plain text, for language modelling

At most 20 MB, UTF-8."""
# The parts of a prompt, in the words of a form, and what they become.
PARTS = {
    "question": ("Question", "What is asked."),
    "answer": ("Answer", "What is learnt; of a multiple choice a letter, a position or a text."),
    "choices": ("Choices", "A field that holds a list, or one for each, with commas between: A,B,C,D."),
    "input": ("Input", "Follows the question."),
    "context": ("Context", "Comes before the question."),
    "system": ("System text", "Comes first, as a message of its own."),
    "messages": ("Messages", "A whole conversation, instead of question and answer."),
}


def uploader(use: Callable[[str], None]) -> None:
    """Draw the field for an upload, and what becomes of it: read, mapped, refused, or used.

    Args:
        use: called with the path of a file that was read to its end.
    """
    place = state.place()
    sweep(place)
    st.file_uploader(
        "Data file",
        type=[suffix[1:] for suffix in SUFFIXES],
        key=FIELD,
        help=LAYOUTS,
        max_upload_size=20,
        on_change=lambda: _take(st.session_state.get(FIELD)),
        disabled=state.access().demo,
    )
    refused = st.session_state.get(REFUSED)
    if refused:
        say(refused)
    pending = st.session_state.get(PENDING)
    if pending and not state.access().demo:
        _work_on(place, pending, use)


def _take(file: Any) -> None:
    """Keep what was just chosen; an earlier file that still waits is dropped."""
    _drop()
    st.session_state.pop(REFUSED, None)
    if file is None:
        return
    try:
        state.access().check_upload()
    except DataError as error:
        st.session_state[REFUSED] = str(error)
        return
    path = keep(state.place(), file.name, file.getvalue())
    if isinstance(path, str):
        st.session_state[REFUSED] = f"{shorten(file.name, 60)}: {path}"
        return
    st.session_state[PENDING] = {"path": str(path), "label": file.name, "columns": {}}


def _drop() -> None:
    pending = st.session_state.pop(PENDING, None)
    if pending:
        discard(Path(pending["path"]))


def _work_on(place: Workspace, pending: dict[str, Any], use: Callable[[str], None]) -> None:
    state.access().check_upload()
    path, label = Path(pending["path"]), shorten(pending["label"], 60)
    reply = asking.answered(requests.Upload(path=path, columns=pending["columns"]), f"Reading {label} …")
    if reply is None:
        return
    refused = reply.value["refused"]
    if not refused:
        try:
            final = accept(place, path, pending["label"], reply.value)
        except OSError as error:  # the file goes on waiting: the next draw tries again
            say(unwritable(error))
            return
        st.session_state.pop(PENDING)
        use(str(final))
        st.rerun()
    problem = refused.replace(path.with_suffix(".mapped.jsonl").name, f"{label}, as mapped,").replace(path.name, label)
    if reply.value["columns"]:
        _mapping(pending, problem, reply.value["columns"], reply.value.get("guess", {}))
        return
    _drop()
    st.session_state[REFUSED] = problem
    st.rerun()


def _mapping(pending: dict[str, Any], problem: str, columns: dict[str, str], guess: dict[str, str]) -> None:
    """Draw the fields of a file whose layout is not known, to be mapped to the parts of a prompt."""
    warn(problem, "view_column")
    st.caption("Or say which field is which: the file is then written anew. To drop it, remove it from the field.")
    with st.form("uploads.columns", border=True):
        boxes = [box for _ in range(0, len(PARTS), 3) for box in st.columns(3)]
        chosen = {}
        for box, (part, (word, tip)) in zip(boxes, PARTS.items(), strict=False):
            likely = guess.get(part)
            names = [*columns, *([likely] if likely and likely not in columns else [])]
            chosen[part] = box.selectbox(
                word,
                names,
                index=names.index(likely) if likely else None,
                key=f"uploads.column.{part}",
                placeholder="none",
                format_func=lambda name: field_text(name, columns),
                accept_new_options=True,
                help=tip,
            )
        if st.form_submit_button("Use these columns", icon=":material/check:", type="primary"):
            # What is left empty stays empty: whoever maps the fields has decided about all of them.
            pending["columns"] = {part: (name or "").strip() for part, name in chosen.items()}
            st.rerun()
