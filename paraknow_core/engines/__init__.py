"""Engines: who executes run folders. They start `python -m paraknow_core run <folder>` and never import the pipeline.

`base.py` says what an engine does. To add one: a file with its class, a row in `ENGINES`, its name in
`settings.Settings.engine`; `tests/engines/test_contract.py` then tests it like the others.
"""

from paraknow_core.engines.base import Engine
from paraknow_core.engines.local import LocalEngine
from paraknow_core.engines.queue import QueueEngine
from paraknow_core.errors import ParaknowError
from paraknow_core.paths import Workspace
from paraknow_core.settings import load_settings

ENGINES: dict[str, type[Engine]] = {"local": LocalEngine, "queue": QueueEngine}


def engine_of(place: Workspace, otherwise: str = "queue") -> Engine:
    """Return the engine of a workspace: the one way by which pages and commands submit and stop runs.

    Args:
        place: the workspace.
        otherwise: which, where the settings name none or cannot be read (the run itself will say why not).
    """
    try:
        name = load_settings(place).engine
    except ParaknowError:
        name = None
    return ENGINES[name or otherwise](place)
