"""Several processes train one adapter: the numbers, the saves, the records and the stops of one process."""

import math
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise

import psutil
import pytest
import torch
from safetensors.torch import load_file

from paraknow_core.adapters.inject import inject
from paraknow_core.catalogue import METHODS
from paraknow_core.errors import RunError
from paraknow_core.paths import WORKSPACE_VARIABLE, workspace
from paraknow_core.pipeline import execute
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.runs.writer import StopRequested
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.training import finetuning, loop, parts, sharded
from paraknow_core.training.batches import Collator
from tests.conftest import ROOT
from tests.training.test_batches import examples
from tests.training.test_finetuning import Recorder

STEPS = 24


class Acting(Recorder):
    """Does something when a step has been recorded."""

    def __init__(self, at, act):
        super().__init__()
        self.at, self.act = at, act

    def event(self, name, **fields):
        super().event(name, **fields)
        if "loss" in fields and fields["step"] == self.at:
            self.act()


def helpers():
    """The processes that this one has started to hold parts."""
    return [child for child in psutil.Process().children() if "hold-part" in child.cmdline()]


@pytest.fixture
def train(make_context, tiny, tmp_path):
    """Return `train(processes, folder, ...)`: report, summary and model of some steps of 6 examples, 2 a pass.

    Twenty examples: the last step of an epoch has 2, and with them a process that reads for nothing where there are 3.
    """

    def run(processes, folder="checkpoints", recorder=None, student=None, changes=None, **settings):
        context = make_context(
            student or tiny("llama"),
            {
                "finetuning.batch_size": 6,
                "finetuning.micro_batch_size": 2,
                "finetuning.max_steps": STEPS,
                "finetuning.learning_rate": 0.01,
                "finetuning.validations": 3,
                **(changes or {}),
            },
        )
        context.settings = Settings(processes=processes, device="cpu", **settings)
        context.report = recorder or Recorder()
        spec, own, whole = context.spec, context.student, METHODS[context.spec.method].whole
        model = inject(own.load(), own.anatomy, context.student_modules, spec.factorisation, (), spec.seed, whole=whole)
        with torch.no_grad():  # base weights that no file holds, as in residual mode
            model.get_parameter(_frozen(model)).mul_(1.1)
        training = loop.Training(context, model, examples(), examples()[:3], tmp_path / folder)
        (finetuning.finetune if processes == 1 else sharded.finetune_sharded)(training)
        return context.report, training.summary(), model

    return run


def _frozen(model):
    return next(n for n, p in model.named_parameters() if p.dim() == 2 and not parts.is_of_adapter(n))


def assert_same(two, alone):
    """Losses and weights are the same up to rounding, and whatever else is recorded of a step is there."""
    assert two[0].losses == pytest.approx(alone[0].losses, rel=1e-5)
    validations = [
        [line["validation_loss"] for line in each[0].lines if "validation_loss" in line] for each in (two, alone)
    ]
    assert validations[0] == pytest.approx(validations[1], rel=1e-5)
    assert [line.keys() for line in two[0].lines] == [line.keys() for line in alone[0].lines]
    for (name, one), other in zip(two[2].named_parameters(), alone[2].parameters(), strict=True):
        assert one.requires_grad == other.requires_grad
        if parts.is_of_adapter(name):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
        else:
            assert torch.equal(one, other)  # given back bit for bit
    assert {**two[1], "weights": "", "processes": 0} == {**alone[1], "weights": "", "processes": 0}


def test_examples_are_dealt_so_that_each_is_read_once_and_nobody_reads_nothing():
    rows = [parts.Row([n], [n]) for n in range(5)]
    shares = sharded._dealt(rows, 2)
    assert [len(share.rows) for share in shares] == [3, 2]
    assert sorted(row.input_ids[0] for share in shares for row in share.rows) == list(range(5))
    few = sharded._dealt(rows[:1], 3)
    assert [share.counts for share in few] == [True, False, False] and all(share.rows for share in few)


