"""Uploaded data files: kept under generated names, read strictly by the desk before anything may use them.

A file waits as `waiting-<name>` until the desk has read every line; then it gets its final name and a label beside it,
or it is removed. The user's own name of it is only ever a label.
"""

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from pages._ui.frame import asking, state
from pages._ui.frame.layout import plain, say, unwritable
from paraknow_core.display import counted, memory, shorten
from paraknow_core.errors import DataError
from paraknow_core.files.atomic import write_atomic
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.paths import Workspace
from paraknow_core.workbench.desk import requests

SUFFIXES = (".jsonl", ".csv", ".txt")
MAX_BYTES = 20_000_000
WAITING = "waiting-"
FORGOTTEN_S = 3600.0  # a file that nobody came back for
PENDING, REFUSED = "uploads.pending", "uploads.refused"
FIELD = "uploads.file"
LAYOUTS = """One example a line:

- `.jsonl`: `{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}`,
  `{"question": …, "answer": …}`, with `choices`, `context`, `input` or `system` too, `{"instruction": …, "output": …}`
  and other usual layouts; other fields can be mapped
- `.csv`: with a header of such names; or question, four choices and the letter of the right one, without a header
- `.txt`: plain text, for language modelling

At most 20 MB, UTF-8."""


@dataclass(frozen=True)
class Upload:
    """One finished upload: its path, what the user called it, and what is in it."""

    path: Path
    label: str
    format: str
    examples: int
    bytes: int
    fields: dict[str, str]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """Return one line for a list."""
        size = memory(self.bytes) if self.bytes >= 1e6 else f"{self.bytes / 1e3:.0f} kB"
        return f"{shorten(self.label, 48)} · {counted(self.examples, 'example')} · {size}"


def finished(place: Workspace) -> list[Upload]:
    """Return every finished upload, newest first."""
    found = []
    for note in place.uploads.glob("*.json"):
        known = read_json(note)
        file = known.get("file") if isinstance(known, dict) else None
        path = place.uploads / file if isinstance(file, str) and Path(file).name == file else None
        if path is not None and path.is_file():
            number, fields, notes = (known.get(key) for key in ("examples", "fields", "notes"))
            stamps = file_stamp(note), file_stamp(path)
            found.append(
                (
                    stamps[0][0],
                    Upload(
                        path,
                        str(known.get("label", file)),
                        str(known.get("format", "")),
                        number if isinstance(number, int) else 0,
                        stamps[1][1],
                        {str(key): str(value) for key, value in fields.items()} if isinstance(fields, dict) else {},
                        tuple(map(str, notes)) if isinstance(notes, list) else (),
                    ),
                )
            )
    return [upload for _, upload in sorted(found, key=lambda pair: -pair[0])]


def keep(place: Workspace, name: str, content: bytes) -> Path | str:
    """Write an upload under a generated name, to wait for being read; return its path, or why it is refused.

    Args:
        place: the workspace.
        name: the user's own name of the file; only its extension is used.
        content: the file.
    """
    suffix = Path(name.replace("\\", "/")).suffix.lower()
    if suffix not in SUFFIXES:
        return f"the extension '{suffix[:20]}' is not one of a data file; use {', '.join(SUFFIXES)}"
    if len(content) > MAX_BYTES:
        return f"has {memory(len(content))}; at most {memory(MAX_BYTES)} can be uploaded; give a smaller part of it"
    path = place.uploads / f"{WAITING}{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}{suffix}"
    try:
        write_atomic(path, content)
    except OSError as error:
        return f"cannot be kept ({error.strerror}); free some space in the workspace"
    return path


def accept(place: Workspace, path: Path, label: str, reply: dict[str, Any]) -> Path:
    """Give a file that was read its final name, with the user's name of it as a label; return its path."""
    read = place.uploads / reply["file"]
    final = place.uploads / (f"upload-{path.stem.removeprefix(WAITING)}{read.suffix}")
    # The note first: where the disk is full, the file is still there under the name by which it is found again.
    write_json(
        final.with_suffix(".json"),
        {
            "file": final.name,
            "label": label[:200],
            "format": reply["format"],
            "examples": reply["examples"],
            **(
                {"fields": reply["fields"], "notes": [note.replace(path.name, label[:60]) for note in reply["notes"]]}
                if read != path
                else {}
            ),  # of a file that was written anew only this note tells what it was made of
        },
    )
    read.rename(final)
    discard(path)
    return final


def discard(path: Path) -> None:
    """Remove a waiting file and what was written beside it."""
    for file in (path, path.with_suffix(".mapped.jsonl")):
        with suppress(OSError):
            file.unlink(missing_ok=True)


def sweep(place: Workspace) -> None:
    """Remove waiting files whose window was closed."""
    for file in place.uploads.glob(f"{WAITING}*"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > FORGOTTEN_S:
                file.unlink()


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
    said = refused.replace(path.with_suffix(".mapped.jsonl").name, f"{label}, as mapped,").replace(path.name, label)
    if reply.value["columns"]:
        _mapping(pending, said, reply.value["columns"], reply.value.get("guess", {}))
        return
    _drop()
    st.session_state[REFUSED] = said
    st.rerun()


def _mapping(pending: dict[str, Any], said: str, columns: dict[str, str], guess: dict[str, str]) -> None:
    """Draw the fields of a file whose layout is not known, to be mapped to the parts of a prompt."""
    st.warning(plain(said), icon=":material/view_column:")
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
PART_WORDS = {
    "question": "question",
    "answer": "answer",
    "choices": "choices",
    "input": "input",
    "context": "context",
    "system": "system text",
    "messages": "conversation",
    "history": "turns before",
    "text": "text",
    "subject": "subject",
    "id": "id",
}


def field_text(name: str, columns: dict[str, str]) -> str:
    """Return a field's name with the start of its first value."""
    return f"{shorten(name, 30)}: {shorten(columns[name], 40)}" if columns.get(name) else shorten(name, 40)


def fields_sentence(fields: dict[str, str]) -> str:
    """Say what was read from which field; nothing where fields have no names."""
    named = [f"{PART_WORDS.get(part, part)} from {shorten(names, 60)}" for part, names in fields.items()]
    return f"Read by its fields: {'; '.join(named)}." if named else ""
