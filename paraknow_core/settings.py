"""Settings: where and how this machine computes. They are never part of a spec, so that a spec stays portable."""

import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ByteSize, Field, TypeAdapter, ValidationError, field_validator

from paraknow_core.errors import SpecError
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
        None, ge=1, le=64, description="runs of a study that are trained in one pass; null: by rule, several on a GPU"
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


def usable_cores() -> int:
    """Return how many cores this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_settings(place: Workspace, **flags: object) -> Settings:
    """Read `settings.yaml` of the workspace, let flags that are not None win, and honour $HF_HUB_OFFLINE.

    Of a part, such as `ray`, a flag is a mapping: its keys win over the same keys of the file.

    Raises:
        SpecError: the file or a flag is not valid; names the key.
    """
    values: dict = {}
    if place.settings_file.exists():
        try:
            values = load_yaml(read_text(place.settings_file), place.settings_file.name) or {}
        except SpecError as error:
            raise SpecError(f"settings: not readable YAML; correct or delete the file ({error})") from None
        if not isinstance(values, dict):
            raise SpecError(f"{place.settings_file.name}: must hold keys and values; correct or delete it")
        if secret_in(values) is not None:  # first, because other refusals repeat the value
            raise SpecError(f"{place.settings_file.name}: {SECRET}")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        values["offline"] = True
    for key, value in flags.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            values[key] = {**values[key], **value}
        elif value is not None:
            values[key] = value
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
