"""Metrics of runs as columns of numbers; each reading goes on where the last one ended. Start at `metrics_of`.

A live page reads every second, and a run may have written a hundred thousand lines. A server reads each line once, a
few megabytes at a time, and keeps only its numbers (72 bytes a step).
"""

import json
import math
import os
import threading
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy
import pandas

from paraknow_core.files.json_file import open_plain
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.status import Status

COLUMNS = tuple("step epoch elapsed loss validation_loss learning_rate grad_norm tokens_per_s memory_bytes".split())
AT_ONCE = 4_000_000  # bytes of one reading: about a tenth of a second, so that no page waits for a long run
MOST_KEPT = 32  # runs whose numbers are in memory
MOST = 1e15  # far beyond any count, time or number of bytes
RECENT = 50  # steps that the speed is taken from
Kept = TypeVar("Kept")


class Metrics:
    """The content of one events.jsonl so far. Many windows share it, hence the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._forget()

    def _forget(self) -> None:
        self.columns = {name: array("d") for name in COLUMNS}
        self.offset, self.inode = 0, 0
        self.behind = False  # there is more to read than one reading takes
        self.stage, self.stage_began = "", 0.0
        self.saved_step: int | None = None
        self.plan, self.planned = {}, 0.0  # the newest plan, and when it was made
        self._base = 0.0  # seconds of training before this attempt
        self._began: float | None = None  # when this attempt's fine-tuning began; None before its first step
        self._made: dict[tuple, tuple[int, Any]] = {}

    @property
    def steps(self) -> int:
        """How many steps are known."""
        return len(self.columns["step"])

    @property
    def version(self) -> tuple[int, int]:
        """Changes whenever more has been read; a picture of the same version need not be drawn again."""
        return self.inode, self.offset

    def refresh(self, everything: bool = False) -> "Metrics":
        """Read what was appended since the last time, at most `AT_ONCE` bytes unless everything; returns itself."""
        with self.lock:
            try:
                with open_plain(self.path) as file:
                    self._read(file, everything)
            except OSError:
                self._forget()
        return self

    def _read(self, file, everything: bool) -> None:  # noqa: ANN001 - an open binary file
        status = os.fstat(file.fileno())
        if status.st_ino != self.inode or status.st_size < self.offset:  # another file, or one that begins anew
            self._forget()
        self.inode, self.behind = status.st_ino, True
        while self.behind:
            file.seek(self.offset)
            content = file.read(AT_ONCE)
            self.behind = len(content) == AT_ONCE
            whole = content[: content.rfind(b"\n") + 1] or (content if self.behind else b"")  # no line is that long
            for record in _records(whole):
                self._take(record)
            self.offset += len(whole)
            if not everything:
                return

    def _take(self, record: dict) -> None:
        kind = record.get("event")
        if kind == "metrics":
            self._take_metrics(record)
        elif kind == "started":
            self._began = None
        elif kind == "stage":
            self.stage, self.stage_began = str(record.get("stage", "")), _number(record.get("time"))
        elif kind == "plan":
            self.plan, self.planned = record.get("plan") or {}, _number(record.get("time"))
        elif kind == "saved" and isinstance(record.get("step"), int):
            self.saved_step = record["step"]

    def _take_metrics(self, record: dict) -> None:
        step, moment = _number(record.get("step")), _number(record.get("time"))
        if not math.isfinite(step):
            return
        steps = self.columns["step"]
        if steps and step < steps[-1]:  # resumed from an earlier save: what follows replaces what was
            keep = int(numpy.searchsorted(numpy.frombuffer(steps), step))
            for column in self.columns.values():
                del column[keep:]
            self._made.clear()
        if self._began is None:
            self._began = self.stage_began if 0 < self.stage_began <= moment else moment
            self._base = self.columns["elapsed"][-1] if steps else 0.0
        values = {"step": step, "elapsed": self._base + moment - self._began}
        if steps and step == steps[-1]:
            self._merge(record)
            return
        for name, column in self.columns.items():
            column.append(values[name] if name in values else _number(record.get(name)))

    def _merge(self, record: dict) -> None:
        """Add a second record of the newest step: usually its validation loss."""
        for name in ("epoch", *COLUMNS[3:]):
            value = _number(record.get(name))
            if math.isfinite(value):
                self.columns[name][-1] = value
        self._made.clear()

    def latest(self, name: str) -> float | None:
        """Return the newest finite value of a column; None if it has none."""
        values = self.array(name)
        finite = values[numpy.isfinite(values)]
        return float(finite[-1]) if len(finite) else None

    def array(self, name: str) -> numpy.ndarray:
        """Return a column as an array of its own."""
        with self.lock:
            return numpy.array(self.columns[name], dtype=numpy.float64)

    def kept(self, key: tuple, make: Callable[["Metrics"], Kept]) -> Kept:
        """Return `make(self)`, computed once for each key until there are new steps."""
        with self.lock:
            steps, value = self._made.get(key, (None, None))
            if steps != self.steps:
                self._made = {k: entry for k, entry in self._made.items() if entry[0] == self.steps}
                value = make(self)
                self._made[key] = (self.steps, value)
            return value

    def points(self, name: str, axis: str) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return x and y of a column, both finite."""
        x, y = self.array(axis), self.array(name)
        if axis == "epoch" and len(x):
            x[0] = 0.0 if self.columns["step"][0] == 0 and not math.isfinite(x[0]) else x[0]
        finite = numpy.isfinite(x) & numpy.isfinite(y)
        return x[finite], y[finite]

    def rate(self) -> float | None:
        """Return optimiser steps a second over the last steps, or None before there are two of one attempt."""
        steps, elapsed = self.array("step")[-RECENT:], self.array("elapsed")[-RECENT:]
        if len(steps) < 2 or elapsed[-1] <= elapsed[0]:
            return None
        return (steps[-1] - steps[0]) / (elapsed[-1] - elapsed[0])

    def seconds_left(self, status: Status) -> float | None:
        """Return the seconds that a run's stage will still take at its speed so far; None before that can be said."""
        remaining = status.total - status.done
        if status.total <= 0 or remaining < 0:
            return None
        if status.stage == "fine-tuning":
            rate = self.rate()
            return remaining / rate if rate else None
        spent = status.heartbeat - self.stage_began
        is_measured = status.done > 0 and self.stage == status.stage and spent > 0
        return remaining * spent / status.done if is_measured else None

    def table(self) -> pandas.DataFrame:
        """Return all steps, a row each, after reading to the end."""
        with self.lock:
            self.refresh(everything=True)
            table = pandas.DataFrame({name: self.array(name) for name in COLUMNS})
        table["step"], table["elapsed"] = table["step"].astype(int), table["elapsed"].round(3)
        return table.rename(columns={"elapsed": "training_seconds"})


