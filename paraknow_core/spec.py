"""The spec: one strict, portable description of a run. It says what to compute, never where (see settings.py)."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from datetime import date
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from paraknow_core import catalogue
from paraknow_core.errors import SpecError
from paraknow_core.files.naming import normal_source, secret_in
from paraknow_core.files.yaml_file import load_yaml, read_text, refuse_bombs

GROUP_OF_ROLE = {
    "q": "attention",
    "k": "attention",
    "v": "attention",
    "o": "attention",
    "gate": "ffn",
    "up": "ffn",
    "down": "ffn",
    "embed": "embedding",
    "head": "embedding",
}
ROLES, GROUPS = tuple(GROUP_OF_ROLE), tuple(dict.fromkeys(GROUP_OF_ROLE.values()))
HIDDEN_TAG = "~"  # how the tag of a union begins: it is no key that a person has written
_MARGIN = re.compile(r"\n(?! |- )")  # where a line at the margin begins
_PART = re.compile(r"[a-z_]+:.*(?:\n(?: |- ).*)*")  # a key at the margin and what is indented under it
_LONGEST_PART = 4_000  # characters
HIDDEN = "hidden"  # the type of a validation error whose message must not repeat the value


class Strict(BaseModel):
    """Base of all spec models: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


SECRET = "holds a password or a token; give only the name, and put the token into $HF_TOKEN"  # noqa: S105


class Portable(Strict):
    """Base of all parts of a spec. A spec is kept, shown and shared, so no text in it may be a password or a token."""

    @field_validator("*")
    @classmethod
    def _holds_no_secret(cls, value: Any) -> Any:
        if secret_in(value) is not None:
            raise PydanticCustomError(HIDDEN, SECRET)
        return value


Source = Annotated[str, BeforeValidator(lambda value: normal_source(value) if isinstance(value, str) else value)]


OnceEach = AfterValidator(lambda names: tuple(dict.fromkeys(names)))


class ModelSpec(Portable):
    """A model to load: `bundled:NAME`, a local folder, or a hub id with an optional revision."""

    source: Source = Field(min_length=1, max_length=4096, description="bundled:NAME, a local folder, or a hub id")
    revision: Source | None = Field(None, description="hub only: branch, tag or commit; resolved to its commit")
    untrained: int | None = Field(
        None, ge=0, lt=2**32, description="seed of random weights in place of the trained ones: a control"
    )


class SplitSizes(Portable):
    """How many examples to use of each split; null takes all there are."""

    train: int | None = Field(1000, ge=1)
    validation: int | None = Field(100, ge=0)
    test: int | None = Field(300, ge=1)


class TaskSpec(Portable):
    """A task: its examples, how they are rendered, and how answers are scored."""

    source: Source = Field(
        "bundled:word_problems",
        min_length=1,
        max_length=4096,
        description="bundled:NAME, a data file, a folder of split files, or hub:ID",
    )
    format: Literal["auto", "chat_jsonl", "gsm8k", "mmlu", "text", "hub"] = "auto"
    test_source: Source | None = Field(None, description="a second file that holds the test split")
    subset: str | None = Field(None, description="hub only: configuration name")
    revision: Source | None = Field(None, description="hub only: branch, tag or commit")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="parts of the prompt -> columns or fields of the data: question, "
        "answer, choices, input, context, system, history, subject, messages, text, id; "
        "an empty name leaves a part out",
    )
    template: Literal["tulu", "chat", "plain"] = "tulu"
    max_length: int = Field(2048, ge=2, le=1_048_576, description="tokens; longer examples are cut at the end")
    too_long: Literal["refuse", "leave_out"] = Field(
        "refuse", description="examples of which the limit leaves nothing to learn, or no room to answer"
    )
    sizes: SplitSizes = SplitSizes()
    split_seed: int = Field(0, ge=0, lt=2**32, description="shuffles a file that holds only one split")
    scorers: Annotated[tuple[Literal[*catalogue.SCORERS], ...], OnceEach] = Field(
        (), description="empty: the task's own"
    )
    max_new_tokens: int | None = Field(None, ge=1, le=8192, description="null: the task's own")
    judge: ModelSpec | None = Field(None, description="win_rate: the judging model; null: the teacher")


