"""Packed training: runs that share a student take their steps together, in one pass through its frozen weights.

Each run keeps its own batches, optimiser, records, checkpoints and requests to stop (`loop.Training`), so that its
numbers are those it would have alone, up to rounding: only products are shared, and no sum goes over two runs.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from paraknow_core.adapters.inject import ADAPTER
from paraknow_core.adapters.packed import Pack
from paraknow_core.models.library import has_dropout
from paraknow_core.training.batches import IGNORED, supervised
from paraknow_core.training.loop import Step, Training
from paraknow_core.training.losses import Losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from paraknow_core.context import Work

    Batch = Mapping[str, Tensor]

WORTH_IT = 0.95  # together, when it takes at most this share of the time that they take one after the other
_ROUNDS = 2  # of either way, before one is chosen; the first one also loads kernels


def obstacle(works: "Sequence[Work]") -> str:
    """Say why runs whose adapters are started cannot be trained together, in a few words; empty if they can."""
    models = [work.started.peft_model for work in works]
    if any(not Losses(work.started.peft_model, work.started.loss).usual for work in works):
        return "a method adds to the loss, or the student computes its loss in its own way"
    if len({(work.context.student.fingerprint, work.context.student.dtype) for work in works}) > 1:
        return "the students differ"
    if any(work.context.settings.gradient_checkpointing for work in works):
        return "activations are computed twice (gradient_checkpointing)"
    if any(work.context.settings.processes > 1 for work in works):
        return "several processes share the training of each (processes)"
    shapes = [_shapes(model) for model in models]
    if any(other != shapes[0] for other in shapes):
        return "their adapters differ in shape or in the layers that they are on"
    if has_dropout(models[0].base_model.model.config):
        return "the student has dropout, whose masks would be others"
    for module in (module for model in models for module in model.modules()):
        if isinstance(module, nn.Dropout) and module.p:
            return "an adapter has dropout, whose masks would be others"
        if hasattr(module, "lora_A") and not _is_plain(module):
            return "an adapter is not plain LoRA on a plain layer"
    return ""


def _shapes(model: nn.Module) -> dict[str, Any]:
    shapes = {name: p.shape for name, p in model.named_parameters() if "lora_" in name}
    return shapes | {"dtype": model.dtype, "device": str(model.device)}


def _is_plain(layer: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    base = layer.get_base_layer()
    identity = any("forward" in vars(factor[ADAPTER]) for factor in (layer.lora_A, layer.lora_B) if ADAPTER in factor)
    return type(base) in (nn.Linear, Conv1D, nn.Embedding) and not identity and not layer.lora_bias.get(ADAPTER)


def finetune_packed(
    student: "PreTrainedModel",
    trainings: Sequence[Training],
    on_end: Callable[[int, Exception | None], object] = lambda _number, _error: None,
    *,
    only_if_faster: bool = True,
) -> list[Exception | None]:
    """Train adapters in place, all of them together, each as `finetuning.finetune` would alone.

    A run that has taken its last step, is asked to stop, diverges or cannot be saved leaves the others. Where a pass of
    all takes longer than their passes one after the other, or more memory than there is, they take their steps in turn.

    Args:
        student: untouched, the one that the trainings' adapters are for; taken over.
        trainings: of runs between which there is no `obstacle`.
        on_end: is told, as soon as a training has ended, which one and what it raised, None at its end.
        only_if_faster: measure both ways before the first step, and take the faster one; else one pass in any case.

    Returns:
        For each training what it raised; None at its end.
    """
    errors: list[Exception | None] = [None] * len(trainings)
    with ExitStack() as stack:
        open_ones = {number: stack.enter_context(ExitStack()) for number in range(len(trainings))}
        for number, training in enumerate(trainings):
            open_ones[number].enter_context(training)
        iterators = {number: training.steps() for number, training in enumerate(trainings)}

        def attempt(number: int, what: Callable[..., Any], *arguments: Any) -> Any:
            """Do something for one run; an error is its own, and the others go on."""
            try:
                return what(*arguments)
            except Exception as error:
                errors[number] = error
                leave(number)
                return None

        def leave(number: int) -> None:
            del iterators[number]
            open_ones[number].close()
            on_end(number, errors[number])

        ways = _Ways(student, trainings, attempt, together=None if only_if_faster else True)
        while iterators:
            steps: dict[int, Step] = {}
            for number, iterator in list(iterators.items()):
                step = attempt(number, next, iterator, None)
                if step is not None:
                    steps[number] = step
                elif number in iterators:
                    leave(number)
            for number, loss in ways.gradients(steps).items():
                attempt(number, trainings[number].take, steps[number], loss)
    return errors


class _Ways:
    """The two ways to the gradients of a step of all: together, or one run after the other."""

    def __init__(
        self,
        student: "PreTrainedModel",
        trainings: Sequence[Training],
        attempt: Callable[..., Any],
        together: bool | None = None,
    ) -> None:
        """Begin.

        Args:
            student, trainings: as given to `finetune_packed`.
            attempt: calls what it is given for one run, by its number; returns None if that failed.
            together: the way; None: the faster one.
        """
        self._trainings, self._attempt, self._network = trainings, attempt, student.train()
        self._members = list(range(len(trainings)))
        self._together = together
        try:
            self._pack = Pack(student, [training.model for training in trainings])
        except RuntimeError as error:  # no memory
            self._give_up(self._members, error)

    def gradients(self, steps: Mapping[int, Step]) -> dict[int, Tensor]:
        """Compute the gradients of every run's step into its factors; return each step's loss, by number."""
        if self._together is None and len(steps) > 1:
            self._together = self._is_faster(steps)
        if not self._together or len(steps) < 2:
            return self._in_turn(steps)
        try:
            return self._packed(steps)
        except RuntimeError as error:  # no memory for a step that is longer than those before, above all
            self._give_up(steps, error)
            return self._in_turn(steps)

    def _give_up(self, steps: Iterable[int], error: RuntimeError) -> None:
        self._together = False
        self._forget(steps)
        self._tell(steps, f"trained in turn from here on: a pass of all failed ({str(error)[:200]})")
        if self._network.device.type == "cuda":
            torch.cuda.empty_cache()

    def _forget(self, steps: Iterable[int]) -> None:
        """Drop the gradients of a pass that is not followed by a step."""
        if hasattr(self, "_pack"):
            self._pack.drop_gradients()
        for number in steps:
            self._trainings[number].model.zero_grad()

    def _is_faster(self, steps: Mapping[int, Step]) -> bool:
        first = next(iter(steps))
        try:
            together = min(self._seconds(self._packed, steps) for _ in range(_ROUNDS))
            alone = min(self._seconds(self._trainings[first].gradients, steps[first]) for _ in range(_ROUNDS))
        except RuntimeError as error:  # no memory
            self._give_up(steps, error)
            return False
        finally:
            self._forget(steps)
        gain = alone * len(steps) / together
        is_faster = together <= WORTH_IT * alone * len(steps)
        way = "trained in one pass" if is_faster else "trained in turn"
        self._tell(steps, f"{way}: a step of all {len(steps)} runs together is {gain:.2f} times as fast")
        return is_faster

    def _tell(self, steps: Iterable[int], message: str) -> None:
        for number in steps:
            self._trainings[number].report.event("packed", runs=len(list(steps)), message=message)

    def _seconds(self, way: Callable[..., Any], *arguments: Any) -> float:
        device = self._network.device.type
        began = time.perf_counter()
        way(*arguments)
        if device != "cpu":
            torch.get_device_module(device).synchronize()
        return time.perf_counter() - began

    def _in_turn(self, steps: Mapping[int, Step]) -> dict[int, Tensor]:
        losses = {number: self._attempt(number, self._trainings[number].gradients, steps[number]) for number in steps}
        return {number: loss for number, loss in losses.items() if loss is not None}

    def _packed(self, steps: Mapping[int, Step]) -> dict[int, Tensor]:
        if list(steps) != self._members:
            self._pack = self._pack.part([self._members.index(number) for number in steps])
            self._members = list(steps)
        counts = torch.stack([step.supervised for step in steps.values()])
        total = torch.zeros(len(steps), device=self._network.device)
        for passes in zip_longest(*(step.passes for step in steps.values())):
            shares = nats_of_runs(self._network, passes) / counts
            shares.sum().backward()
            total += shares.detach()
        self._pack.hand_out_gradients()
        return dict(zip(steps, total, strict=True))


def nats_of_runs(network: nn.Module, passes: "Sequence[Batch | None]") -> Tensor:
    """Return the sum of the losses of the supervised tokens of each run's pass, in nats: (runs,), with a gradient.

    Args:
        network: of a `Pack` with as many runs.
        passes: one batch a run, None for one that has no pass left in this step.
    """
    batch = joined(passes)
    chosen = supervised(batch).reshape(len(passes), -1)
    most = int(chosen.sum(-1).max())
    # The chosen positions of each run first, in their order: rows of one length, filled up with others.
    order = torch.argsort(~chosen, dim=-1, stable=True)[:, :most]
    runs = torch.arange(len(passes), device=order.device)[:, None]
    targets = (
        batch.pop("labels")[:, 1:].reshape(len(passes), -1)[runs, order].masked_fill(~chosen[runs, order], IGNORED)
    )

    def select(_head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        states, *others = args
        by_run = states[:, :-1].reshape(len(passes), -1, states.shape[-1])
        return (by_run[runs, order], *others)

    selecting = network.get_output_embeddings().register_forward_pre_hook(select)
    try:
        logits = network(**batch, use_cache=False).logits
    finally:
        selecting.remove()
    flat = logits.float().reshape(-1, logits.shape[-1])
    losses = nn.functional.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view(len(passes), -1).sum(-1)


def joined(passes: "Sequence[Batch | None]") -> dict[str, Tensor]:
    """Return one batch of all runs' rows, as many for each: what a run lacks is filled up with rows without labels."""
    given = [batch for batch in passes if batch is not None]
    rows, width = (max(batch["input_ids"].shape[n] for batch in given) for n in (0, 1))
    whole = {}
    for name in given[0]:
        filling = IGNORED if name == "labels" else 0
        whole[name] = given[0][name].new_full((len(passes), rows, width), filling)
        for run, batch in enumerate(passes):
            if batch is not None:
                own = batch[name]
                whole[name][run, : own.shape[0], : own.shape[1]] = own
    # A row that sees nothing has no softmax: it sees its first token.
    whole["attention_mask"][:, :, 0] = 1
    return {name: tensor.flatten(0, 1) for name, tensor in whole.items()}
