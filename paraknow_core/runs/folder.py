"""Reading run folders, which are the protocol between the process that computes a run and everyone who looks at it.

`writer.py` writes a folder from inside its run; `lifecycle.py` creates, requeues, stops and deletes it from outside.
"""

import os
import socket
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files import shapes
from paraknow_core.files.json_file import open_plain, read_json, read_lines, read_object
from paraknow_core.files.naming import is_there
from paraknow_core.files.remember import EVERY_RUN, once_a_look, while_unchanged
from paraknow_core.paths import Workspace, contained
from paraknow_core.runs.processes import is_alive, is_held
from paraknow_core.runs.status import CANCELLED, CUT_OFF, ENDED, STATES, Status
from paraknow_core.spec import RunSpec, read_spec

LISTED = "`runs list` shows them all"
NOTE = "engine.json"


@dataclass(frozen=True)
class JobFolder:
    """A folder that one process at a time works in, and that everybody reads: a run, or a study of runs.

    Reading never fails on a half-written or missing file.

    Attributes:
        noun: what it is, in messages and as its group of commands.
    """

    path: Path
    noun: ClassVar[str] = "job"

    @property
    def id(self) -> str:
        """The folder's name; characters that cannot be written out are escaped."""
        name = self.path.name
        return name if name.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)

    def file(self, name: str) -> Path:
        return self.path / name

    def name_of(self, file: str) -> str:
        """Return the same as text, for those who look at thousands of folders."""
        return f"{self.path}/{file}"

    def status(self) -> Status:
        """Return the true state: `lost` for a run whose process is gone, `stopping` for one that was asked to stop.

        One whose process is gone after it was asked to stop is `stopped`. None of these waits for the run: a process
        that was killed cannot write so, and a busy one sees a stop request only at its next step.
        """
        file = self.name_of("status.json")
        data = read_object(file)
        if data.get("state") not in STATES and is_there(Path(file)):
            return Status("failed", message=self._damaged("status.json", "it does not say what the run is doing"))
        status = Status.from_dict(data)
        note = self.note() if status.active or status.state == "stopped" else {}
        if isinstance(note.get("gone"), str):
            wanted = note.get("wanted") is True or self._is_to_stop
            return replace(status, state="stopped" if wanted else "lost", message=note["gone"])
        if status.state == "queued":
            process = self.process()
            if process.get("attempt") != status.attempt or is_alive(process, "launched"):
                return status
            if self._is_to_stop:
                return replace(status, state="stopped", message=CANCELLED)
            return replace(status, state="lost", message="the process ended before it began")
        if status.active and not self._is_worked_on(status):
            now = self.written()
            if now.state in STATES and (now.state, now.attempt) != (status.state, status.attempt):
                return self.status()  # it has ended, or begun anew, since its state was read
            way_on = self.way_on(status.stage)
            if self._is_to_stop:  # who asks for a stop is told of no loss
                return replace(status, state="stopped", message=f"{CUT_OFF}; {way_on}")
            return replace(status, state="lost", message=f"the process is gone; {way_on}")
        return replace(status, state="stopping") if status.state == "running" and self._is_to_stop else status

    @property
    def _is_to_stop(self) -> bool:
        return (self.path / "stop").exists()

    @property
    def is_over(self) -> bool:
        """True once it is written how the run ended: by itself, or by who knows that no process works on it.

        Other than `status`, it infers nothing from a process that is gone: an engine may bring the run elsewhere.
        """
        return self.written().state in ENDED

    def _is_worked_on(self, status: Status) -> bool:
        """Tell whether the process of a running run is alive and still works on it.

        One process may execute many runs, so that it is alive is not enough: it holds the lock while it works.
        """
        lock = self.path / "lock"
        if not is_alive(vars(status), "heartbeat", lock):
            return False
        return status.host != socket.gethostname() or not lock.is_file() or is_held(lock)

    def written(self) -> Status:
        """Return the content of status.json, which may be out of date: the process may be gone (see `status`)."""
        return Status.from_dict(read_object(self.path / "status.json"))

    def process(self) -> dict:
        """Return the process that was started for the run or has taken it on, and for which attempt; empty if none."""
        return read_object(self.name_of("process.json"))

    @property
    def claimed(self) -> bool:
        """True once a process was started for the run or has taken it on, alive or not, or an engine holds it."""
        return (self.path / "process.json").exists() or (self.path / NOTE).exists()

    def note(self) -> dict:
        """Return which engine holds the run, and what finds it there (`lifecycle.hold`); empty for a plain process."""
        return read_object(self.name_of(NOTE))

    def way_on(self, stage: str) -> str:
        """Return a sentence that says where `resume` goes on if this stage was cut off."""
        del stage
        return "resume goes on with what is not done yet"

    def events(self) -> list[dict]:
        """Read all complete event lines, oldest first."""
        return read_lines(self.path / "events.jsonl")

    def _damaged(self, name: str, why: str) -> str:
        who = f"{self.noun} {self.id}"
        return f"{who}: {name} is damaged ({why}); delete the {self.noun}, or put back the file that it wrote"

    def log_tail(self, lines: int = 40, limit: int = 64_000) -> str:
        """Return the end of the process's own output (at most `limit` bytes)."""
        try:
            with open_plain(self.path / "log.txt") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - limit))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        # A progress bar redraws its line with a carriage return: only the last drawing counts.
        return "\n".join(line.rsplit("\r", 1)[-1] for line in text.splitlines()[-lines:])


