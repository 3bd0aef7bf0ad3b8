"""Twelve runs that share teacher, student and task: with shared caches, and each with empty ones.

Run: python -m benchmarks.shared_runs [--small | --full]
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._common import arguments, machine, publish
from paraknow_core.paths import Workspace
from paraknow_core.pipeline import execute
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.training import evaluation

ARMS = [("seeking", 4), ("seeking", 8), ("seeking", 16), ("random_offset", 16), ("pissa", 16), ("default_lora", 16)]
SEEDS = (0, 1)
BUDGET = {
    "finetuning.max_steps": 16,
    "finetuning.validations": 0,
    "task.sizes": {"train": 1000, "validation": 0, "test": 100},
    "sensitivity.samples": 32,
}
FULL = BUDGET | {"finetuning.max_steps": 48, "task.sizes": {"train": 1000, "validation": 0, "test": 300}}
SMALL = {
    "finetuning.max_steps": 1,
    "finetuning.batch_size": 4,
    "finetuning.validations": 0,
    "task.sizes": {"train": 8, "validation": 0, "test": 2},
    "sensitivity.samples": 2,
}
_SMALL_ARMS = [("seeking", 4), ("default_lora", 4)]
_DEFAULT_OVER_BUDGET = 3  # a run by default takes 48 steps and 300 test examples
NOTES = [
    "12 runs on the bundled pair (6 arms: 4 that need the teacher's sensitivity, 2 that do not; 2 seeds), executed one",
    "after the other in one process, as `run` and studies do, with a third of the default budget: 16 steps of 64",
    "examples, 100 test examples. Shared: one workspace. Separate: a new, empty workspace for every run.",
    "Fine-tuning: that stage and the evaluation of the trained model, which no two runs share. Sensitivity: that",
    "stage, once for all runs that need it. Rest: everything else: models and task read, blocks cut and factorised,",
    "step-0 and export checks, the untouched student scored, files written. Ratio: the total over (all fine-tunings",
    "+ the shared caches' sensitivity). At default: the same with fine-tuning three times as long, as it is by",
    "default; nothing else depends on that budget (but scoring the untouched student, counted as measured).",
    "--full measures the default itself, 48 steps and 300 test examples a run, with shared caches only.",
]


def specs(budget: dict[str, Any]) -> list[RunSpec]:
    """Return the runs: every arm with every seed."""
    base = RunSpec().with_changes(budget)
    arms, seeds = (_SMALL_ARMS, SEEDS[:1]) if budget is SMALL else (ARMS, SEEDS)
    return [
        base.with_changes({"method": method, "factorisation.rank": rank, "seed": seed})
        for method, rank in arms
        for seed in seeds
    ]


def run_all(runs: list[RunSpec], places: list[Workspace]) -> dict[str, float]:
    """Execute runs, each in its workspace; return seconds by what they were spent on."""
    spent = {"seconds": 0.0, "finetuning": 0.0, "sensitivity": 0.0}
    original = evaluation.reference_scores

    def references(*arguments: Any) -> list[dict]:  # part of the stage evaluation, but not of this run's own model
        start = time.perf_counter()
        try:
            return original(*arguments)
        finally:
            spent["finetuning"] -= time.perf_counter() - start

    evaluation.reference_scores = references
    try:
        for spec, place in zip(runs, places, strict=True):
            start = time.perf_counter()
            timings = execute(create_run(place, spec), place, Settings())["timings"]
            spent["seconds"] += time.perf_counter() - start
            spent["finetuning"] += timings["fine-tuning"] + timings["evaluation"]
            spent["sensitivity"] += timings.get("sensitivity", 0.0)
    finally:
        evaluation.reference_scores = original
    return spent | {"rest": spent["seconds"] - spent["finetuning"] - spent["sensitivity"]}


def measure(budget: dict[str, Any]) -> list[dict[str, Any]]:
    """Execute the runs in both ways; of the full size only with shared caches, which is what the reach is about."""
    runs = specs(budget)
    with tempfile.TemporaryDirectory() as folder:
        places = [Workspace(Path(folder) / str(number)) for number in range(len(runs))]
        if budget is not SMALL:
            run_all(specs(SMALL)[:1], [Workspace(Path(folder) / "warm")])  # loads what the first run loads
        found = {"shared caches": run_all(runs, [Workspace(Path(folder) / "shared")] * len(runs))}
        if budget is not FULL:
            found["empty caches"] = run_all(runs, places)
    once = found["shared caches"]["sensitivity"]
    rows = []
    for way, spent in found.items():
        row = {"case": f"{len(runs)} runs", "way": way, **spent}
        for name, times in (("ratio", 1), ("at_default", 1 if budget is FULL else _DEFAULT_OVER_BUDGET)):
            more = (times - 1) * spent["finetuning"]
            row[name] = (spent["seconds"] + more) / (spent["finetuning"] + more + once)
        rows.append(row)
    return rows


def main() -> None:
    """Print the table and write results/shared_runs.json."""
    options = arguments(
        __doc__.splitlines()[0],
        extra=lambda parser: (
            parser.add_argument("--full", action="store_true", help="steps and test examples of a run by default"),
        ),
    )
    facts = machine()
    rows = measure(SMALL if options.small else FULL if options.full else BUDGET)
    time_of = "{:.1f} s".format
    columns = {
        "case": str,
        "way": str,
        "seconds": time_of,
        "finetuning": time_of,
        "sensitivity": time_of,
        "rest": time_of,
        "ratio": "{:.2f}x".format,
        "at_default": "{:.2f}x".format,
    }
    publish(
        options,
        "shared_runs_full" if options.full else "shared_runs",
        "Runs that share their models and task",
        NOTES,
        facts,
        rows,
        columns,
    )


if __name__ == "__main__":
    main()
