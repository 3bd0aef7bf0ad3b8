"""Stage fine-tuning: train the adapter with Hugging Face Trainer; stream metrics, save, stop, resume."""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from paraknow_core.adapters.inject import save_adapter
from paraknow_core.errors import NumericError
from paraknow_core.files.atomic import usual_rights
from paraknow_core.models.rotary import lengths_matter
from paraknow_core.runs.writer import StopRequested
from paraknow_core.spec import FinetuningSpec, RunSpec
from paraknow_core.training import checkpoints
from paraknow_core.training.checkpoints import COMPLETE as COMPLETE

if TYPE_CHECKING:
    from peft import PeftModel

    from paraknow_core.context import Reporter
    from paraknow_core.settings import Settings
    from paraknow_core.tasks.templates import Encoded

# Padded tokens of one forward pass: enough to fill the cores (more passes a step: less padding), or a GPU.
TOKENS_PER_PASS, TOKENS_PER_GPU_PASS = 2_048, 16_384
IGNORED = -100


def total_steps(spec: FinetuningSpec, examples: int) -> int:
    """Return the number of optimiser steps; the last batch of an epoch may be smaller."""
    if spec.max_steps is not None:
        return spec.max_steps
    return math.ceil(spec.epochs * math.ceil(examples / spec.batch_size))


def micro_batch_size(spec: FinetuningSpec, longest: int, device: str) -> int:
    """Return how many examples one forward pass takes: the spec's, else the largest divisor of the batch that fits."""
    if spec.micro_batch_size:
        return spec.micro_batch_size
    most = TOKENS_PER_PASS if device == "cpu" else TOKENS_PER_GPU_PASS
    return next((d for d in range(spec.batch_size, 0, -1) if spec.batch_size % d == 0 and d * longest <= most), 1)


class Collator:
    """Pads encoded examples on the right.

    Where a row's length changes its rotary table, the positions tell it, so that a row's loss is as alone.
    """

    def __init__(self, pad_id: int, model: torch.nn.Module | None = None) -> None:
        self.pad_id, self.positions = pad_id, model is not None and lengths_matter(model)

    def __call__(self, batch: "Sequence[Encoded]") -> dict[str, torch.Tensor]:
        """Return input_ids, labels and attention_mask (perhaps position_ids), each (batch, longest)."""
        longest = max(len(e.input_ids) for e in batch)
        ids = torch.full((len(batch), longest), self.pad_id)
        labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for row, example in enumerate(batch):
            length = len(example.input_ids)
            ids[row, :length] = torch.tensor(example.input_ids)
            labels[row, :length] = torch.tensor(example.labels)
            mask[row, :length] = 1
        more = {"position_ids": (mask.cumsum(-1) - 1) * mask} if self.positions else {}
        return {"input_ids": ids, "labels": labels, "attention_mask": mask, **more}


def mean_loss(model: torch.nn.Module, collate: Collator, encoded: "Sequence[Encoded]", micro_batch: int) -> float:
    """Return the mean cross-entropy over all supervised tokens, nats per token; leaves the model's mode as it was."""
    was_training = model.training
    model.eval()
    nats = tokens = 0.0
    with torch.inference_mode():
        for start in range(0, len(encoded), micro_batch):
            batch = {k: v.to(model.device) for k, v in collate(encoded[start : start + micro_batch]).items()}
            supervised = int((batch["labels"][:, 1:] != IGNORED).sum())
            nats += model(**batch, use_cache=False).loss.item() * supervised
            tokens += supervised
    model.train(was_training)
    return nats / max(tokens, 1)


class AlikeTogether(Sampler):
    """Puts the examples of each optimiser step in order of length, so that little of a forward pass is padding.

    Which examples a step takes stays as the wrapped sampler drew it, and so does the step, up to rounding: the loss
    is the mean over the tokens of the whole step, however they are spread over its forward passes.
    """

    def __init__(self, drawn: Sampler, lengths: Sequence[int], batch_size: int) -> None:
        """Args: drawn yields example numbers; lengths by example number; batch_size examples make a step."""
        self.drawn, self.lengths, self.batch_size = drawn, lengths, batch_size

    def __iter__(self) -> Iterator[int]:
        """Yield example numbers, each step's longest first: what does not fit into memory says so at once."""
        order = list(self.drawn)
        for start in range(0, len(order), self.batch_size):
            yield from sorted(order[start : start + self.batch_size], key=lambda index: -self.lengths[index])

    def __len__(self) -> int:
        return len(self.drawn)

    def set_epoch(self, epoch: int) -> None:
        """Draw another order each epoch."""
        self.drawn.set_epoch(epoch)


