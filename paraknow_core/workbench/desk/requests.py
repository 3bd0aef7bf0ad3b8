"""The questions that pages ask the desk, one class each; `kinds/<subject>.py` answers them.

To add a question: a class here, and in the file of its subject a function `(place, settings, question)` that has the
name of the question's kind: `transfer_plan` in `kinds/transfer.py` answers a `TransferPlan`. It returns plain data, or
plain data and numpy arrays by name.

What an answer depends on must be a field. Models, tasks and files are fields of type `ModelSpec`, `TaskSpec`, `RunSpec`
or `Path`, never bare text: so they are checked before they are read, and an answer is as old as their files.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator

from paraknow_core.errors import DataError
from paraknow_core.models.compat import Pairing
from paraknow_core.spec import ModelSpec, RunSpec, Strict, TaskSpec


@dataclass(frozen=True)
class Limits:
    """What an answer may take before its process is ended: generous, a hundred times what is usual.

    Attributes:
        seconds: of time.
        memory: share of the machine's memory.
    """

    seconds: float
    memory: float


WEIGHTS, DATA, SMALL = Limits(1800, 0.6), Limits(300, 0.5), Limits(60, 0.25)
KINDS: dict[str, type["Question"]] = {}
Split = Literal["train", "validation", "test"]


class Question(Strict):
    """Base of all questions. Those that are asked name the subject that answers them and what that may take."""

    kind: ClassVar[str]  # its name in files and at the start of what goes wrong
    subject: ClassVar[str]
    limits: ClassVar[Limits]

    def __init_subclass__(cls, subject: str = "", limits: Limits = SMALL) -> None:
        """Args: subject: a file of `kinds/`; without one it is a base of other questions."""
        super().__init_subclass__()
        cls.kind = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        cls.subject, cls.limits = subject, limits
        if subject:
            KINDS[cls.kind] = cls

    def __init__(self, /, **fields: Any) -> None:
        """Take the values of the fields.

        Raises:
            DataError: one sentence that names the first one that is refused.
        """
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise DataError(f"{self.kind}: {place}: {first['msg']}; reload the page to ask again") from None

    def to_dict(self) -> dict[str, Any]:
        """Return the question as plain data."""
        return {"kind": self.kind, "request": self.model_dump(mode="json")}


def question_from(content: object) -> Question | None:
    """Return the question that plain data holds; None where it holds none.

    Raises:
        DataError: nobody answers this kind, or a field is refused.
    """
    kind, fields = (content.get("kind"), content.get("request")) if isinstance(content, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(fields, dict):
        return None
    if kind not in KINDS:
        raise DataError(f"desk: nobody answers questions of kind '{kind}'")
    return KINDS[kind](**fields)


class AboutSpec(Question):
    """A question about a spec. It keeps the parts in `reads` only: nothing else may make it another question."""

    reads: ClassVar[tuple[str, ...]]  # keys of a spec, or of a part of it
    spec: RunSpec

    @field_validator("spec")
    @classmethod
    def _keep_what_is_read(cls, spec: RunSpec) -> RunSpec:
        kept = RunSpec()
        for key in cls.reads:
            part, _, inner = key.partition(".")
            value = getattr(spec, part)
            if inner:
                value = getattr(kept, part).model_copy(update={inner: getattr(value, inner)})
            kept = kept.model_copy(update={part: value})
        return kept


# Models ------------------------------------------------------------------------------------------------------------


class Anatomy(Question, subject="models"):
    """What is one model made of?"""

    model: ModelSpec


class Compat(Question, subject="models"):
    """What of a teacher fits onto a student?"""

    teacher: ModelSpec
    student: ModelSpec
    roles: tuple[str, ...]
    mapping: tuple[int | None, ...] | None = Field(None, description="a layer mapping by hand; null: not known yet")


class HubCache(Question, subject="models"):
    """What does the hub's cache of this machine hold?"""

    stamp: Any = Field(description="changes when the cache does")


# Tasks -------------------------------------------------------------------------------------------------------------


class Task(Question, subject="tasks", limits=DATA):
    """How large are a task's splits, how is it scored, what is odd about it?"""

    task: TaskSpec


class TaskExamples(Question, subject="tasks", limits=DATA):
    """What are the first examples of a split, as prompts?"""

    task: TaskSpec
    split: Split


class Examples(Question, subject="tasks", limits=DATA):
    """How does a model read some examples of a split: their tokens, and which of them are learnt?"""

    task: TaskSpec
    model: ModelSpec
    split: Split
    start: int = Field(ge=0)
    count: int = Field(ge=1)


class Lengths(Question, subject="tasks", limits=DATA):
    """How many tokens do a split's examples have?"""

    task: TaskSpec
    model: ModelSpec
    split: Split


class Columns(Question, subject="tasks"):
    """What fields does a data set, file or folder have? Of the task its source, subset and revision are asked about."""

    task: TaskSpec


