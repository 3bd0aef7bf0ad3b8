"""Where examples come from: a file, a folder of split files, or a bundled task; the parts before splitting."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paraknow_core.errors import DataError
from paraknow_core.tasks.formats import SUFFIXES, check_unique, is_hidden, name_of, read_files, read_table, samples
from paraknow_core.tasks.layouts import guess
from paraknow_core.tasks.splits import interleave
from paraknow_core.tasks.task import Example, Message

_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    "dev": "dev",
    "test": "test",
}


@dataclass(frozen=True)
class Parts:
    """What a source holds.

    Attributes:
        format: of all its files.
        parts: train, validation, test as far as the source tells them; {"all": ...} if it does not.
        notes: sentences for the user.
        scorers, max_new_tokens: the task's own, where the source knows them.
        revision: commit of a hub data set.
        fields: what was read from which field, where fields have names.
        reading: how answers name their choices, see `paraknow_core.tasks.choices`.
        files: what ids begin with -> how a sentence names that line, "train.jsonl line".
    """

    format: str
    parts: dict[str, tuple[Example, ...]]
    notes: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    revision: str | None = None
    label: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    reading: str = ""
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def merged(self) -> tuple[Example, ...]:
        """Every example, whatever its part."""
        return tuple(example for part in self.parts.values() for example in part)


def read_path(path: Path, format: str, columns: Mapping[str, str] | None = None, reading: str = "") -> Parts:
    """Read a data file or a folder of split files.

    Args:
        path: of the file or folder.
        format, columns: of the task's spec.
        reading: how answers name their choices in another part of the same task.

    Raises:
        DataError: names the file or folder and what would be right.
    """
    if not _exists(path):
        raise not_there(path)
    files = _split_files(path) if path.is_dir() else {"all": [path]}
    paths = [file for of_split in files.values() for file in of_split]
    data = read_files(paths, format, columns, reading, path.resolve().name if path.is_dir() else "")
    read, parts = dict(zip(paths, data.parts, strict=True)), {}
    for split, of_split in files.items():
        parts[split] = interleave([read[file] for file in of_split])
        check_unique(parts[split], f"{path.name} ({split})")
    settled, notes = settle_parts(parts)
    names = {file.stem: f"{name_of(file)} {'line' if file.suffix.lower() == '.jsonl' else 'row'}" for file in paths}
    return Parts(data.format, settled, (*data.notes, *notes), fields=data.fields, reading=data.reading, files=names)


def path_columns(path: Path) -> dict[str, Any]:
    """Tell what fields a data file, or the files of a folder, have, so that they can be mapped.

    Returns:
        `columns` (field -> the start of its first value, as text; empty for plain text and tables without a header)
        and `fields` (part of the prompt -> the field that it is, or most likely is).

    Raises:
        DataError: it cannot be read.
    """
    if not _exists(path):
        raise not_there(path)
    files = [file for of_split in _split_files(path).values() for file in of_split] if path.is_dir() else [path]
    columns = samples(table for file in files if (table := read_table(file)) is not None)
    return {"splits": {}, "columns": columns, "fields": guess([name for name, value in columns.items() if value])}


def not_there(path: Path) -> DataError:
    """Return the error for a file or folder that does not exist."""
    if path.name.startswith("upload-"):
        return DataError(f"task.source: the upload '{name_of(path)}' is not there any more; upload the file again")
    shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:80]}…{str(path)[-80:]}"
    return DataError(
        f"task.source: '{shown}' does not exist; give bundled:NAME, a .jsonl, .csv or .txt file, a folder of split "
        "files, or hub:OWNER/NAME"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for the file system, or one with a zero byte
        return False


def split_of(name: str) -> str | None:
    """Tell the split from a file's, folder's or hub split's name: its first or last word, else None.

    Returns:
        "train", "validation", "test", or "dev", whose meaning depends on what else there is.
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    return _SPLIT_NAMES.get(words[0]) or _SPLIT_NAMES.get(words[-1])


def settle_dev(parts: dict[str, tuple[Example, ...]]) -> tuple[dict[str, tuple[Example, ...]], list[str]]:
    """Decide what "dev" is: validation; beside a validation part it is train, unless there is a train part too."""
    parts = dict(parts)
    dev = parts.pop("dev", None)
    meaning = next((split for split in ("validation", "train") if split not in parts), None)
    if dev is not None and meaning is None:
        return parts, [f"the part 'dev' ({len(dev)} examples) is not used: train and validation are there too"]
    return parts | ({meaning: dev} if dev is not None else {}), []


def settle_parts(parts: dict[str, tuple[Example, ...]]) -> tuple[dict[str, tuple[Example, ...]], list[str]]:
    """Decide what the parts of a source are, as far as their names say it; one part alone is called "all"."""
    settled, notes = settle_dev(parts)
    return {"all": next(iter(settled.values()))} if len(settled) == 1 else settled, notes


def read_bundled(name: str) -> Parts:
    """Return the examples of a bundled task.

    Raises:
        DataError: no such task.
    """
    from paraknow_core.demo import tasks as demo

    if name not in demo.TASKS:
        raise DataError(f"task.source: no bundled task '{name}'; choose from {', '.join(demo.TASKS)}")
    info = demo.TASKS[name]
    parts = {
        split: tuple(
            Example(row["id"], tuple(Message(**turn) for turn in row["messages"]), tuple(row.get("choices", ())))
            for row in demo.examples(name, split)
        )
        for split in ("train", "validation", "test")
    }
    scorers = (info.scorer, *info.secondary_scorers)
    return Parts("chat_jsonl", parts, scorers=scorers, max_new_tokens=info.max_new_tokens, label=info.title)


def _split_files(folder: Path) -> dict[str, list[Path]]:
    """Return the data files of each split: sub-folders with a split's name, else files with one in their name."""
    entries = _entries(folder)
    files: dict[str, list[Path]] = {}
    for entry in entries:
        split = split_of(entry.name if entry.is_dir() else entry.stem)
        data_files = _data_files(_entries(entry) if entry.is_dir() else [entry]) if split else []
        if split and data_files:
            files.setdefault(split, []).extend(data_files)
    single = _data_files(entries)
    if not files and len(single) == 1:
        return {"train": single}
    if not files:
        raise DataError(
            f"{folder}: no file or sub-folder named train, validation, dev or test with .jsonl, .csv or .txt data; "
            "rename them or give one file"
        )
    return files


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, without what a system or an office program leaves beside data."""
    try:
        return [entry for entry in sorted(folder.iterdir()) if not is_hidden(entry)]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None


def _data_files(entries: Sequence[Path]) -> list[Path]:
    return [path for path in entries if path.is_file() and path.suffix.lower() in SUFFIXES]
