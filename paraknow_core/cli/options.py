"""Options that several commands share."""

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import ByteSize

from paraknow_core.errors import ParaknowError, RunError, SpecError
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import JobFolder
from paraknow_core.runs.processes import is_alive
from paraknow_core.settings import EngineName, Settings, load_settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Teacher = Annotated[str, typer.Option(metavar="MODEL", help="bundled:NAME, a local folder, or a hub id.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PART=NAME",
        help="Which field of the data is which part of the prompt, once for each: "
        "question, answer, choices, input, context, system.",
    ),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder.")]


def setting(name: str) -> Any:
    """Return the annotation of a command's parameter for one of the machine's settings."""
    field = Settings.model_fields[name]
    flag, kind = f"--{name.replace('_', '-')}", field.annotation
    if kind is bool:
        return Annotated[bool, typer.Option(flag, help=field.description)]
    if ByteSize in get_args(kind):
        return Annotated[str | None, typer.Option(flag, help=field.description, metavar="SIZE")]
    least = next((limit.ge for limit in field.metadata if hasattr(limit, "ge")), None)
    return Annotated[kind | None, typer.Option(flag, help=field.description, min=least)]


# Told that a command cannot begin: gets the workspace, the command's other arguments, and why.
Refused = Callable[[Workspace, Mapping[str, Any], ParaknowError], None]


def give_up(folder: JobFolder, error: ParaknowError) -> None:
    """End what is queued and cannot begin, with the reason, unless another process has taken it on."""
    process = folder.process()
    if process.get("pid") == os.getpid() or not is_alive(process, "launched"):
        lifecycle.give_up(folder, error)


def with_settings(*names: str, refused: Refused | None = None) -> Callable[[Callable], Callable]:
    """Give a command options for settings; it receives them, with all other settings, as its keyword `settings`.

    If it has a keyword `flags`, it also receives those that were given, for an engine that hands them to runs.

    Args:
        names: the settings that get an option; none for all that are flags. Options win over the settings file.
        refused: called where the settings are not valid.
    """
    chosen = names or tuple(name for name, field in Settings.model_fields.items() if field.json_schema_extra)

    def decorate(command: Callable) -> Callable:
        @functools.wraps(command)
        def with_options(context: typer.Context, **arguments: Any) -> None:
            flags = {name: arguments.pop(name) for name in chosen}
            flags = {name: None if value is False else value for name, value in flags.items()}
            own = {"context": context} if "context" in parameters else {}
            if "flags" in parameters:
                own["flags"] = {name: value for name, value in flags.items() if value is not None}
            try:
                settings = load_settings(context.obj, **flags)
            except ParaknowError as error:
                if refused is not None:
                    refused(context.obj, arguments, error)
                raise
            command(**own, **arguments, settings=settings)

        parameters = inspect.signature(command).parameters
        shown = {"context": inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)}
        for name, parameter in parameters.items():
            for option in chosen if name == "settings" else ():
                kind = setting(option)
                default = False if get_args(kind)[0] is bool else None
                shown[option] = parameter.replace(name=option, annotation=kind, default=default)
            if name not in ("settings", "flags"):
                shown[name] = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        with_options.__signature__ = inspect.Signature(list(shown.values()))
        with_options.__annotations__ = {name: parameter.annotation for name, parameter in shown.items()}
        return with_options

    return decorate


Offline = setting("offline")


EngineOption = Annotated[EngineName | None, typer.Option("--engine", help="Who executes it (default: settings file).")]
Address = Annotated[
    str | None, typer.Option(metavar="A", help="Of a Ray cluster, with the engine ray (default: settings file).")
]


def engine_changes(
    place: Workspace, engine: str | None, address: str | None, flags: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what `--address` and flags of settings change for an engine and its runs, for `engine_of`.

    Raises:
        RunError: an address is given, and the engine is not Ray.
    """
    if address is None:
        return dict(flags or {})
    chosen = engine or load_settings(place).engine
    if chosen != "ray":
        raise RunError(f"--address: only for the engine ray, and {chosen or 'none'} is chosen; add --engine ray")
    return {**(flags or {}), "ray": {"address": address}}


def columns_of(pairs: list[str] | None) -> dict[str, str]:
    """Return `task.columns` from options such as `question=problem`.

    Raises:
        SpecError: one has another form, or names a part for the second time.
    """
    columns: dict[str, str] = {}
    for pair in pairs or ():
        part, equals, name = pair.partition("=")
        part = part.strip()
        if not equals or not part:
            raise SpecError(f"--columns: '{pair[:60]}' given; write PART=NAME, such as question=problem")
        if part in columns:
            raise SpecError(f"--columns: {part[:40]} is given twice; give each part once")
        columns[part] = name.strip()
    return columns


def new_folder(out: Path) -> Path:
    """Return the folder as an absolute path.

    Raises:
        RunError: it already holds something, or is a file.
    """
    folder = out.expanduser().resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "already holds files" if folder.is_dir() else "is a file"
        raise RunError(f"--out: {out} {what}; choose a new or empty folder")
    return folder
