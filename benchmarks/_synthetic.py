"""A workspace of thousands of runs and some studies over them, written in seconds: what people leave behind in a year.

Folders hold what a run writes, with plausible numbers; nothing is computed, and nothing waits for the disk.
"""

import json
import math
import os
import random
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from paraknow_core.paths import Workspace
from paraknow_core.runs.status import Status
from paraknow_core.spec import RunSpec
from paraknow_core.studies.study import StudySpec, parse_study, scored_cells

ARMS = ("seeking", "default_lora", "pissa", "random_offset", "milora")
FACTORS = {"factorisation.rank": (4, 8, 16, 32)}
SMALL_STUDY = 100  # runs
BIG, SAME, NEW, WAITS = "big", "same", "new", "waits"  # the studies that the benchmark asks about
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_KEY = "0123456789abcdef0123456789abcdef"
_PRINT = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Size:
    """How many runs there are: all, those of the one large study, those that wait; and test examples a run."""

    runs: int
    study: int
    waiting: int
    examples: int


def study_of(name: str, runs: int, **changes: Any) -> StudySpec:
    """Return a study of so many runs: five arms, four ranks, as many seeds as it takes."""
    seeds = max(1, runs // (len(ARMS) * 4))
    base = {"task": {"sizes": {"train": 1000, "validation": 100, "test": 300}}, **changes}
    return parse_study(
        {"name": name, "base": base, "arms": list(ARMS), "factors": FACTORS, "seeds": list(range(seeds))}
    )


def studies(size: Size) -> dict[str, StudySpec]:
    """Return the studies that the benchmark asks about, by their place in the folder's name.

    `same` asks what `big` has computed, under another name; of `new`, nothing is there; the runs of `waits` wait.
    """
    return {
        BIG: study_of("Which arm", size.study),
        SAME: study_of("Asked again", size.study),
        NEW: study_of("Not yet run", size.study, sensitivity={"samples": 48}),
        WAITS: study_of("In line", size.waiting, sensitivity={"samples": 64}),
    }


def write(place: Workspace, size: Size) -> None:
    """Fill a workspace with `size.runs` runs: those of two studies, of small ones, and the rest by hand."""
    clock = _Clock(time.time() - 60.0 * size.runs)
    named = studies(size)
    _study(place, named[BIG], "done", clock, size.examples)
    _study(place, named[SAME], None, clock, 0)
    _study(place, named[NEW], None, clock, 0)
    left = size.runs - named[BIG].runs - named[WAITS].runs
    for number in range(max(1, left // (4 * SMALL_STUDY))):
        study = study_of(f"Sweep {number}", SMALL_STUDY, finetuning={"max_steps": 100 + number})
        _study(place, study, "done", clock, 20)
        left -= study.runs
    chance = random.Random(5)  # noqa: S311 - made-up runs
    for number in range(left):
        state = chance.choices(("done", "failed", "stopped"), (94, 4, 2))[0]
        run(place, clock.next(f"try {number % 40}"), _by_hand(number), state, 20)
    waiting = _study(place, named[WAITS], "queued", clock, 0)
    _json(place.root / "queue" / "order.json", {"waiting": waiting, "working": []})


def _by_hand(number: int) -> RunSpec:
    """Return a run as people start them one by one: under some names, with one setting or another changed."""
    rates = (1e-4, 2e-4, 3e-4, 5e-4, 1e-3)
    return RunSpec().with_changes(
        {
            "name": f"try {number % 40}" if number % 3 else "",
            "method": ARMS[number % len(ARMS)],
            "factorisation.rank": FACTORS["factorisation.rank"][number // 5 % 4],
            "finetuning.learning_rate": rates[number // 20 % 5],
            "mapping.strategy": ("sensitivity", "top", "last")[number // 100 % 3],
            "finetuning.max_steps": 50 + number // 300 % 4,
            "seed": number // 1200,
        }
    )


def _study(place: Workspace, study: StudySpec, state: str | None, clock: "_Clock", examples: int) -> list[str]:
    """Write a study's folder, and its runs where they have a state; return their ids."""
    folder = place.studies / clock.next(study.name.lower().replace(" ", "-"))
    _text(folder / "study.yaml", study.to_yaml())
    _json(
        folder / "status.json", asdict(Status("queued" if state is None else "done" if state == "done" else "stopped"))
    )
    if state is None:
        return []
    answers: dict[str, str] = {}
    for cell in scored_cells(study):
        name = clock.next(cell.spec.name)
        answers[cell.key] = name
        run(place, name, cell.spec, state, examples, study=folder.name)
    _json(folder / "runs.json", answers)
    return list(answers.values())


def run(place: Workspace, name: str, spec: RunSpec, state: str, examples: int, study: str = "") -> Path:
    """Write the folder of one run in a state: `queued`, `done`, `failed` or `stopped`."""
    folder = place.runs / name
    _text(folder / "spec.yaml", yaml.dump(spec.model_dump(mode="json"), Dumper=_DUMPER, sort_keys=False))
    if study:
        _json(folder / "studies.json", {"studies": [study]})
    if state == "queued":
        _json(folder / "status.json", asdict(Status()))
        return folder
    started = time.time() - 3600
    process = {"host": socket.gethostname(), "pid": 2**22 - 7, "process_started": 1.0, "attempt": 1}
    message = "task: not there; give another one" if state == "failed" else ""
    ended = Status(state, "evaluation", 20, 20, message, started + 60, started, started + 60, **process)
    _json(folder / "status.json", asdict(ended))
    _text(folder / "lock", "")
    _text(folder / "log.txt", "")
    _text(folder / "events.jsonl", _events(20))
    if state == "done":
        value = _value(spec)
        _json(folder / "result.json", _result(spec, value, examples))
        _text(folder / "predictions.jsonl", _predictions(spec, value, examples))
    return folder


def _value(spec: RunSpec) -> float:
    good = {"seeking": 0.05, "pissa": 0.02}.get(spec.method, 0.0)
    return 0.3 + good + 0.01 * math.log2(spec.factorisation.rank) + 0.01 * (spec.seed % 5)


def _events(steps: int) -> str:
    lines: list[dict] = [{"event": "started", "time": 1.0, "attempt": 1}]
    for step in range(1, steps + 1):
        loss = 3 * math.exp(-step / 12) + 0.6
        numbers = {"loss": loss, "grad_norm": 1.0, "learning_rate": 3e-4, "tokens_per_s": 5200.0, "memory_bytes": 7e8}
        lines.append({"event": "metrics", "time": 2.0 + step, "step": step, "epoch": step / 15, **numbers})
    return "".join(json.dumps(line) + "\n" for line in lines)


def _predictions(spec: RunSpec, value: float, examples: int) -> str:
    own = random.Random(f"{spec.method}{spec.seed}")  # noqa: S311 - made-up answers
    lines = (
        {"id": f"t/{n}", "prompt": f"How many? {n}", "reference": f"#### {n}", "output": "", "scorer": "number_match"}
        | {"score": float(own.random() < value), "detail": {}}
        for n in range(examples)
    )
    return "".join(json.dumps(line) + "\n" for line in lines)


def _score(value: float, examples: int) -> dict[str, Any]:
    extra = {"strict_accuracy": value, "failed_extractions": 0.0, "unfinished": 0.0}
    return {"scorer": "number_match", "value": value, "low": value - 0.05, "high": value + 0.05} | {
        "n": examples,
        "unit": "share",
        "extra": extra,
    }


def _result(spec: RunSpec, value: float, examples: int) -> dict[str, Any]:
    check = {"max_abs": 1.8e-5, "largest_logit": 20.0, "tolerance": 2e-4, "passed": True}
    return {
        "timings": {"prepare": 0.4, "sensitivity": 1.1, "injection": 0.7, "fine-tuning": 21.0, "evaluation": 7.0},
        "spec_version": 1,
        "warnings": [],
        "task": {"name": "word_problems", "sizes": {"train": 1000, "validation": 100, "test": examples}},
        "revisions": {"teacher": None, "student": None, "task": None},
        "fingerprints": dict.fromkeys(("teacher", "student", "tokenizer", "train", "validation", "test"), _PRINT),
        "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"},
        "machine": {"device": "cpu", "dtype": "float32", "student_bits": None},
        "peak_memory_bytes": 839_585_792,
        "sensitivity": {"key": _KEY, "samples": 32},
        "layer_mapping": [0, 2, 3, 5],
        "step0": {"evaluation": check, "training": check},
        "trainable_parameters": 11_520 * spec.factorisation.rank,
        "budget": {"steps": 48, "examples": 3000, "tokens": 159_000, "trainable_parameters": 184_320},
        "validation": {"final": 0.24, "final_step": 48, "best": 0.24, "best_step": 48},
        "training": {"steps": 48, "first_loss": 0.9, "last_loss": 0.24, "last_validation_loss": 0.24},
        "export_check": check,
        "scores": [_score(value, examples)],
        "references": {"student": [_score(0.2, examples)]},
    }


class _Clock:
    """Gives folders names that follow each other in time."""

    def __init__(self, moment: float) -> None:
        self.moment, self.number = moment, 0

    def next(self, title: str) -> str:
        self.moment, self.number = self.moment + 60, self.number + 1
        slug = "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())[:40]
        return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(self.moment))}-{slug}-{self.number:08x}"


def _json(path: Path, value: Any) -> None:
    _text(path, json.dumps(value, indent=1))


def _text(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
