"""Fine-tuning throughput: the project's own stage against bare PEFT with a minimal loop over the same batches.

Run: python -m benchmarks.finetuning [--small]
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import arguments, machine, publish
from paraknow_core.adapters.inject import inject
from paraknow_core.context import Context
from paraknow_core.paths import Workspace
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.runs.writer import RunWriter
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.training import finetuning

STEPS, ROUNDS = 45, 3
SMALL_STEPS, SMALL_ROUNDS = 2, 1
_BETAS_AND_EPS = {"betas": (0.9, 0.999), "eps": 1e-8}
NOTES = [
    "bundled:stranger on bundled:word_problems, batch 64, LoRA rank 16 on every module. The stage is everything from",
    "the encoded examples to the trained model: Trainer, a metrics line a step, progress, stop requests, and the",
    "checkpoint at the end; the validation loss, which the bare loop does not measure, is switched off. The bare loop",
    "is what one writes by hand: the same 64 examples a step in one padded pass, with the same AdamW, schedule,",
    "clipping and loss, and it reads the loss of every step. The stage splits the same step into passes of like length",
    "by itself; so does the last row by hand, which leaves only what Trainer and the stage's own duties cost. The ways",
    "take turns; a row is the median of its rounds, and the ratio that of tokens (padding not counted) a second to the",
    "bare loop's. All end at the same loss. CPU: seconds of all cores together, which other work on the machine",
    "disturbs less than it does the clock.",
]


class Recorder(finetuning.Collator):
    """A collator that remembers which examples each batch held."""

    batches: list[list[Any]]

    def __call__(self, batch: Any) -> dict[str, torch.Tensor]:
        """Collate as usual."""
        self.batches.append(list(batch))
        return super().__call__(batch)


class Case:
    """One pair of student and task, and the batches that training takes."""

    def __init__(self, steps: int, folder: Path) -> None:
        self.place = Workspace(folder)
        self.spec = RunSpec().with_changes(
            {"method": "default_lora", "finetuning.max_steps": steps, "finetuning.validations": 0}
        )
        self.context = Context(self.spec, Settings(), self.place)
        self.student = self.context.student
        self.train = self.context.encode(self.context.task.split("train"), self.student)
        self.pad_id = self.student.tokenizer.pad_token_id
        self.batches = self._record(self.spec.finetuning.batch_size)
        self.passes = self._record(None)

    def model(self) -> Any:
        """Load the student afresh and give it an untrained adapter."""
        loaded, anatomy = self.student.load(), self.student.anatomy
        return inject(loaded, anatomy, list(anatomy.modules), self.spec.factorisation, (), self.spec.seed)

    def stage(self, model: Any, micro: int | None = None) -> float:
        """Train with the project's stage, into a run folder of its own; return the last loss."""
        spec = self.spec.with_changes({"finetuning.micro_batch_size": micro})
        run = create_run(self.place, spec)
        with RunWriter(run) as writer:
            finetuning.finetune(
                model,
                self.train,
                [],
                self.pad_id,
                spec,
                Settings(),
                run.file("checkpoints"),
                writer,
                lambda: writer.stop_requested,
            )
        return run.metrics()[-1]["loss"]

    def bare(self, model: Any) -> float:
        """Train with nothing but PEFT and torch, a step in one pass; return the last loss."""
        return self._bare(model, [[batch] for batch in self.batches])

    def bare_split(self, model: Any) -> float:
        """The same with the passes that the stage takes."""
        passes, steps = iter(self.passes), []
        for batch in self.batches:
            own: list[list[Any]] = []
            while sum(map(len, own)) < len(batch):
                own.append(next(passes))
            steps.append(own)
        return self._bare(model, steps)

    def _bare(self, model: Any, steps_taken: list[list[list[Any]]]) -> float:
        from transformers import get_scheduler

        recipe, steps = self.spec.finetuning, len(steps_taken)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, **_BETAS_AND_EPS
        )
        warmup = finetuning.training_arguments(self.spec, steps, recipe.batch_size, Path("unused"), "cpu").warmup_steps
        schedule = get_scheduler(recipe.schedule, optimiser, int(warmup), steps)
        collate, last = finetuning.Collator(self.pad_id), 0.0
        model.train()
        for passes in steps_taken:
            batches = [collate(each) for each in passes]
            counts = [int((batch["labels"][:, 1:] != finetuning.IGNORED).sum()) for batch in batches]
            last = 0.0
            for batch, count in zip(batches, counts, strict=True):
                loss = model(**batch).loss * (count / sum(counts))
                loss.backward()
                last += loss.item()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
        return last

    def _record(self, micro: int | None) -> list[list[Any]]:
        """Train once without measuring: warms up the libraries, and says which batches there are."""
        Recorder.batches, original = [], finetuning.Collator
        finetuning.Collator = Recorder
        try:
            self.stage(self.model(), micro)
        finally:
            finetuning.Collator = original
        if micro == self.spec.finetuning.batch_size:
            return Recorder.batches[: self.spec.finetuning.max_steps]  # the loader fetches one ahead
        return Recorder.batches

    @property
    def tokens(self) -> int:
        """Tokens of all batches, without padding."""
        return sum(len(example.input_ids) for batch in self.batches for example in batch)

    def padding(self, batches: list[list[Any]]) -> float:
        """Share of what the model reads that is padding."""
        read = sum(len(batch) * max(len(e.input_ids) for e in batch) for batch in batches)
        return 1 - sum(len(e.input_ids) for batch in batches for e in batch) / read


def measure(steps: int, rounds: int) -> list[dict[str, Any]]:
    """Train in both ways, alternating, each round from the same start."""
    with tempfile.TemporaryDirectory() as folder:
        case = Case(steps, Path(folder))
        ways = {"bare PEFT loop": case.bare, "the project's stage": case.stage, "bare, split alike": case.bare_split}
        read = {"bare PEFT loop": case.padding(case.batches)}
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
        least = statistics.median(computing["bare PEFT loop"])
        return [
            {
                "case": f"{steps} steps",
                "way": way,
                "tokens_per_s": statistics.median(found),
                "rounds": found,
                "ratio": statistics.median(found) / bare,
                "cpu_seconds": statistics.median(computing[way]),
                "cpu_ratio": least / statistics.median(computing[way]),
                "last_loss": losses[way],
                "padding": read.get(way, case.padding(case.passes)),
            }
            for way, found in rates.items()
        ]


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
        "last_loss": "{:.6f}".format,
    }
    publish(options, "finetuning", "Fine-tuning", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
