"""Run folders: the protocol between whoever computes (one writer) and whoever looks (any number of readers)."""

import os
import re
import secrets
import shutil
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paraknow_core.errors import ParaknowError, RunError
from paraknow_core.files import shapes as whole
from paraknow_core.files.atomic import GRAVE, write_atomic
from paraknow_core.files.disk import file_stamp
from paraknow_core.files.json_file import open_plain, read_json, read_lines, write_json
from paraknow_core.paths import Workspace, contained
from paraknow_core.runs.processes import held, is_alive, is_there
from paraknow_core.runs.processes import this_process as this_process
from paraknow_core.spec import RunSpec, read_spec

if TYPE_CHECKING:
    import pandas

ACTIVE = ("queued", "running", "stopping")
ENDED = ("stopped", "done", "failed", "lost")
WRITTEN = (*ACTIVE, *ENDED)  # what a status.json may say
LISTED = "`runs list` shows them all"
MOST = 1e13  # no time in seconds, and nothing that is counted, comes near
WATCH_S = 6.0  # a run on another host that looks lost is watched for so long before it is deleted


@dataclass(frozen=True)
class Status:
    """What a run is doing. Times are seconds since the epoch; `state` may be `lost`, which only readers infer."""

    state: str = "queued"
    stage: str = ""
    done: float = 0
    total: float = 0
    message: str = ""
    heartbeat: float = 0
    started: float = 0
    ended: float = 0
    host: str = ""
    pid: int = 0
    process_started: float = 0
    boot: str = ""
    attempt: int = 0

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def fraction(self) -> float:
        """Progress within the current stage, 0 to 1."""
        return max(0.0, min(1.0, self.done / self.total)) if self.total > 0 else 0.0

    @classmethod
    def from_dict(cls, data: Any) -> "Status":
        """Take the fields that are whole; a file edited by hand must not break a list of runs."""
        given = data if isinstance(data, dict) else {}
        kept = {}
        for name, own in cls.__dataclass_fields__.items():
            kind = whole.TEXT if isinstance(own.default, str) else whole.NUMBER
            kind = whole.WHOLE if name in ("pid", "attempt") else kind
            value = given.get(name)
            if kind.holds(value) and (isinstance(value, str) or abs(value) < MOST):
                kept[name] = value
        return cls(**kept)


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. Reading never fails on a half-written or missing file."""

    path: Path

    @property
    def id(self) -> str:
        """The folder's name; characters that cannot be written out are escaped."""
        name = self.path.name
        return name if name.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)

    def file(self, name: str) -> Path:
        return self.path / name

    def spec(self) -> RunSpec:
        """Read the frozen spec.

        Raises:
            SpecError: the folder holds no valid spec.
        """
        return read_spec(self.path / "spec.yaml")

    def status(self) -> Status:
        """Read the state; one that is active but whose process is gone is `lost`, one asked to stop is `stopping`."""
        written, status = read_json(self.path / "status.json"), Status()
        if isinstance(written, dict):
            status = Status.from_dict(written)
        known = status.state in WRITTEN and status.state == _state_in(written)
        if not known and is_there_at(self.path / "status.json"):
            return Status("failed", message=self._damaged("status.json", "it does not say what the run is doing"))
        if status.state == "queued":
            launched = read_json(self.path / "process.json")
            ours = isinstance(launched, dict) and launched.get("attempt") == status.attempt
            gone = ours and not is_there(launched, "launched")
            return replace(status, state="lost", message="the process ended before it began") if gone else status
        if status.active and not is_alive(vars(status), status.heartbeat, self.path / "lock"):
            return replace(status, state="lost", message=f"the process is gone; {self.way_on(status.stage)}")
        # The run itself says so at its next step, which can take a while.
        asked = status.state == "running" and (self.path / "stop").exists()
        return replace(status, state="stopping") if asked else status

    def saved_step(self) -> int | None:
        """Return the newest optimiser step that was saved whole; None where there is none."""
        marks = self.path.glob("checkpoints/checkpoint-*/complete")
        steps = (mark.parent.name.removeprefix("checkpoint-") for mark in marks)
        return max((int(step) for step in steps if step.isdecimal() and len(step) < 19), default=None)

    def way_on(self, stage: str) -> str:
        """Say where resume goes on after this stage was cut off."""
        step = self.saved_step()
        if step is not None and stage in ("export", "evaluation"):
            return f"training is done, and resume goes on with the {stage}"
        if step is not None:
            return f"resume continues from its last save, step {step:,}"
        if stage == "sensitivity":
            return "resume measures again, without the layers that a streamed measurement has finished"
        return "no step was saved, so resume starts again from the first one"

    def events(self) -> list[dict]:
        """Read all complete event lines, oldest first."""
        return read_lines(self.path / "events.jsonl")

    def metrics(self) -> list[dict]:
        """Return one record a training step, in order; a step that was repeated after a resume counts once."""
        by_step: dict[int, dict] = {}
        for event in self.events():
            if event.get("event") == "metrics":
                event, _ = whole.fit(event, whole.METRICS)
                if event is not whole.MISSING:
                    by_step[event["step"]] = {**by_step.get(event["step"], {}), **event}
        return [by_step[step] for step in sorted(by_step)]

    def result(self) -> dict | None:
        """Read what the run found; what is of another kind than a run writes is left out, for every reader."""
        return self.read_result()[0]

    def read_result(self) -> tuple[dict | None, str]:
        """Return what the run found, as far as it is whole, and one sentence if it is not (empty if it is)."""
        file = self.path / "result.json"
        if not is_there_at(file):
            return None, ""
        kept, lost = whole.fit(read_json(file), whole.RESULT)
        if kept is whole.MISSING:
            return None, self._damaged(file.name, "it cannot be read")
        return kept, self._damaged(file.name, f"{lost[0]} is not what a run writes") if lost else ""

    def _damaged(self, name: str, why: str) -> str:
        return f"run {self.id}: {name} is damaged ({why}); delete the run, or put back the file that it wrote"

    def extraction(self) -> dict:
        """Return the record of which block went where, as far as it is whole; empty where there is none."""
        kept, _ = whole.fit(read_json(self.path / "extraction.json"), whole.EXTRACTION)
        return {} if kept is whole.MISSING else kept

    def measured(self) -> dict:
        """Return what measuring the sensitivity took, `seconds` and `memory`; empty where that is not known."""
        totals = read_json(self.path / "sensitivity.json")
        taken = totals.get("measured") if isinstance(totals, dict) else None
        kept, _ = whole.fit(taken, {"seconds": whole.MAYBE_NUMBER, "memory": whole.MAYBE_NUMBER})
        return {} if kept is whole.MISSING else kept

    def predictions(self) -> list[dict]:
        """Return one record per scorer and test example; the last one counts, and what is no record is left out."""
        read = (whole.fit(line, whole.PREDICTION)[0] for line in read_lines(self.path / "predictions.jsonl"))
        return list({(p["scorer"], p["id"]): p for p in read if p is not whole.MISSING}.values())

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

    def request_stop(self) -> None:
        """Ask the run to save and stop at the next step.

        Raises:
            RunError: the run is not active.
        """
        state = self.status().state
        if state not in ACTIVE:
            raise RunError(f"run {self.id}: is {state}, not running; there is nothing to stop")
        write_atomic(self.path / "stop", "")

    def delete(self) -> None:
        """Remove the folder.

        Raises:
            RunError: the run is still active, or a process works in the folder, whatever its state says.
        """
        never_started = self.status().state == "queued" and not self.file("process.json").exists()
        if self.status().active and not never_started:
            raise RunError(f"run {self.id}: is still {self.status().state}; stop it before deleting it")
        with held(self.file("lock")) as alone:
            if not alone or self._moves_elsewhere():
                raise RunError(f"run {self.id}: a process is still working on it; stop it before deleting it")
            grave = self.path.with_name(f"{GRAVE}{self.id}")
            self.path.rename(grave)  # at once invisible to readers, even if removing takes a while
            shutil.rmtree(grave, ignore_errors=True)

    def _moves_elsewhere(self) -> bool:
        """Tell whether a process of another host, whose locks may not reach here, still says something."""
        known = read_json(self.file("status.json"))
        status = Status.from_dict(known)
        if not status.host or status.host == socket.gethostname() or status.state not in ("running", "stopping"):
            return False
        deadline = time.monotonic() + WATCH_S
        while time.monotonic() < deadline:
            time.sleep(min(0.5, WATCH_S))
            if read_json(self.file("status.json")) != known:
                return True
        return False