def test_a_batch_is_taken_apart_into_what_it_was_made_of():
    rows = sharded._rows(Collator(0)(examples()[:4]))
    assert rows == [parts.Row(list(e.input_ids), list(e.labels)) for e in examples()[:4]]


def test_tensors_are_joined_and_divided_again():
    tensors = [torch.rand(2, 3), torch.rand(()), torch.rand(4, 2).T]
    kept = [tensor.clone() for tensor in tensors]
    joined = parts.joined(tensors)
    parts.divide(joined * 2, tensors)
    assert all(torch.equal(tensor, 2 * before) for tensor, before in zip(tensors, kept, strict=True))


@pytest.mark.parametrize(
    ("settings", "adds_term", "sentence"),
    [
        (
            {"student_bits": 4},
            False,
            "processes: 2 given with student_bits: 4, and 4-bit weights cannot be sharded; set",
        ),
        ({}, True, "processes: 2 given, and seeking adds a term to the loss, which needs all of it; set processes: 1"),
    ],
)
def test_what_cannot_be_shared_is_refused_in_a_sentence(make_context, tiny, settings, adds_term, sentence):
    context = make_context(tiny("llama"))
    context.settings = Settings(processes=2, device="cpu", **settings)
    with pytest.raises(RunError, match=sentence):
        sharded.refuse_unfit(context, adds_term=adds_term)
    context.settings = Settings(device="cpu", **settings)
    sharded.refuse_unfit(context, adds_term=adds_term)


@pytest.mark.parametrize(("device", "sentence"), [("mps", "not on mps"), ("cuda", "this machine has 1 GPUs")])
def test_devices_that_are_not_there_for_each_are_refused(make_context, tiny, monkeypatch, device, sentence):
    monkeypatch.setattr(sharded, "pick_device", lambda _: device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    context = make_context(tiny("llama"))
    context.settings = Settings(processes=2)
    with pytest.raises(RunError, match=sentence):
        sharded.refuse_unfit(context, adds_term=False)


def test_what_a_reader_should_know_is_said(make_context, tiny, monkeypatch):
    monkeypatch.setattr(sharded, "usable_cores", lambda: 2)
    said = {}
    for family, processes in (("llama", 2), ("gpt2", 2), ("opt", 2), ("llama", 3)):
        context = make_context(tiny(family))
        context.settings = Settings(processes=processes, device="cpu")
        said[family, processes] = " ".join(sharded.notes(context))
    assert said["llama", 2] == ""
    assert "masks of its own" in said["gpt2", 2] and "masks of its own" in said["opt", 2]
    assert "3 share 2 cores" in said["llama", 3]


def test_a_run_is_refused_before_anything_costly(make_context, tiny, tmp_path):
    place = workspace(tmp_path)
    run = create_run(place, make_context(tiny("llama"), {"method": "default_lora"}).spec)
    with pytest.raises(RunError, match="4-bit weights cannot be sharded"):
        execute(run, place, Settings(processes=2, student_bits=4, threads=1))
    assert run.status().stage == "prepare"


def test_a_loss_that_is_no_sum_over_tokens_is_refused(train, monkeypatch):
    monkeypatch.setattr("paraknow_core.training.losses._is_usual", lambda _: False)
    with pytest.raises(RunError, match="computes its loss in its own way, of all it reads at once; set processes: 1"):
        train(2)


@pytest.mark.parametrize("before", [None, "eth7"])
def test_a_process_that_lives_on_gets_its_environment_back(monkeypatch, before):
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    for name in names:
        monkeypatch.delenv(name, raising=False) if before is None else monkeypatch.setenv(name, before)
    with pytest.raises(KeyError), parts.on_loopback():
        inside = os.environ[names[0]]
        assert "127.0.0.1" in [end.address for end in psutil.net_if_addrs()[inside]]
        assert os.environ[names[1]] == inside
        raise KeyError
    assert [os.environ.get(name) for name in names] == [before, before]


@pytest.mark.slow
def test_two_processes_train_as_one_and_listen_to_nobody_else(train):
    heard = []

    def listen():
        everybody = [psutil.Process(), *helpers()]
        assert len(everybody) == 2
        heard.extend(c.laddr.ip for each in everybody for c in each.net_connections() if c.status == psutil.CONN_LISTEN)

    before = dict(os.environ)
    alone, two = train(1, "alone"), train(2, "two", Acting(3, listen))
    assert dict(os.environ) == before
    assert len(alone[0].losses) == STEPS
    assert_same(two, alone)
    assert two[1]["processes"] == 2 and "processes" not in alone[1]
    assert heard and set(heard) <= {"127.0.0.1", "::1"}
    assert not helpers() and not torch.distributed.is_initialized()


CASES = {
    "tied": {"student": ("gpt2", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0})},
    "fused": {"student": ("phi3", {}), "changes": {"extraction.origin": ["q", "down"]}},
    "whole": {"student": ("llama", {"tie_word_embeddings": True}), "changes": {"method": "full_finetuning"}},
    "views": {"student": ("opt", {"dropout": 0.0})},
    "three": {"processes": 3},
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_other_students_and_ways_train_alike(train, tiny, case):
    options = dict(CASES[case])
    processes = options.pop("processes", 2)
    if "student" in options:
        family, overrides = options["student"]
        options["student"] = tiny(family, **overrides)
    options["changes"] = options.get("changes", {}) | {"finetuning.max_steps": 5, "finetuning.learning_rate": 1e-3}
    assert_same(train(processes, "several", **options), train(1, "alone", **options))


@pytest.mark.slow
def test_dropout_of_a_resumed_training_is_that_of_one_that_was_not(train, tiny):
    """Whose masks are drawn by step and process, so a stop changes none."""
    options = {"student": tiny("gpt2"), "changes": {"finetuning.max_steps": 4}}
    straight = train(2, "straight", **options)
    with pytest.raises(StopRequested):
        train(2, "stopped", stopping := Recorder(2), **options)
    rest = train(2, "stopped", **options)
    assert stopping.losses + rest[0].losses == pytest.approx(straight[0].losses, rel=1e-6)
    first = train(1, "alone", **options)[0].losses
    assert all(math.isfinite(loss) for loss in first) and first != pytest.approx(straight[0].losses, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(1, 2), (2, 1)])
