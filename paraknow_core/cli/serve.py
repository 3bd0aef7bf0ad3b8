"""The command behind the pages' helping processes; people do not need it."""

from typing import Annotated, Literal

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command(hidden=True)(serve)


def serve(context: typer.Context, name: Annotated[Literal["desk"], typer.Argument()]) -> None:
    """Serve the pages of a workspace until idle: the desk answers questions."""
    from importlib import import_module

    import_module(f"paraknow_core.{name}.serve").serve(context.obj)
