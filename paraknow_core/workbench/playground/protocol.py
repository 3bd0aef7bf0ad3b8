"""What pages know of the playground: leaving wishes, and reading what the process wrote. No torch, no waiting."""

import hashlib
import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from paraknow_core.engines.service import Service
from paraknow_core.errors import RunError
from paraknow_core.files.json_file import read_json, read_lines, write_json
from paraknow_core.paths import Workspace
from paraknow_core.spec import Strict
from paraknow_core.workbench.access import access
from paraknow_core.workbench.inbox import Inbox

MOST_SLOTS = 8
MAX_PROMPT = 50_000  # characters; the model's own context is the limit that is said in tokens
MAX_NEW_TOKENS = 1024
SHORTLIST = 5  # alternatives kept for every token
_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{8}")


class Slot(Strict):
    """What answers: a model as it is, or the student of a finished run with the run's adapter."""

    source: str = Field(min_length=1, max_length=4096)
    revision: str | None = None
    untrained: int | None = Field(None, ge=0, lt=2**32, description="seed of random weights, as in a spec")
    run: str = Field("", max_length=300, description="id of a run whose adapter is put on the model; empty: none")

    @property
    def key(self) -> str:
        """A name for files: the same slot has the same key in every window."""
        usual = {"untrained"} if self.untrained is None else None
        return hashlib.sha256(self.model_dump_json(exclude=usual).encode()).hexdigest()[:24]


class Turn(Strict):
    """One turn of the prompt."""

    role: Literal["user", "assistant", "system"] = "user"
    content: str = Field(max_length=MAX_PROMPT)


class Asked(Strict):
    """One prompt to several slots, and how the next token is chosen."""

    slots: tuple[Slot, ...] = Field(min_length=1, max_length=MOST_SLOTS)
    turns: tuple[Turn, ...] = Field(min_length=1, max_length=200)
    template: Literal["tulu", "chat", "plain", "none"] = Field("tulu", description="none: the text as it is")
    max_length: int = Field(2048, ge=2, le=1_048_576, description="tokens of prompt and answer together")
    max_new_tokens: int = Field(64, ge=1, le=MAX_NEW_TOKENS)
    temperature: float = Field(0.0, ge=0, le=5, description="0: always the most likely token")
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int = Field(0, ge=0, lt=2**32)
    reference: str | None = Field(
        None, max_length=MAX_PROMPT, description="the task's own answer, never shown to a model"
    )
    scorer: str = Field("", max_length=40, description="how an answer is compared with the reference")

    @model_validator(mode="after")
    def _says_something(self) -> "Asked":
        if not any(turn.content.strip() for turn in self.turns):
            raise ValueError("the prompt is empty; write one, or choose an example")
        return self

    @property
    def text(self) -> str:
        """The prompt as it stands in one field."""
        return "\n\n".join(turn.content for turn in self.turns)


class Wish(Strict):
    """What a page leaves for the process: to look at, load or free a model, or to write a generation."""

    do: Literal["look", "load", "free", "generate"]
    slot: Slot | None = None
    id: str = ""


class Holding(BaseModel, frozen=True):
    """What the process says about one slot.

    Attributes:
        state: unknown (nobody looked yet), free, loading, loaded, or failed.
        bytes: what its weights take or would take; shared: of them, those that another loaded slot takes as well.
        parameters: of the model, adapter included.
        error: one sentence, where it failed.
        used: when it last answered, on the process's own clock.
    """

    state: str = "unknown"
    bytes: int = 0
    shared: int = 0
    parameters: int = 0
    error: str = ""
    used: float = 0.0


@dataclass(frozen=True)
class Column:
    """One slot's answer so far.

    Attributes:
        prompt: exactly the text that the model was given; prompt_tokens: its length.
        tokens: text, p (probability under the model, temperature 1) and top ([text, p], most likely first) of each.
        end: why it ended: "end", "max_new_tokens", "context", "turn", "stopped", "failed"; empty while it writes.
        error: one sentence, where it failed.
        score: what the task's scorer gives the answer against the reference.
        per_second: tokens per second of this column, measured by the process.
    """

    prompt: str = ""
    prompt_tokens: int = 0
    tokens: list[dict[str, Any]] = field(default_factory=list)
    end: str = ""
    error: str = ""
    score: float | None = None
    per_second: float | None = None

    @property
    def text(self) -> str:
        return "".join(token["text"] for token in self.tokens)

    @property
    def written(self) -> int:
        """How many tokens were written, the mark that ends the answer apart."""
        return sum("end_mark" not in token for token in self.tokens)

    @property
    def mean_probability(self) -> float:
        """The mean over its tokens, of which there is at least one."""
        return sum(token["p"] for token in self.tokens) / len(self.tokens)


@dataclass(frozen=True)
class Generation:
    """One prompt and the answers to it.

    Attributes:
        columns: slot key -> answer, in the order asked.
        orphaned: the process that wrote it is gone, so nothing more will come.
    """

    id: str
    asked: Asked
    columns: dict[str, Column]
    orphaned: bool = False

    @property
    def active(self) -> bool:
        return not self.orphaned and any(not column.end for column in self.columns.values())


