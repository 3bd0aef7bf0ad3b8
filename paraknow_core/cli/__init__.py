"""The command line. Commands parse, call the core, and print; heavy libraries are imported inside the commands."""

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from paraknow_core import __version__
from paraknow_core.cli import demo, describe, run, runs, serve, specs, study, transfer, ui
from paraknow_core.cli.console import say
from paraknow_core.display import one_line
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.paths import workspace

PROGRAM = "python -m paraknow_core"
# Causes outside the program that a person can mend; any other OSError is a bug and keeps its traceback.
MENDABLE = {
    errno.EACCES: "permission denied; choose a place you may write to",
    errno.EPERM: "not permitted; choose a place you may write to",
    errno.EROFS: "read-only file system; choose a place you may write to",
    errno.ENOSPC: "no space left on the device; free some (`runs delete` removes old runs) and try again",
    errno.EDQUOT: "your disk quota is used up; free some (`runs delete` removes old runs) and try again",
    errno.EFBIG: "too large for this file system or its limits; choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"paraknow {__version__}")
        raise typer.Exit


@app.callback()
def globals_(
    context: typer.Context,
    workspace_folder: Annotated[
        Path | None,
        typer.Option("--workspace", metavar="DIR", help="Where runs and caches live (default: cache/ of the project)."),
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Parametric knowledge transfer between language models: look inside two models, transfer, train, compare."""
    place = workspace(workspace_folder)
    if place.root.exists() and not place.root.is_dir():
        raise RunError(f"--workspace: {place.root} is a file; give a folder")
    context.obj = place


for command in (
    demo.demo,
    describe.inspect,
    describe.compat,
    describe.models,
    describe.tasks,
    describe.methods,
    transfer.sensitivity,
    transfer.extract,
    run.run,
    ui.ui,
):
    app.command()(command)
app.add_typer(runs.app, name="runs")
app.add_typer(specs.app, name="spec")
app.add_typer(study.app, name="study")
for command in (serve.serve, serve.hold_part, run.work):
    app.command(hidden=True)(command)


def main(arguments: list[str]) -> int:
    """Run one command.

    Args:
        arguments: as typed, without the program's name.

    Returns:
        0: success; 2: something the user can mend, said in one sentence on stderr; 130: interrupted.
        Anything else that goes wrong is a bug and raises.
    """
    try:
        code = app(args=arguments or ["--help"], prog_name=PROGRAM, standalone_mode=False)
    except TyperException as error:  # a flag or argument that does not fit
        context = getattr(error, "ctx", None)
        path = context.command_path if context else PROGRAM
        problem = one_line(error.format_message()).replace("Value error, ", "").rstrip(".")
        say(f"{path.removeprefix(PROGRAM).strip() or 'command'}: {problem}; see `{path} --help`")
        return 2
    except ParaknowError as error:
        say(str(error))
        return 2
    except typer.Abort:
        return 130
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        say(f"{error.filename or 'files'}: {MENDABLE[error.errno]}")
        return 2
    sys.stdout.flush()
    return code if isinstance(code, int) else 0
