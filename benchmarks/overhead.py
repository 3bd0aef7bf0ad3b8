"""What a run spends besides its training: preparing, injecting, exporting, evaluating, and a cold start.

Run: python -m benchmarks.overhead [--small]
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import arguments, machine, publish
from paraknow_core import pipeline
from paraknow_core.context import Context, Work
from paraknow_core.files.json_file import read_lines
from paraknow_core.paths import PROJECT_ROOT, Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.sensitivity.plan import sizes_of
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.tasks.templates import encode_prompt

METHODS = ("seeking", "pissa", "default_lora")
SETTINGS = Settings(threads=1)
BRIEF = {
    "finetuning.max_steps": 1,
    "finetuning.batch_size": 4,
    "finetuning.validations": 0,
    "task.sizes": {"train": 8, "validation": 0, "test": 2},
    "sensitivity.samples": 2,
}
ROUNDS = 3
NOTES = [
    "Default runs of the bundled pair (48 steps, 300 test examples), one thread, one process after a brief run of each",
    "method: what is worked out once a process or once a workspace is there. Seconds by the clock, CPU seconds of this",
    "process (other work on the machine disturbs them less), the best of the rounds. Rest: all but training and",
    "evaluation; its share is of the whole run's CPU seconds. Evaluation: its floor is the operations of the tokens",
    "that are read and written, at the speed of a large matrix product here, and the keys and values of every earlier",
    "token, read at each step at the speed of a copy; the ratio is CPU seconds over floor. Cold: a brief run by",
    "`python -m paraknow_core run` in a process of its own; its floor is the same run in a warm process and a process",
    "that imports torch.",
]


@contextmanager
def watched() -> Iterator[dict[str, list[float]]]:
    """Note for each stage of the runs inside the block its seconds, by the clock and of the CPU."""
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    original = pipeline.recorded  # who runs a stage, with a watch around it

    @contextmanager
    def recorded(work: Work, shown: str) -> Iterator[None]:
        start, busy = time.perf_counter(), time.process_time()
        with original(work, shown):
            yield
        spent[shown][0] += time.perf_counter() - start
        spent[shown][1] += time.process_time() - busy

    pipeline.recorded = recorded
    try:
        yield spent
    finally:
        pipeline.recorded = original


def warm_run(place: Workspace, spec: RunSpec) -> tuple[RunFolder, dict[str, list[float]]]:
    """Execute a run; return its folder, and seconds (clock, CPU) of the whole, of its evaluation, of the rest."""
    with watched() as stages:
        start, busy = time.perf_counter(), time.process_time()
        run = create_run(place, spec)
        pipeline.execute(run, place, SETTINGS)
        whole = [time.perf_counter() - start, time.process_time() - busy]
    parts = zip(whole, stages["fine-tuning"], stages["evaluation"], strict=True)
    rest = [total - training - evaluation for total, training, evaluation in parts]
    return run, {"whole": whole, "evaluation": stages["evaluation"], "rest": rest}


def speeds() -> tuple[float, float]:
    """Return operations and bytes a second of one thread: of a large matrix product, and of a copy."""
    a, b, large = torch.rand(1024, 1024), torch.rand(1024, 1024), torch.rand(2**24)
    room, out = torch.empty_like(large), torch.empty(1024, 1024)

    def best(work: Any) -> float:
        times = []
        for _ in range(8):
            busy = time.process_time()
            work()
            times.append(time.process_time() - busy)
        return min(times)

    product, copy = best(lambda: torch.mm(a, b, out=out)), best(lambda: room.copy_(large))
    return 2 * 1024**3 / product, 2 * large.nbytes / copy


def evaluation_floor(context: Context, run: RunFolder) -> float:
    """Return the least seconds in which this machine can write a run's answers; see `NOTES`."""
    task, anatomy, tokenizer = context.task, context.student.anatomy, context.student.tokenizer
    scorer = task.scorers[0]
    written = {
        record["id"]: record["detail"]["new_tokens"] + (record["detail"]["stopped"] == "end")
        for record in read_lines(run.file("predictions.jsonl"))
        if record["scorer"] == scorer
    }
    size, trained = sizes_of(anatomy), run.result()["trainable_parameters"]
    operations = bytes_read = 0.0
    a_token = 2 * 4 * anatomy.num_hidden_layers * anatomy.num_key_value_heads * anatomy.head_dim
    for example in task.split("test"):
        prompt = len(encode_prompt(example, task.template, tokenizer, task.max_length, room=1))
        steps = written[example.id]  # the last token is chosen, and never read
        operations += 2 * (prompt + steps - 1) * (size.layers + trained) + 2 * steps * size.vocabulary
        bytes_read += a_token * sum(range(prompt, prompt + steps))
    product, copy = speeds()
    return operations / product + bytes_read / copy


