"""Uploaded data files: kept under generated names, read strictly by the desk before anything may use them.

A file waits as `waiting-<name>` until the desk has read every line; then it gets its final name and a label beside it,
or it is removed. The user's own name of it is only ever a label.
"""

import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paraknow_core.display import counted, memory, shorten, source_label
from paraknow_core.files.atomic import write_atomic
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.paths import Workspace, workspace

SUFFIXES = (".jsonl", ".csv", ".txt")
MAX_BYTES = 20_000_000
WAITING = "waiting-"
FORGOTTEN_S = 3600.0  # after so long nobody comes back for a waiting file
PART_WORDS = {"system": "system text", "messages": "conversation", "history": "turns before"}  # else its own name


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
    uploads = []
    for note in sorted(place.uploads.glob("*.json"), key=lambda file: -file_stamp(file)[0]):
        record = read_json(note)
        file = record.get("file") if isinstance(record, dict) else None
        if not isinstance(file, str) or Path(file).name != file or not (place.uploads / file).is_file():
            continue
        path, examples, fields, notes = place.uploads / file, *map(record.get, ("examples", "fields", "notes"))
        uploads.append(
            Upload(
                path,
                str(record.get("label", file)),
                str(record.get("format", "")),
                examples if isinstance(examples, int) else 0,
                file_stamp(path)[1],
                {str(key): str(value) for key, value in fields.items()} if isinstance(fields, dict) else {},
                tuple(map(str, notes)) if isinstance(notes, list) else (),
            )
        )
    return uploads


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
    note = {"file": final.name, "label": label[:200], "format": reply["format"], "examples": reply["examples"]}
    if read != path:  # of a file that was written anew only this note tells what it was made of
        note["fields"] = reply["fields"]
        note["notes"] = [sentence.replace(path.name, label[:60]) for sentence in reply["notes"]]
    write_json(final.with_suffix(".json"), note)
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


def task_label(source: str, limit: int = 40) -> str:
    """Return a task's name for people: an upload is called what its user called it, not by its generated name."""
    path, uploads = Path(source), workspace().uploads
    if source == path.name and source.startswith("upload-"):  # results name a file without its folder
        path = uploads / source
    record = read_json(path.with_suffix(".json")) if path.parent == uploads else None
    label = record.get("label") if isinstance(record, dict) else None
    return shorten(label, limit) if isinstance(label, str) and label else source_label(source, limit)


def field_text(name: str, columns: dict[str, str]) -> str:
    """Return a field's name with the start of its first value."""
    return f"{shorten(name, 30)}: {shorten(columns[name], 40)}" if columns.get(name) else shorten(name, 40)


def fields_sentence(fields: dict[str, str]) -> str:
    """Say what was read from which field; nothing where fields have no names."""
    named = [f"{PART_WORDS.get(part, part)} from {shorten(names, 60)}" for part, names in fields.items()]
    return f"Read by its fields: {'; '.join(named)}." if named else ""