def _state_in(written: object) -> object:
    return written.get("state") if isinstance(written, dict) else None


def is_there_at(path: Path) -> bool:
    """Tell whether something has this name, whatever it is: also a link that leads nowhere, or what may not be read."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True


def create_run(place: Workspace, spec: RunSpec, folder: Path | None = None) -> RunFolder:
    """Make a new run folder in state queued; its spec is frozen from here on.

    Args:
        place: the workspace.
        spec: what to compute.
        folder: where instead of `cache/runs/<id>`; must not exist or be empty.

    Raises:
        RunError: the folder already holds something.
    """
    if folder is None:
        slug = re.sub(r"[^a-z0-9]+", "-", (spec.name or spec.method).lower()).strip("-")[:40] or "run"
        folder = place.runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{secrets.token_hex(4)}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder}: already holds files; choose a new folder, or `run {folder}` to continue it")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "status.json", asdict(Status()))
    write_atomic(folder / "spec.yaml", spec.to_yaml())
    return RunFolder(folder)


def find_run(place: Workspace, name: str) -> RunFolder:
    """Return the run with this id, or the only one whose id begins with it.

    Raises:
        RunError: none or several match.
    """
    path = contained(place.runs, name)
    if is_there_at(path / "spec.yaml"):
        return RunFolder(path)
    matches = [run for run in list_runs(place) if run.id.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    problem = "no run has this id" if not matches else f"{len(matches)} runs begin with it"
    raise RunError(f"run '{name}': {problem}; {LISTED}")


def list_runs(place: Workspace) -> list[RunFolder]:
    """Return all run folders, newest first (ids begin with the time)."""
    if not place.runs.is_dir():
        return []
    root = str(place.runs)  # plain text: pages list hundreds of runs several times a draw, and paths cost more
    names = sorted((entry.name for entry in os.scandir(root) if not entry.name.startswith(".")), reverse=True)
    return [RunFolder(Path(f"{root}/{name}")) for name in names if os.path.lexists(f"{root}/{name}/spec.yaml")]


def runs_table(runs: list[RunFolder], memo: dict | None = None) -> "pandas.DataFrame":
    """Return one row a run: id, state, stage, progress, main score with interval, and every setting as `spec.<key>`.

    Args:
        runs: which, in this order.
        memo: rows of runs that have ended, kept between calls; read again when one of their files has changed.
    """
    import pandas

    return pandas.DataFrame([_row(run) if memo is None else _known_row(run, memo) for run in runs])


def _known_row(run: RunFolder, memo: dict) -> dict[str, Any]:
    stamps = tuple(file_stamp(run.file(name)) for name in ("spec.yaml", "status.json", "result.json"))
    known = memo.get(run.path)
    if known is not None and known[0] == stamps:
        return known[1]
    row = _row(run)
    if row["state"] not in ACTIVE:  # an active one may be gone at any moment without a file that says so
        memo[run.path] = (stamps, row)
    return row


def differing_settings(table: "pandas.DataFrame") -> list[str]:
    """Return the `spec.` columns of `runs_table` whose values are not all equal (names apart)."""
    columns = [c for c in table.columns if c.startswith("spec.") and c != "spec.name"]
    return [c for c in columns if table[c].astype(str).nunique(dropna=False) > 1]


def _row(run: RunFolder) -> dict[str, Any]:
    status = run.status()
    row: dict[str, Any] = {
        "id": run.id,
        "state": status.state,
        "stage": status.stage,
        "progress": status.fraction,
        "started": status.started,
        "ended": status.ended,
    }
    scores = (run.result() or {}).get("scores") or []
    if scores:
        row.update({f"score.{key}": scores[0].get(key) for key in ("scorer", "value", "low", "high", "n", "unit")})
    try:
        row.update({f"spec.{key}": value for key, value in flat_settings(run.spec().model_dump(mode="json")).items()})
    except ParaknowError as error:
        row.update({"state": "failed", "stage": str(error)})
    return row


def flat_settings(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of a spec as plain data; an empty part is a value."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        whole = isinstance(value, dict) and value
        found |= flat_settings(value, f"{prefix}{key}.") if whole else {f"{prefix}{key}": value}
    return found