class AdapterTrainer(Trainer):
    """A Trainer whose checkpoints hold the adapter only, never base weights, and that counts the tokens it has used."""

    label = ""
    tokens = padded = 0

    def training_step(self, model: torch.nn.Module, inputs: dict, *more: Any, **options: Any) -> torch.Tensor:
        """Count here and not where batches are made: those are fetched ahead of their step."""
        self.tokens += int(inputs["attention_mask"].sum())
        self.padded += inputs["attention_mask"].numel()
        return super().training_step(model, inputs, *more, **options)

    def get_train_dataloader(self) -> DataLoader:
        """Return the Trainer's own loader; where a step takes several passes, examples of like length share one."""
        loader = super().get_train_dataloader()
        if self.args.gradient_accumulation_steps > 1:
            lengths = [len(example.input_ids) for example in self.train_dataset]
            batch_size = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
            loader.set_sampler(AlikeTogether(loader.get_sampler(), lengths, batch_size))
        return loader

    def floating_point_ops(self, inputs: dict) -> int:  # noqa: ARG002
        """Nobody reads the estimate, and making it walks through all parameters at every step."""
        return 0

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or self.args.output_dir)
        checkpoints.prune(folder.parent, checkpoints.KEPT - 1)  # room for this one
        folder.mkdir(parents=True, exist_ok=True)
        save_adapter(self.model, folder, self.label)


