"""What is said about a run beside its spec, which is frozen: a name, a note, a star, and whose study it belongs to."""

import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from paraknow_core.display import one_line
from paraknow_core.errors import RunError
from paraknow_core.files.json_file import read_object, write_json
from paraknow_core.files.naming import holds_secret

FILE = "label.json"
STUDIES = "studies.json"
MOST_NAME, MOST_NOTE = 60, 2_000  # characters
_MOST_BYTES = 65_536


@dataclass(frozen=True)
class Label:
    """A run's own name (empty: it is named by its settings), a note of several lines, and whether it is starred."""

    name: str = ""
    note: str = ""
    starred: bool = False


def label_of(folder: Path) -> Label:
    """Read the label of a run folder; a file that is missing, damaged or no plain file counts as an empty label."""
    file = f"{folder}/{FILE}"  # plain text: lists ask for the labels of thousands of runs
    try:
        status = os.lstat(file)
    except (OSError, ValueError):
        return Label()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
        return Label()
    data = read_object(file)
    name, note = (data.get(key) if isinstance(data.get(key), str) else "" for key in ("name", "note"))
    return Label(one_line(name)[:MOST_NAME], _lines(note)[:MOST_NOTE], data.get("starred") is True)


def set_label(folder: Path, *, name: str | None = None, note: str | None = None, starred: bool | None = None) -> Label:
    """Change those parts of a run's label that are given, and return the whole label.

    Args:
        folder: of the run.
        name: one line; empty takes the name away again.
        note: some lines; empty takes the note away.
        starred: whether the run is marked.

    Raises:
        RunError: the name or the note is too long, or the folder is gone.
    """
    if not folder.is_dir():  # writing would make it anew
        raise RunError(f"run {folder.name}: its folder is gone; `runs list` shows those that are there")
    before = label_of(folder)
    label = Label(
        before.name if name is None else _bounded("name", one_line(name), MOST_NAME),
        before.note if note is None else _bounded("note", _lines(note), MOST_NOTE),
        before.starred if starred is None else starred,
    )
    if label == Label():
        (folder / FILE).unlink(missing_ok=True)
    elif label != before:
        write_json(folder / FILE, asdict(label))
    return label


def studies_of(folder: Path) -> list[str]:
    """Return the ids of the studies that a run answers for; a run may belong to several, and most belong to none."""
    names = read_object(folder / STUDIES).get("studies")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def add_study(folder: Path, study: str) -> None:
    """Note that a run answers for a study."""
    names = studies_of(folder)
    if study not in names:
        write_json(folder / STUDIES, {"studies": [*names, study]})


def _lines(text: str) -> str:
    """Return each line as `one_line` does, with no more than one empty line between two others."""
    lines = [one_line(line) for line in text.splitlines()]
    kept = [line for number, line in enumerate(lines) if line or (number and lines[number - 1])]
    return "\n".join(kept).strip("\n")


def _bounded(what: str, text: str, most: int) -> str:
    if holds_secret(text):
        raise RunError(f"{what}: holds a password or a token, and is shown to whoever sees the run; leave that out")
    if len(text) > most:
        more = "; what is longer belongs into the note" if what == "name" else ""
        raise RunError(f"{what}: {len(text):,} characters given; at most {most:,} are kept{more}")
    return text
