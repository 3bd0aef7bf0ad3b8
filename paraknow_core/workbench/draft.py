"""The draft: what a person is preparing in the browser. One file a workspace, so that it survives every restart."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from paraknow_core.catalogue import ARMS, BASELINE, METHODS
from paraknow_core.errors import RunError, SpecError
from paraknow_core.files.atomic import write_atomic
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.json_file import read_json
from paraknow_core.paths import Workspace
from paraknow_core.spec import RunSpec, Strict
from paraknow_core.studies.spec import labelled

FILE = "draft.json"


class Draft(Strict):
    """The spec that is edited, and what is started beside it."""

    spec: RunSpec = RunSpec()
    arms: tuple[Literal[*METHODS], ...] = Field(
        (BASELINE,), description="reference arms to run alongside, everything else equal"
    )
    seeds: int = Field(1, ge=1, le=100, description="each arm is run with this many seeds, from the spec's seed on")
    held: Annotated[RunSpec | None, Field(description="a second choice, held beside the draft to compare")] = None

    def with_spec(self, spec: RunSpec) -> "Draft":
        """Return a copy with another spec."""
        return self.model_copy(update={"spec": spec})

    def started(self) -> tuple[RunSpec, tuple[str, ...], int]:
        """Return all that decides what Start creates; what is only held beside it is not part of that."""
        return self.spec, self.arms, self.seeds

    def planned(self) -> list[RunSpec]:
        """Return the specs of all runs that Start creates: the draft first, then its arms, seed by seed.

        The draft's own method runs as it is set up; the others run as the arms of a study do (`catalogue.ARMS`).
        """
        arms = {self.spec.method: {}, **{name: ARMS[name].changes for name in self.arms if name != self.spec.method}}
        base = self.spec.model_copy(update={"until": "evaluation"})
        return list(labelled(base, arms, range(self.spec.seed, self.spec.seed + self.seeds)).values())


def differing(spec: RunSpec, other: RunSpec) -> list[str]:
    """Return the dotted keys in which two specs differ."""

    def compare(ours: dict, theirs: dict, prefix: str) -> Iterator[str]:
        for key, value in ours.items():
            if isinstance(value, dict) and isinstance(theirs.get(key), dict):
                yield from compare(value, theirs[key], f"{prefix}{key}.")
            elif value != theirs.get(key):
                yield f"{prefix}{key}"

    return list(compare(spec.model_dump(mode="json"), other.model_dump(mode="json"), ""))


AnyDraft = TypeVar("AnyDraft", bound=Strict)


def read_draft(file: Path, form: type[AnyDraft], noun: str) -> AnyDraft:
    """Read a draft; the defaults of its form where there is none.

    Args:
        file: of the workspace.
        form: what it has to fit.
        noun: what people call it.

    Raises:
        SpecError: the file is there but holds no valid draft (of another version, or edited by hand).
    """
    data = read_json(file)
    if data is None:
        return form()
    try:
        return form.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"{file.name}: {where}: {first['msg']}; the {noun} starts from the defaults again") from None


def write_draft(file: Path, draft: Strict, noun: str) -> None:
    """Keep a draft; see `read_draft`.

    Raises:
        RunError: the workspace cannot be written.
    """
    try:
        write_atomic(file, draft.model_dump_json(indent=1), durable=False)
    except OSError as error:
        reason = error.strerror or "not writable"
        raise RunError(f"{noun}: cannot be saved ({reason}); it lasts only as long as this window is open") from None


def load_draft(place: Workspace) -> Draft:
    """Read the workspace's draft; see `read_draft`."""
    return read_draft(place.root / FILE, Draft, "draft")


def save_draft(place: Workspace, draft: Draft) -> None:
    """Keep the workspace's draft; see `write_draft`."""
    write_draft(place.root / FILE, draft, "draft")


def stamp(place: Workspace) -> tuple[int, int]:
    """Return what changes whenever the file is written."""
    return file_stamp(place.root / FILE)