def process(*arguments_: str) -> list[float]:
    """Run a Python process of its own; return its seconds, by the clock and of the CPU."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments_], cwd=PROJECT_ROOT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return [time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime]


def measure(*, small: bool) -> list[dict[str, Any]]:
    """Execute the runs; return a row for the rest of each method, for evaluation and for a cold start."""
    torch.set_num_threads(1)
    rounds, rows = 1 if small else ROUNDS, []
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace(Path(folder))
        brief = {method: RunSpec().with_changes({"method": method, **BRIEF}) for method in METHODS}
        whole = brief if small else {method: RunSpec().with_changes({"method": method}) for method in METHODS}
        for method in METHODS:
            warm_run(place, brief[method])
        if not small:  # its sensitivity, and the scores of the untouched student
            warm_run(place, whole["seeking"].with_changes({"finetuning.max_steps": 1}))
        evaluations = []
        for method, spec in whole.items():
            taken = [warm_run(place, spec) for _ in range(rounds)]
            run, spent = min(taken, key=lambda each: each[1]["rest"][1])
            seconds, busy = spent["rest"]
            share = busy / spent["whole"][1]
            rows.append({"case": "rest", "way": method, "seconds": seconds, "cpu_seconds": busy, "share": share})
            evaluations += [(run, each["evaluation"]) for run, each in taken]
        run, (seconds, busy) = min(evaluations, key=lambda each: each[1][1])
        context = Context(run.spec(), SETTINGS, place)
        rows.append(_row("evaluation", run.spec().method, seconds, busy, evaluation_floor(context, run)))
        rows[-1]["an_example"] = busy / len(context.task.split("test"))
        warm = min(warm_run(place, brief["seeking"])[1]["whole"][1] for _ in range(rounds))
        cold = create_run(place, brief["seeking"])
        command = ("-m", "paraknow_core", "--workspace", folder, "run", str(cold.path), "--threads", "1")
        seconds, busy = process(*command)
        rows.append(_row("cold start", "seeking", seconds, busy, warm + process("-c", "import torch")[1]))
    return rows


def _row(case: str, way: str, seconds: float, busy: float, floor: float) -> dict[str, Any]:
    return {"case": case, "way": way, "seconds": seconds, "cpu_seconds": busy, "floor": floor, "ratio": busy / floor}


def main() -> None:
    """Print the table and write results/overhead.json."""
    options = arguments(__doc__.splitlines()[0])
    facts = machine() | {"threads": 1}
    time_of = "{:.3f} s".format
    columns = {
        "case": str,
        "way": str,
        "seconds": time_of,
        "cpu_seconds": time_of,
        "share": "{:.1%}".format,
        "floor": time_of,
        "ratio": "{:.1f}x".format,
        "an_example": lambda seconds: f"{seconds * 1e3:.1f} ms",
    }
    title = "What a run spends besides its training"
    publish(options, "overhead", title, NOTES, facts, measure(small=options.small), columns)


if __name__ == "__main__":
    main()