class Follow(TrainerCallback):
    """Streams metrics to the run, measures the validation loss, saves in time, and stops when asked."""

    def __init__(
        self,
        report: "Reporter",
        stop_requested: Callable[[], bool],
        validate: Callable[[], float] | None,
        validate_every: int,
        checkpoint_seconds: float,
        tokens_used: Callable[[], int],
    ) -> None:
        self.report, self.stop_requested = report, stop_requested
        self.validate, self.validate_every = validate, validate_every
        self.checkpoint_seconds, self.tokens_used = checkpoint_seconds, tokens_used
        self.saved_at = self.logged_at = time.monotonic()
        self.logged_tokens = 0
        self.stopped = False
        self.process = psutil.Process()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.saved_at = self.logged_at = time.monotonic()
        if state.global_step == 0:
            self._validate(0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:  # noqa: ARG002
        """Write one line a step; a loss that is not finite ends the run with a sentence."""
        if not logs or "loss" not in logs:
            return
        if not all(math.isfinite(logs[key]) for key in ("loss", "grad_norm") if key in logs):
            raise NumericError(
                f"fine-tuning: at step {state.global_step} the loss is {logs['loss']} and the gradient norm "
                f"{logs.get('grad_norm')}; lower finetuning.learning_rate or lora_alpha"
            )
        now, tokens = time.monotonic(), self.tokens_used()
        rate = (tokens - self.logged_tokens) / max(now - self.logged_at, 1e-9)
        self.logged_at, self.logged_tokens = now, tokens
        self.report.event(
            "metrics",
            step=state.global_step,
            epoch=logs.get("epoch", state.epoch),
            loss=logs["loss"],
            grad_norm=logs.get("grad_norm"),
            learning_rate=logs.get("learning_rate"),
            tokens_per_s=round(rate, 1),
            memory_bytes=self.process.memory_info().rss,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Report progress; decide about validation, saving and stopping."""
        step, last = state.global_step, state.global_step >= state.max_steps
        self.report.progress(step, state.max_steps, "optimiser steps")
        if self.validate_every and (step % self.validate_every == 0 or last):
            self._validate(step)
        if self.stop_requested() and not last:
            self.stopped = True
            control.should_training_stop = True
        if self.stopped or last or time.monotonic() - self.saved_at >= self.checkpoint_seconds:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Seal the checkpoint; the one before stays: a kill or a crash at any moment leaves one to resume from."""
        newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        usual_rights(newest)
        checkpoints.seal(newest, state.global_step, state.max_steps)
        self.saved_at = time.monotonic()
        self.report.event("saved", step=state.global_step)

    def _validate(self, step: int) -> None:
        if self.validate:
            began = time.monotonic()
            self.report.event("metrics", step=step, validation_loss=self.validate())
            # The rate of training tokens leaves validation out. The step's own line comes only after this.
            self.logged_at += time.monotonic() - began


def finetune(
    peft_model: "PeftModel",
    train: "Sequence[Encoded]",
    validation: "Sequence[Encoded]",
    pad_id: int,
    spec: RunSpec,
    settings: "Settings",
    folder: Path,
    report: "Reporter",
    stop_requested: Callable[[], bool],
) -> dict[str, Any]:
    """Train the adapter in place, from its newest sound checkpoint if there is one; from the last, there is no step.

    Args:
        peft_model: adapter trainable, base frozen.
        train, validation: encoded examples; the loss is on their labels only.
        pad_id: token id used for padding (masked).
        spec: the run's; uses `finetuning` and `seed`.
        settings: uses `checkpoint_seconds` and `gradient_checkpointing`.
        folder: where checkpoints go.
        report, stop_requested: whom to tell, and whom to ask after every step.

    Returns:
        steps, micro_batch_size, examples, resumed, padding (its share of what the model read here; null if nothing was
        trained), trainable_parameters, weights (their SHA-256), warnings (about checkpoints that could not be used).

    Raises:
        StopRequested: asked to stop; a checkpoint was saved.
        NumericError: the loss is not finite.
    """
    recipe = spec.finetuning
    steps = total_steps(recipe, len(train))
    micro = micro_batch_size(recipe, max(len(e.input_ids) for e in train), peft_model.device.type)
    collate, found = Collator(pad_id, peft_model), checkpoints.newest(folder, steps)
    report.progress(found.step, steps, "optimiser steps")
    padding = None
    if found.path and found.step == steps:  # the Trainer would train on until the end of an epoch
        checkpoints.restore(peft_model, found.path)
    elif steps and recipe.learning_rate:
        validate = (lambda: mean_loss(peft_model, collate, validation, micro)) if validation else None
        every = max(1, math.ceil(steps / recipe.validations)) if validate and recipe.validations else 0
        trainer = AdapterTrainer(
            model=peft_model,
            train_dataset=list(train),
            data_collator=collate,
            args=training_arguments(
                spec, steps, micro, folder, peft_model.device.type, settings.gradient_checkpointing
            ),
        )
        follow = Follow(
            report,
            stop_requested,
            validate if every else None,
            every,
            settings.checkpoint_seconds,
            lambda: trainer.tokens,
        )
        trainer.add_callback(follow)
        trainer.remove_callback(PrinterCallback)  # the run's events say all of it
        trainer.label = spec.student.source
        gc.freeze()  # Trainer collects garbage; what all the libraries hold need not be looked through for it
        try:
            trainer.train(resume_from_checkpoint=str(found.path) if found.path else None)
        except BaseException:
            checkpoints.prune(folder, checkpoints.KEPT)  # what was not saved to its end takes room
            raise
        finally:
            gc.unfreeze()
            if settings.gradient_checkpointing:
                peft_model.gradient_checkpointing_disable()
        if follow.stopped:
            raise StopRequested
        padding = 1 - trainer.tokens / trainer.padded if trainer.padded else None
    peft_model.eval()
    return {
        "steps": steps,
        "micro_batch_size": micro,
        "examples": len(train),
        "resumed": found.path is not None,
        "padding": padding,
        "trainable_parameters": sum(p.numel() for p in trainable(peft_model)),
        "weights": checkpoints.weights_digest(peft_model),
        "warnings": found.warnings,
    }


def trainable(peft_model: "PeftModel") -> list[torch.nn.Parameter]:
    """Return the trainable parameters, each storage once (tied factors are views of one another)."""
    by_storage = {p.untyped_storage().data_ptr(): p for p in peft_model.parameters() if p.requires_grad}
    return list(by_storage.values())


def training_arguments(
    spec: RunSpec, steps: int, micro: int, folder: Path, device: str, gradient_checkpointing: bool = False
) -> TrainingArguments:
    """Return the Trainer's settings for a spec: everything that could surprise is said explicitly."""
    recipe = spec.finetuning
    schedules = {"constant": "constant_with_warmup"}
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=recipe.batch_size // micro,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=schedules.get(recipe.schedule, recipe.schedule),
        warmup_steps=math.ceil(recipe.warmup_ratio * steps),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch_fused",
        seed=spec.seed,
        data_seed=spec.seed,
        logging_steps=1,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=device == "cpu",
        bf16=False,
        fp16=False,
        label_names=["labels"],
        gradient_checkpointing=gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
