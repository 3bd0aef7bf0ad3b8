"""The command behind the pages' helping processes; people do not need it."""

import sys
from typing import Annotated, Literal

import typer

SERVICES = {
    "desk": "paraknow_core.workbench.desk.serve",
    "desk-hand": "paraknow_core.workbench.desk.serve",
    "queue": "paraknow_core.engines.queue_service",
    "ray": "paraknow_core.engines.ray_service",
    "playground": "paraknow_core.workbench.playground.serve",
}


def serve(
    context: typer.Context,
    name: Annotated[Literal["desk", "desk-hand", "queue", "ray", "playground"], typer.Argument()],
) -> None:
    """Serve a workspace until idle: the desk answers questions, the queue starts runs, ray gives them to a cluster."""
    from importlib import import_module

    module = import_module(SERVICES[name])
    (module.work if name == "desk-hand" else module.serve)(context.obj)


def hold_part() -> None:
    """Hold a part of a student in training, for the run whose process starts this and writes orders to it."""
    from paraknow_core.training.parts import serve as hold

    hold(sys.stdin)
