"""Settings: where and how this machine computes. They are never part of a spec, so that a spec stays portable."""

import os
import re
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


class Settings(Strict):
    """Device, precision and network of this machine. Order of precedence: flag, settings file, default.

    To add a setting, add a field; by `_flag` it is a flag of all commands that compute.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = _flag("auto", "Where to compute (default: settings file, auto).")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _flag(
        "float32", "What to compute in (default: settings file, float32); auto: 16 bits where faster here."
    )
    threads: int | None = _flag(None, "CPU threads (default: settings file, all cores).", ge=1, le=4096)
    memory_budget: ByteSize | None = _flag(
        None, "Memory for measuring a teacher, e.g. 3.5GB (default: what is available).", ge=1
    )
    streaming: Literal["auto", "always", "never"] = _flag(
        "auto", "Measure a teacher layer by layer (default: where it does not fit the memory budget)."
    )
    keep: Literal["auto", "full", "reductions"] = _flag(
        "auto", "What to keep of a sensitivity (default: all of it where the teacher fits into memory)."
    )
    offline: bool = _flag(False, "Never ask a hub; only what is on this machine.")
    checkpoint_seconds: float = Field(60, ge=0, description="at most this much training is lost by a kill")
    engine: Literal["local", "queue"] | None = Field(
        None, description="who executes runs; null: the queue for pages, a process of its own for the command line"
    )
    workers: int = Field(1, ge=1, le=64, description="runs of the queue that are executed at the same time")
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
    values.update({key: value for key, value in flags.items() if value is not None})
    try:
        return Settings.model_validate(values)
    except OverflowError:
        raise SpecError("settings: a number is beyond all measure; give plain numbers and text") from None
    except ValidationError as error:
        first = error.errors()[0]
        key, names = ".".join(map(str, first["loc"])), ", ".join(Settings.model_fields)
        _, ours, problem = first["msg"].rpartition("Value error, ")
        problem = problem if ours else problem.lower()
        raise SpecError(f"settings: '{key}': {problem}; known settings are {names}") from None