def test_a_save_of_one_process_goes_on_with_two_and_the_other_way_round(train, tmp_path, numbers):
    whole = train(1, "whole")
    stopping = Recorder(9)
    with pytest.raises(StopRequested):
        train(numbers[0], "stopped", stopping)
    save = tmp_path / "stopped" / "checkpoint-9"
    rest = train(numbers[1], "stopped")
    assert rest[1]["resumed"]
    assert stopping.losses + rest[0].losses == pytest.approx(whole[0].losses, rel=1e-5)
    for name, parameter in rest[2].named_parameters():
        torch.testing.assert_close(parameter, whole[2].get_parameter(name), atol=1e-4, rtol=1e-3)
    files = [{path.name for path in folder.iterdir()} for folder in (tmp_path / "whole").iterdir()]
    assert {path.name for path in save.iterdir()} == files[0]
    state = torch.load(save / "optimizer.pt")["state"]
    trained = [p for p in whole[2].parameters() if p.requires_grad]
    assert [tuple(state[k]["exp_avg"].shape) for k in sorted(state)] == [tuple(p.shape) for p in trained]


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_training_with_a_sentence_and_the_save_goes_on(train):
    recorder = Acting(3, lambda: helpers()[0].send_signal(signal.SIGKILL))
    with pytest.raises(
        RunError, match=r"process 2 of 2 has ended, .* \(killed by signal 9.*resume goes on from the last"
    ):
        train(2, recorder=recorder, checkpoint_seconds=0)
    assert not helpers() and not torch.distributed.is_initialized()
    rest = train(1)
    assert recorder.losses + rest[0].losses == pytest.approx(train(1, "whole")[0].losses, rel=1e-5)


