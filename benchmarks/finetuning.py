"""Fine-tuning throughput: the project's own stage against bare PEFT with a minimal loop over the same batches.

Run: python -m benchmarks.finetuning [--small]
"""

import math
import statistics
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import arguments, machine, publish, seconds
from paraknow_core.adapters.inject import inject
from paraknow_core.context import Context
from paraknow_core.paths import Workspace
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.runs.writer import RunWriter
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.tasks.templates import Encoded
from paraknow_core.training.amounts import micro_batch_size, threads_of
from paraknow_core.training.batches import Collator, steps_from, supervised, supervised_of
from paraknow_core.training.finetuning import finetune
from paraknow_core.training.loop import Training

STEPS, ROUNDS = 45, 3
SMALL_STEPS, SMALL_ROUNDS = 2, 1
NOTES = [
    "bundled:stranger on bundled:word_problems, batch 64, LoRA rank 16 on every module. The stage is everything from",
    "the encoded examples to the trained model: a metrics line a step, progress, stop requests, and the checkpoint at",
    "the end; the validation loss, which the bare loop does not measure, is switched off. The bare loop is what one",
    "writes by hand: the same 64 examples a step in one padded pass, with the same AdamW, schedule, clipping and",
    "loss, and it reads the loss of every step. The stage splits the same step into passes of like length by itself;",
    "so does the last row by hand, which leaves only what the stage's own duties cost. The ways take turns; a row is",
    "the median of its rounds, and the ratio that of tokens (padding not counted) a second to the bare loop's. All",
    "end at the same loss. CPU: seconds of all cores together, which other work on the machine disturbs less than it",
    "does the clock. Floor: the operations that a step cannot do without, in products as fast as this machine's large",
    "ones, on as many threads: the frozen weights forward and for the gradient of what they are given (2 + 2 for each",
    "weight and token), the adapter's factors forward and both gradients (2 + 4), the output layer for supervised",
    "tokens alone. Share: the floor's time over what was taken. What is left are attention, norms and activations,",
    "padding, thin products, AdamW and records.",
]


class Case:
    """One pair of student and task, and the examples that each step takes, in one pass or as the stage splits it."""

    def __init__(self, steps: int, folder: Path) -> None:
        self.place = Workspace(folder)
        self.spec = RunSpec().with_changes(
            {"method": "default_lora", "finetuning.max_steps": steps, "finetuning.validations": 0}
        )
        self.context = Context(self.spec, Settings(), self.place)
        self.student = self.context.student
        torch.set_num_threads(threads_of(self.student.anatomy.parameters))  # as a run does
        self.train = self.context.encode(self.context.task.split("train"), self.student)
        recipe, longest = self.spec.finetuning, max(len(example.input_ids) for example in self.train)
        self.whole = self._steps(recipe.batch_size)
        self.split = self._steps(micro_batch_size(recipe, longest, "cpu"))
        self.stage(self.model())  # warms up the libraries

    def _steps(self, micro: int) -> list[list[list[Encoded]]]:
        recipe = self.spec.finetuning
        steps = steps_from(0, self.train, recipe.batch_size, micro, self.spec.seed)
        return [step.passes for step in islice(steps, recipe.max_steps)]

    def model(self) -> Any:
        """Load the student afresh and give it an untrained adapter."""
        loaded, anatomy = self.student.load(), self.student.anatomy
        return inject(loaded, anatomy, list(anatomy.modules), self.spec.factorisation, (), self.spec.seed)

    def stage(self, model: Any) -> float:
        """Train with the project's stage, into a run folder of its own; return the last loss."""
        run = create_run(self.place, self.spec)
        with RunWriter(run) as writer:
            finetune(Training(replace(self.context, report=writer), model, self.train, [], run.file("checkpoints")))
        return run.metrics()[-1]["loss"]

    def bare(self, model: Any) -> float:
        """Train with nothing but PEFT and torch, a step in one pass; return the last loss."""
        return self._bare(model, self.whole)

    def bare_split(self, model: Any) -> float:
        """The same with the passes that the stage takes."""
        return self._bare(model, self.split)

    def _bare(self, model: Any, steps: list[list[list[Encoded]]]) -> float:
        from transformers import get_scheduler

        recipe, count = self.spec.finetuning, len(steps)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        schedule = get_scheduler(recipe.schedule, optimiser, math.ceil(recipe.warmup_ratio * count), count)
        collate, last = Collator(self.student.tokenizer.pad_token_id), 0.0
        model.train()
        for passes in steps:
            batches = [collate(examples) for examples in passes]
            counts = [int(supervised(batch).sum()) for batch in batches]
            last = 0.0
            for batch, tokens in zip(batches, counts, strict=True):
                loss = model(**batch).loss * (tokens / sum(counts))
                loss.backward()
                last += loss.item()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
        return last

    @property
    def floor(self) -> float:
        """Operations that training takes at least, for all of its tokens."""
        anatomy, rank = self.student.anatomy, self.spec.factorisation.rank
        labels = sum(supervised_of(e) for passes in self.whole for examples in passes for e in examples)
        total = 0.0
        for module in anatomy.modules:
            of_row = 4 * math.prod(module.shape) + 6 * rank * sum(module.shape)
            if module.role == "embed":  # looked up, but where it is the output layer, too
                total += self.tokens * 6 * rank * anatomy.hidden_size + labels * of_row * anatomy.tied
            else:
                total += of_row * (labels if module.role == "head" else self.tokens)
        return total

    @property
    def tokens(self) -> int:
        """Tokens of all batches, without padding."""
        return sum(len(example.input_ids) for passes in self.whole for examples in passes for example in examples)

    def padding(self, steps: list[list[list[Encoded]]]) -> float:
        """Share of what the model reads that is padding."""
        lengths = [[len(example.input_ids) for example in examples] for passes in steps for examples in passes]
        return 1 - self.tokens / sum(len(each) * max(each) for each in lengths)


