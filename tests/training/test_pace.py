"""A training that its threads slow down goes on with one, and comes back; how many there are changes no number."""

import pytest
import torch

from paraknow_core.training.pace import SHARE, Threads


class Machine:
    """Steps of 100 tokens on a clock that only they move; `rates` says what a number of threads reaches."""

    def __init__(self, most: int, rates: dict[int, float], first: int | None = None) -> None:
        self.rates, self.moment, self.count, self.idle = rates, 0.0, first or most, True
        self.used: list[int] = []
        self.told: list[tuple[int, str]] = []
        self.threads = Threads(
            most,
            self.use,
            lambda *said: self.told.append(said),
            lambda: self.moment,
            first=first,
            has_room=lambda: self.idle,
        )

    def use(self, count: int) -> None:
        self.count = count

    def steps(self, number: int) -> float:
        """Return the seconds that some steps take."""
        began = self.moment
        for _ in range(number):
            with self.threads.timed(100):
                self.used.append(self.count)
                self.moment += 100 / self.rates[self.count]
        return self.moment - began


def test_threads_that_are_faster_stay_and_their_probes_are_cheap():
    machine = Machine(2, {2: 200.0, 1: 110.0})
    taken = machine.steps(400)
    assert machine.used.count(1) >= 2
    assert not machine.told
    assert not machine.threads.note
    assert taken < 400 * 0.5 * (1 + SHARE + 0.01)


def test_a_probe_on_many_cores_is_dear_and_therefore_rare():
    machine = Machine(64, {64: 6400.0, 1: 100.0})
    taken = machine.steps(5000)
    assert taken < 5000 / 64 * (1 + 2 * SHARE)
    assert 1 <= machine.used.count(1) <= 4


def test_a_busy_core_is_noticed_said_once_and_left_as_soon_as_it_is_free():
    machine = Machine(2, {2: 200.0, 1: 110.0})
    machine.steps(60)
    machine.rates = {2: 40.0, 1: 100.0}
    machine.steps(12)
    assert machine.count == 1
    assert [count for count, _ in machine.told] == [1]
    assert "2 threads are 2.5 times slower than one here; goes on with one" in machine.told[0][1]
    note = machine.threads.note
    machine.rates = {2: 200.0, 1: 110.0}
    machine.steps(300)
    assert [count for count, _ in machine.told] == [1, 2]
    machine.rates = {2: 40.0, 1: 100.0}
    machine.steps(12)
    assert [count for count, _ in machine.told] == [1, 2, 1]
    assert machine.threads.note == note


def test_a_small_run_takes_a_second_thread_while_a_core_is_idle_and_never_tries_else():
    machine = Machine(2, {2: 160.0, 1: 100.0}, first=1)
    machine.idle = False
    machine.steps(100)
    assert set(machine.used) == {1}
    machine.idle = True
    machine.steps(20)
    assert machine.told == [(2, "a core is free: goes on with 2 threads")]
    machine.rates = {2: 30.0, 1: 100.0}
    machine.steps(12)
    assert [count for count, _ in machine.told] == [2, 1]
    assert not machine.threads.note  # it should have one


def test_a_core_that_is_busy_from_the_start_is_noticed_within_some_steps():
    machine = Machine(2, {2: 40.0, 1: 100.0})
    machine.steps(8)
    assert machine.count == 1
    machine.steps(500)
    assert machine.used[-400:].count(2) < 20


def test_one_slow_step_changes_nothing_and_one_thread_is_never_probed():
    machine = Machine(2, {2: 200.0, 1: 110.0})
    machine.steps(30)
    machine.rates = {2: 20.0, 1: 11.0}
    machine.steps(1)
    machine.rates = {2: 200.0, 1: 110.0}
    machine.steps(30)
    assert not machine.told
    alone = Machine(1, {1: 100.0})
    alone.steps(50)
    assert set(alone.used) == {1}


@pytest.mark.parametrize(("hidden", "layers"), [(128, 2), pytest.param(512, 6, marks=pytest.mark.slow)])
def test_training_is_the_same_to_the_last_bit_with_any_number_of_threads(hidden, layers):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    def trained(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=4 * hidden,
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
        )
        model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=16, target_modules="all-linear"))
        adapter = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(adapter, lr=1e-2, fused=True)
        for _ in range(3):
            ids = torch.randint(0, 4 * hidden, (8, 53))
            model(input_ids=ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(adapter, 1.0)
            optimiser.step()
            optimiser.zero_grad()
        return [p.detach().clone() for p in adapter]

    before = torch.get_num_threads()
    try:
        alone, together = trained(1), trained(2)
    finally:
        torch.set_num_threads(before)
    assert any(p.abs().max() > 0 for p in alone)
    assert all(map(torch.equal, alone, together))


def test_steps_of_few_rows_always_take_the_threads_that_the_run_should_have(make_context, tiny, tmp_path, monkeypatch):
    """With fewer than 12 rows, a product's last digits depend on the threads."""
    from paraknow_core.adapters.inject import inject
    from paraknow_core.settings import Settings
    from paraknow_core.training import finetuning, loop
    from tests.training.test_batches import examples

    changes = {"finetuning.batch_size": 19, "finetuning.micro_batch_size": 19, "finetuning.epochs": 12}
    context = make_context(tiny("llama"), changes | {"finetuning.validations": 0})
    context.settings = Settings()
    moment, used = [0.0], {True: [], False: []}
    monkeypatch.setattr(loop, "usable_cores", lambda: 2)
    monkeypatch.setattr(loop, "IdleCores", lambda: lambda: True)
    real = loop.Losses.share

    def share(losses, batch, tokens):
        count = torch.get_num_threads()
        used[int(tokens) >= loop.LEAST_ROWS].append(count)
        moment[0] += batch["input_ids"].numel() / {1: 100.0, 2: 300.0}[count]
        return real(losses, batch, tokens)

    monkeypatch.setattr(loop.Losses, "share", share)
    monkeypatch.setattr(loop, "Threads", lambda *given, **more: Threads(*given, clock=lambda: moment[0], **more))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        student, modules = context.student, context.student_modules
        model = inject(student.load(), student.anatomy, modules, context.spec.factorisation, (), 0)
        finetuning.finetune(loop.Training(context, model, examples(), [], tmp_path))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert set(used[False]) == {1}
    assert used[True][-1] == 2
