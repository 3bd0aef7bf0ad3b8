"""The training loop: what splitting a step and saving memory must not change, what a method adds, and stops."""

from functools import partial

import pytest
import torch

from paraknow_core.adapters.inject import inject
from paraknow_core.context import Silent
from paraknow_core.errors import DivergedError
from paraknow_core.runs.writer import StopRequested
from paraknow_core.settings import Settings
from paraknow_core.training import finetuning, loop
from paraknow_core.training.batches import IGNORED
from paraknow_core.training.pace import Threads
from tests.training.test_batches import examples


class Recorder(Silent):
    """Keeps the metrics, and asks to stop after a step."""

    def __init__(self, stop_at=None):
        self.lines, self.stop_at = [], stop_at

    def event(self, name, **fields):
        if name == "metrics":
            self.lines.append(fields)

    @property
    def losses(self):
        return [line["loss"] for line in self.lines if "loss" in line]

    @property
    def stop_requested(self):
        return len(self.losses) == self.stop_at


@pytest.fixture
def train(make_context, tiny, tmp_path):
    """Return `train(micro, recorder, folder, ...)`: losses, summary and model of five steps of 8 examples."""

    def run(
        micro=8,
        recorder=None,
        folder="checkpoints",
        watch=None,
        term=None,
        validations=0,
        family="llama",
        whole=False,
        changes=None,
        **settings,
    ):
        context = make_context(
            tiny(family),
            {
                "finetuning.batch_size": 8,
                "finetuning.micro_batch_size": micro,
                "finetuning.max_steps": 5,
                "finetuning.learning_rate": 0.01,
                "finetuning.validations": validations,
                **(changes or {}),
            },
        )
        spec, student = context.spec, context.student
        modules = context.student_modules
        model = inject(student.load(), student.anatomy, modules, spec.factorisation, (), spec.seed, whole=whole)
        if watch:
            watch(model)
        context.settings, context.report = Settings(**settings), recorder or Recorder()
        validation = examples()[:2] if validations else []
        training = loop.Training(context, model, examples(), validation, tmp_path / folder, term)
        finetuning.finetune(training)
        return context.report.losses, training.summary(), model

    return run


def test_splitting_a_step_changes_neither_losses_nor_factors_but_saves_padding(train):
    whole, split = train(8, folder="whole"), train(2, folder="split")
    assert split[0] == pytest.approx(whole[0], rel=1e-5)
    for one, other in zip(whole[2].parameters(), split[2].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert 0 < split[1]["padding"] < whole[1]["padding"] / 2


def test_a_core_that_is_taken_makes_a_training_go_on_with_one_thread_and_say_so(train, monkeypatch):
    """With all threads a step takes five seconds of this clock, with one it takes two; numbers stay."""
    plain, moment, used = train(validations=0, changes={"finetuning.max_steps": 9}), [0.0], [2]

    def clock():
        moment[0] += 5.0 if used[-1] == 2 else 2.0
        return moment[0]

    class Told(Recorder):
        def event(self, name, **fields):
            super().event(name, **fields)
            if name == "threads":
                told.append(fields)

    told = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(loop, "Threads", partial(Threads, clock=clock))
    changed = train(recorder=Told(), folder="busy", changes={"finetuning.max_steps": 9})
    assert changed[0] == plain[0]
    assert list(dict.fromkeys(used)) == [2, 1]  # from the first probe on
    assert [line["threads"] for line in told] == [1]
    assert "2 threads are" in told[0]["message"] and "times slower than one" in told[0]["message"]


def test_the_loop_takes_the_steps_that_a_bare_one_takes(train, monkeypatch):
    """The slow twin: the mean over all supervised tokens of a step, one example at a time; AdamW, warm-up, decay."""
    taken, real = [], loop.steps_from

    def record(*arguments):
        for step in real(*arguments):
            taken.append([example for part in step.passes for example in part])
            yield step

    monkeypatch.setattr(loop, "steps_from", record)
    kept = []
    losses, _, model = train(
        2, watch=lambda fresh: kept.append({n: p.detach().clone() for n, p in fresh.named_parameters()})
    )
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    model.load_state_dict(kept[0])
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)
    rates = [0.0, *(0.01 * left / 4 for left in (4, 3, 2, 1))]  # one step of warm-up, then linear
    expected = []
    model.train()
    for batch, rate in zip(taken, rates, strict=True):
        nats, count = 0.0, 0
        for example in batch:
            logits = model(torch.tensor([example.input_ids])).logits[0, :-1]
            labels = torch.tensor(example.labels[1:])
            nats = nats + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            count += int((labels != -100).sum())
        (nats / count).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        optimiser.zero_grad()
        expected.append((nats / count).item())
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, parameter in model.named_parameters():
        if name in trained:
            torch.testing.assert_close(parameter, trained[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])  # fused weights; tied embeddings, dropout