def measure(steps: int, rounds: int) -> list[dict[str, Any]]:
    """Train in all ways, alternating, each round from the same start."""
    with tempfile.TemporaryDirectory() as folder:
        case = Case(steps, Path(folder))
        ways = {"bare PEFT loop": case.bare, "the project's stage": case.stage, "bare, split alike": case.bare_split}
        rates: dict[str, list[float]] = {way: [] for way in ways}
        computing: dict[str, list[float]] = {way: [] for way in ways}
        losses: dict[str, float] = {}
        for number in range(rounds):
            for way in list(ways) if number % 2 else reversed(ways):
                model = case.model()
                start, busy = time.perf_counter(), time.process_time()
                losses[way] = ways[way](model)
                rates[way].append(case.tokens / (time.perf_counter() - start))
                computing[way].append(time.process_time() - busy)
        bare = statistics.median(rates["bare PEFT loop"])
        peak = operations_a_second()
        least = statistics.median(computing["bare PEFT loop"])
        return [
            {
                "case": f"{steps} steps",
                "way": way,
                "tokens_per_s": statistics.median(rounds_taken),
                "rounds": rounds_taken,
                "ratio": statistics.median(rounds_taken) / bare,
                "cpu_seconds": statistics.median(computing[way]),
                "cpu_ratio": least / statistics.median(computing[way]),
                "last_loss": losses[way],
                "mflop_a_token": case.floor / case.tokens / 1e6,
                "share": case.floor / case.tokens * statistics.median(rounds_taken) / peak,
                "padding": case.padding(case.whole if ways[way] == case.bare else case.split),
            }
            for way, rounds_taken in rates.items()
        ]


def operations_a_second(size: int = 1024) -> float:
    """Return how many operations this machine's products of large matrices do a second."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return 2 * size**3 / seconds(lambda: a @ b, repeats=7)


def main() -> None:
    """Print the table and write results/finetuning.json."""
    options = arguments(__doc__.splitlines()[0])
    facts = machine()
    rows = measure(SMALL_STEPS, SMALL_ROUNDS) if options.small else measure(STEPS, ROUNDS)
    columns = {
        "case": str,
        "way": str,
        "tokens_per_s": "{:,.0f}".format,
        "ratio": "{:.2f}x".format,
        "cpu_seconds": "{:.1f}".format,
        "cpu_ratio": "{:.2f}x".format,
        "padding": "{:.1%}".format,
        "mflop_a_token": "{:.2f}".format,
        "share": "{:.0%}".format,
        "last_loss": "{:.6f}".format,
    }
    publish(options, "finetuning", "Fine-tuning", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