@dataclass(frozen=True)
class RunFolder(JobFolder):
    """One run on disk."""

    noun: ClassVar[str] = "run"

    def spec(self) -> RunSpec:
        """Read the frozen spec.

        Raises:
            SpecError: the folder holds no valid spec.
        """
        return _spec(self)

    def saved_step(self) -> int | None:
        """Return the newest optimiser step that was saved completely; None if there is none."""
        marks = self.path.glob("checkpoints/checkpoint-*/complete")
        steps = (mark.parent.name.removeprefix("checkpoint-") for mark in marks)
        return max((int(step) for step in steps if step.isdecimal() and len(step) < 19), default=None)

    def way_on(self, stage: str) -> str:
        """Return a sentence that says where `resume` goes on if this stage was cut off."""
        step = self.saved_step()
        if step is not None and stage in ("export", "evaluation"):
            return f"training is done, and resume goes on with the {stage}"
        if step is not None:
            return f"resume continues from its last save, step {step:,}"
        if stage == "sensitivity":
            return "resume measures again, without the layers that a streamed measurement has finished"
        return "no step was saved, so resume starts again from the first one"

    def metrics(self) -> list[dict]:
        """Return one record a training step, in order; a step that was repeated after a resume counts once."""
        by_step: dict[int, dict] = {}
        for event in self.events():
            if event.get("event") == "metrics":
                event, _ = shapes.fit(event, shapes.METRICS)
                if event is not shapes.MISSING:
                    by_step[event["step"]] = {**by_step.get(event["step"], {}), **event}
        return [by_step[step] for step in sorted(by_step)]

    def result(self) -> dict | None:
        """Return what the run produced, without values that no run writes; None if there is nothing valid."""
        return self.read_result()[0]

    def read_result(self) -> tuple[dict | None, str]:
        """Return what the run produced, as far as it is valid, and a sentence that says what is damaged, or none."""
        file = self.name_of("result.json")
        content = read_json(file)
        if content is None and not is_there(Path(file)):
            return None, ""
        result, lost = shapes.fit_result(content)
        if result is shapes.MISSING:
            return None, self._damaged("result.json", "it cannot be read")
        return result, self._damaged("result.json", f"{lost[0]} is not what a run writes") if lost else ""

    def extraction(self) -> dict:
        """Return the record of which block went where, as far as it is valid; empty where there is none."""
        return _fitting(read_json(self.path / "extraction.json"), shapes.EXTRACTION)

    def measured(self) -> dict:
        """Return what measuring the sensitivity took, `seconds` and `memory`; empty where that is not known."""
        taken = read_object(self.path / "sensitivity.json").get("measured")
        return _fitting(taken, {"seconds": shapes.MAYBE_NUMBER, "memory": shapes.MAYBE_NUMBER})

    def predictions(self) -> list[dict]:
        """Return one record per scorer and test example, the last one written; invalid lines are left out."""
        records = (_fitting(line, shapes.PREDICTION) for line in read_lines(self.path / "predictions.jsonl"))
        return list({(record["scorer"], record["id"]): record for record in records if record}.values())


@while_unchanged(lambda run: [run.name_of("spec.yaml")], most=EVERY_RUN)
def _spec(run: RunFolder) -> RunSpec:
    return read_spec(run.path / "spec.yaml")


@while_unchanged(lambda run: [run.name_of("result.json")], most=EVERY_RUN)
def result_once(run: RunFolder) -> tuple[dict | None, str]:
    """Return `RunFolder.read_result`, read once until the file is written again; not to be changed."""
    return run.read_result()


def _fitting(data: object, shape: object) -> dict:
    valid, _ = shapes.fit(data, shape)
    return {} if valid is shapes.MISSING else valid


def find_run(place: Workspace, name: str) -> RunFolder:
    """Return the run with this id, or the only one whose id begins with it.

    Raises:
        RunError: none or several match.
    """
    path = contained(place.runs, name)
    if is_there(path / "spec.yaml"):
        return RunFolder(path)
    matches = [run for run in list_runs(place) if run.id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    problem = "no run has this id" if not matches else f"{len(matches)} runs begin with it"
    raise RunError(f"run '{name}': {problem}; {LISTED}")


@once_a_look(lambda place: [place.runs])
def list_runs(place: Workspace) -> list[RunFolder]:
    """Return all run folders, newest first (ids begin with the time); the list is not to be changed."""
    if not place.runs.is_dir():
        return []
    root = str(place.runs)  # plain text: pages list thousands of runs several times a draw, and paths cost more
    names = sorted((entry.name for entry in os.scandir(root) if not entry.name.startswith(".")), reverse=True)
    return [_run_at(f"{root}/{name}") for name in names if os.path.lexists(f"{root}/{name}/spec.yaml")]


@lru_cache(EVERY_RUN)
def _run_at(path: str) -> RunFolder:
    """Return the same object for the same folder: what is remembered of it is found by its path, parsed once."""
    return RunFolder(Path(path))


@once_a_look(lambda place: [place.runs])
def readable(place: Workspace) -> list[tuple[RunFolder, RunSpec]]:
    """Return the runs of a workspace whose spec can be read, newest first; the list is not to be changed."""
    return [(run, spec) for run in list_runs(place) if (spec := _spec_or_none(run)) is not None]


def _spec_or_none(run: RunFolder) -> RunSpec | None:
    try:
        return run.spec()
    except ParaknowError:
        return None
