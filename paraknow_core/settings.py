"""Settings: where and how this machine computes. They are never part of a spec, so that a spec stays portable."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

import yaml
from pydantic import ByteSize, Field, TypeAdapter, ValidationError, field_validator

from paraknow_core.errors import SpecError
from paraknow_core.files.atomic import write_atomic
from paraknow_core.files.naming import secret_in
from paraknow_core.files.yaml_file import load_yaml, read_text
from paraknow_core.paths import Workspace
from paraknow_core.spec import SECRET, Strict


def _flag(default: Any, help: str, **limits: float) -> Any:
    """Return a field that commands also take as a flag (see `cli.options.with_settings`)."""
    return Field(default, description=help, json_schema_extra={"flag": True}, **limits)


EngineName = Literal["auto", "local", "queue", "ray", "slurm"]


class RaySettings(Strict):
    """What the engine `ray` asks of a cluster."""

    address: str | None = Field(None, min_length=1, description="of the cluster; null: one on this machine")
    cpus: float | None = Field(None, gt=0, description="cores for each run")
    gpus: float | None = Field(None, ge=0, description="GPUs for each run; a share, such as 0.25, is right")
    shared: bool = Field(True, description="the workspace lies on storage that every node sees under the same path")


class SlurmSettings(Strict):
    """What the engine `slurm` asks for each run; null leaves it to the cluster."""

    partition: str | None = Field(None, min_length=1, description="where jobs wait and run")
    account: str | None = Field(None, min_length=1, description="who pays")
    time: str | None = Field(None, description="the limit of one job, such as '2:00:00' or '1-12' (days-hours)")
    memory: str | None = Field(None, description="of one job, such as 16G; a plain number is megabytes")
    options: tuple[str, ...] = Field((), description="more options of sbatch, such as --gres=gpu:1")

    @field_validator("time", mode="before")
    @classmethod
    def _is_a_time(cls, value: object) -> object:
        # YAML reads 2:00:00 without quotes as the number 7200, and SLURM reads a number as minutes.
        if value is None or (isinstance(value, str) and re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", value)):
            return value
        raise ValueError(f"{value!r} given; a time in quotes is right, such as '2:00:00', '90' (minutes) or '1-12'")

    @field_validator("memory", mode="before")
    @classmethod
    def _is_memory(cls, value: object) -> object:
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if text is None or (isinstance(text, str) and re.fullmatch(r"\d+[KMGT]?", text)):
            return text
        raise ValueError(f"{value!r} given; a whole number with K, M, G or T is right, such as 16G")

    @field_validator("options")
    @classmethod
    def _are_options(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            if not option.startswith("-"):
                raise ValueError(f"{option!r} given; each is one option with its value, such as --gres=gpu:1")
        return options


class Settings(Strict):
    """Device, precision and network of this machine. Order of precedence: flag, settings file, default.

    To add a setting, add a field; by `_flag` it is a flag of all commands that compute.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = _flag("auto", "Where to compute (default: settings file, auto).")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _flag(
        "float32", "What to compute in (default: settings file, float32); auto: 16 bits where faster here."
    )
    threads: int | None = _flag(
        None, "CPU threads (default: settings file, else by the models' size: one, or all cores).", ge=1, le=4096
    )
    memory_budget: ByteSize | None = _flag(
        None, "Memory for measuring a teacher, e.g. 3.5GB (default: what is available).", ge=1
    )
    streaming: Literal["auto", "always", "never"] = _flag(
        "auto", "Measure a teacher layer by layer (default: where it does not fit the memory budget)."
    )
    keep: Literal["auto", "full", "reductions"] = _flag(
        "auto", "What to keep of a sensitivity (default: all of it where the teacher fits into memory)."
    )
    processes: int = _flag(
        1, "Processes that share the training of one run (FSDP2; default: settings file, 1).", ge=1, le=64
    )
    offline: bool = _flag(False, "Never ask a hub; only what is on this machine.")
    checkpoint_seconds: float = Field(60, ge=0, description="at most this much training is lost by a kill")
    engine: EngineName | None = Field(
        None, description="who executes runs; null: the queue for pages, a process of its own for the command line"
    )
    ray: RaySettings = Field(RaySettings(), description="of the engine ray")
    slurm: SlurmSettings = Field(SlurmSettings(), description="of the engine slurm")
    workers: int | None = Field(
        None, ge=1, le=64, description="runs that are executed here at the same time; null: by their size"
    )
    pack: int | None = Field(
        None, ge=1, le=64, description="runs that are trained in one pass here; null: by rule, several on a GPU"
    )
    student_bits: Literal[4] | None = Field(
        None, description="4: the student's frozen weights in 4 bits while it is trained and scored (bitsandbytes)"
    )
    gradient_checkpointing: bool = Field(
        False, description="fine-tuning computes activations twice instead of keeping them: slower, less memory"
    )

    @field_validator("memory_budget", mode="before")
    @classmethod
    def _is_a_size(cls, value: object) -> object:
        try:
            if isinstance(value, str) and not re.fullmatch(r"\s*[\d.]+\s*[a-zA-Z]*\s*", value):
                raise ValueError  # pydantic takes what it understands of "3,5GB": 3
            return None if value is None else TypeAdapter(ByteSize).validate_python(value)
        except ValueError:
            raise ValueError(f"{value!r} given; a size such as 3.5GB or 500MB is right") from None


