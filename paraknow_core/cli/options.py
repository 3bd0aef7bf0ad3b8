"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from paraknow_core.errors import RunError, SpecError
from paraknow_core.paths import Workspace

if TYPE_CHECKING:
    from paraknow_core.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"] | None, typer.Option(help="Where to compute (default: settings file, auto).")
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option(help="What to compute in (default: settings file, float32); auto: 16 bits where faster here."),
]
MemoryBudget = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory for measuring a teacher, e.g. 3.5GB (default: what is available)."),
]
Streaming = Annotated[
    Literal["auto", "always", "never"] | None,
    typer.Option(help="Measure a teacher layer by layer (default: where it does not fit the memory budget)."),
]
Keep = Annotated[
    Literal["auto", "full", "reductions"] | None,
    typer.Option(help="What to keep of a sensitivity (default: all of it where the teacher fits into memory)."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads (default: settings file, all cores).")]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask a hub; only what is on this machine.")]
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


def settings_of(
    place: Workspace, device: str | None, dtype: str | None, threads: int | None, offline: bool, **more: str | None
) -> "Settings":
    """Return the machine's settings: flags win over the settings file."""
    from paraknow_core.settings import load_settings

    return load_settings(place, device=device, dtype=dtype, threads=threads, offline=offline or None, **more)


def columns_of(given: list[str] | None) -> dict[str, str]:
    """Return `task.columns` of options such as question=problem.

    Raises:
        SpecError: one is not of that form, or names a part again.
    """
    columns: dict[str, str] = {}
    for each in given or ():
        part, equals, name = each.partition("=")
        part = part.strip()
        if not equals or not part:
            raise SpecError(f"--columns: '{each[:60]}' given; write PART=NAME, such as question=problem")
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
