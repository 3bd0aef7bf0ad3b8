"""Packed training: runs that share a student take their steps together, in one pass through its frozen weights.

Each run keeps its own batches, optimiser, records, checkpoints and requests to stop (`loop.Training`), so that its
numbers are those it would have alone, up to rounding: only products are shared, and no sum goes over two runs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from paraknow_core.adapters.inject import ADAPTER
from paraknow_core.adapters.packed import Pack
from paraknow_core.training.batches import IGNORED, labelled
from paraknow_core.training.loop import Step, Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    Batch = Mapping[str, Tensor]

WORTH_IT = 0.95  # together, when it takes at most this share of the time that they take one after the other
_ROUNDS = 2  # of either way, before one is chosen; the first one also loads kernels


class Outcome:
    """How a training in a pack ended: `error` is None at its end, else what it raised."""

    def __init__(self) -> None:
        self.error: BaseException | None = None


def obstacle(trainings: Sequence[Training]) -> str:
    """Say why trainings cannot go together, in a few words; empty if they can."""
    first = trainings[0].model
    if any(not training.losses.usual for training in trainings):
        return "a method adds to the loss, or the student computes its loss in its own way"
    if any(type(training.model.base_model.model) is not type(first.base_model.model) for training in trainings):
        return "the students differ"
    if any(training.settings.gradient_checkpointing for training in trainings):
        return "activations are computed twice (gradient_checkpointing)"
    if any(training.settings.processes > 1 for training in trainings):
        return "several processes share the training of each (processes)"
    shapes = [_shapes(training.model) for training in trainings]
    if any(other != shapes[0] for other in shapes):
        return "their adapters differ in shape or in the layers that they are on"
    for module in (module for training in trainings for module in training.model.modules()):
        if isinstance(module, nn.Dropout) and module.p or getattr(module, "attention_dropout", 0):
            return "the student has dropout, whose masks would be others"
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
    student: "PreTrainedModel", trainings: Sequence[Training], *, only_if_faster: bool = True
) -> list[Outcome]:
    """Train adapters in place, all of them together, each as `finetuning.finetune` would alone.

    A run that has taken its last step, is asked to stop, diverges or cannot be saved leaves the others. Where a pass of
    all takes longer than their passes one after the other, or more memory than there is, they take their steps in turn.

    Args:
        student: untouched, of the same kind as the trainings' models; taken over.
        trainings: between which there is no `obstacle`.
        only_if_faster: measure both ways before the first step, and take the faster one; else one pass in any case.

    Returns:
        For each training, how it ended.
    """
    outcomes = [Outcome() for _ in trainings]
    with ExitStack() as stack:
        open_ones = {number: stack.enter_context(ExitStack()) for number in range(len(trainings))}
        for number, training in enumerate(trainings):
            open_ones[number].enter_context(training)
        ways = _Ways(student, trainings, together=None if only_if_faster else True)
        iterators = {number: training.steps() for number, training in enumerate(trainings)}

        def attempt(number: int, what: Callable[[], Any]) -> Any:
            try:
                return what()
            except Exception as error:  # this run's; the others go on
                outcomes[number].error = error
                return None

        while iterators:
            steps: dict[int, Step] = {}
            for number, iterator in list(iterators.items()):
                step = attempt(number, partial(next, iterator, None))
                if step is None:
                    del iterators[number]
                    open_ones[number].close()
                else:
                    steps[number] = step
            if not steps:
                break
            losses = ways.gradients(steps)
            for number, step in steps.items():
                attempt(number, partial(trainings[number].take, step, losses[number]))
                if outcomes[number].error is not None:
                    del iterators[number]
                    open_ones[number].close()
    return outcomes


class _Ways:
    """The two ways to the gradients of a step of all: together, or one run after the other."""

    def __init__(self, student: "PreTrainedModel", trainings: Sequence[Training], together: bool | None = None) -> None:
        """Args: student, trainings, as given to `finetune_packed`; together, the way; None: the faster one."""
        self._trainings = trainings
        self._members = list(range(len(trainings)))
        self._pack = Pack(student, [training.model for training in trainings])
        self._network = student.train()
        self._together = together

    def gradients(self, steps: Mapping[int, Step]) -> dict[int, Tensor]:
        """Compute the gradients of every run's step into its factors; return each step's loss, by number."""
        if self._together is None:  # not yet measured
            self._together = self._is_faster(steps)
        if not self._together or len(steps) == 1:
            return self._in_turn(steps)
        return self._packed(steps)

    def _is_faster(self, steps: Mapping[int, Step]) -> bool:
        if len(steps) == 1:
            return False
        first = next(iter(steps))
        try:
            together = min(self._seconds(self._packed, steps) for _ in range(_ROUNDS))
        except torch.OutOfMemoryError:
            self._tell(steps, "trained in turn: there is no memory for one pass of all")
            return False
        alone = min(self._seconds(self._in_turn, {first: steps[first]}) for _ in range(_ROUNDS))
        gain = alone * len(steps) / together
        is_faster = together <= WORTH_IT * alone * len(steps)
        way = "trained in one pass" if is_faster else "trained in turn"
        self._tell(steps, f"{way}: a step of all {len(steps)} runs together is {gain:.2f} times as fast")
        return is_faster

    def _tell(self, steps: Mapping[int, Step], message: str) -> None:
        for number in steps:
            self._trainings[number].report.event("packed", runs=len(steps), message=message)

    def _seconds(self, way: Callable[[Mapping[int, Step]], Any], steps: Mapping[int, Step]) -> float:
        device = self._network.device.type
        began = time.perf_counter()
        way(steps)
        if device != "cpu":
            torch.get_device_module(device).synchronize()
        took = time.perf_counter() - began
        for number in steps:
            self._trainings[number].model.zero_grad()
        return took

    def _in_turn(self, steps: Mapping[int, Step]) -> dict[int, Tensor]:
        losses = {}
        for number, step in steps.items():
            training = self._trainings[number]
            losses[number] = training.gradients(step)
        return losses

    def _packed(self, steps: Mapping[int, Step]) -> dict[int, Tensor]:
        if list(steps) != self._members:
            self._pack = self._pack.part([self._members.index(number) for number in steps])
            self._members = list(steps)
        counts = torch.stack([step.labelled for step in steps.values()])
        total = torch.zeros(len(steps), device=self._network.device)
        for passes in zip_longest(*(step.passes for step in steps.values())):
            shares = nats_of_runs(self._network, passes) / counts
            shares.sum().backward()
            total += shares.detach()
        self._pack.hand_out_gradients()
        return dict(zip(steps, total, strict=True))


def nats_of_runs(network: nn.Module, passes: "Sequence[Batch | None]") -> Tensor:
    """Return the sum of the losses of the labelled tokens of each run's pass, in nats: (runs,), with a gradient.

    Args:
        network: of a `Pack` with as many runs.
        passes: one batch a run, None for one that has no pass left in this step.
    """
    batch = joined(passes)
    chosen = labelled(batch).reshape(len(passes), -1)
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