class SensitivitySpec(Portable):
    """Which seed samples the teacher's sensitivity is summed over."""

    samples: int = Field(32, ge=1, le=100_000)
    selection: Literal[*catalogue.SELECTIONS] = "first"
    seed: int = Field(0, ge=0, lt=2**32, description="for selection random")
    ids: tuple[str, ...] = Field((), description="for selection manual: example ids of the train split")
    task: Source | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="seed samples of another task, a control: bundled:NAME or a data file; null: the run's own task",
    )

    @model_validator(mode="after")
    def _manual_has_ids(self) -> "SensitivitySpec":
        if (self.selection == catalogue.MANUAL) != bool(self.ids):
            raise ValueError("ids and selection manual belong together; give both or neither")
        return self


class MappingSpec(Portable):
    """For each student layer, the teacher layer it receives."""

    strategy: Literal[*catalogue.STRATEGIES] = "sensitivity"
    layers: tuple[Annotated[int, Field(ge=0)] | None, ...] = Field((), description="for manual: one entry a layer")
    seed: int = Field(0, ge=0, lt=2**32, description="for random")

    @model_validator(mode="after")
    def _manual_has_layers(self) -> "MappingSpec":
        if (self.strategy == catalogue.MANUAL) != bool(self.layers):
            raise ValueError("layers and strategy manual belong together; give both or neither")
        return self


def roles_of(origin: Iterable[str]) -> tuple[str, ...]:
    """Return the roles that `all`, groups and roles stand for together, in the order of `ROLES`."""
    chosen = set(origin)
    return tuple(r for r in ROLES if "all" in chosen or r in chosen or GROUP_OF_ROLE[r] in chosen)


def normal_origin(roles: Iterable[str], available: Iterable[str] = ROLES) -> tuple[str, ...]:
    """Return roles as a spec writes them: the same modules are always written the same way.

    Args:
        roles: to take.
        available: the roles to choose from, e.g. those that a student has.

    Returns:
        `all` alone where nothing is left out, else whole groups by their name, then single roles, each in its order.
    """
    available = set(available)
    chosen, left_out = available.intersection(roles), available.difference(roles)
    if not left_out:
        return ("all",)
    incomplete = {GROUP_OF_ROLE[role] for role in left_out}
    whole = [group for group in GROUPS if group in {GROUP_OF_ROLE[role] for role in chosen} - incomplete]
    return (*whole, *(role for role in ROLES if role in chosen and GROUP_OF_ROLE[role] not in whole))


class ExtractionSpec(Portable):
    """Which modules give a block, and how the block is picked."""

    origin: tuple[str, ...] = Field(("all",), min_length=1, description="all, or any groups and roles")
    structure: Literal[*catalogue.offered(catalogue.STRUCTURES)] = "submatrix"
    seed: int = Field(0, ge=0, lt=2**32, description="for structure random and random offsets")

    @field_validator("origin", mode="after")
    @classmethod
    def _in_fewest_words(cls, origin: tuple[str, ...]) -> tuple[str, ...]:
        names = ("all", *GROUPS, *ROLES)
        for name in origin:
            if name not in names:
                raise ValueError(f"origin '{name}' is unknown; choose from {', '.join(names)}")
        return normal_origin(roles_of(origin))

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that the origin stands for, in the order of `ROLES`."""
        return roles_of(self.origin)


class FactorisationSpec(Portable):
    """Rank and scale of the adapter; `us_v`: B = U S, A = V^T (as published); `sqrt`: the root of S on both sides."""

    rank: int = Field(16, ge=1, le=65_536)
    lora_alpha: float = Field(16, gt=0, le=1e6)
    split: Literal[*catalogue.SPLITS] = "us_v"


class InjectionSpec(Portable):
    """How the block enters the student: residual (published), additive, or difference."""

    mode: Literal[*catalogue.MODES] = "residual"


class FinetuningSpec(Portable):
    """Fine-tuning with the paper's recipe as default; the loss is on answers only."""

    learning_rate: float = Field(3e-4, ge=0, le=10)
    epochs: float = Field(3, ge=0, le=10_000, description="0: no training, the injected student is evaluated")
    max_steps: int | None = Field(None, ge=0, description="overrides epochs; 0: no training")
    batch_size: int = Field(64, ge=1, le=65_536, description="examples per optimiser step")
    micro_batch_size: int | None = Field(None, ge=1, description="examples per forward pass; null: chosen to fit")
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0, le=10)
    max_grad_norm: float = Field(1.0, gt=0)
    validations: int = Field(6, ge=0, le=1000, description="how often the validation loss is measured during training")
    seed: int | None = Field(None, ge=0, lt=2**32, description="order of the data, dropout; null: the run's seed")

    def steps(self, examples: int) -> int:
        """Return the number of optimiser steps; the last batch of an epoch may be smaller."""
        if self.max_steps is not None:
            return self.max_steps
        return math.ceil(self.epochs * math.ceil(examples / self.batch_size))

    @model_validator(mode="after")
    def _micro_divides(self) -> "FinetuningSpec":
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}; "
                "choose one that divides it"
            )
        return self