def flags_of(changes: Mapping[str, Any]) -> list[str]:
    """Return changes of settings as flags of a command that computes; those that are no flags are left out."""
    flags = [name for name, field in Settings.model_fields.items() if field.json_schema_extra]
    given = {f"--{name.replace('_', '-')}": changes.get(name) for name in flags}
    return [flag if value is True else f"{flag}={value}" for flag, value in given.items() if value not in (None, False)]


def usable_cores() -> int:
    """Return how many cores this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_settings(place: Workspace, **flags: object) -> Settings:
    """Read `settings.yaml` of the workspace, let flags that are not None win, and honour $HF_HUB_OFFLINE.

    Of a part, such as `ray`, a flag is a mapping: its keys win over the same keys of the file.

    Raises:
        SpecError: the file or a flag is not valid; names the key.
    """
    values = _written(place)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        values["offline"] = True
    return _valid(_with(values, flags))


def change_settings(place: Workspace, **changes: object) -> None:
    """Write settings into `settings.yaml`, where they are valid; what else a person has written there stays.

    Args:
        place: the workspace.
        changes: of a part, such as `ray`, a mapping, of which the keys that are given change; None takes away a key
            of the file, and its default counts.

    Raises:
        SpecError: the file or a change is not valid; names the key. Nothing was written.
        OSError: it cannot be written.
    """
    before = _written(place)
    after = _with(before, {key: value for key, value in changes.items() if value is not None})
    for key, value in changes.items():
        if isinstance(value, Mapping):
            after[key] = {name: one for name, one in after[key].items() if one is not None}
        if value is None or after[key] == {}:
            after.pop(key, None)
    if secret_in(after) is not None:
        raise SpecError(f"{place.settings_file.name}: {SECRET}")
    _valid(dict(after))
    if after != before:
        text = read_text(place.settings_file) if place.settings_file.exists() else ""
        write_atomic(place.settings_file, _edited(text, before, after))


def _edited(text: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return a text of settings with other values; the lines of keys that stay, and comments, are as they were."""
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    lines, block, inside = [], [], False
    for line in text.splitlines():
        if line[:1] not in ("", " ", "\t", "#"):
            inside = line.partition(":")[0].strip() in changed
            lines, block = [*lines, *block], []
        if not inside:
            lines.append(line)
        elif not line.strip() or line.startswith("#"):
            block.append(line)  # if another key follows, it is that one's
        else:
            block = [] if line[:1] in (" ", "\t") else block
    new = "\n".join([*lines, *block, ""]) if text else ""
    rest = {key: after[key] for key in changed if key in after}
    new += yaml.safe_dump(rest, sort_keys=False, allow_unicode=True) if rest else ""
    with suppress(SpecError):
        if (load_yaml(new, "settings") or {}) == after:
            return new
    return yaml.safe_dump(dict(after), sort_keys=False, allow_unicode=True)  # not in lines of their own, such as JSON


def _written(place: Workspace) -> dict[str, Any]:
    """Return what the settings file says."""
    if not place.settings_file.exists():
        return {}
    try:
        values = load_yaml(read_text(place.settings_file), place.settings_file.name) or {}
    except SpecError as error:
        raise SpecError(f"settings: not readable YAML; correct or delete the file ({error})") from None
    if not isinstance(values, dict):
        raise SpecError(f"{place.settings_file.name}: must hold keys and values; correct or delete it")
    if secret_in(values) is not None:  # first, because other refusals repeat the value
        raise SpecError(f"{place.settings_file.name}: {SECRET}")
    return values


def _with(values: Mapping[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    """Return values with those of the changes that are not None; of a part the keys that are given."""
    merged = dict(values)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            merged[key] = {**merged[key], **value}
        elif value is not None:
            merged[key] = dict(value) if isinstance(value, Mapping) else value
    return merged


def _valid(values: dict[str, Any]) -> Settings:
    try:
        return Settings.model_validate(values)
    except OverflowError:
        raise SpecError("settings: a number is beyond all measure; give plain numbers and text") from None
    except ValidationError as error:
        first = error.errors()[0]
        key, part = ".".join(map(str, first["loc"])), {"ray": RaySettings, "slurm": SlurmSettings}
        names = ", ".join((part.get(first["loc"][0], Settings) if len(first["loc"]) > 1 else Settings).model_fields)
        _, ours, problem = first["msg"].rpartition("Value error, ")
        problem = "must hold keys and values" if first["type"] == "model_type" else problem if ours else problem.lower()
        raise SpecError(f"settings: '{key}': {problem}; known settings are {names}") from None
