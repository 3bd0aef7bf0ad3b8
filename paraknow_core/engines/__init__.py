"""Engines: who executes run folders. They start `python -m paraknow_core run <folder>` and never import the pipeline.

`base.py` says what an engine does. To add one: a file with its class, a row in `ENGINES`, its name in
`settings.EngineName`; `tests/engines/test_contract.py` then tests it like the others. `workers.py` is the
warm processes of the queue and of studies; `choice.py` chooses for people.
"""

from importlib import import_module
from typing import Any

from paraknow_core.engines import queue
from paraknow_core.engines.base import Engine, Standing
from paraknow_core.engines.choice import elsewhere
from paraknow_core.engines.local import LocalEngine
from paraknow_core.engines.queue import QueueEngine
from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.settings import load_settings

__all__ = [
    "ENGINES",
    "Engine",
    "LocalEngine",
    "QueueEngine",
    "Standing",
    "end_now",
    "engine_class",
    "engine_of",
    "holder_of",
]

# Name, which is also that of the file, and class; loaded when first wanted, because its package may be missing.
ENGINES = {"local": "LocalEngine", "queue": "QueueEngine", "ray": "RayEngine", "slurm": "SlurmEngine"}


def engine_class(name: str) -> type[Engine]:
    """Return the class of an engine.

    Raises:
        RunError: there is none of this name, or what it needs is not installed.
    """
    if name not in ENGINES:
        raise RunError(f"engine: '{name}' given; one of {', '.join(ENGINES)} is right")
    try:
        module = import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise RunError(f"engine {name}: not there yet ({error.name} is missing); choose another one") from None
    return getattr(module, ENGINES[name])


def engine_of(place: Workspace, otherwise: str = "queue", name: str | None = None, **changes: Any) -> Engine:
    """Return the engine of a workspace: the one way by which pages and commands submit runs.

    Args:
        place: the workspace.
        otherwise: which, where the settings name none, nor a cluster, or cannot be read (the run itself will say why
            not).
        name: which, whatever the settings name.
        changes: of the settings, for this engine and the runs that it is given: `ray={"address": "auto"}, threads=2`.

    Raises:
        SpecError: a name or a change is not valid.
        RunError: what the engine needs is not installed.
    """
    try:
        settings = load_settings(place, engine=name, **changes)
        cluster = elsewhere(settings)
        chosen = cluster[0] if cluster else settings.engine
    except ParaknowError:
        if name or changes:
            raise
        chosen = None
    kind = otherwise if chosen in (None, "auto") else chosen
    return engine_class(kind)(place, **changes)


def holder_of(place: Workspace, run: RunFolder) -> Engine:
    """Return the engine that a run was given to and that only it can ask about the run, whatever the settings say now.

    That of a process of this machine is the queue's: it knows every one of them.
    """
    name = run.note().get("engine")
    return engine_class(name)(place) if name in ENGINES else QueueEngine(place)


def end_now(place: Workspace, run: RunFolder) -> None:
    """End a run that was asked to stop, by force if need be, without waiting for it.

    Raises:
        RunError: the run is not active, or the engine that holds it cannot be reached.
    """
    holder = holder_of(place, run)
    if isinstance(holder, LocalEngine | QueueEngine):
        queue.end(place, run)
    else:
        holder.stop(run, grace_s=0)
