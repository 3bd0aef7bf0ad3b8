"""Fine-tuning: what splitting a step and saving memory must not change, and what they must."""

import time
from types import SimpleNamespace

import pytest
import torch

from paraknow_core.adapters.inject import inject
from paraknow_core.context import Silent
from paraknow_core.runs.writer import StopRequested
from paraknow_core.settings import Settings
from paraknow_core.tasks.templates import Encoded
from paraknow_core.training.finetuning import AlikeTogether, Collator, Follow, finetune


class Recorder(Silent):
    """Keeps the losses, and asks to stop after a step."""

    def __init__(self, stop_at=None):
        self.losses, self.stop_at = [], stop_at

    def event(self, name, **fields):
        if "loss" in fields:
            self.losses.append(fields["loss"])

    def stop_requested(self):
        return len(self.losses) + 1 == self.stop_at


def examples():
    """Encoded examples of very different lengths."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(20):
        ids = tuple(torch.randint(5, 60, (4 + 2 * number,), generator=generator).tolist())
        made.append(Encoded(str(number), ids, (-100, -100, *ids[2:]), 2))
    return made


@pytest.fixture
def train(make_context, tiny, tmp_path):
    """Return `train(recorder, micro, folder, **settings)`: losses, summary and model of five steps of 8 examples."""

    def run(micro=8, recorder=None, folder="checkpoints", watch=None, **settings):
        context = make_context(
            tiny("llama"),
            {
                "finetuning.batch_size": 8,
                "finetuning.micro_batch_size": micro,
                "finetuning.max_steps": 5,
                "finetuning.learning_rate": 0.01,
                "finetuning.validations": 0,
            },
        )
        spec, student = context.spec, context.student
        model = inject(
            student.load(), student.anatomy, list(student.anatomy.modules), spec.factorisation, (), spec.seed
        )
        if watch:
            watch(model)
        recorder = recorder or Recorder()
        summary = finetune(
            model, examples(), [], 0, spec, Settings(**settings), tmp_path / folder, recorder, recorder.stop_requested
        )
        return recorder.losses, summary, model

    return run


def test_a_step_takes_the_examples_that_were_drawn_longest_first():
    drawn, lengths = [3, 0, 2, 1, 5, 4], [10, 40, 20, 30, 50, 60]
    sampler = AlikeTogether(drawn, lengths, 4)
    assert list(sampler) == [1, 3, 2, 0, 5, 4]
    assert len(sampler) == 6


def test_splitting_a_step_changes_neither_losses_nor_factors_but_saves_padding(train):
    whole, split = train(8, folder="whole"), train(2, folder="split")
    assert split[0] == pytest.approx(whole[0], abs=1e-4)  # the Trainer rounds the losses it logs
    for one, other in zip(whole[2].parameters(), split[2].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert 0 < split[1]["padding"] < whole[1]["padding"] / 2


def test_padding_is_what_the_collator_adds(train):
    batch = Collator(0)(examples())
    assert 1 - batch["attention_mask"].float().mean().item() == pytest.approx(1 - 23 / 42)
    assert train()[1]["padding"] > 0.1


def test_a_split_step_is_resumed_where_it_was_left(train):
    whole = train(2, folder="whole")[0]
    recorder = Recorder(stop_at=3)
    with pytest.raises(StopRequested):
        train(2, recorder, folder="stopped")
    rest, summary, _ = train(2, folder="stopped")
    assert summary["resumed"]
    assert recorder.losses + rest == pytest.approx(whole, rel=1e-6)


def test_gradient_checkpointing_recomputes_and_gives_the_same(train):
    calls = []

    def count(model):
        model.base_model.model.model.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))

    plain = train(folder="plain", watch=count)
    once = len(calls)
    calls.clear()
    saving = train(folder="saving", watch=count, gradient_checkpointing=True)
    assert (once, len(calls)) == (5, 10)
    assert saving[0] == pytest.approx(plain[0], rel=1e-6)
    for one, other in zip(plain[2].parameters(), saving[2].parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert not saving[2].base_model.model.is_gradient_checkpointing


def test_the_rate_of_tokens_leaves_validation_out():
    lines = []

    class Rates(Silent):
        def event(self, name, **fields):
            lines.append(fields)

    tokens = iter((100,))
    follow = Follow(Rates(), lambda: False, lambda: time.sleep(0.2) or 1.0, 1, 1e9, lambda: next(tokens))
    state = SimpleNamespace(global_step=0, max_steps=9, epoch=0.1)
    follow.on_train_begin(None, state, None)
    state.global_step = 1
    time.sleep(0.1)
    follow.on_step_end(None, state, SimpleNamespace())
    follow.on_log(None, state, None, {"loss": 1.0})
    assert 200 < lines[-1]["tokens_per_s"] <= 1000
