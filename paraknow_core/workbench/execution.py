"""Where runs are executed: as people choose it, and what that means for runs before they are started."""

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from paraknow_core.display import duration
from paraknow_core.engines import engine_class
from paraknow_core.engines.choice import Choice, as_started, choose
from paraknow_core.errors import SpecError
from paraknow_core.files.disk import file_stamp
from paraknow_core.paths import Workspace
from paraknow_core.runs.status import Status
from paraknow_core.settings import RaySettings, Settings, SlurmSettings, change_settings, load_settings
from paraknow_core.spec import RunSpec
from paraknow_core.studies import same
from paraknow_core.studies.folder import CellState, StudyFolder
from paraknow_core.workbench.access import Access
from paraknow_core.workbench.past_runs import estimate_runs

EVERY_S = 20  # a study's time left is worked out anew


@dataclass(frozen=True)
class Place:
    """Where runs can be executed: how people read it, and what of the settings it takes (group, key -> label)."""

    label: str
    text: str
    group: str = ""
    fields: Mapping[str, str] | None = None


# Engine -> place, as `settings.EngineName` names them.
PLACES = {
    "auto": Place("Chosen for you", "A Ray or SLURM cluster where the settings name one, else this machine."),
    "queue": Place("This machine, queue", "One queue for all windows; small runs go on beside each other."),
    "local": Place("This machine, at once", "Every start has a process of its own, beside whatever is going on."),
    "ray": Place(
        "Ray",
        "Runs are tasks of a Ray cluster; one whose node is lost goes on at another.",
        "ray",
        {"address": "Address", "cpus": "Cores for each run", "gpus": "GPUs for each run", "shared": "Shared storage"},
    ),
    "slurm": Place(
        "SLURM",
        "Every run is a job, submitted from this machine with sbatch.",
        "slurm",
        {
            "partition": "Partition",
            "account": "Account",
            "time": "Time limit",
            "memory": "Memory",
            "options": "More options of sbatch",
        },
    ),
}


def engine_now(settings: Settings) -> str:
    """Return the engine that the settings name; none is like `auto`."""
    return settings.engine or "auto"


def values_of(settings: Settings, engine: str) -> dict[str, Any]:
    """Return what the settings say for an engine, as its fields show it."""
    group = PLACES[engine].group
    values = getattr(settings, group).model_dump() if group else {}
    return values | ({"options": shlex.join(values["options"])} if "options" in values else {})


def help_of(engine: str, key: str) -> str:
    """Return what a field of an engine means."""
    part = {"ray": RaySettings, "slurm": SlurmSettings}[engine]
    words = part.model_fields[key].description or ""
    return f"{words[:1].upper()}{words[1:]}."


def choose_engine(place: Workspace, access: Access, engine: str, values: Mapping[str, Any]) -> None:
    """Write into the settings where runs are executed from now on.

    Args:
        place: the workspace.
        access: what this visitor may do.
        engine: one of `PLACES`.
        values: of its fields, as people give them.

    Raises:
        ParaknowError: one sentence: this visitor may not, what the engine needs is not installed, or a value is not
            valid; nothing was written.
        OSError: the workspace cannot be written.
    """
    access.check_settings()
    if engine != "auto":
        engine_class(engine)(place)
    given = {key: value.strip() or None if isinstance(value, str) else value for key, value in values.items()}
    if "options" in given:
        given["options"] = _options(given["options"] or "")
    if given.get("shared") is RaySettings().shared:
        given["shared"] = None
    group = PLACES[engine].group
    change_settings(place, engine=engine, **{group: given} if group else {})


def _options(text: str) -> list[str] | None:
    try:
        return shlex.split(text) or None
    except ValueError as error:
        raise SpecError(f"settings: 'slurm.options': {str(error).lower()}; close what is quoted") from None


def choice_of(place: Workspace, specs: Sequence[RunSpec], study: bool = False) -> Choice:
    """Choose who executes runs, as their start will; equal ones count once. Looked at anew every minute.

    Args:
        place: the workspace.
        specs: of the runs.
        study: a study's process conducts them; else a page hands them in.

    Raises:
        SpecError: the settings are not valid.
    """
    distinct = {same.run_key(spec): spec for spec in reversed(specs)}
    data = tuple(spec.model_dump_json() for spec in [*distinct.values()][::-1])
    stamps = file_stamp(place.settings_file), file_stamp(place.runs)
    return _choice(place, data, study, *stamps, time.time() // 60)


@lru_cache(32)
def _choice(place: Workspace, specs: tuple[str, ...], study: bool, *changes: object) -> Choice:
    del changes  # only part of the key under which the result is kept
    settings = as_started(load_settings(place), study)
    estimate = partial(estimate_runs, processes=settings.processes)
    return choose([RunSpec.model_validate_json(spec) for spec in specs], place, settings, estimate)


def left_of_study(folder: StudyFolder, status: Status, cells: Sequence[CellState]) -> str:
    """Say how long a study that goes on will still take, as far as that is known: `about 4 m 10 s left`.

    Args:
        folder: of the study.
        status: its own, whose message says what its process has measured; before its first run has ended, and for
            both its stages together, earlier runs like these say it.
        cells: all of them.
    """
    measured = re.findall(r"about ([^;]+) left", status.message)
    if measured and status.stage == "test":
        return f"about {measured[-1]} left"
    done = sum(one.state == "done" for one in cells)
    known = _seconds(folder, done, file_stamp(folder.place.settings_file), time.time() // EVERY_S)
    if known is not None:
        going = {one.run.id: one.run for one in cells if one.run is not None and one.state == "running"}
        at_a_time = known.workers or max(1, len(going))
        spent = sum(max(0.0, time.time() - run.status().started) for run in going.values())
        seconds = (known.seconds * (known.workers or 1) - spent) / at_a_time
        about = f"about {duration(round(seconds, -1) if seconds > 10 else 10.0)}"
        if known.workers:
            return f"{about} left"
        return f"{about} left if {at_a_time} go on at a time" if going else f"{about} of computing"
    return f"about {measured[-1]} left of choosing learning rates" if measured else ""


@dataclass(frozen=True)
class _Takes:
    """Seconds that runs take, so many at a time; 0: a cluster decides, and one after the other they take so long."""

    seconds: float
    workers: int


@lru_cache(32)
def _seconds(folder: StudyFolder, *changes: object) -> _Takes | None:
    """Return what a study's missing runs take; None where that is not known."""
    del changes  # only part of the key under which the result is kept
    missing = [one.cell.spec for one in folder.cells() if one.state != "done"]
    choice = choice_of(folder.place, missing, study=True)
    if choice.alternative_seconds is None:
        return None
    here = choice.seconds is not None
    return _Takes(choice.seconds, choice.workers) if here else _Takes(choice.alternative_seconds, 0)
