"""The spec: one strict, portable description of a run. It says what to compute, never where (see settings.py)."""

import json
import re
import stat
from collections.abc import Iterable
from datetime import date
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

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
from paraknow_core.files.naming import holds_secret, normal_source

ROLES = ("q", "k", "v", "o", "gate", "up", "down", "embed", "head")
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
GROUPS = ("attention", "ffn", "embedding")
HIDDEN = "hidden"  # the type of a refusal that must not repeat what was given
MOST_VALUES, MOST_LEVELS = 100_000, 50  # of a spec; more is no spec, whatever it is
MOST_BYTES = 1_000_000  # of its file
NESTED = "is nested far beyond a spec; give the keys of `spec show`"
_DEPTH = re.compile(r"nest|depth|recurs", re.IGNORECASE)  # how libyaml and PyYAML, by version, refuse deep nesting


class Strict(BaseModel):
    """Base of all spec models: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


SECRET = "holds a password or a token; give only the name, and put the token into $HF_TOKEN"  # noqa: S105


class Portable(Strict):
    """Base of all parts of a spec: kept, shown and shared, so that no text of it may be a password or a token."""

    @field_validator("*")
    @classmethod
    def _holds_no_secret(cls, value: Any) -> Any:
        if secret_in(value) is not None:
            raise PydanticCustomError(HIDDEN, SECRET)
        return value


def secret_in(value: Any, place: str = "") -> str | None:
    """Return where plain data holds a password or a token, as dotted keys (empty: at its top); None where nowhere."""
    if isinstance(value, str):
        return place if holds_secret(value) else None
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str) and holds_secret(key):
                return place
            found = secret_in(inner, f"{place}.{key}" if place else str(key))
            if found is not None:
                return found
    elif isinstance(value, list | tuple | set):
        for inner in value:
            found = secret_in(inner, place)
            if found is not None:
                return found
    return None


Source = Annotated[str, BeforeValidator(lambda value: normal_source(value) if isinstance(value, str) else value)]


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


class ModelSpec(Portable):
    """A model to load: `bundled:NAME`, a local folder, or a hub id with an optional revision."""

    source: Source = Field(min_length=1, max_length=4096, description="bundled:NAME, a local folder, or a hub id")
    revision: Source | None = Field(None, description="hub only: branch, tag or commit; resolved to its commit")


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
    scorers: Annotated[tuple[Literal[*catalogue.SCORERS], ...], AfterValidator(_each_once)] = Field(
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


def normal_origin(wanted: Iterable[str], there: Iterable[str] = ROLES) -> tuple[str, ...]:
    """Return roles as a spec writes them, always the same way for the same modules.

    Args:
        wanted: roles to take.
        there: the roles that can be taken at all, e.g. those that a student has.

    Returns:
        `all` alone where nothing is left out, else whole groups by their name, then single roles, each in its order.
    """
    there = set(there)
    chosen = {role for role in wanted if role in there}
    if chosen == there:
        return ("all",)
    members = {group: {r for r in there if GROUP_OF_ROLE[r] == group} for group in GROUPS}
    whole = [group for group in GROUPS if members[group] and members[group] <= chosen]
    return (*whole, *(role for role in ROLES if role in chosen and GROUP_OF_ROLE[role] not in whole))


class ExtractionSpec(Portable):
    """Which modules give a block, and how the block is picked."""

    origin: tuple[str, ...] = Field(("all",), min_length=1, description="all, or any groups and roles")
    structure: Literal[*catalogue.offered(catalogue.STRUCTURES)] = "submatrix"
    seed: int = Field(0, ge=0, lt=2**32, description="for structure random and random offsets")

    @field_validator("origin", mode="after")
    @classmethod
    def _in_fewest_words(cls, origin: tuple[str, ...]) -> tuple[str, ...]:
        known = ("all", *GROUPS, *ROLES)
        for name in origin:
            if name not in known:
                raise ValueError(f"origin '{name}' is unknown; choose from {', '.join(known)}")
        return normal_origin(roles_of(origin))

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles the origin stands for, in the order of `ROLES`."""
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
    until: Literal["sensitivity", "extraction", "evaluation"] = Field("evaluation", description="last stage to run")
    references: Annotated[tuple[Literal[*catalogue.REFERENCES], ...], AfterValidator(_each_once)] = Field(
        ("student",), description="untrained models whose test score is shown beside the run's"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="adapter initialisation, data order")

    @property
    def structure(self) -> str:
        """The structure of its blocks: the method's own where it has one, else the extraction's."""
        return catalogue.METHODS[self.method].structure or self.extraction.structure

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
        return parse_spec(data, where="spec")