def metrics_of(run: RunFolder) -> Metrics:
    """Return a run's metrics, after one reading of what was appended."""
    return _metrics(str(run.path)).refresh()


@lru_cache(maxsize=MOST_KEPT)
def _metrics(path: str) -> Metrics:
    return Metrics(Path(path) / "events.jsonl")


def records(run: RunFolder) -> pandas.DataFrame:
    """Return a run's metrics as they were written, one row a record."""
    return pandas.DataFrame(run.metrics())


def csv_of(runs: Sequence[tuple[str, RunFolder]]) -> str:
    """Return all steps of runs as CSV, each with its run's id and the name that is given with it."""
    tables = [_metrics(str(run.path)).table().assign(run=run.id, label=name) for name, run in runs]
    return pandas.concat(tables).set_index(["run", "label"]).to_csv()


def _records(lines: bytes) -> list[dict]:
    """Parse whole lines, all at once where none is torn: twice as fast as one by one."""
    parts = [line for line in lines.split(b"\n") if line.strip()]
    try:
        records = json.loads(b"[" + b",".join(parts) + b"]")
    except (ValueError, RecursionError):
        records = []
        for part in parts:
            with suppress(ValueError, RecursionError):
                records.append(json.loads(part))
    return [record for record in records if isinstance(record, dict)]


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > MOST:
        return math.nan
    return float(value)