def folder(place: Workspace) -> Path:
    """Return where everything of the playground lies."""
    return place.root / "playground"


def inbox(place: Workspace) -> Inbox:
    """Return where wishes wait, in the order of their names."""
    return Inbox(folder(place) / "commands")


def service(place: Workspace) -> Service:
    """Return the process as seen from outside."""
    return Service(place, "playground")


def ask(place: Workspace, wish: Literal["look", "load", "free"], *slots: Slot) -> None:
    """Leave a wish for each slot; the process, started if need be, fulfils them in order.

    Raises:
        DataError: a slot names what the people who can reach this server may not read.
        OSError: the workspace cannot be written.
    """
    for slot in slots:
        access(place).check_source(slot.source, "model")
    for slot in slots:
        _leave(place, Wish(do=wish, slot=slot))
    service(place).start()


def begin(place: Workspace, asked: Asked) -> str:
    """Leave a prompt for the process and return the generation's id.

    Raises:
        DataError: a slot names what the people who can reach this server may not read.
        OSError: the workspace cannot be written.
    """
    access(place).check_limit("max_new_tokens", asked.max_new_tokens)
    for slot in asked.slots:
        access(place).check_source(slot.source, "model")
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"
    write_json(folder(place) / "generations" / name / "request.json", asked.model_dump(mode="json"), durable=False)
    _leave(place, Wish(do="generate", id=name))
    service(place).start()
    return name


def stop(place: Workspace, name: str) -> None:
    """Ask the process to end a generation after the token it is at.

    Raises:
        RunError: that is no generation's id.
    """
    (generation_folder(place, name) / "stop").write_text("")


def generation_folder(place: Workspace, name: str) -> Path:
    """Return the folder of a generation.

    Raises:
        RunError: that is no generation's id, or there is none of it.
    """
    path = folder(place) / "generations" / name
    if not _ID.fullmatch(name) or not path.is_dir():
        raise RunError("playground: these answers are not kept (any more); generate them again")
    return path


def generation(place: Workspace, name: str) -> Generation:
    """Read a prompt and the answers so far.

    Raises:
        RunError: there is no such generation, or its request is damaged.
    """
    path = generation_folder(place, name)
    try:
        asked = Asked.model_validate(read_json(path / "request.json"))
    except ValueError:
        raise RunError("playground: the request of these answers is damaged; generate them again") from None
    lines = read_lines(path / "lines.jsonl")
    columns = {slot.key: _column([line for line in lines if line.get("slot") == slot.key]) for slot in asked.slots}
    owner = next((line["process"] for line in lines if "process" in line), None)
    if owner is None:  # not taken up yet: by whom it may be, if it still is a wish
        wish, process = Wish(do="generate", id=name).model_dump(mode="json"), service(place)
        gone = wish not in inbox(place).contents(taken=True) or not (process.alive() or process.starting)
    else:
        gone = owner != _owner(place)
    return Generation(name, asked, columns, gone and any(not column.end for column in columns.values()))


def holding(place: Workspace, slot: Slot) -> Holding:
    """Return what the living process says about a slot; `unknown` where it says nothing."""
    try:
        return Holding(**_said(place, f"models/{slot.key}.json"))
    except ValidationError:
        return Holding()


def process_memory(place: Workspace) -> int | None:
    """Return the resident memory of the process in bytes, or None where there is no process."""
    return _said(place, "process.json").get("resident")


def _said(place: Workspace, file: str) -> dict[str, Any]:
    """Return what a file of the living process holds; nothing if another process has written it."""
    content, owner = read_json(folder(place) / file), _owner(place)
    return content if isinstance(content, dict) and owner is not None and content.get("process") == owner else {}


def _owner(place: Workspace) -> list | None:
    """Return what tells the living process from all others, its id and when it was started; None without one."""
    if not service(place).alive():
        return None
    process = read_json(service(place).folder / "process.json")
    process = process if isinstance(process, dict) else {}
    return [process.get("pid"), process.get("process_started")]


def _leave(place: Workspace, wish: Wish) -> None:
    inbox(place).leave(f"{time.time_ns()}-{secrets.token_hex(4)}", wish.model_dump(mode="json"))


def _column(lines: list[dict]) -> Column:
    start = next((line for line in lines if line.get("event") == "start"), {})
    end = next((line for line in lines if line.get("event") == "end"), {})
    return Column(
        str(start.get("prompt", "")),
        int(start.get("prompt_tokens", 0)),
        [line for line in lines if "text" in line],
        end.get("reason", ""),
        end.get("error", ""),
        end.get("score"),
        end.get("per_second"),
    )


def same_wish(place: Workspace, do: Literal["look", "load", "free"], slot: Slot) -> bool:
    """Tell whether this wish waits already: a page that is drawn again must not leave it twice."""
    return Wish(do=do, slot=slot).model_dump(mode="json") in inbox(place).contents(taken=False)
