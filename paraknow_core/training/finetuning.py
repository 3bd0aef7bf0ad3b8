"""Stage training: train the adapter in one loop, from its newest save, until the last step or a stop request."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor

from paraknow_core.context import OF_TRAINED
from paraknow_core.errors import DivergedError
from paraknow_core.runs.writer import StopRequested
from paraknow_core.sensitivity.plan import sizes_of
from paraknow_core.training import checkpoints
from paraknow_core.training.amounts import micro_batch_size
from paraknow_core.training.batches import Collator, mean_loss, seen_after, steps_from, supervised

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft import PeftModel

    from paraknow_core.context import Context, Work
    from paraknow_core.methods.base import LossTerm
    from paraknow_core.tasks.templates import Encoded


_LOWER = "lower finetuning.learning_rate or lora_alpha"  # the way on for a training that diverges


def train(work: "Work") -> None:
    """Fine-tune the started adapter on the task, and put losses, counts and the budget into the result.

    Raises:
        DivergedError: the loss is not finite. A run that ends after training has found out that its learning rate
            diverges, which is what it was for: its result says so, and nothing is raised.
    """
    context, model = work.context, work.started.peft_model
    work.result.pop("diverged", None)
    task, before = context.task, work.result.get("training") or {}
    splits = [context.encode(task.split(name), context.student) for name in ("train", "validation")]
    try:
        summary = finetune(context, model, *splits, work.folder.file("checkpoints"), work.started.loss)
    except DivergedError as error:
        work.result["trainable_parameters"] = trainable_parameters(model)
        work.result |= _budget(work, splits[0], error.step) | _validation(work.folder.metrics(), diverged=True)
        work.result["diverged"] = {"step": error.step, "message": str(error)}
        if work.spec.until != "training":
            raise
        work.warn(str(error))
        return
    for warning in summary.pop("warnings"):
        work.warn(warning)
        before.setdefault("weights", None)  # an earlier version noted none: what it made is of other weights
    if before.get("weights", summary["weights"]) != summary["weights"]:
        if any(work.folder.file(name).exists() for name in OF_TRAINED):
            work.warn("fine-tuning: ended with other weights than before, so export and evaluation begin again")
        work.drop(OF_TRAINED)
    if summary["padding"] is None:
        summary["padding"] = before.get("padding")
    metrics = work.folder.metrics()
    losses = [line["loss"] for line in metrics if "loss" in line] or [None]
    validations = [line["validation_loss"] for line in metrics if "validation_loss" in line] or [None]
    work.result["trainable_parameters"] = summary.pop("trainable_parameters")
    work.result |= _budget(work, splits[0], summary["steps"] if work.spec.finetuning.learning_rate else 0)
    work.result |= _validation(metrics)
    final, guessing = work.result["validation"]["final"], math.log(context.student.anatomy.vocab_size)
    if final is not None and summary["steps"] and final > guessing:
        work.warn(
            f"fine-tuning: ended with a validation loss of {final:,.2f}, worse than the {guessing:.2f} of guessing all "
            f"tokens alike; {_LOWER}"
        )
    work.result["training"] = {
        **summary,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "first_validation_loss": validations[0],
        "last_validation_loss": validations[-1],
    }


def _budget(work: "Work", train: "Sequence[Encoded]", steps: int) -> dict[str, dict[str, Any]]:
    """Return the part `budget` of a result: what this run may be given so that another one has had as much.

    Note:
        `forward_flops` counts two operations a token for each weight of the layers, of the output layer and of the
        adapter; attention's products of tokens with each other, padding and validation are left out.
    """
    seen = seen_after(steps, train, work.spec.finetuning.batch_size, work.spec.data_seed)
    size, trained = sizes_of(work.context.student.anatomy), work.result["trainable_parameters"]
    budget = {
        "steps": steps,
        "examples": seen.examples,
        "tokens": seen.tokens,
        "supervised_tokens": seen.supervised,
        "trainable_parameters": trained,
        "forward_flops": 2 * seen.tokens * (size.layers + size.vocabulary + trained),
    }
    return {"budget": budget}


def _validation(metrics: "Sequence[Mapping[str, Any]]", *, diverged: bool = False) -> dict[str, dict[str, Any]]:
    """Return the part `validation` of a result: the last and the lowest validation loss, nats per token, their steps.

    Args:
        metrics: of the run, in order.
        diverged: whether training ended before its end, so that no loss is its last one.
    """
    losses = [(line["validation_loss"], line["step"]) for line in metrics if "validation_loss" in line]
    final = (None, None) if diverged or not losses else losses[-1]
    best = min(losses, default=(None, None))
    return {"validation": {"final": final[0], "final_step": final[1], "best": best[0], "best_step": best[1]}}


def finetune(
    context: "Context",
    model: "PeftModel",
    train: "Sequence[Encoded]",
    validation: "Sequence[Encoded]",
    folder: Path,
    term: "LossTerm | None" = None,
) -> dict[str, Any]:
    """Train the adapter in place, from its newest sound checkpoint if there is one; no step is left after the last one.

    Args:
        context: its spec (`finetuning`, `data_seed`), its settings (`checkpoint_seconds`, `gradient_checkpointing`),
            and its report, which is told of every step and asked after it whether to stop.
        model: adapter trainable, base frozen.
        train, validation: encoded examples; the loss is on their labels only.
        folder: where checkpoints go.
        term: what the method adds to the loss (see `methods.base.LossTerm`).

    Returns:
        steps, micro_batch_size, examples, resumed, padding (its share of what the model read here; null if nothing was
        trained), trainable_parameters, weights (their SHA-256), warnings (about checkpoints that could not be used).

    Raises:
        StopRequested: asked to stop; a checkpoint was saved.
        DivergedError: a loss is not finite.
    """
    from accelerate import Accelerator
    from transformers import get_scheduler, set_seed

    spec, settings, report = context.spec, context.settings, context.report
    recipe = spec.finetuning
    steps = recipe.steps(len(train))
    last = steps if recipe.learning_rate else 0
    micro = micro_batch_size(recipe, max(len(example.input_ids) for example in train), model.device.type)
    validate_every = math.ceil(steps / recipe.validations) if validation and recipe.validations else 0
    collate = Collator(context.student.tokenizer.pad_token_id, model)

    set_seed(spec.data_seed)
    # The student stays on its device and in its number format, whatever accelerate is configured to.
    accelerator = Accelerator(device_placement=False, mixed_precision="no")
    adamw = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    model, optimiser = accelerator.prepare(model, adamw)
    schedule = get_scheduler(
        {"constant": "constant_with_warmup"}.get(recipe.schedule, recipe.schedule),
        optimiser,
        num_warmup_steps=math.ceil(recipe.warmup_ratio * steps),
        num_training_steps=steps,
    )
    state = checkpoints.State(model, optimiser, schedule, spec.student.source)
    save = checkpoints.newest(folder, steps)
    if save.path:
        state.load(save.path)
    report.progress(save.step, steps, "optimiser steps")
    pace, saved_at, process = Pace(), time.monotonic(), psutil.Process()

    def validate(step: int) -> None:
        with pace.paused():
            loss = mean_loss(model, collate, validation, micro)
            if not math.isfinite(loss):
                raise DivergedError(f"fine-tuning: at step {step} the validation loss is {loss}; {_LOWER}", step)
            report.event("metrics", step=step, validation_loss=loss)

    model.train()
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    try:
        if validation and recipe.validations and not save.step:
            validate(0)
        rest = steps_from(save.step, train, recipe.batch_size, micro, spec.data_seed)
        for step, examples in zip(range(save.step + 1, last + 1), rest, strict=False):
            batches = [collate(part) for part in examples.passes]
            tokens = sum(supervised(batch) for batch in batches)
            loss = torch.zeros((), device=model.device)
            for batch in batches:
                share = _loss(model, batch, tokens, term)
                accelerator.backward(share)
                loss += share.detach()
                pace.count(batch)
            norm = accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimiser.step()
            learning_rate = schedule.get_last_lr()[0]
            schedule.step()
            model.zero_grad()

            figures = {"loss": loss.item(), "grad_norm": norm.item()}
            if not all(map(math.isfinite, figures.values())):
                raise DivergedError(
                    f"fine-tuning: at step {step} the loss is {figures['loss']} and the gradient norm "
                    f"{figures['grad_norm']}; {_LOWER}",
                    step,
                )
            report.event(
                "metrics",
                step=step,
                epoch=examples.epoch,
                **figures,
                learning_rate=learning_rate,
                tokens_per_s=round(pace.rate(), 1),
                memory_bytes=process.memory_info().rss,
            )
            report.progress(step, steps, "optimiser steps")
            if validate_every and (step % validate_every == 0 or step == last):
                validate(step)
            stopped = step < last and report.stop_requested
            if stopped or step == last or time.monotonic() - saved_at >= settings.checkpoint_seconds:
                state.save(folder, step, steps)
                saved_at = time.monotonic()
                report.event("saved", step=step)
            if stopped:
                raise StopRequested
    finally:
        checkpoints.prune(folder, checkpoints.KEPT)  # what was not saved to its end takes room
        if settings.gradient_checkpointing:
            model.activation_checkpointing_disable()
    model.eval()
    return {
        "steps": steps,
        "micro_batch_size": micro,
        "examples": len(train),
        "resumed": save.path is not None,
        "padding": pace.padding,
        "trainable_parameters": trainable_parameters(model),
        "weights": checkpoints.weights_digest(model),
        "warnings": save.warnings,
    }


def trainable_parameters(model: torch.nn.Module) -> int:
    """Count what is trained. Tied factors are views of one another: each storage counts once."""
    owners = {p.untyped_storage().data_ptr(): p.numel() for p in model.parameters() if p.requires_grad}
    return sum(owners.values())


def _loss(model: "PeftModel", batch: dict[str, Tensor], tokens: Tensor, term: "LossTerm | None") -> Tensor:
    """Return a pass's share in the mean loss of its step; a function, so that its logits are freed at once."""
    outputs = model(**batch, num_items_in_batch=tokens, use_cache=False)
    if term is None:
        return outputs.loss
    return outputs.loss + term(model, batch, outputs) * (supervised(batch) / tokens)


@dataclass
class Pace:
    """How much a training reads, and how fast."""

    tokens: int = 0  # without padding
    read: int = 0  # with padding
    rated: int = 0
    since: float = field(default_factory=time.monotonic)

    def count(self, batch: dict[str, Tensor]) -> None:
        """Add the tokens of a pass."""
        self.tokens += int(batch["attention_mask"].sum())
        self.read += batch["attention_mask"].numel()

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
