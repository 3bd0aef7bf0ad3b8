"""What a question, a slot or a spec names: its models, data sets and files, and the state that those are in."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from paraknow_core.files.naming import named
from paraknow_core.models.source import BUNDLED_FOLDER
from paraknow_core.spec import ModelSpec, SensitivitySpec, TaskSpec

MOST_FILES = 300  # of a folder whose change counts
DAY_S = 86_400  # what a hub holds under a name may change; without a revision its state is that of a day

Stamp = tuple[str, int, int]  # name, time of the last change [ns], size [bytes]


@dataclass(frozen=True)
class Source:
    """One model, data set or file that something names.

    Attributes:
        where: the key that names it, e.g. `task.judge`.
        text: bundled:NAME, hub:OWNER/NAME, OWNER/NAME, or a path.
        pinned: a revision of the hub is given.
        untrained: random weights stand in place of its own; they are kept in the workspace.
    """

    where: str
    text: str
    pinned: bool = False
    untrained: bool = False

    def stamps(self) -> Iterator[Stamp]:
        """Yield the stamps of its local files; for what is on a hub, without a revision, the day stands for them."""
        name = named(self.text)
        files = list(file_stamps(BUNDLED_FOLDER / name.name if name.kind == "bundled" else name.path))
        yield from files
        if not (files or name.kind == "bundled" or self.pinned):
            yield "day", int(time.time() // DAY_S), 0


def sources_of(part: object, where: str = "") -> Iterator[Source]:
    """Yield every source in a model of fields, however deep. A text names one only in a model, a task or a `Path`."""
    if isinstance(part, ModelSpec):
        yield Source(where, part.source, bool(part.revision), part.untrained is not None)
    elif isinstance(part, TaskSpec):
        yield Source(where, part.source, bool(part.revision))
        if part.test_source:
            yield Source(f"{where}.test_source", part.test_source, bool(part.revision))
        yield from sources_of(part.judge, f"{where}.judge")
    elif isinstance(part, SensitivitySpec):
        if part.task:
            yield Source(f"{where}.task", part.task)
    elif isinstance(part, Path):
        yield Source(where, str(part))
    elif isinstance(part, BaseModel):
        for name, value in part:
            yield from sources_of(value, f"{where}.{name}".lstrip("."))


def state_of(part: BaseModel) -> tuple[Stamp, ...]:
    """Return the stamps of all sources that a model of fields names: they differ once one of its files is changed."""
    return tuple(sorted(stamp for source in sources_of(part) for stamp in source.stamps()))


def file_stamps(path: Path | None) -> Iterator[Stamp]:
    """Yield the stamp of a file, or of the first files of a folder; nothing where there is none."""
    try:
        files = sorted(path.iterdir())[:MOST_FILES] if path.is_dir() else [path] if path.exists() else []
        for file in files:
            status = file.stat()
            yield file.name, status.st_mtime_ns, status.st_size
    except (AttributeError, OSError, ValueError):  # None, or what cannot be a path
        return
