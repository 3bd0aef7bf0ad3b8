"""What a student reads when it is trained: which examples make a step, how they are padded, and the loss on them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from paraknow_core.models.rotary import lengths_matter

if TYPE_CHECKING:
    from paraknow_core.tasks.templates import Encoded

IGNORED = -100


@dataclass(frozen=True)
class Step:
    """The examples of one optimiser step, by forward pass; `epoch` counts the epochs that are done after it."""

    passes: "list[list[Encoded]]"
    epoch: float


def epoch_order(examples: int, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch takes its examples: it depends on its number and the seed alone."""
    return torch.randperm(examples, generator=torch.Generator().manual_seed(seed + epoch)).tolist()


@dataclass(frozen=True)
class Seen:
    """What training has read, repeats counted: examples, their tokens without padding, and those that are learnt."""

    examples: int
    tokens: int
    supervised: int


def seen_after(steps: int, train: "Sequence[Encoded]", batch_size: int, seed: int) -> Seen:
    """Count what so many optimiser steps read, in closed form: the same for a run that was resumed.

    Args:
        steps: optimiser steps from the first one on.
        train, batch_size, seed: as given to `steps_from`.
    """
    epochs, rest = divmod(steps, math.ceil(len(train) / batch_size))
    part = epoch_order(len(train), seed, epochs)[: rest * batch_size]
    tokens = [len(example.input_ids) for example in train]
    learnt = [supervised_of(example) for example in train]
    return Seen(
        epochs * len(train) + len(part),
        *(epochs * sum(counts) + sum(counts[index] for index in part) for counts in (tokens, learnt)),
    )


def steps_from(first: int, train: "Sequence[Encoded]", batch_size: int, micro: int, seed: int) -> Iterator[Step]:
    """Yield the optimiser steps from a given one on, epoch after epoch without end.

    A step that takes several passes takes its examples by length, so that little of a pass is padding; the longest
    first, so that what does not fit into memory fails at once. The step stays the same up to rounding, because its
    loss is the mean over all its tokens, however they are spread over passes.

    Args:
        first: how many steps were taken before.
        train: all examples; each epoch has an order of its own, see `epoch_order`.
        batch_size, micro: examples of a step, and of a pass.
        seed: of the order (see `RunSpec.data_seed`).
    """
    epoch, skipped = divmod(first, math.ceil(len(train) / batch_size))
    while True:
        if not skipped:
            # A data loader would draw a seed for its workers here, and earlier versions had one: a student with
            # dropout gets the same masks as then, and a run of then goes on with them.
            torch.empty((), dtype=torch.int64).random_()
        order = epoch_order(len(train), seed, epoch)
        steps = []
        for start in range(0, len(order), batch_size):
            examples = [train[index] for index in order[start : start + batch_size]]
            if micro < batch_size:
                examples.sort(key=lambda example: -len(example.input_ids))
            steps.append([examples[begin : begin + micro] for begin in range(0, len(examples), micro)])
        done, total = 0, sum(map(len, steps))
        for number, passes in enumerate(steps):
            done += len(passes)
            if number >= skipped:
                yield Step(passes, epoch + done / total)
        epoch, skipped = epoch + 1, 0


class Collator:
    """Pads encoded examples on the right.

    Where a row's length changes its rotary table, the positions tell it, so that a row's loss is as alone.
    """

    def __init__(self, pad_id: int, model: torch.nn.Module | None = None) -> None:
        self.pad_id, self.positions = pad_id, model is not None and lengths_matter(model)
        self.device = model.device if model is not None else torch.device("cpu")

    def __call__(self, examples: "Sequence[Encoded]") -> dict[str, torch.Tensor]:
        """Return input_ids, labels, attention_mask (perhaps position_ids), each (examples, longest), for the model."""
        longest = max(len(e.input_ids) for e in examples)
        ids = torch.full((len(examples), longest), self.pad_id)
        labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        for row, example in enumerate(examples):
            length = len(example.input_ids)
            ids[row, :length] = torch.tensor(example.input_ids)
            labels[row, :length] = torch.tensor(example.labels)
            mask[row, :length] = 1
        batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        if self.positions:
            batch["position_ids"] = (mask.cumsum(-1) - 1) * mask
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


def supervised_of(example: "Encoded") -> int:
    """Return how many tokens of an example count in the loss."""
    return len(example.labels) - 1 - example.labels[1:].count(IGNORED)


def supervised(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return which positions of a batch have a label that counts in the loss: (examples, longest - 1), of bool."""
    return batch["labels"][:, 1:] != IGNORED
