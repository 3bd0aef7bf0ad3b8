"""A study of runs of the bundled pair: one cold process a run with all cores, against warm workers of one thread each.

Run: python -m benchmarks.engines [--small | --middle] [--condition idle | busy] [--threads]
"""

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from benchmarks import shared_runs
from benchmarks._common import arguments, machine, publish
from paraknow_core.engines.local import LocalEngine
from paraknow_core.engines.workers import WorkersEngine
from paraknow_core.files.json_file import write_json
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.runs.processes import is_alive
from paraknow_core.settings import usable_cores
from paraknow_core.spec import RunSpec

SEEDS = 6  # of each arm: with 6 arms, 36 runs with the default budget
LOOK_S = 0.2  # how often the queue looked whether a run's process had ended
OWN = ("fine-tuning", "evaluation", "sensitivity")  # stages that are the work itself
NOTES = [
    "Runs of 6 arms on the bundled pair, each way in a new workspace, one condition after the other in this one call.",
    "Cold: a process for each run, one after the other, with all cores, as the queue did before there were workers.",
    "Workers: as many warm processes of one thread as there are cores. Busy: another process keeps one core busy all",
    "the time. Ratio: of the wall time to that of cold processes in the same condition. CPU seconds: of all processes,",
    "which other work on the machine disturbs less than the clock. Overhead: a run's share of the time beyond its",
    "fine-tuning, evaluation and sensitivity. Equal: scores are those of the first way, and last losses to 1e-5 of",
    "themselves: the last digits of a decomposition depend on the number of threads.",
]
THREAD_NOTES = [
    "Training steps (LoRA of rank 16 on all modules, 64 sequences of 53 tokens) of random models: one process of two",
    "threads against two processes of one thread each, in turn. Ratio: tokens a second of both to those of the one.",
    "Equal: the trained adapters have the same bits. Other work on the machine slows the two threads more.",
]
# Name: hidden and intermediate size, layers, vocabulary, steps that are timed.
SIZES = {
    "1M": (128, 352, 4, 2048, 12),
    "4M": (256, 704, 4, 2048, 6),
    "10M": (384, 1024, 5, 4096, 3),
    "24M": (512, 1376, 7, 4096, 2),
    "50M": (640, 1728, 9, 8192, 1),
    "120M": (768, 2048, 12, 32000, 1),
}


def specs_of(options: Any) -> list[RunSpec]:
    """Return the runs of this size: 4, 12 or 36."""
    if options.small:
        base = RunSpec().with_changes(shared_runs.SMALL)
        return [
            base.with_changes({"method": method, "seed": s}) for s in (0, 1) for method in ("default_lora", "pissa")
        ]
    if options.middle:
        return shared_runs.specs(shared_runs.BUDGET)
    changes = [{"method": method, "factorisation.rank": rank} for method, rank in shared_runs.ARMS]
    return [RunSpec().with_changes({**change, "seed": seed}) for seed in range(SEEDS) for change in changes]


def cold(place: Workspace, runs: Sequence[RunFolder]) -> None:
    """Execute runs one after the other, each in a process of its own that takes all cores."""
    write_json(place.settings_file, {"threads": usable_cores()})
    for run in runs:
        LocalEngine(place).submit(run)
        while run.status().active or is_alive(run.process(), "launched"):
            time.sleep(LOOK_S)


def workers(place: Workspace, runs: Sequence[RunFolder]) -> None:
    """Execute runs in warm workers, as many as there are cores."""
    engine = WorkersEngine(place, usable_cores())
    engine.submit(*runs)
    while any(engine.alive(run) for run in runs):
        time.sleep(LOOK_S)
    engine.close()
    while any(is_alive(run.process()) for run in runs):
        time.sleep(LOOK_S)


WAYS: dict[str, Callable[[Workspace, Sequence[RunFolder]], None]] = {"cold processes": cold, "warm workers": workers}


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


CONDITIONS = {"idle": nullcontext, "busy": busy_core}


