"""Runs trained in one pass against the same runs one after the other: speed, losses, and the memory that was said.

Run: python -m benchmarks.packed [--small] [--memory]
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import arguments, machine, publish
from paraknow_core.adapters.inject import inject
from paraknow_core.context import Context
from paraknow_core.display import memory
from paraknow_core.models.load import pick_device
from paraknow_core.packs import split
from paraknow_core.paths import PROJECT_ROOT, Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.runs.writer import RunWriter
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.training.finetuning import finetune
from paraknow_core.training.loop import Training
from paraknow_core.training.packed import finetune_packed

CASES = [(12, 1, 24), (12, 4, 24), (12, 64, 8)]  # runs, examples of a batch, steps
SMALL = [(3, 4, 2)]
MEMORY = [(4, 16), (4, 64), (8, 64)]  # runs, examples of a batch
NOTES = [
    "bundled:stranger on bundled:word_problems, LoRA rank 16 on every module; the runs differ in their seed. Timed is",
    "all from the encoded examples to the trained adapters: records, requests to stop, and the save at the end;",
    "validation is switched off. Both ways take one thread on a processor. Ratio: tokens (padding not counted) a",
    "second of one pass for all over those of one run after the other. Difference: the largest relative one between",
    "two losses of a step. A study takes the faster way, which the runs time before their first step. Memory: what",
    "`run --packed` says before it begins, and the largest resident size of its process, from its start to the last",
    "run's scores; ratio: took / said.",
]


def measure(cases: Sequence[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """Train every case in both ways."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace(Path(folder))
        _train(place, 1, 1, 1, packed=False)  # loads what the first run loads
        for count, batch, steps in cases:
            alone, one_by_one = _train(place, count, batch, steps, packed=False)
            packed, together = _train(place, count, batch, steps, packed=True)
            pairs = [
                (line["loss"], other["loss"])
                for run, twin in zip(one_by_one, together, strict=True)
                for line, other in zip(run.metrics(), twin.metrics(), strict=True)
            ]
            difference = max(abs(loss - other) / loss for loss, other in pairs)
            for way, rate in (("in turn", alone), ("packed", packed)):
                case = f"{count} runs, batch {batch}"
                rows.append({"case": case, "way": way, "tokens_per_s": rate, "ratio": rate / alone})
            rows[-1]["difference"] = difference
    return rows


def _train(place: Workspace, count: int, batch: int, steps: int, *, packed: bool) -> tuple[float, list[RunFolder]]:
    """Train so many runs; return the tokens a second of all together, and their folders."""
    settings, runs, trainings, tokens = Settings(), [], [], 0
    if pick_device(settings.device) == "cpu":
        torch.set_num_threads(1)
    with ExitStack() as writers:
        for seed in range(count):
            changes = {"finetuning.max_steps": steps, "finetuning.batch_size": batch, "finetuning.validations": 0}
            spec = RunSpec(method="default_lora", seed=seed).with_changes(changes)
            run, context = create_run(place, spec), Context(spec, settings, place)
            student = context.student
            writer = writers.enter_context(RunWriter(run))
            model = inject(
                student.load(), student.anatomy, list(student.anatomy.modules), spec.factorisation, (), spec.seed
            )
            train = context.encode(context.task.split("train"), student)
            trainings.append(Training(replace(context, report=writer), model, train, [], run.file("checkpoints")))
            runs.append(run)
        base = context.student.load() if packed else None
        began = time.perf_counter()
        if packed:
            problems = finetune_packed(base, trainings, only_if_faster=False)
            assert not any(problems), problems
        else:
            for training in trainings:
                finetune(training)
        seconds = time.perf_counter() - began
        tokens = sum(training.pace.tokens for training in trainings)
    return tokens / seconds, runs


def measure_memory(cases: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Execute packs in processes of their own; return what they were said to take, and what they took."""
    rows = []
    for count, batch in cases:
        with tempfile.TemporaryDirectory() as folder:
            place = Workspace(Path(folder))
            changes = {"finetuning.max_steps": 8, "finetuning.batch_size": batch}
            changes |= {"task.sizes": {"train": 600, "validation": 50, "test": 40}}
            specs = [RunSpec(method="default_lora", seed=seed).with_changes(changes) for seed in range(count)]
            runs = [create_run(place, spec) for spec in specs]
            said = split(runs, place, Settings()).bytes
            command = [sys.executable, "-m", "paraknow_core", "--workspace", folder, "run", "--packed"]
            command += ["--even-if-slower", *(str(run.path) for run in runs)]
            subprocess.run(command, cwd=PROJECT_ROOT, check=True, capture_output=True)
            took = max(run.result()["peak_memory_bytes"] for run in runs)
        case = f"{count} runs, batch {batch}"
        rows.append({"case": case, "way": "memory", "said": said, "took": took, "ratio": took / said})
    return rows


def main() -> None:
    """Print the table and write results/packed.json."""
    only = "what packs take beside what was said, and nothing else"
    options = arguments(
        __doc__.splitlines()[0], lambda parser: parser.add_argument("--memory", action="store_true", help=only)
    )
    facts = machine()
    columns = {
        "case": str,
        "way": str,
        "tokens_per_s": "{:,.0f}".format,
        "said": memory,
        "took": memory,
        "ratio": "{:.2f}x".format,
        "difference": "{:.1e}".format,
    }
    rows = measure_memory(MEMORY[: 1 if options.small else None])  # first: a process's peak never falls
    rows = ([] if options.memory else measure(SMALL if options.small else CASES)) + rows
    publish(
        options,
        "packed_memory" if options.memory else "packed",
        "Runs trained in one pass",
        NOTES,
        facts,
        rows,
        columns,
    )


if __name__ == "__main__":
    main()
