"""The training of one run: what each step reads, and what follows its backward pass.

`Training` holds all that is a run's own, so that whoever computes the losses and their gradients may do so for one
run or for many at once (`finetuning.finetune`, `packed.finetune_packed`).
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil
import torch
from torch import Tensor, nn

from paraknow_core.adapters.fused import fused
from paraknow_core.errors import DivergedError
from paraknow_core.runs.writer import StopRequested
from paraknow_core.settings import usable_cores
from paraknow_core.training import checkpoints
from paraknow_core.training.amounts import micro_batch_size
from paraknow_core.training.batches import Collator, steps_from, supervised, supervised_of
from paraknow_core.training.losses import Losses
from paraknow_core.training.pace import Threads

if TYPE_CHECKING:
    from peft import PeftModel

    from paraknow_core.context import Context
    from paraknow_core.methods.base import LossTerm
    from paraknow_core.tasks.templates import Encoded

LEAST_ROWS = 16  # with fewer than 12 rows, how many threads there are changes the last digits of a product (MKL)
IDLE = 0.7  # of a core, that has to be idle before a second thread is tried
LOWER = "lower finetuning.learning_rate or lora_alpha"  # the way on for a training that diverges


@dataclass(frozen=True)
class Step:
    """One optimiser step.

    Attributes:
        number: from 1.
        epoch: epochs that are done after it.
        passes: the batches of its forward passes, as `Collator` makes them.
        supervised: how many supervised tokens they have together, as a scalar tensor.
        tokens, read: that they have together, without and with padding.
        fewest: supervised tokens of one pass.
    """

    number: int
    epoch: float
    passes: list[dict[str, Tensor]]
    supervised: Tensor
    tokens: int
    read: int
    fewest: int


class Training:
    """The training of an adapter, from its newest sound checkpoint if there is one, to the last step or a stop.

    A context manager. `steps` yields what to read next; whoever has computed the loss and the gradients of it hands the
    loss to `take` before asking for the next one.
    """

    def __init__(
        self,
        context: "Context",
        model: "PeftModel",
        train: "Sequence[Encoded]",
        validation: "Sequence[Encoded]",
        folder: Path,
        term: "LossTerm | None" = None,
    ) -> None:
        """Prepare everything and read the checkpoint.

        Args:
            context: its spec (`finetuning`, `data_seed`), its settings (`checkpoint_seconds`,
                `gradient_checkpointing`), and its report, which is told of every step and asked after it whether to
                stop.
            model: adapter trainable, base frozen; trained in place.
            train, validation: encoded examples; the loss is on their labels only.
            folder: where checkpoints go.
            term: what the method adds to the loss (see `methods.base.LossTerm`).
        """
        from transformers import get_scheduler, set_seed

        self.context, self.train, self.validation, self.folder = context, train, validation, folder
        self.recipe, self.settings, self.report = context.spec.finetuning, context.settings, context.report
        recipe, self.seed = self.recipe, context.spec.data_seed
        self.steps_in_all = recipe.steps(len(train))
        self.last = self.steps_in_all if recipe.learning_rate else 0  # no step is left after the last one
        self.micro = micro_batch_size(recipe, max(len(example.input_ids) for example in train), model.device.type)
        self.validates = bool(validation and recipe.validations)
        self._every = math.ceil(self.steps_in_all / recipe.validations) if self.validates else 0
        self._collate = Collator(context.student.tokenizer.pad_token_id, model)

        set_seed(self.seed)
        self.model, self._trained = model, [p for p in model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self._trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.schedule = get_scheduler(
            {"constant": "constant_with_warmup"}.get(recipe.schedule, recipe.schedule),
            self.optimiser,
            num_warmup_steps=math.ceil(recipe.warmup_ratio * self.steps_in_all),
            num_training_steps=self.steps_in_all,
        )
        self.losses, self.validation_losses = Losses(self.model, term), Losses(self.model)
        self._state = checkpoints.State(self.model, self.optimiser, self.schedule, context.spec.student.source)
        self._save = checkpoints.newest(folder, self.steps_in_all)
        if self._save.path:
            self._state.load(self._save.path)
        self.report.progress(self._save.step, self.steps_in_all, "optimiser steps")
        first = torch.get_num_threads() if model.device.type == "cpu" else 1
        # Of several processes, each has set its own.
        self._first_threads = first if model.device.type == "cpu" and self.settings.processes == 1 else None
        # A small model should leave the other cores to other runs, but may use one more while there are none. No more
        # than one: with two threads a training's sums are those of one, bit for bit.
        spare = first == 1 and model.device.type == "cpu" and not self.settings.threads
        most = min(2, usable_cores()) if spare else first
        self.threads = Threads(most, torch.set_num_threads, self._tell_threads, first=first, has_room=IdleCores())
        self._fused = ExitStack()
        self.pace, self._saved_at, self._process = Pace(), time.monotonic(), psutil.Process()

    def __enter__(self) -> Self:
        if self.settings.processes == 1:  # of several, each holds but a part of a layer's weight
            self._fused.enter_context(fused(self.model))
        self.model.train()
        if self.settings.gradient_checkpointing:
            self.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        return self

    def __exit__(self, *_: object) -> None:
        self._fused.close()
        self._with_first_threads()
        checkpoints.prune(self.folder, checkpoints.KEPT)  # what was not saved to its end takes room
        if self.settings.gradient_checkpointing:
            self.model.activation_checkpointing_disable()
        self.model.eval()

    def steps(self) -> Iterator[Step]:
        """Yield the steps that are left; each has to be taken before the next one is asked for.

        Raises:
            DivergedError: the validation loss before the first step is not finite.
        """
        if self.validates and not self._save.step:
            self._validate(0)
        rest = steps_from(self._save.step, self.train, self.recipe.batch_size, self.micro, self.seed)
        for number, read in zip(range(self._save.step + 1, self.last + 1), rest, strict=False):
            passes = [self._collate(part) for part in read.passes]
            # Counted here and not on the device, which would have to be waited for.
            labels = [sum(supervised_of(example) for example in part) for part in read.passes]
            tokens = sum(len(example.input_ids) for part in read.passes for example in part)
            padded = sum(batch["input_ids"].numel() for batch in passes)
            count = torch.tensor(sum(labels), device=self.model.device)
            yield Step(number, read.epoch, passes, count, tokens, padded, min(labels))

    def gradients(self, step: Step) -> Tensor:
        """Compute the gradients of a step; return its loss: the mean over its supervised tokens, nats."""
        loss = torch.zeros((), device=self.model.device)
        many = step.fewest >= LEAST_ROWS
        if not many:
            self._with_first_threads()
        with self.threads.timed(step.read) if many else nullcontext():
            for batch in step.passes:
                share = self.losses.share(batch, step.supervised)
                share.backward()
                loss += share.detach()
        return loss

    def take(self, step: Step, loss: Tensor) -> None:
        """Move the adapter along its gradients, record the step, and do what is due: validate, save, stop.

        Args:
            step: whose gradients the adapter holds.
            loss: the mean over its supervised tokens, nats.

        Raises:
            StopRequested: asked to stop; a checkpoint was saved.
            DivergedError: a loss is not finite.
        """
        self.pace.count(step.tokens, step.read)
        norm = nn.utils.clip_grad_norm_(self._trained, self.recipe.max_grad_norm)
        self.optimiser.step()
        learning_rate = self.schedule.get_last_lr()[0]
        self.schedule.step()
        self.optimiser.zero_grad()

        number, figures = step.number, {"loss": loss.item(), "grad_norm": norm.item()}
        if not all(map(math.isfinite, figures.values())):
            raise DivergedError(
                f"fine-tuning: at step {number} the loss is {figures['loss']} and the gradient norm "
                f"{figures['grad_norm']}; {LOWER}",
                number,
            )
        self.report.event(
            "metrics",
            step=number,
            epoch=step.epoch,
            **figures,
            learning_rate=learning_rate,
            tokens_per_s=round(self.pace.rate(), 1),
            memory_bytes=self._process.memory_info().rss,
        )
        self.report.progress(number, self.steps_in_all, "optimiser steps")
        if self._every and (number % self._every == 0 or number == self.last):
            self._validate(number)
        stopped = number < self.last and self.report.stop_requested
        due = time.monotonic() - self._saved_at >= self.settings.checkpoint_seconds
        if stopped or number == self.last or due:
            self._state.save(self.folder, number, self.steps_in_all)
            self._saved_at = time.monotonic()
            self.report.event("saved", step=number)
        if stopped:
            raise StopRequested

    def summary(self) -> dict[str, Any]:
        """Return, at the end, what the training was.

        Returns:
            steps, micro_batch_size, examples, resumed, padding (its share of what the model read here; null if nothing
            was trained), trainable_parameters, weights (their SHA-256), warnings (about checkpoints that could not be
            used), processes (if several).
        """
        return {
            "steps": self.steps_in_all,
            "micro_batch_size": self.micro,
            "examples": len(self.train),
            "resumed": self._save.path is not None,
            "padding": self.pace.padding,
            "trainable_parameters": trainable_parameters(self.model),
            "weights": checkpoints.weights_digest(self.model),
            "warnings": self._save.warnings,
            **({"processes": self.settings.processes} if self.settings.processes > 1 else {}),
        }

    def _tell_threads(self, count: int, message: str) -> None:
        self.report.event("threads", threads=count, message=message)

    def _with_first_threads(self) -> None:
        if self._first_threads:
            torch.set_num_threads(self._first_threads)

    def _validate(self, number: int) -> None:
        self._with_first_threads()
        with self.pace.paused():
            loss = mean_loss(self.validation_losses, self._collate, self.validation, self.micro)
            if not math.isfinite(loss):
                raise DivergedError(f"fine-tuning: at step {number} the validation loss is {loss}; {LOWER}", number)
            self.report.event("metrics", step=number, validation_loss=loss)


class IdleCores:
    """Tells whether a core was idle between two calls, as far as the system says."""

    def __init__(self) -> None:
        self()

    def __call__(self) -> bool:
        busy = psutil.cpu_percent(percpu=True)
        usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(busy))
        return sum(100 - busy[core] for core in usable if core < len(busy)) >= 100 * IDLE


def mean_loss(losses: Losses, collate: Collator, encoded: "Sequence[Encoded]", micro: int) -> float:
    """Return the mean cross-entropy over all supervised tokens, nats per token; leaves the model's mode as it was.

    Examples of like length are read together, so that little of it is padding.
    """
    was_training = losses.model.training
    losses.model.eval()
    ordered = sorted(encoded, key=lambda example: len(example.input_ids))
    nats = tokens = 0.0
    with torch.inference_mode():
        for start in range(0, len(ordered), micro):
            batch = collate(ordered[start : start + micro])
            nats += losses.nats(batch).item()
            tokens += supervised(batch).sum().item()
    losses.model.train(was_training)
    return nats / max(tokens, 1)


def trainable_parameters(model: nn.Module) -> int:
    """Count what is trained. Tied factors are views of one another: each storage counts once."""
    owners = {p.untyped_storage().data_ptr(): p.numel() for p in model.parameters() if p.requires_grad}
    return sum(owners.values())


@dataclass
class Pace:
    """How much a training reads, and how fast."""

    tokens: int = 0  # without padding
    read: int = 0  # with padding
    rated: int = 0
    since: float = field(default_factory=time.monotonic)

    def count(self, tokens: int, read: int) -> None:
        """Add the tokens of a step, without and with padding."""
        self.tokens += tokens
        self.read += read

    def rate(self) -> float:
        """Return the tokens a second since the last call."""
        moment = time.monotonic()
        rate = (self.tokens - self.rated) / max(moment - self.since, 1e-9)
        self.rated, self.since = self.tokens, moment
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time inside the `with` block out of the rate."""
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began

    @property
    def padding(self) -> float | None:
        """The share of padding in what was read; None if nothing was."""
        return 1 - self.tokens / self.read if self.read else None
