"""Training shared by two processes against one: the memory of each process, the speed, the loss.

Run: python -m benchmarks.sharded [--small]
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks._common import arguments, machine, publish
from paraknow_core.adapters.inject import inject
from paraknow_core.context import Context, Silent
from paraknow_core.memory import anonymous_bytes
from paraknow_core.models.source import resolve_model
from paraknow_core.paths import Workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.training.finetuning import finetune
from paraknow_core.training.loop import Training
from paraknow_core.training.sharded import finetune_sharded

# Of a Llama with the bundled tokenizer, and the training of it.
LARGE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 24, "num_attention_heads": 16}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
STEPS, BATCH, MICRO = 3, 4, 1
NOTES = [
    "A Llama with random weights in float32 (hidden 1024, 24 layers), LoRA rank 16 on every module, on",
    "bundled:word_problems: 3 steps of 4 examples, 1 a pass, one thread a process. Each way in a fresh process. In",
    "training: the largest own memory (anonymous pages) of a process from the first step's end to the last one's, in",
    "MB; of which for the student: without what a process holds that has only loaded its libraries. Ratio: the largest",
    "process's memory for the student to that of one process alone. Before: the largest own memory until then; process",
    "0 has read the whole student, as the stages before and after training need it.",
]


class Watching(Silent):
    """Follows the own memory of this process and of those it has started, before the first step's end and after."""

    def __init__(self, base: int) -> None:
        self.base, self.losses, self.since = base, [], 0.0
        self.before: dict[int, int] = {}
        self.training: dict[int, int] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def event(self, name: str, **fields: Any) -> None:
        if name == "metrics" and "loss" in fields:
            self.losses.append(fields["loss"])
            self.since = self.since or time.monotonic()
            self.until = time.monotonic()

    def _watch(self) -> None:
        me = psutil.Process()
        while len(self.losses) < STEPS:
            into = self.training if self.losses else self.before
            for rank, each in enumerate([me, *me.children()]):
                into[rank] = max(into.get(rank, 0), anonymous_bytes(each.pid))
            time.sleep(0.02)


def build(folder: Path, sizes: dict[str, int]) -> str:
    """Save a student with random weights and the bundled tokenizer; return its path."""
    import shutil

    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    source = resolve_model("bundled:stranger").folder
    taken = json.loads((source / "config.json").read_text())
    kept = {name: taken[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    set_seed(0)
    config = LlamaConfig(**kept, **sizes, max_position_embeddings=512, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    return str(folder)


def train(student: str, processes: int) -> dict[str, Any]:
    """Train in this process and those it starts; return what was measured."""
    torch.set_num_threads(1)
    spec = RunSpec().with_changes(
        {
            "method": "default_lora",
            "student.source": student,
            "finetuning.max_steps": STEPS,
            "finetuning.batch_size": BATCH,
            "finetuning.micro_batch_size": MICRO,
            "finetuning.validations": 0,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        context = Context(spec, Settings(processes=processes, device="cpu", threads=1), Workspace(Path(folder)))
        own = context.student
        examples = context.encode(context.task.split("train")[: STEPS * BATCH], own)
        import peft  # noqa: F401 - its memory is no student's

        context.report = watching = Watching(anonymous_bytes())
        model = inject(own.load(), own.anatomy, context.student_modules, spec.factorisation, (), spec.seed)
        training = Training(context, model, examples, [], Path(folder) / "checkpoints")
        (finetune if processes == 1 else finetune_sharded)(training)
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "base": watching.base,
            "before": watching.before,
            "training": watching.training,
            "seconds_a_step": (watching.until - watching.since) / (STEPS - 1),
            "last_loss": watching.losses[-1],
        }


def measure(sizes: dict[str, int]) -> list[dict[str, Any]]:
    """Train alone and in two processes, each in a fresh process."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        student = build(Path(folder), sizes)
        measured = {}
        for processes in (1, 2):
            case = json.dumps({"student": student, "processes": processes})
            command = [sys.executable, "-m", "benchmarks.sharded", "--child", case]
            measured[processes] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    alone = measured[1]["training"]["0"] - measured[1]["base"]
    for processes, found in measured.items():
        for rank, peak in found["training"].items():
            held = peak - found["base"]
            rows.append(
                {
                    "case": f"{found['parameters'] / 1e6:,.0f}M parameters",
                    "way": "alone" if processes == 1 else f"process {int(rank) + 1} of {processes}",
                    "before_mb": found["before"].get(rank, 0) / 1e6,
                    "in_training_mb": peak / 1e6,
                    "student_mb": held / 1e6,
                    "ratio": held / alone,
                    "seconds_a_step": found["seconds_a_step"],
                    "last_loss": found["last_loss"],
                }
            )
    return rows


def main() -> None:
    """Print the table and write results/sharded.json."""
    options = arguments(__doc__.splitlines()[0])
    if options.child:
        print(json.dumps(train(**json.loads(options.child))))
        return
    facts = machine()
    columns = {
        "case": str,
        "way": str,
        "before_mb": "{:,.0f}".format,
        "in_training_mb": "{:,.0f}".format,
        "student_mb": "{:,.0f}".format,
        "ratio": "{:.2f}x".format,
        "seconds_a_step": "{:.2f}".format,
        "last_loss": "{:.6f}".format,
    }
    rows = measure(TINY if options.small else LARGE)
    publish(options, "sharded", "Training in two processes", NOTES, facts, rows, columns)


if __name__ == "__main__":
    main()