@pytest.mark.parametrize("origin", [["all"], ["q", "down"]])
def test_training_whole_weights_takes_the_steps_that_adamw_takes_on_them(train, tiny, make_context, family, origin):
    """The twin: the same loop over the student without any adapter, its own weights trainable."""
    changes = {"extraction.origin": origin, "finetuning.learning_rate": 1e-3}
    losses, summary, model = train(folder="adapter", family=family, whole=True, changes=changes)
    context = make_context(tiny(family), changes)
    plain, parameters = context.student.load(), {module.parameter for module in context.student_modules}
    untouched = {name: p.detach().clone() for name, p in plain.named_parameters()}
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(name in parameters)

    def save_nothing(self, folder, step, steps):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.checkpoints.State, "save", save_nothing)
        patch.setattr("tests.training.test_finetuning.inject", lambda *_, **__: plain)
        expected, twin, _ = train(folder="plain", family=family, changes=changes)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert summary["trainable_parameters"] == twin["trainable_parameters"]
    merged = dict(model.merge_and_unload().named_parameters())
    for name, parameter in plain.named_parameters():
        if not (context.student.anatomy.tied and name in parameters and "wte" in name):  # PEFT merges tied ones twice
            torch.testing.assert_close(merged[name], parameter, atol=3e-5, rtol=1e-3)
        assert torch.equal(parameter, untouched[name]) == (name not in parameters)


def test_the_order_of_the_data_has_a_seed_of_its_own(train):
    own, same, other = ({"seed": 0}, {"seed": 0, "finetuning.seed": 0}, {"seed": 0, "finetuning.seed": 1})
    losses = [train(folder=str(n), changes=changes)[0] for n, changes in enumerate((own, same, other))]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    moved = train(folder="moved", changes={"seed": 1, "finetuning.seed": 0})
    by_run_seed = train(folder="run", changes={"seed": 1})
    assert moved[0][0] == pytest.approx(losses[0][0])  # B = 0: the first loss depends on the data alone
    assert by_run_seed[0][0] != pytest.approx(losses[0][0])


def test_a_loss_that_is_no_number_is_a_sentence_with_its_step(train):
    def spoil(model, _batch, outputs):
        return outputs.loss * float("nan")

    with pytest.raises(DivergedError, match="at step 1 the loss is nan .* lower finetuning.learning_rate") as caught:
        train(term=spoil)
    assert caught.value.step == 1


def test_a_methods_term_is_the_mean_over_the_tokens_of_a_step(train):
    def term(model, batch, outputs):
        """Mean over the supervised tokens of a number that differs between them."""
        assert outputs.logits.shape[:2] == batch["input_ids"].shape
        read = batch["labels"][:, 1:] != IGNORED
        return batch["input_ids"][:, 1:][read].double().mean() + 0 * sum(p.sum() for p in model.parameters())

    plain, whole, split = (
        train(2, folder="a")[0],
        train(8, folder="b", term=term)[0],
        train(2, folder="c", term=term)[0],
    )
    assert whole == pytest.approx(split, rel=1e-5)
    assert [5 < loss - without < 60 for loss, without in zip(split, plain, strict=True)] == [True] * 5


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # the second with dropout, and tied embeddings
@pytest.mark.parametrize("stop_at", [2, 3, 4])  # within an epoch, and at the end of one
def test_a_split_step_is_resumed_where_it_was_left(train, family, stop_at):
    whole = train(2, folder="whole", family=family)
    recorder = Recorder(stop_at)
    with pytest.raises(StopRequested):
        train(2, recorder, folder="stopped", family=family)
    rest, summary, _ = train(2, folder="stopped", family=family)
    assert summary["resumed"]
    assert recorder.losses + rest == whole[0]
    assert summary["weights"] == whole[1]["weights"]


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


def test_validation_is_measured_before_the_first_step_and_at_the_last(train):
    recorder = Recorder()
    train(recorder=recorder, validations=2)
    assert [line["step"] for line in recorder.lines if "validation_loss" in line] == [0, 3, 5]
    assert [line["step"] for line in recorder.lines if "loss" in line] == [1, 2, 3, 4, 5]


def test_the_rate_of_tokens_leaves_validation_out(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    pace = loop.Pace(since=0.0)
    pace.count(4, 6)
    with pace.paused():
        clock[0] += 100
    clock[0] += 2
    assert pace.rate() == 4 / 2
    clock[0] += 5
    assert pace.rate() == 0
    assert pace.padding == pytest.approx(2 / 6)
