"""Asking: no torch, no waiting. See the package's docstring."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paraknow_core.engines.service import Service
from paraknow_core.errors import DataError
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.json_file import read_json
from paraknow_core.paths import Workspace
from paraknow_core.workbench.access import access
from paraknow_core.workbench.desk.requests import Question
from paraknow_core.workbench.inbox import Inbox
from paraknow_core.workbench.sources import sources_of, state_of

if TYPE_CHECKING:
    import numpy

VERSION = 3  # of all answers; a change of what a question or its answer holds raises it
ANSWER, ARRAYS = "answer.json", "arrays.safetensors"


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


def inbox_of(place: Workspace) -> Inbox:
    """Return where questions lie until they are answered; each under its key."""
    return Inbox(desk_folder(place) / "questions")


def question_key(question: Question, place: Workspace) -> str:
    """Return a hash of the question and of what its answer depends on besides.

    That is the state of every local file, folder and bundled model that it names, the day for what a hub holds
    without a revision, which untrained models were made if it names one, and the settings of this machine.
    """
    machine = *file_stamp(place.settings_file), os.environ.get("HF_HUB_OFFLINE", "")
    if any(source.untrained for source in sources_of(question)):
        machine += file_stamp(place.untrained)
    content = [VERSION, question.to_dict(), state_of(question), machine]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def ask(place: Workspace, question: Question) -> Reply:
    """Return the answer, or leave the question for the desk and say `waiting`.

    A question that nobody asks again for some seconds is dropped: the page has moved on.

    Raises:
        DataError: it names what the people who can reach this server may not read.
        OSError: the workspace cannot be written.
    """
    access(place).check_question(question)
    key, inbox = question_key(question, place), inbox_of(place)
    folder = desk_folder(place) / key
    answer = answer_in(folder)
    if answer is None and not inbox.is_taken(key):  # otherwise it would be worked out twice
        answer = answer_in(folder)  # it may have come between the two looks
        if answer is None:
            try:
                os.utime(inbox.file(key))
            except FileNotFoundError:
                inbox.leave(key, question.to_dict())
    if answer is not None:
        return answer
    Service(place, "desk").start()
    return Reply("waiting", folder=folder)


def answer_in(folder: Path) -> Reply | None:
    """Return the answer that a folder holds; None where there is none, or it is damaged."""
    content = read_json(folder / ANSWER)
    content = content if isinstance(content, dict) else {}
    error, value = content.get("error"), content.get("value")
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