class RunSpec(Portable):
    """Everything one run computes. The same file gives the same run in the browser, on a laptop and on a cluster."""

    version: Literal[1] = 1
    name: str = Field("", max_length=120, description="for people; the folder's name is made from it")
    teacher: ModelSpec = ModelSpec(source="bundled:teacher")
    student: ModelSpec = ModelSpec(source="bundled:stranger")
    task: TaskSpec = TaskSpec()
    method: Literal[*catalogue.METHODS] = "seeking"
    sensitivity: SensitivitySpec = SensitivitySpec()
    mapping: MappingSpec = MappingSpec()
    extraction: ExtractionSpec = ExtractionSpec()
    factorisation: FactorisationSpec = FactorisationSpec()
    injection: InjectionSpec = InjectionSpec()
    finetuning: FinetuningSpec = FinetuningSpec()
    until: Literal["sensitivity", "extraction", "training", "evaluation"] = Field(
        "evaluation", description="last stage to run; training: the validation loss is all that is scored"
    )
    references: Annotated[tuple[Literal[*catalogue.UNTRAINED], ...], OnceEach] = Field(
        ("student",), description="untrained models whose test score is shown beside the run's"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="adapter initialisation; data order, if finetuning has no seed")

    @property
    def structure(self) -> str:
        """The structure of the blocks: the method's own if it has one, else the extraction's."""
        return catalogue.METHODS[self.method].structure or self.extraction.structure

    @property
    def data_seed(self) -> int:
        """What the order of the training data, and dropout, are drawn with: fine-tuning's own seed, else the run's."""
        return self.seed if self.finetuning.seed is None else self.finetuning.seed

    def to_yaml(self) -> str:
        """Return the spec as YAML, all keys written out, in the order of the fields."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def with_changes(self, changes: dict[str, Any]) -> "RunSpec":
        """Return a copy with dotted keys replaced, e.g. `{"factorisation.rank": 8}`; validated like a file.

        Raises:
            SpecError: a key is unknown or a value is refused.
        """
        data = self.model_dump(mode="json")
        for dotted, value in changes.items():
            *parents, last = dotted.split(".")
            node = data
            for key in parents:
                node = node.get(key) if isinstance(node, dict) else None
            if not isinstance(node, dict) or (last not in node and parents != ["task", "columns"]):
                raise SpecError(f"spec: unknown key '{dotted}'; see `python -m paraknow_core spec schema`")
            node[last] = value
        parts = {key: _valid_part(data, key) for key in data}  # all: a default of 16 is 16.0 once it was validated
        if None in parts.values():  # not valid, or null
            return parse_spec(data, where="spec")
        return RunSpec.model_construct(set(data), **parts)


def parse_spec(data: Any, where: str = "spec") -> RunSpec:
    """Validate plain data (from YAML or JSON) as a spec.

    Args:
        data: a mapping.
        where: what to call the source in messages, e.g. the file's name.

    Raises:
        SpecError: one sentence that names the first bad key and what would be right.
    """
    return validated(RunSpec, data, where, "spec show")


AnySpec = TypeVar("AnySpec", bound=Strict)


def validated(model: type[AnySpec], data: Any, where: str, example: str) -> AnySpec:
    """Validate plain data as a model, as `parse_spec` does; `example` is the command that shows one."""
    if not isinstance(data, dict):
        raise SpecError(f"{where}: holds {type(data).__name__}, not a mapping; start from `{example}`")
    refuse_bombs(data, where)
    secret = secret_in(data)  # first of all: other refusals repeat what was given
    if secret is not None:
        raise SpecError(f"{where}: {f'{secret}: ' if secret else ''}{SECRET}")
    try:
        # Through JSON, because only there strict mode (no "3" or true for 3) still takes lists for tuples.
        return model.model_validate_json(json.dumps(data, default=_as_text), strict=True)
    except ValidationError as error:
        raise SpecError(f"{where}: {_first_problem(error, model)}") from None
    except (ValueError, TypeError, RecursionError):  # a number of thousands of digits, a key that is no text
        raise SpecError(f"{where}: holds a value that cannot be written down; give plain numbers and text") from None


def _as_text(value: Any) -> str:
    """Return a date without quotes or a path as text; refuse sets and bytes, which only YAML's tags give."""
    if isinstance(value, date | PurePath):
        return str(value)
    raise TypeError