class Seeds(AboutSpec, subject="tasks", limits=DATA):
    """Which training examples are the seed samples?"""

    reads = ("task", "sensitivity", "teacher", "student", "references", "until")
    with_models: bool = Field(description="false: they do not depend on the models, nor on what else reads the splits")


class Upload(Question, subject="tasks"):
    """What does an uploaded file hold?"""

    path: Path
    columns: dict[str, str] = Field(description="which of its columns is which part of the prompt; empty: as it is")


# Sensitivity -------------------------------------------------------------------------------------------------------


class SensitivityWindow(AboutSpec, subject="sensitivity", limits=WEIGHTS):
    """Where in a teacher module lies the block that the student would receive?"""

    reads = ("teacher", "student", "mapping", "extraction", "method")
    store: str = Field(description="a saved sensitivity of the workspace")
    module: str


class KeptLayers(AboutSpec, subject="sensitivity", limits=WEIGHTS):
    """Which teacher layers does the layer mapping keep?"""

    reads = ("student", "mapping")
    store: str


class Zoom(Question, subject="sensitivity", limits=WEIGHTS):
    """What does a region of one module's sensitivity look like?"""

    teacher: ModelSpec
    store: str
    module: str
    region: tuple[int, int, int, int] = Field(description="row, column, height, width")


# Transfer ----------------------------------------------------------------------------------------------------------


class TransferSource(AboutSpec, subject="transfer", limits=WEIGHTS):
    """Which saved sensitivity belongs to a spec?"""

    reads = ("teacher", "task", "sensitivity")


class TransferSimilarity(AboutSpec, subject="transfer", limits=WEIGHTS):
    """Which kept similarity of layers belongs to a spec?"""

    reads = ("teacher", "student", "task", "sensitivity")


class TransferPlan(AboutSpec, subject="transfer"):
    """Which teacher module does each student module receive, and how large is the adapter?"""

    reads = ("teacher", "student", "mapping", "extraction.origin")
    stores: tuple[str, ...] = Field(description="saved sensitivities that may be used, best first")
    structure: str = Field("", description="decides between several stores, and may not fit the pair")
    similarity: str = Field("", description="name of the kept similarity of layers, for a mapping that is made of one")


def _without_places(pair: Any) -> Any:
    """Keep the fields of a `Pairing`; in a plan it also says where it stands in the two models."""
    return {key: pair[key] for key in Pairing.__dataclass_fields__.keys() & pair} if isinstance(pair, dict) else pair


Pair = Annotated[Pairing, BeforeValidator(_without_places)]


class AboutBlocks(AboutSpec):
    """Base of the questions about blocks: what a block depends on besides its pairing."""

    reads = ("teacher", "student", "extraction.seed")
    store: str
    structure: str


class TransferBlock(AboutBlocks, subject="transfer", limits=WEIGHTS):
    """What does one module's block look like?"""

    pair: Pair


class AboutEnergy(AboutBlocks):
    """Base of the questions about the singular values of blocks, or of their differences to the student's weights."""

    mode: Literal["block", "difference"]
    rank: int = Field(ge=1, description="the largest that is looked at; small weights give all")


class TransferSpectrum(AboutEnergy, subject="transfer", limits=WEIGHTS):
    """What are the singular values of one module?"""

    pair: Pair


class TransferLayer(AboutEnergy, subject="transfer", limits=WEIGHTS):
    """What are the blocks of one student layer like?"""

    pairs: tuple[Pair, ...]


# Before and after a run --------------------------------------------------------------------------------------------


class AdapterChange(Question, subject="lens", limits=WEIGHTS):
    """Where did a run move its student's weights?"""

    run: str = Field(description="its id")
    stamp: Any = Field(None, description="changes with the run's adapter")


class SensitivityChange(AdapterChange, subject="lens", limits=WEIGHTS):
    """Where does a student's sensitivity lie before and after a run?"""

    samples: int = Field(description="how many of the run's seed samples; at most 16 are taken")


class CausalCheck(AdapterChange, subject="lens", limits=WEIGHTS):
    """What does it cost to swap what a run put into each layer, or module, for its random twin?"""

    by: Literal["layer", "module"] = "layer"
    examples: int = Field(200, ge=2, le=2000, description="of the test split")


# Whole runs --------------------------------------------------------------------------------------------------------


class Estimate(AboutSpec, subject="estimate", limits=DATA):
    """What will a run take?"""

    reads = tuple(RunSpec.model_fields.keys() - {"name", "until"})
    moment: int = Field(0, description="changes when what is free on the machine shall be looked at again")


class Fit(AboutSpec, subject="estimate", limits=DATA):
    """Do a run's examples fit its models?"""

    reads = ("teacher", "student", "task", "sensitivity", "references", "until", "method")