def measure(specs: Sequence[RunSpec], conditions: Sequence[str]) -> list[dict[str, Any]]:
    """Execute the runs in all ways, on the machine as it is and beside a busy core."""
    rows, numbers = [], []
    for condition in conditions:
        before = None
        for way, execute in WAYS.items():
            with tempfile.TemporaryDirectory() as folder, CONDITIONS[condition]():
                place = Workspace(Path(folder))
                runs = [create_run(place, spec) for spec in specs]
                start, used = time.perf_counter(), _children_seconds()
                execute(place, runs)
                took, used = time.perf_counter() - start, _children_seconds() - used
                failed = [f"{run.status()}\n{run.log_tail()}" for run in runs if run.result() is None]
                if failed:
                    raise SystemExit(failed[0])
                results = [run.result() for run in runs]
            numbers.append(results)
            before = before or took
            at_once = usable_cores() if execute is workers else 1
            own = statistics.mean(sum(r["timings"].get(name, 0.0) for name in OWN) for r in results)
            rows.append(
                {
                    "case": f"{len(specs)} runs, {condition}",
                    "way": way,
                    "seconds": took,
                    "ratio": took / before,
                    "cpu_seconds": used,
                    "overhead": took * at_once / len(specs) - own,
                    "work": own,
                    "equal": all(map(are_equal, results, numbers[0])),
                }
            )
    return rows


def _children_seconds() -> float:
    """Return the processor seconds of all children that have ended, and of theirs."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def are_equal(result: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two runs of one spec came to the same."""
    losses = [one["training"]["last_loss"] for one in (result, other)]
    return result["scores"] == other["scores"] and math.isclose(*losses, rel_tol=1e-5)


def train(size: str, threads: int) -> None:
    """Inside a child: train when told to, and print tokens a second and a hash of the adapter."""
    import hashlib

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, intermediate, layers, vocabulary, steps = SIZES[size]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        vocab_size=vocabulary,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=16, target_modules="all-linear"))
    adapter = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(adapter, lr=1e-3, fused=True)

    def step() -> None:
        for _ in range(2):
            ids = torch.randint(0, vocabulary, (32, 53))
            model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    step()
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    rate = steps * 64 * 53 / (time.perf_counter() - start)
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in adapter)).hexdigest()
    print(json.dumps([rate, digest]), flush=True)


def train_together(size: str, threads: int, count: int) -> list[tuple[float, str]]:
    """Train in several processes at once; return what each says."""
    command = [sys.executable, "-m", "benchmarks.engines", "--child", json.dumps([size, threads])]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}  # as `paraknow_core.__main__`
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    children = [subprocess.Popen(command, **pipe) for _ in range(count)]
    for child in children:
        child.stdout.readline()
    for child in children:  # at the same moment, when all have loaded
        child.stdin.write("\n")
        child.stdin.flush()
    return [json.loads(child.communicate()[0]) for child in children]


def measure_threads(sizes: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Compare two threads with two processes, by the model's size."""
    rows = []
    for size in sizes:
        ratios, rates, digests = [], [], set()
        for _ in range(rounds):
            (one,), two = train_together(size, 2, 1), train_together(size, 1, 2)
            rates.append(one[0])
            ratios.append(sum(rate for rate, _ in two) / one[0])
            digests |= {digest for _, digest in [one, *two]}
        rows.append(
            {
                "case": size,
                "tokens_per_s": statistics.median(rates),
                "ratio": statistics.median(ratios),
                "equal": len(digests) == 1,
            }
        )
    return rows


def main() -> None:
    """Print the table and write results/engines.json."""
    options = arguments(
        __doc__.splitlines()[0],
        extra=lambda parser: (
            parser.add_argument("--middle", action="store_true", help="12 runs with a third of the default budget"),
            parser.add_argument("--condition", choices=list(CONDITIONS), help="one of them; both by default"),
            parser.add_argument("--threads", action="store_true", help="from which size on two threads are worth it"),
        ),
    )
    if options.child:
        train(*json.loads(options.child))
        return
    facts = machine()
    if options.threads:
        rows = measure_threads(["1M"] if options.small else list(SIZES), 1 if options.small else 3)
        shown = {"case": str, "tokens_per_s": "{:,.0f}".format, "ratio": "{:.2f}x".format, "equal": str}
        publish(options, "threads", "Two threads or two processes", THREAD_NOTES, facts, rows, shown)
        return
    conditions = [options.condition] if options.condition else [*CONDITIONS][: 1 if options.small else 2]
    rows, time_of = measure(specs_of(options), conditions), "{:.2f} s".format
    shown = {"case": str, "way": str, "seconds": time_of, "ratio": "{:.2f}x".format}
    shown |= {"cpu_seconds": time_of, "overhead": time_of, "work": time_of, "equal": str}
    name = "engines_middle" if options.middle else "engines"
    publish(options, name, "Runs by cold processes and by warm workers", NOTES, facts, rows, shown)


if __name__ == "__main__":
    main()