def parse_yaml(text: str, where: str = "spec") -> RunSpec:
    """Validate a YAML (or JSON) text as a spec; see `parse_spec`."""
    return _from_parts(text) or parse_spec(load_yaml(text, where), where)


def _from_parts(text: str) -> RunSpec | None:
    """Put a spec together from its top-level keys, each validated once; None where it is no such text, or not valid.

    Thousands of runs differ in a seed and a rate: what their files share is read and validated only once, which takes
    a tenth of the time. No part can reach beyond its lines: what is open at its end, or refers to another, is refused.
    """
    lines = _MARGIN.split(text.removesuffix("\n"))
    values = {}
    for part in lines:
        found = _part_of_spec(part) if len(part) <= _LONGEST_PART else None
        if found is None:
            return None
        values[found[0]] = found[1]
    if len(values) < len(lines):  # a key twice
        return None
    # No rule of a spec is about two parts, so nothing is left to be validated.
    return RunSpec.model_construct(set(values), **values)


@lru_cache(maxsize=20_000)
def _part_of_spec(text: str) -> tuple[str, Any] | None:
    """Return the one key that a part of a spec's text gives, and its valid value; None where it is something else."""
    if not _PART.fullmatch(text):
        return None
    try:
        data = load_yaml(f"{text}\n", "spec")
        key = next(iter(data)) if isinstance(data, dict) and len(data) == 1 else None
        return None if key is None else (key, getattr(parse_spec(data), key))
    except SpecError:
        return None


def _valid_part(data: dict[str, Any], key: str) -> Any:
    """Return the valid value of one top-level key of a spec's plain data; None where it is not valid."""
    try:
        text = json.dumps(data[key], allow_nan=False)
        return _part_of_json(key, text) if len(text) <= _LONGEST_PART else None
    except (ValueError, TypeError, RecursionError):
        return None


@lru_cache(maxsize=20_000)
def _part_of_json(key: str, text: str) -> Any:
    try:
        return getattr(parse_spec({key: json.loads(text)}), key)
    except SpecError:
        return None


def read_spec(path: Path) -> RunSpec:
    """Read and validate a spec file (at most 1 MB of UTF-8).

    Raises:
        SpecError: the file cannot be read or is not a valid spec.
    """
    return parse_yaml(read_text(path), where=path.name)


def _first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    first = error.errors(include_url=False)[0]
    location = [part for each in first["loc"] if not (part := str(each)).startswith(HIDDEN_TAG)]
    place = ".".join(location)
    if first["type"] == "extra_forbidden":
        section = ".".join(location[:-1])
        keys = ", ".join(sorted(_keys_of(location[:-1], model)))
        return f"unknown key '{location[-1][:60]}'{f' under {section}' if section else ''}; known keys are {keys}"
    if first["type"] == "json_invalid":  # half a character, a number that JSON has not
        return "holds a value that cannot be written down; give plain numbers and text"
    if first["type"] == HIDDEN:
        return f"{place}: {first['msg']}"
    value = repr(first.get("input"))
    value = value if len(value) <= 60 else value[:57] + "..."
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{place}: missing; give it a value"
    if isinstance(first.get("input"), dict):  # a rule between several keys: the sentence says it all
        return f"{place}: {message}" if place else message
    return f"{place}: {value} given; {message[0].lower()}{message[1:]}"


def _keys_of(location: Iterable[str], model: Any) -> list[str]:
    kind: Any = model
    for part in location:
        field = getattr(kind, "model_fields", {}).get(part)
        inside = kind if part.isdecimal() else None if field is None else field.annotation  # an entry of a list
        kind = next(_models_in(inside), inside)
    return list(getattr(kind, "model_fields", {}))


def _models_in(annotation: Any) -> Iterator[Any]:
    """Yield the models in a type, such as that of a tuple or of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
