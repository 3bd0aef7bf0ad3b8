"""Stage training: train the adapter in one loop, from its newest save, until the last step or a stop request."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paraknow_core.context import OF_TRAINED
from paraknow_core.errors import DivergedError
from paraknow_core.sensitivity.plan import sizes_of
from paraknow_core.training.batches import seen_after
from paraknow_core.training.loop import LOWER, Training, trainable_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from paraknow_core.context import Work
    from paraknow_core.tasks.templates import Encoded


def train(work: "Work") -> None:
    """Fine-tune the started adapter on the task, and put losses, counts and the budget into the result.

    Raises:
        StopRequested: asked to stop; a checkpoint was saved.
        DivergedError: the loss is not finite. A run that ends after training has found out that its learning rate
            diverges, which is what it was for: its result says so, and nothing is raised.
    """
    training, drive, problem = begin(work), finetune, None
    if work.context.settings.processes > 1:
        from paraknow_core.training.sharded import finetune_sharded as drive
    try:
        drive(training)
    except DivergedError as error:
        problem = error
    conclude(work, training, problem)


def begin(work: "Work") -> Training:
    """Return the training of a run, from its newest sound checkpoint if there is one."""
    work.result.pop("diverged", None)
    context, task = work.context, work.context.task
    splits = [context.encode(task.split(name), context.student) for name in ("train", "validation")]
    return Training(context, work.started.peft_model, *splits, work.folder.file("checkpoints"), work.started.loss)


def finetune(training: Training) -> None:
    """Train an adapter in place, step by step: see `Training`.

    Raises:
        StopRequested: asked to stop; a checkpoint was saved.
        DivergedError: a loss is not finite.
    """
    with training:
        for step in training.steps():
            training.take(step, training.gradients(step))


def conclude(work: "Work", training: Training, error: Exception | None) -> None:
    """Put into a run's result what its training was.

    Args:
        work: of the run.
        training: at its end.
        error: what ended it before; raised again, unless it is a divergence, which is all that a run wants to know that
            ends after training.
    """
    if isinstance(error, DivergedError):
        _note_divergence(work, training, error)
    elif error is not None:
        raise error
    else:
        _note(work, training)


def _note_divergence(work: "Work", training: Training, error: DivergedError) -> None:
    work.result["trainable_parameters"] = trainable_parameters(training.model)
    work.result |= _budget(work, training.train, error.step) | _validation(work.folder.metrics(), diverged=True)
    work.result["diverged"] = {"step": error.step, "message": str(error)}
    if work.spec.until != "training":
        raise error
    work.warn(str(error))


def _note(work: "Work", training: Training) -> None:
    context, before, summary = work.context, work.result.get("training") or {}, training.summary()
    if training.threads.note:
        work.warn(training.threads.note)
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
    work.result |= _budget(work, training.train, summary["steps"] if work.spec.finetuning.learning_rate else 0)
    work.result |= _validation(metrics)
    final, guessing = work.result["validation"]["final"], math.log(context.student.anatomy.vocab_size)
    if final is not None and summary["steps"] and final > guessing:
        work.warn(
            f"fine-tuning: ended with a validation loss of {final:,.2f}, worse than the {guessing:.2f} of guessing all "
            f"tokens alike; {LOWER}"
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
