"""Choosing for people who executes runs here and how many at a time, and saying why in one line. Arithmetic only."""

import math
import platform
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paraknow_core.display import counted, duration, memory
from paraknow_core.memory import available_bytes
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings, usable_cores
from paraknow_core.spec import RunSpec
from paraknow_core.training.amounts import pack_key, student_of, threads_of_spec
from paraknow_core.training.estimates import (
    LEFT_FREE,
    PROCESS,
    PackShare,
    guess_pack_share,
    in_a_row,
    pack_bytes,
    packs_within,
)

RUN_BYTES = 1.5e9  # what a run of small models takes, where nothing says more
PACK = 16  # runs that are trained in one pass on a GPU: beyond that, what is a run's own outweighs what is shared
PACKED_SHARE = 0.2  # of its time alone, that a further run adds to a pack: assumed, until packs were timed on a GPU
_GPU = (Path("/proc/driver/nvidia/version"), Path("/dev/kfd"))


@dataclass(frozen=True)
class Machine:
    """What there is to compute with: cores (for each process of a run), bytes of free memory, a GPU or none."""

    cores: int
    free: float
    gpu: bool = False

    @classmethod
    def here(cls, settings: Settings) -> "Machine":
        """Look at this machine."""
        found = any(file.exists() for file in _GPU) or (platform.system(), platform.machine()) == ("Darwin", "arm64")
        gpu = found if settings.device == "auto" else settings.device != "cpu"
        return cls(max(1, usable_cores() // settings.processes), available_bytes(), gpu)


@dataclass(frozen=True)
class Choice:
    """Who executes runs, and how.

    Attributes:
        engine: as the settings name it; `local` is this command's own process and its workers.
        workers: how many runs are executed at the same time.
        threads: of each run, the most of them.
        packs: groups of runs, by their place, that are trained in one pass together.
        seconds: that it takes; None where nothing is known of such runs.
        alternative_seconds: one run after the other.
        sentence: all of that for people.
        memory: bytes that the largest pack takes, on the GPU if there is one; None without packs.
    """

    engine: str
    workers: int
    threads: int
    packs: tuple[tuple[int, ...], ...] = field(default=())
    seconds: float | None = None
    alternative_seconds: float | None = None
    sentence: str = ""
    memory: float | None = None


def together(threads: Sequence[int], machine: Machine, needs: float = RUN_BYTES, going: int = 0) -> int:
    """Return how many runs may be executed here at the same time.

    Args:
        threads: that each of them takes (`training.amounts.threads_of_spec`).
        machine: whose free memory is what is left beside those that are going on.
        needs: bytes of memory that a run takes at most.
        going: how many are going on.
    """
    if machine.gpu:
        return 1  # runs would take the GPU from one another; they are packed instead
    with_room = going + int((1 - LEFT_FREE) * machine.free // needs)
    return max(1, min(machine.cores // max(threads, default=1), with_room))


def most_in_pack(settings: Settings, machine: Machine) -> int:
    """Return how many runs a pack may have; 1: none is made, as by an engine that has a process for each run."""
    is_own = settings.engine in (None, "auto", "queue") and settings.processes == 1
    return (settings.pack or (PACK if machine.gpu else 1)) if is_own else 1


def packs_of(specs: Sequence[RunSpec], settings: Settings, machine: Machine) -> tuple[tuple[int, ...], ...]:
    """Group runs, by their place, that had better be trained in one pass; each alone where that is of no use.

    A small student leaves a GPU idle, but not a processor: there a pass of many runs takes as long as their passes.
    No pack takes more memory than is free; of a GPU only the runs themselves find out how much that is (`packs`).
    """
    most = most_in_pack(settings, machine)
    if most == 1:
        return tuple((number,) for number in range(len(specs)))
    groups: dict[Hashable, list[int]] = {}
    for number, spec in enumerate(specs):
        key = pack_key(spec)
        groups.setdefault(number if key is None else key, []).append(number)
    room, process = _memory(machine)
    return tuple(
        tuple(group[n] for n in pack)
        for group in groups.values()
        for pack in packs_within([_share(specs[n], machine) for n in group], room, process, most)
    )


def _memory(machine: Machine) -> tuple[float, float]:
    """Return the bytes that a pack may take, and which of them are its process's, where its student is computed."""
    return (math.inf, 0.0) if machine.gpu else ((1 - LEFT_FREE) * machine.free, PROCESS)


def _share(spec: RunSpec, machine: Machine) -> PackShare:
    """Return what a run brings to a pack; nothing is known of a student that is not here."""
    student, device = student_of(spec), "cuda" if machine.gpu else "cpu"
    return PackShare() if student is None else guess_pack_share(student, spec, device)


def pack_seconds(seconds: Sequence[float], gpu: bool = True) -> float:
    """Return what a pack takes whose runs take so long alone; without a GPU, as much as they do in turn."""
    if not gpu:
        return sum(seconds)
    return max(seconds, default=0.0) * (1 + PACKED_SHARE * (len(seconds) - 1))


def choose(
    specs: Sequence[RunSpec],
    place: Workspace,
    settings: Settings,
    estimate: Callable[[Sequence[RunSpec], Workspace], Sequence[Any]],
    machine: Machine | None = None,
) -> Choice:
    """Choose who executes runs.

    Args:
        specs: of the runs, in their order.
        place: the workspace, whose earlier runs say what such runs take.
        settings: `engine`, `workers` and `threads` win, where they are given.
        estimate: `workbench.past_runs.estimate_runs`.
        machine: this one by default.
    """
    machine = machine or Machine.here(settings)
    takes = [one for one in estimate(specs, place) if one is not None] if specs else []
    own, start = in_a_row(takes)
    alone = own + start if specs and len(takes) == len(specs) else None
    threads = max((threads_of_spec(spec, settings) for spec in specs), default=1)
    needs = max((one.in_all or one.memory for one in takes), default=RUN_BYTES) or RUN_BYTES
    runs, cluster = counted(len(specs), "run"), elsewhere(settings)
    if cluster:
        about = f"; here, one after the other, about {_about(alone)}" if alone else ""
        return Choice(cluster[0], 1, threads, (), None, alone, f"{runs} {cluster[1]}{about}")
    count = max(1, min(settings.workers or together([threads], machine, needs), len(specs)))
    engine = settings.engine if settings.engine in ("local", "queue") else "local"
    # Where several go on at a time, they were asked for, or there are cores for them: a pack would be no faster.
    packs = packs_of(specs, settings, machine) if count == 1 else ()
    if any(len(pack) > 1 for pack in packs):
        _, process = _memory(machine)
        most = max(pack_bytes([_share(specs[n], machine) for n in pack], process) for pack in packs if len(pack) > 1)
        sentence = f"{runs} packed in {'one pass' if len(packs) == 1 else f'{len(packs):,} passes'}"
        size = f", {memory(most)} of the GPU" if machine.gpu else f", {memory(most)}"
        if not machine.gpu:
            sentence += f" where that is faster{f', about {_about(alone)}' if alone else ''}{size}"
            return Choice(engine, 1, threads, packs, alone, alone, sentence, most)
        packed = [pack_seconds([takes[n].seconds - takes[n].start for n in pack]) for pack in packs if alone]
        seconds = None if alone is None else sum(packed) + start
        about = (f", about {_about(seconds)}", f"; one after the other about {_about(alone)}") if alone else ("", "")
        return Choice(engine, 1, threads, packs, seconds, alone, f"{sentence}{about[0]}{size}{about[1]}", most)
    if count == 1:
        sentence = runs + (f", about {_about(alone)}" if alone else "")
        if len(specs) > 1:
            sentence = f"{sentence}, one after the other: {_why(threads, machine, settings)}"
        return Choice(engine, 1, threads, (), alone, alone, sentence)
    seconds = None if alone is None else max(own / count, max(one.seconds - one.start for one in takes)) + start
    about = f", about {_about(seconds)}; one after the other about {_about(alone)}" if alone else ""
    sentence = f"{runs} by {count} workers of {counted(threads, 'thread')} each{about}"
    return Choice(engine, count, threads, (), seconds, alone, sentence)


def as_started(settings: Settings, study: bool) -> Settings:
    """Return settings with what a start makes of those that are left open.

    Args:
        settings: of the workspace.
        study: a study's own process executes its runs where they name no engine; the queue executes single ones.
    """
    if elsewhere(settings) or (study and settings.engine in (None, "auto")):
        return settings
    if settings.engine != "local":
        return settings.model_copy(update={"engine": "queue"})
    # One process for all runs of a start; a study gives it one run after the other.
    return settings.model_copy(update={"workers": (settings.workers or 1) if study else 1})


def _about(seconds: float) -> str:
    return duration(round(seconds, -1) if seconds > 60 else seconds)


def elsewhere(settings: Settings) -> tuple[str, str] | None:
    """Return the cluster that the settings speak of, and where that is in words."""
    ray, slurm = settings.ray, settings.slurm
    if settings.engine == "ray" or (settings.engine in (None, "auto") and ray.address):
        return "ray", f"by the Ray cluster at {ray.address}" if ray.address else "by Ray on this machine"
    if settings.engine == "slurm" or (settings.engine in (None, "auto") and (slurm.partition or slurm.account)):
        return "slurm", f"by SLURM, partition {slurm.partition}" if slurm.partition else "by SLURM"
    return None


def _why(threads: int, machine: Machine, settings: Settings) -> str:
    """Say why no two runs are executed at the same time."""
    if machine.gpu:
        return "they share one GPU"
    if settings.workers == 1:
        return "the settings say so"
    if settings.processes > 1:
        return f"{settings.processes} processes share each"
    if threads > 1:
        return f"models of this size use {counted(threads, 'thread')}"
    return "there is one core" if machine.cores == 1 else "there is no memory for a second one"
