"""Where examples come from: a file, a folder of split files, or a bundled task; the parts before splitting."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paraknow_core.errors import DataError
from paraknow_core.tasks.formats import SUFFIXES, check_unique, read_examples
from paraknow_core.tasks.splits import interleave
from paraknow_core.tasks.task import Example, Message

_SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "dev", "test": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What a source holds.

    Attributes:
        format: of all its files.
        parts: train, validation, test as far as the source tells them; {"all": ...} if it does not.
        notes: sentences for the user.
        scorers, max_new_tokens: the task's own, where the source knows them.
        revision: commit of a hub data set.
    """

    format: str
    parts: dict[str, tuple[Example, ...]]
    notes: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    revision: str | None = None
    label: str = ""

    @property
    def merged(self) -> tuple[Example, ...]:
        """Every example, whatever its part."""
        return tuple(example for part in self.parts.values() for example in part)


def read_path(path: Path, format: str) -> Parts:
    """Read a data file or a folder of split files.

    Raises:
        DataError: names the file or folder and what would be right.
    """
    if not _exists(path):
        shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:80]}…{str(path)[-80:]}"
        raise DataError(
            f"task.source: '{shown}' does not exist; give bundled:NAME, a .jsonl, .csv or .txt file, a folder of split "
            "files, or hub:OWNER/NAME"
        )
    if not path.is_dir():
        detected, examples = read_examples(path, format)
        return Parts(detected, {"all": examples})
    return _read_folder(path, format)


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
    if dev is None:
        return parts, []
    if "validation" not in parts:
        parts["validation"] = dev
    elif "train" not in parts:
        parts["train"] = dev
    else:
        return parts, [f"the part 'dev' ({len(dev)} examples) is not used: train and validation are there too"]
    return parts, []


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
        split: tuple(_bundled_example(record) for record in demo.examples(name, split))
        for split in ("train", "validation", "test")
    }
    scorers = (info.scorer, *info.secondary_scorers)
    return Parts("chat_jsonl", parts, (), scorers, info.max_new_tokens, None, info.title)


def _bundled_example(record: dict) -> Example:
    messages = tuple(Message(turn["role"], turn["content"]) for turn in record["messages"])
    return Example(record["id"], messages, tuple(record.get("choices", ())))


def _read_folder(folder: Path, format: str) -> Parts:
    files = _split_files(folder)
    format_found, parts = "", {}
    for split, paths in files.items():
        read = []
        for path in paths:
            detected, examples = read_examples(path, format)
            if format_found and detected != format_found:
                raise DataError(f"{folder.name}: {path.name} is {detected}, others are {format_found}; keep one format")
            format_found = detected
            read.append(examples)
        parts[split] = interleave(read)
        check_unique(parts[split], f"{folder.name} ({split})")
    settled, notes = settle_dev(parts)
    if len(settled) == 1:
        settled = {"all": next(iter(settled.values()))}
    return Parts(format_found, settled, tuple(notes))


def _split_files(folder: Path) -> dict[str, list[Path]]:
    """The data files of each split: sub-folders with a split's name, else files with one in their name."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from None
    found: dict[str, list[Path]] = {}
    for entry in entries:
        split = split_of(entry.name if entry.is_dir() else entry.stem)
        if split:
            inside = _data_files(sorted(entry.iterdir())) if entry.is_dir() else _data_files([entry])
            found.setdefault(split, []).extend(inside)
    found = {split: paths for split, paths in found.items() if paths}
    single = _data_files(entries)
    if not found and len(single) == 1:
        return {"train": single}
    if not found:
        raise DataError(
            f"{folder}: no file or sub-folder named train, validation, dev or test with .jsonl, .csv or .txt data; "
            "rename them or give one file"
        )
    return found


def _data_files(entries: Sequence[Path]) -> list[Path]:
    return [path for path in entries if path.is_file() and path.suffix.lower() in SUFFIXES]