@pytest.mark.slow
def test_a_process_that_stands_still_is_given_up(train, monkeypatch):
    monkeypatch.setattr(parts, "ANSWER_S", 8.0)
    monkeypatch.setattr(sharded, "END_S", 0.5)
    with pytest.raises(RunError, match="one of 2 processes did not answer within 8 s; resume goes on"):
        train(2, recorder=Acting(3, lambda: helpers()[0].send_signal(signal.SIGSTOP)))
    assert not helpers()


@pytest.mark.slow
def test_a_process_that_cannot_begin_says_why(train, monkeypatch, tmp_path):
    monkeypatch.setattr(sharded, "PROJECT_ROOT", tmp_path)  # from where there is no such program
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(RunError, match=r"process 2 of 2 has ended, .* \(exit code 1: .*No module named"):
        train(2)


@pytest.mark.slow
def test_a_run_that_is_killed_takes_its_helpers_with_it_and_resumes_to_the_same_end(tmp_path, tiny, teacher, chat_file):
    place = workspace(tmp_path)
    place.settings_file.parent.mkdir(parents=True, exist_ok=True)
    place.settings_file.write_text("checkpoint_seconds: 0\nthreads: 1\ndevice: cpu\n")
    spec = RunSpec().with_changes(
        {
            "teacher.source": teacher,
            "student.source": tiny("llama"),
            "task.source": str(chat_file),
            "task.max_length": 64,
            "task.max_new_tokens": 4,
            "task.sizes": {"train": 20, "validation": 4, "test": 6},
            "sensitivity.samples": 2,
            "factorisation.rank": 4,
            "finetuning.batch_size": 6,
            "finetuning.micro_batch_size": 2,
            "finetuning.max_steps": 40,
            "finetuning.learning_rate": 0.002,
            "finetuning.validations": 2,
        }
    )
    runs = {name: create_run(place, spec.with_changes({"name": name})) for name in ("alone", "two")}
    execute(runs["alone"], place, Settings(threads=1, device="cpu"))

    two, command = (
        runs["two"],
        [sys.executable, "-m", "paraknow_core", "run", str(runs["two"].path), "--processes", "2"],
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    own = {WORKSPACE_VARIABLE: str(place.root), "TMPDIR": str(temporary)}
    options = {"cwd": ROOT, "env": os.environ | own, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    while sum("loss" in line for line in two.metrics()) < 5 and process.poll() is None:
        time.sleep(0.02)
    parts = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    [left] = temporary.glob("paraknow-parts-*")
    os.utime(left, (1, 1))  # as time goes by
    assert len(parts) == 1 and two.status().state == "lost"
    assert not psutil.wait_procs(parts, timeout=60)[1]

    assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL, **options).returncode == 0
    assert not [*temporary.glob("paraknow-*")]  # neither its own nor what the kill has left
    results = {name: run.result() for name, run in runs.items()}
    losses = {}
    for name, run in runs.items():
        by_step = {line["step"]: line["loss"] for line in run.metrics() if "loss" in line}
        losses[name] = [by_step[step] for step in sorted(by_step)]
    assert losses["two"] == pytest.approx(losses["alone"], rel=1e-4)
    assert all(step < after for step, after in pairwise(sorted(by_step)))
    assert results["two"].keys() == results["alone"].keys() and results["two"]["export_check"]["passed"]
    assert results["two"]["training"]["resumed"]
    assert [score["value"] for score in results["two"]["scores"]] == [
        score["value"] for score in results["alone"]["scores"]
    ]
    adapters = [load_file(run.file("adapter") / "adapter_model.safetensors") for run in runs.values()]
    assert adapters[0].keys() == adapters[1].keys()
    for name, tensor in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], tensor, atol=1e-3, rtol=1e-2)