# libyaml's safe loader where the wheel has it: ten times faster, which lists of hundreds of runs need.
_SafeLoader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_SafeLoader):
    """YAML 1.1 safe loader that refuses a key given twice: the first value would be lost without a word."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception:  # `!!bool x`, a month 13, a number of thousands of digits: anything is raised
            problem = "the value is not what its tag or its form says (such as !!bool, !!int or a date)"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None


def _mapping_without_duplicates(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
        seen.add(key)
    return _SafeLoader.construct_mapping(loader, node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def parse_spec(data: Any, where: str = "spec") -> RunSpec:
    """Validate plain data (from YAML or JSON) as a spec.

    Args:
        data: a mapping.
        where: what to call the source in messages, e.g. the file's name.

    Raises:
        SpecError: one sentence that names the first bad key and what would be right.
    """
    if not isinstance(data, dict):
        raise SpecError(f"{where}: holds {type(data).__name__}, not a mapping; start from `spec show`")
    _refuse_bombs(data, where)
    secret = secret_in(data)  # first of all: other refusals repeat what was given
    if secret is not None:
        raise SpecError(f"{where}: {f'{secret}: ' if secret else ''}{SECRET}")
    try:
        # Through JSON, because only there strict mode (no "3" or true for 3) still takes lists for tuples.
        return RunSpec.model_validate_json(json.dumps(data, default=_as_text), strict=True)
    except ValidationError as error:
        raise SpecError(f"{where}: {_first_problem(error)}") from None
    except (ValueError, TypeError, RecursionError):  # a number of thousands of digits, a key that is no text
        raise SpecError(f"{where}: holds a value that cannot be written down; give plain numbers and text") from None


def _as_text(value: Any) -> str:
    """A date without quotes and a path are text; sets and bytes, which only YAML's tags give, are nothing here."""
    if isinstance(value, date | PurePath):
        return str(value)
    raise TypeError


def _refuse_depth(text: str, where: str) -> None:
    """Refuse a text that nests thousands of levels, before it is loaded: libyaml would end the whole process."""
    if len(text) < 20_000 and sum(map(text.count, "[{-?")) <= MOST_LEVELS:
        return  # too few signs to nest so far
    level = 0
    try:
        for event in yaml.parse(text, Loader=_SafeLoader):
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if level > MOST_LEVELS:
                raise SpecError(f"{where}: {NESTED}")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        limit = getattr(error, "problem", None) or ""  # libyaml has one of its own
        if isinstance(error, RecursionError) or _DEPTH.search(limit):
            raise SpecError(f"{where}: {NESTED}") from None
        return  # the loader names the place


def _refuse_bombs(data: Any, where: str) -> None:
    """Refuse data that grows beyond measure once its aliases are written out: a YAML alias costs a few bytes only."""
    waiting, seen = [(data, 0)], 0
    while waiting:
        node, level = waiting.pop()
        seen += 1
        if seen > MOST_VALUES or level > MOST_LEVELS:
            raise SpecError(f"{where}: is nested or repeated far beyond a spec; give the keys of `spec show`")
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple | set) else ()
        waiting.extend((child, level + 1) for child in children)


def parse_yaml(text: str, where: str = "spec") -> RunSpec:
    """Validate a YAML (or JSON) text as a spec; see `parse_spec`."""
    return parse_spec(load_yaml(text, where), where)


def load_yaml(text: str, where: str) -> Any:
    """Return what a YAML (or JSON) text holds as plain data; nothing in it is ever run.

    Raises:
        SpecError: one sentence, whatever is wrong with the text.
    """
    if len(text) > MOST_BYTES:
        raise SpecError(f"{where}: larger than 1 MB; a spec is a few kilobytes, give its YAML file")
    _refuse_depth(text, where)
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader subclass
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "")
        if isinstance(error, RecursionError) or _DEPTH.search(problem):
            raise SpecError(f"{where}: {NESTED}") from None
        if holds_secret(problem) or not problem:
            problem = "its text cannot be understood"
        problem = " ".join(problem.split())[:200]
        raise SpecError(f"{where}: not valid YAML{place}: {problem}; correct it and try again") from None


def read_spec(path: Path) -> RunSpec:
    """Read and validate a spec file (at most 1 MB of UTF-8).

    Raises:
        SpecError: the file cannot be read or is not a valid spec.
    """
    return parse_yaml(read_text(path), where=path.name)


def read_text(path: Path) -> str:
    """Read a spec or settings file (at most 1 MB of UTF-8); a pipe or a device is never waited for.

    Raises:
        SpecError: the file cannot be read.
    """
    try:
        kind = path.stat()
        if not stat.S_ISREG(kind.st_mode):
            reason = "is a folder" if stat.S_ISDIR(kind.st_mode) else "is no plain file"
            raise SpecError(f"{path}: cannot be read ({reason}); give the path of a file in YAML")
        if kind.st_size > MOST_BYTES:
            raise SpecError(f"{path.name}: larger than 1 MB; a spec is a few kilobytes, give its YAML file")
        return path.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise SpecError(f"{path}: cannot be read ({reason}); give the path of a file in YAML") from None


def schema() -> dict:
    """Return the JSON schema of a spec."""
    return RunSpec.model_json_schema()


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    place = ".".join(location)
    if first["type"] == "extra_forbidden":
        section = ".".join(location[:-1])
        known = ", ".join(sorted(_known_keys(location[:-1])))
        return f"unknown key '{location[-1][:60]}'{f' under {section}' if section else ''}; known keys are {known}"
    if first["type"] == "json_invalid":  # half a character, a number that JSON has not
        return "holds a value that cannot be written down; give plain numbers and text"
    if first["type"] == HIDDEN:
        return f"{place}: {first['msg']}"
    given = repr(first.get("input"))
    given = given if len(given) <= 60 else given[:57] + "..."
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{place}: missing; give it a value"
    if isinstance(first.get("input"), dict):  # a rule between several keys: the sentence says it all
        return f"{place}: {message}" if place else message
    return f"{place}: {given} given; {message[0].lower()}{message[1:]}"


def _known_keys(location: Iterable[str]) -> list[str]:
    model: Any = RunSpec
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        options = (field.annotation, *getattr(field.annotation, "__args__", ()))
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return list(getattr(model, "model_fields", {}))
