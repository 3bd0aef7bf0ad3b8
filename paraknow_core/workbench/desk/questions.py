"""Asking: no torch, no waiting. See the package's docstring."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paraknow_core.engines.service import Service
from paraknow_core.errors import DataError
from paraknow_core.files.naming import named
from paraknow_core.paths import PROJECT_ROOT, Workspace, file_stamp, read_json, write_json
from paraknow_core.workbench.access import SOURCE_KEYS, access

if TYPE_CHECKING:
    import numpy

VERSION = 2  # of all answers; a change of what a kind returns raises it
ANSWER, ARRAYS = "answer.json", "arrays.safetensors"
_MOST_FILES = 300  # of a folder whose change makes an answer old
_DEMO_MODELS = PROJECT_ROOT / "paraknow_core" / "demo" / "models"
_DAY_S = 86_400  # what a hub holds under a name may change; without a revision an answer is old after a day


@dataclass(frozen=True)
class Reply:
    """What is known about a question.

    Attributes:
        state: waiting (ask again soon), done, or failed.
        value: the answer as plain data.
        error: one sentence, where it failed.
        folder: where arrays lie.
    """

    state: Literal["waiting", "done", "failed"]
    value: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    folder: Path | None = None

    def array(self, name: str) -> "numpy.ndarray":
        """Read one array of the answer.

        Raises:
            DataError: it is not there (any more).
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.folder / ARRAYS, framework="numpy") as arrays:
                return arrays.get_tensor(name)
        except (SafetensorError, OSError, TypeError):
            raise DataError(f"desk: the answer has no '{name}' any more; reload the page to ask again") from None


def desk_folder(place: Workspace) -> Path:
    """Return where questions and answers lie."""
    return place.root / "desk"


def question_key(kind: str, request: dict[str, Any], place: Workspace | None = None) -> str:
    """Return a hash of the question and of what its answer depends on besides.

    That is the state of every local file, folder and bundled model that it names, the day for what a hub holds
    without a revision, and, with a workspace, the settings of this machine.
    """
    machine = () if place is None else (*file_stamp(place.settings_file), os.environ.get("HF_HUB_OFFLINE", ""))
    asked = [VERSION, kind, request, sorted(_stamps(request)), machine]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def ask(place: Workspace, kind: str, request: dict[str, Any]) -> Reply:
    """Return the answer, or leave the question for the desk and say `waiting`.

    A question that nobody asks again for some seconds is dropped: the page has moved on.

    Args:
        place: the workspace.
        kind: a module of `desk/kinds/`.
        request: plain data for JSON; values under `source`, `test_source` and `path` may name local files.

    Raises:
        DataError: it names what the people who can reach this server may not read.
    """
    access(place).check_request(request)
    key = question_key(kind, request, place)
    answer = desk_folder(place) / key
    question = desk_folder(place) / "questions" / f"{key}.json"
    found = answer_in(answer)
    if found is None and not question.with_suffix(".working").exists():  # otherwise it would be worked out twice
        found = answer_in(answer)  # it may have come between the two looks
        if found is None:
            try:
                os.utime(question)
            except FileNotFoundError:
                write_json(question, {"kind": kind, "request": request}, durable=False)
    if found is not None:
        return found
    Service(place, "desk").start()
    return Reply("waiting", folder=answer)


def answer_in(folder: Path) -> Reply | None:
    """Return the answer that a folder holds; None where there is none, or it is damaged."""
    known = read_json(folder / ANSWER)
    if not isinstance(known, dict):
        return None
    error, value = known.get("error"), known.get("value")
    if not isinstance(error, str) and not isinstance(value, dict):
        return None
    with suppress(OSError):  # just now replaced
        os.utime(folder)  # answers that nobody reads any more are removed first
    return (
        Reply("failed", error=error, folder=folder) if isinstance(error, str) else Reply("done", value, folder=folder)
    )


def forget(reply: Reply) -> None:
    """Drop an answer, usually a failure, so that the next `ask` works it out again."""
    if reply.folder is not None:
        (reply.folder / ANSWER).unlink(missing_ok=True)


def _stamps(value: Any, key: str = "", pinned: bool = False) -> Iterator[tuple[str, int, int]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _stamps(inner, name, bool(value.get("revision")))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _stamps(inner, key, pinned)
    elif isinstance(value, str) and key in SOURCE_KEYS:
        yield from _stamps_of_source(value, pinned)


def _stamps_of_source(source: str, pinned: bool) -> Iterator[tuple[str, int, int]]:
    what = named(source)
    bundled = what.kind == "bundled"
    path = _DEMO_MODELS / what.name if bundled else what.path
    found = [] if path is None else list(_stamps_of(path))
    yield from found
    if not (found or bundled or pinned):
        yield "day", int(time.time() // _DAY_S), 0


def _stamps_of(path: Path) -> Iterator[tuple[str, int, int]]:
    try:
        files = sorted(path.iterdir())[:_MOST_FILES] if path.is_dir() else [path] if path.exists() else []
        for file in files:
            status = file.stat()
            yield file.name, status.st_mtime_ns, status.st_size
    except (OSError, ValueError):
        return
