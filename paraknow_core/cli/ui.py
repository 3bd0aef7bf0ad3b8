"""The command that opens the workbench in the browser."""

from pathlib import Path
from typing import Annotated

import typer


def ui(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on (default: this machine only).")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open a browser window.")] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="For a class: bundled models, small runs, no uploads, no deletes.")
    ] = False,
    root: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="With --host: a folder whose models and data others may name (repeatable)."),
    ] = None,
    allow_hub: Annotated[
        bool, typer.Option("--allow-hub", help="With --host: others may name hub ids, read with your hub token.")
    ] = False,
) -> None:
    """Open the workbench in the browser; Ctrl-C ends it, runs go on."""
    from paraknow_core.workbench.launcher import launch

    raise typer.Exit(
        launch(context.obj, host, port, open_browser=not no_browser, demo=demo, roots=root or (), hub=allow_hub)
    )
