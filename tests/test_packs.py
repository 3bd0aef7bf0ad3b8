"""Runs that are executed together against the same runs alone: their numbers, ends, stops and resumes."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from paraknow_core import packs
from paraknow_core.cli import main
from paraknow_core.engines.base import SHARED
from paraknow_core.engines.workers import Pool
from paraknow_core.errors import DivergedError, ModelError
from paraknow_core.packs import execute_packed
from paraknow_core.paths import workspace
from paraknow_core.pipeline import execute
from paraknow_core.runs.lifecycle import ask_to_stop, create_run, requeue
from paraknow_core.settings import Settings
from paraknow_core.training import loop, packed
from paraknow_core.training.estimates import PROCESS, PackShare, pack_bytes

SETTINGS = Settings(threads=1)
BASE = {
    "finetuning.batch_size": 8,
    "finetuning.micro_batch_size": 4,
    "finetuning.epochs": 2,
    "finetuning.learning_rate": 0.01,
    "finetuning.validations": 2,
    "task.sizes": {"train": 20, "validation": 6, "test": 6},
    "references": [],
    "factorisation.rank": 2,
}
ARMS = (
    {"method": "default_lora"},
    {"method": "seeking", "seed": 3},
    {"method": "pissa", "seed": 1, "finetuning.learning_rate": 0.003},
    {"method": "seeking", "injection.mode": "additive", "finetuning.schedule": "cosine"},
)


@pytest.fixture
def make(make_context, tiny, tmp_path):
    """Return a maker of new runs in a workspace of this name, one for each set of changes."""

    def runs(name, arms, family="llama"):
        place = workspace(tmp_path / name)
        specs = [make_context(tiny(family), {**BASE, **arm}).spec for arm in arms]
        return [create_run(place, spec) for spec in specs], place

    return runs


def together(runs, place, *more):
    return execute_packed(runs, place, SETTINGS, *more, only_if_faster=False)


def _compare(alone, together):
    for one, other in zip(alone, together, strict=True):
        lines, twins = one.metrics(), other.metrics()
        assert [line["step"] for line in lines] == [twin["step"] for twin in twins]
        for line, twin in zip(lines, twins, strict=True):
            for key in ("loss", "validation_loss", "grad_norm"):
                assert line.get(key, 0) == pytest.approx(twin.get(key, 0), rel=1e-5)
            assert line.get("learning_rate") == twin.get("learning_rate")
        result, twin = one.result(), other.result()
        assert result["scores"] == twin["scores"]
        assert result["budget"] == twin["budget"]
        assert result["training"]["padding"] == twin["training"]["padding"]
        ours, theirs = (load_file(run.file("adapter") / "adapter_model.safetensors") for run in (one, other))
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], atol=2e-4, rtol=1e-2)


@pytest.mark.parametrize("family", ["llama", pytest.param("phi3", marks=pytest.mark.slow)])  # tied; fused weights
def test_runs_together_have_the_numbers_that_they_have_alone(make, family, monkeypatch):
    alone, place = make("alone", ARMS, family)
    for run in alone:
        execute(run, place, SETTINGS)
    passes = []
    real = packed.nats_of_runs
    monkeypatch.setattr(packed, "nats_of_runs", lambda *given: passes.append(len(given[1])) or real(*given))
    runs, place = make("together", ARMS, family)
    outcomes = together(runs, place)
    assert set(passes) == {len(ARMS)}
    assert [outcome["scores"] for outcome in outcomes] == [run.result()["scores"] for run in runs]
    _compare(alone, runs)


@pytest.mark.slow
def test_runs_of_different_length_leave_one_after_the_other(make):
    arms = ({"finetuning.max_steps": 1}, {"finetuning.epochs": 3}, {"seed": 2})
    arms = [{"method": "default_lora", **arm} for arm in arms]
    alone, place = make("alone", arms)
    for run in alone:
        execute(run, place, SETTINGS)
    runs, place = make("together", arms)
    together(runs, place)
    assert [run.metrics()[-1]["step"] for run in runs] == [1, 9, 6]
    _compare(alone, runs)


@pytest.mark.parametrize("alone_again", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_one_is_stopped_and_goes_on_later_while_the_others_go_to_their_end(make, monkeypatch, alone_again):
    alone, place = make("alone", ARMS)
    for run in alone:
        execute(run, place, SETTINGS)
    runs, place = make("together", ARMS)

    def stop(run, status):
        if (
            run.id == runs[1].id
            and status.stage == "fine-tuning"
            and status.done == 3
            and not run.file("stop").exists()
        ):
            ask_to_stop(run)

    outcomes = together(runs, place, stop)
    assert outcomes[1] is None
    assert [run.status().state for run in runs] == ["done", "stopped", "done", "done"]
    assert runs[1].metrics()[-1]["step"] < 6
    requeue(runs[1])
    if alone_again:
        execute(runs[1], place, SETTINGS)
    else:  # beside one that begins
        (new,) = make("together", [{"method": "default_lora", "seed": 9}])[0]
        together([new, runs[1]], place)
        assert new.status().state == "done"
    assert runs[1].result()["training"]["resumed"]
    _compare(alone, runs)


def test_one_that_diverges_or_cannot_begin_ends_alone(make):
    arms = (
        {"method": "default_lora"},
        {"method": "default_lora", "finetuning.learning_rate": 10, "factorisation.lora_alpha": 1e6},
        ARMS[0],
    )
    runs, place = make("together", [*arms, {"student.source": "/nowhere"}])
    good, diverged, other, lost = together(runs, place)
    assert good["scores"] == other["scores"]
    assert isinstance(diverged, DivergedError)
    assert "/nowhere" in str(lost)
    assert [run.status().state for run in runs] == ["done", "failed", "done", "failed"]
    assert runs[1].status().message == str(diverged)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arms", "family", "why"),
    [
        (({"method": "full_finetuning"}, ARMS[0]), "llama", "differ in shape"),
        (({"method": "full_finetuning"}, {"method": "full_finetuning", "seed": 1}), "llama", "not plain LoRA"),
        ((ARMS[0], {**ARMS[0], "factorisation.rank": 3}), "llama", "differ in shape"),
        ((ARMS[0], {**ARMS[0], "seed": 1}), "gpt2", "dropout"),
        ((ARMS[0], {**ARMS[0], "seed": 1}), "opt", "dropout"),  # by a function, not a layer
        ((ARMS[0], {**ARMS[0], "seed": 1}), "gemma2", "not plain LoRA"),  # its embedding scales what it gives
    ],
)
def test_what_cannot_go_together_is_trained_alone_with_a_word(make, arms, family, why):
    alone, place = make("alone", arms, family)
    for run in alone:
        execute(run, place, SETTINGS)
    runs, place = make("together", arms, family)
    together(runs, place)
    for one, other in zip(alone, runs, strict=True):
        assert [line.get("loss") for line in one.metrics()] == [line.get("loss") for line in other.metrics()]
        said = [
            event for event in map(json.loads, other.file("events.jsonl").read_text().splitlines()) if "runs" in event
        ]
        assert why in said[0]["message"]


@pytest.mark.slow
def test_the_slower_way_is_left(make, monkeypatch):
    monkeypatch.setattr(packed, "WORTH_IT", 0.0)
    alone, place = make("alone", ARMS[:2])
    for run in alone:
        execute(run, place, SETTINGS)
    runs, place = make("together", ARMS[:2])
    execute_packed(runs, place, SETTINGS)
    for one, other in zip(alone, runs, strict=True):
        assert [line.get("loss") for line in one.metrics()] == [line.get("loss") for line in other.metrics()]


def test_a_second_interrupt_leaves_no_run_open(make, monkeypatch):
    runs, place = make("together", ARMS[:2])
    monkeypatch.setattr(packs, "_train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        together(runs, place)
    assert [run.status().state for run in runs] == ["failed", "failed"]


def test_the_command_executes_runs_together_and_says_how_each_ended(make, capsys):
    runs, place = make("together", [ARMS[0], {**ARMS[0], "seed": 5}, {"student.source": "/nowhere"}])
    code = main(
        ["--workspace", str(place.root), "run", "--packed", "--even-if-slower", *(str(run.path) for run in runs)]
    )
    assert code == 2  # of the one that cannot be read
    assert [run.status().state for run in runs] == ["done", "done", "failed"]
    assert "/nowhere" in capsys.readouterr().err
    assert "/nowhere" in runs[2].log_tail()


@pytest.mark.slow
def test_runs_of_different_students_are_never_one_pass(make_context, tiny, tmp_path):
    """Their adapters fit each other; all else of the students does not."""
    changes = BASE | {"method": "default_lora", "extraction.origin": ["q", "v"]}
    specs = [make_context(tiny("llama", seed=seed), changes).spec for seed in (0, 7)]
    place = workspace(tmp_path)
    runs = [create_run(place, spec) for spec in specs]
    together(runs, place)
    for spec, run in zip(specs, runs, strict=True):
        twin = create_run(place, spec)
        execute(twin, place, SETTINGS)
        assert [line.get("loss") for line in twin.metrics()] == [line.get("loss") for line in run.metrics()]


@pytest.mark.slow
def test_a_student_in_16_bits_goes_together_with_factors_in_32(make):
    settings = Settings(threads=1, dtype="bfloat16")
    alone, place = make("alone", ARMS[:2])
    for run in alone:
        execute(run, place, settings)
    runs, place = make("together", ARMS[:2])
    execute_packed(runs, place, settings, only_if_faster=False)
    for one, other in zip(alone, runs, strict=True):
        for line, twin in zip(one.metrics(), other.metrics(), strict=True):
            assert line.get("loss", 0) == pytest.approx(twin.get("loss", 0), rel=2e-3)


@pytest.mark.slow
def test_a_pass_for_which_there_is_no_memory_is_taken_in_turn(make, monkeypatch):
    real, passes = packed.nats_of_runs, []

    def short(*given):
        passes.append(1)
        if len(passes) == 7:  # in the middle of a step
            raise torch.OutOfMemoryError("out of memory")
        return real(*given)

    monkeypatch.setattr(packed, "nats_of_runs", short)
    alone, place = make("alone", ARMS[:2])
    for run in alone:
        execute(run, place, SETTINGS)
    runs, place = make("together", ARMS[:2])
    together(runs, place)
    _compare(alone, runs)
    assert len(passes) == 7


def test_an_error_of_one_run_ends_that_one(make, monkeypatch):
    monkeypatch.setattr(packed, "WORTH_IT", 0.0)
    real = loop.Training.gradients

    def fail(training, step):
        if training.context.spec.seed == 3 and step.number == 2:
            raise RuntimeError("this one only")
        return real(training, step)

    monkeypatch.setattr(loop.Training, "gradients", fail)
    runs, place = make("together", ARMS[:3])
    outcomes = execute_packed(runs, place, SETTINGS)
    assert [run.status().state for run in runs] == ["done", "failed", "done"]
    assert str(outcomes[1]) == "this one only"


def test_one_that_is_stopped_has_ended_while_the_others_train(make):
    arms = [{**ARMS[0], "seed": seed, "finetuning.epochs": 4} for seed in (0, 1)]
    runs, place = make("together", arms)
    seen = []

    def watch(run, status):
        if status.stage != "fine-tuning":
            return
        if run.id == runs[1].id and status.done == 2 and not run.file("stop").exists():
            ask_to_stop(run)
        if run.id == runs[0].id and status.done == 10:
            seen.append(runs[1].status().state)

    together(runs, place, watch)
    assert set(seen) == {"stopped"}


def test_a_signal_before_all_have_begun_stops_them_all(make):
    runs, place = make("together", ARMS[:3])
    sent = []

    def watch(run, status):
        if run.id == runs[0].id and status.stage == "prepare" and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    together(runs, place, watch)
    assert [run.status().state for run in runs] == ["stopped"] * 3


def _said(run):
    return [event["message"] for event in run.events() if event.get("event") == "packed"]


def test_what_does_not_fit_together_is_split_before_it_begins(make, monkeypatch):
    arms = [{**ARMS[0], "seed": seed} for seed in range(3)]
    runs, place = make("together", arms)
    shares = [packs._share(run, place, SETTINGS) for run in runs]
    monkeypatch.setattr(packs, "_room", lambda _settings: (pack_bytes(shares[:2]), PROCESS))
    sizes, said, states = [], [], []
    real = packed.finetune_packed
    monkeypatch.setattr(
        packed, "finetune_packed", lambda *given, **more: sizes.append(len(given[1])) or real(*given, **more)
    )

    def watch(run, status):
        if run.id == runs[0].id and status.stage == "fine-tuning":
            states.append(runs[2].status().state)

    execute_packed(runs, place, SETTINGS, watch, only_if_faster=False, say=said.append)
    assert sizes == [2]
    assert set(states) == {"queued"}
    (sentence,) = said
    assert "3 runs in 2 packs of at most 2, at most" in sentence
    assert "all at once would take" in sentence
    assert [run.status().state for run in runs] == ["done"] * 3
    assert all(_said(run) == [sentence] for run in runs)


def test_memory_is_said_before_anything_begins(make):
    runs, place = make("together", [ARMS[0], {"student.source": "/nowhere"}])
    said = []

    def say(sentence):
        said.append((sentence, [run.status().state for run in runs]))

    execute_packed(runs, place, SETTINGS, only_if_faster=False, say=say)
    ((sentence, states),) = said
    assert sentence.startswith("2 runs together: at most 4")
    assert sentence.endswith(" MB of memory")
    assert states == ["queued", "queued"]
    assert packs._share(runs[1], place, SETTINGS) == PackShare()


def test_a_gpu_that_does_not_tell_its_memory_is_left_to_the_runs(make, monkeypatch):
    def taken(*_):
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")

    runs, place = make("together", [{**ARMS[0], "seed": seed} for seed in range(3)])
    monkeypatch.setattr("paraknow_core.models.load.pick_device", lambda _setting: "cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", taken)
    found = packs.split(runs, place, SETTINGS)
    assert found.packs == [[0, 1, 2]]
    assert found.sentence.startswith("3 runs together: at most")
    assert found.sentence.endswith("of the GPU")


def test_a_signal_stops_the_packs_that_wait_too(make, monkeypatch):
    runs, place = make("together", [{**ARMS[0], "seed": seed} for seed in range(3)])
    monkeypatch.setattr(packs, "_room", lambda _settings: (0.0, 0.0))  # each alone
    sent = []

    def watch(run, status):
        if run.id == runs[0].id and status.stage == "fine-tuning" and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    execute_packed(runs, place, SETTINGS, watch)
    assert [run.status().state for run in runs] == ["stopped"] * 3


@pytest.mark.parametrize(
    "where", ["step", *(pytest.param(name, marks=pytest.mark.slow) for name in ("start", "evaluation"))]
)
def test_one_for_which_there_is_no_memory_beside_the_others_goes_on_alone(make, monkeypatch, where):
    from paraknow_core.methods import start
    from paraknow_core.training import evaluation

    alone, place = make("alone", ARMS[:3])
    for run in alone:
        execute(run, place, SETTINGS)
    runs, place = make("together", ARMS[:3])
    failed = []

    def short(context, *, now=True):
        """Raise, once, what a GPU without memory does; as the loader of a model would tell it."""
        if context.spec.seed == 3 and now and not failed:
            failed.append(True)
            try:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            except torch.OutOfMemoryError:
                if where == "start":
                    raise ModelError("student: does not fit into cuda's memory") from None
                raise

    if where == "step":
        real = loop.Training.take
        monkeypatch.setattr(
            loop.Training, "take", lambda t, step, loss: short(t.context, now=step.number == 3) or real(t, step, loss)
        )
    else:
        module, name = (start, "_inject") if where == "start" else (evaluation, "score")
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda work, *more: short(work.context) or real(work, *more))
    ends = []

    def watch(run, status):
        if status.state == "done":
            ends.append(run.id)

    together(runs, place, watch)
    assert failed
    assert [run.status().state for run in runs] == ["done"] * 3
    assert ends[-1] == runs[1].id
    assert _said(runs[1])[-1] == "goes on alone: there was no memory for it beside the others"
    assert runs[1].status().attempt == 1
    _compare(alone, runs)


@pytest.mark.slow
def test_without_memory_even_alone_a_run_fails_with_what_was_said(make, monkeypatch):
    real = loop.Training.take

    def take(training, step, loss):
        if training.context.spec.seed == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(training, step, loss)

    monkeypatch.setattr(loop.Training, "take", take)
    runs, place = make("together", ARMS[:2])
    outcomes = together(runs, place)
    assert [run.status().state for run in runs] == ["done", "failed"]
    assert isinstance(outcomes[1], torch.OutOfMemoryError)


def test_a_second_interrupt_ends_one_that_waits_for_memory(make, monkeypatch):
    def take(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop.Training, "take", take)
    monkeypatch.setattr(packs, "_free", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    runs, place = make("together", ARMS[:2])
    with pytest.raises(KeyboardInterrupt):
        together(runs, place)
    assert [run.status().state for run in runs] == ["failed", "failed"]


@pytest.mark.slow
def test_a_warm_worker_executes_a_pack_of_the_queue(make):
    runs, place = make("together", [ARMS[0], {**ARMS[0], "seed": 5}, {"student.source": "/nowhere"}])
    pool = Pool(place)
    number = pool.give_pack({run: requeue(run)[0] for run in runs}, {"threads": 1})
    assert all(run.process()[SHARED] for run in runs)
    while pool.busy:
        pool.wait(5.0)
    assert [run.status().state for run in runs] == ["done", "done", "failed"]
    assert {run.status().pid for run in runs} == {number}
    assert _said(runs[0]) and _said(runs[0]) == _said(runs[1])
    assert "3 runs together: at most" in runs[0].log_tail()
    assert runs[0].id in runs[1].log_tail()
    assert "/nowhere" in runs[2].log_tail()
    assert "Traceback" not in runs[0].log_tail()
    pool.close()
