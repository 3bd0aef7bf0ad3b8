"""What a step reads: order, passes, padding."""

import itertools

import pytest
import torch

from paraknow_core.tasks.templates import Encoded
from paraknow_core.training.batches import Collator, Seen, seen_after, steps_from


def examples():
    """Encoded examples of very different lengths."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(20):
        ids = tuple(torch.randint(5, 60, (4 + 2 * number,), generator=generator).tolist())
        made.append(Encoded(str(number), ids, (-100, -100, *ids[2:]), 2))
    return made


def taken(first, count, batch_size=8, micro=2, seed=3):
    return list(itertools.islice(steps_from(first, examples(), batch_size, micro, seed), count))


def test_an_epoch_takes_every_example_once_and_each_in_an_order_of_its_own():
    epochs = [
        [example.id for step in taken(3 * n, 3, micro=8) for part in step.passes for example in part] for n in (0, 1)
    ]
    assert [sorted(map(int, ids)) for ids in epochs] == [list(range(20))] * 2
    assert epochs[0] != epochs[1]
    assert epochs[0] != [example.id for step in taken(0, 3, micro=8, seed=4) for example in step.passes[0]]


def test_a_step_takes_the_examples_that_were_drawn_longest_first():
    for whole, split in zip(taken(0, 7, micro=8), taken(0, 7), strict=True):
        drawn = [example for part in whole.passes for example in part]
        assert [e for part in split.passes for e in part] == sorted(drawn, key=lambda e: -len(e.input_ids))
        assert {len(part) for part in split.passes} == {2}


def test_the_last_step_of_an_epoch_is_smaller_and_epochs_are_counted_in_passes():
    steps = taken(0, 4, batch_size=8, micro=4)
    assert [[len(part) for part in step.passes] for step in steps] == [[4, 4], [4, 4], [4], [4, 4]]
    assert [step.epoch for step in steps] == [2 / 5, 4 / 5, 1, 1 + 2 / 5]


@pytest.mark.parametrize("first", [1, 3, 5])
def test_steps_that_were_taken_are_left_out(first):
    assert taken(first, 4) == taken(0, first + 4)[first:]


@pytest.mark.parametrize("steps", [0, 1, 3, 7])
@pytest.mark.parametrize("seed", [3, 4])
def test_what_was_seen_is_what_the_steps_took(steps, seed):
    took = [example for step in taken(0, steps, seed=seed) for part in step.passes for example in part]
    learnt = sum(label != -100 for example in took for label in example.labels[1:])
    expected = Seen(len(took), sum(len(example.input_ids) for example in took), learnt)
    assert seen_after(steps, examples(), 8, seed) == expected


def test_padding_is_what_the_collator_adds():
    batch = Collator(0)(examples())
    assert 1 - batch["attention_mask"].float().mean().item() == pytest.approx(1 - 23 / 42)
