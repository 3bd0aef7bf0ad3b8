"""What runs were expected to take beside what they took: memory and time of single runs, and time of a study.

    python -m benchmarks.forecasts [--small] [--only CASE]

Each run is forecast twice, as `study plan` does: in an empty workspace, by the models' shapes, and in one where a run
like it has ended, which differs in its seed, its steps and the size of its test.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import shared_runs
from benchmarks._common import arguments, machine, publish
from paraknow_core.engines.choice import choose
from paraknow_core.engines.workers import WorkersEngine
from paraknow_core.paths import PROJECT_ROOT, Workspace
from paraknow_core.runs.folder import list_runs
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.past_runs import Estimate, estimate_runs

MEMORY, TIME = 0.15, 0.25  # how far off a forecast may be
_SHORT = {"finetuning.max_steps": 16, "task.sizes": {"train": 600, "validation": 50, "test": 60}}
_FIRST = {"seed": 7, "finetuning.max_steps": 10, "task.sizes": {"train": 600, "validation": 50, "test": 40}}
CASES: dict[str, dict[str, Any]] = {
    "seeking, rank 16, batch 64": {},
    "as it is by default": {"finetuning.max_steps": 48, "task.sizes": {"train": 1000, "validation": 100, "test": 300}},
    "default LoRA, batch 16": {"method": "default_lora", "finetuning.batch_size": 16, "finetuning.max_steps": 40},
    "random offset, rank 4, batch 128": {
        "method": "random_offset",
        "factorisation.rank": 4,
        "finetuning.batch_size": 128,
        "finetuning.max_steps": 8,
    },
    "whole weights": {"method": "full_finetuning"},
    "kin, multiple choice": {"student.source": "bundled:kin", "task.source": "bundled:multiple_choice"},
    "PiSSA, kin, instructions": {
        "method": "pissa",
        "student.source": "bundled:kin",
        "task.source": "bundled:instructions",
    },
}
STUDY = "12 runs by 2 workers"
NOTES = [
    "Ratios: took / forecast. Guess: by the models' shapes and some measured rates, nothing else known. Known: one",
    "earlier run like it has ended here. Memory: the largest resident size of the run's process. Time: seconds of its",
    "stages by the clock; quiet: both times the share of its processor that each run got, as an idle machine would",
    f"show. Holds: within {100 * MEMORY:.0f} % of memory and {100 * TIME:.0f} % of quiet time. One thread, one run",
    f"at a time. {STUDY}: what `engine: auto` says of a study's time, and the clock; afterwards of as many with other",
    "seeds.",
]


def execute(place: Workspace, spec: RunSpec) -> dict[str, float]:
    """Execute a run in a process of its own; return its bytes, its seconds, and the seconds of a quiet machine."""
    file = place.root / "spec.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(spec.to_yaml(), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "paraknow_core",
        "--workspace",
        str(place.root),
        "run",
        str(file),
        "--threads",
        "1",
    ]
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_one_thread()
    )
    _, code, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - began
    result = list_runs(place)[0].result()
    if code or not result:
        raise SystemExit(f"forecasts: {spec.name}: the run failed; `runs list` of {place.root} says why")
    seconds = sum(result["timings"].values())
    share = min(1.0, (used.ru_utime + used.ru_stime) / wall)
    return {"memory": result["peak_memory_bytes"], "seconds": seconds, "share": share}


def _one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def forecast(place: Workspace, spec: RunSpec) -> Estimate:
    """Return what a plan says before the run."""
    (found,) = estimate_runs([spec], place)
    if found is None:
        raise SystemExit(f"forecasts: {spec.name}: nothing is forecast")
    return found


def measure(case: str, small: bool) -> list[dict[str, Any]]:
    """Return one row for the guess and one for the forecast from an earlier run."""
    base = RunSpec(name=case).with_changes(_SHORT | CASES[case])
    first = base.with_changes(_FIRST | {"finetuning.max_steps": max(2, base.finetuning.max_steps // 2)})
    rows = []
    with tempfile.TemporaryDirectory(prefix="paraknow-forecasts-") as folder:
        place, share = Workspace(Path(folder)), 1.0  # of its processor that the earlier run got; a guess knows none
        for way, spec in (("guess", first), ("known", base))[: 1 if small else 2]:
            expected = forecast(place, spec)
            took = execute(place, spec)
            ratios = {
                "memory_ratio": took["memory"] / expected.memory,
                "time_ratio": took["seconds"] / expected.seconds,
                "quiet_ratio": took["seconds"] * took["share"] / (expected.seconds * share),
            }
            share = took["share"]
            rows.append(
                {"case": case, "way": way, "expected_memory": expected.memory, "expected_seconds": expected.seconds}
                | took
                | ratios
                | {"holds": abs(ratios["memory_ratio"] - 1) <= MEMORY and abs(ratios["quiet_ratio"] - 1) <= TIME}
            )
            print(f"{case}, {way}: {ratios}", file=sys.stderr, flush=True)
    return rows


def measure_study() -> list[dict[str, Any]]:
    """Return the same two rows for runs that go on beside each other, by the clock alone."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="paraknow-forecasts-") as folder:
        place = Workspace(Path(folder))
        for way, seed in (("guess", 0), ("known", 10)):
            specs = [spec.with_changes({"seed": spec.seed + seed}) for spec in shared_runs.specs(shared_runs.BUDGET)]
            expected = choose(specs, place, Settings(workers=2), estimate_runs).seconds
            runs, began = [create_run(place, spec) for spec in specs], time.monotonic()
            engine = WorkersEngine(place, 2)
            engine.submit(*runs)
            while any(engine.alive(run) for run in runs):
                time.sleep(0.2)
            took = time.monotonic() - began
            engine.close()
            if not all(run.result() for run in runs):
                raise SystemExit(f"forecasts: {STUDY}: a run failed")
            ratio = took / expected
            figures = {"expected_seconds": expected, "seconds": took, "time_ratio": ratio}
            rows.append({"case": STUDY, "way": way} | figures | {"holds": abs(ratio - 1) <= TIME})
            print(f"{STUDY}, {way}: {figures}", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Print the table and write results/forecasts.json."""
    options = arguments(__doc__.splitlines()[0], lambda parser: parser.add_argument("--only", help="one case"))
    os.environ.update(_one_thread())
    facts = machine()
    cases = [case for case in list(CASES)[: 1 if options.small else None] if options.only in (None, case)]
    rows = [row for case in cases for row in measure(case, options.small)]
    if not options.small and options.only in (None, STUDY):
        rows += measure_study()
    size, seconds, ratio = (lambda value: f"{value / 1e6:.0f} MB"), "{:.1f} s".format, "{:.2f}".format
    columns = {"case": str, "way": str, "expected_memory": size, "memory": size, "memory_ratio": ratio}
    columns |= {"expected_seconds": seconds, "seconds": seconds, "share": ratio}
    columns |= {"time_ratio": ratio, "quiet_ratio": ratio, "holds": lambda holds: "yes" if holds else "no"}
    publish(options, "forecasts", "Forecast and took", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
