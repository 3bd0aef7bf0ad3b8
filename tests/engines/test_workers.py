"""Warm workers with real processes: one takes run after run, each with its own log, and none outlives its use."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from paraknow_core.engines import workers
from paraknow_core.engines.inline import InlineEngine
from paraknow_core.engines.local import is_shared, signal_group
from paraknow_core.engines.queue import QueueEngine
from paraknow_core.engines.service import Service
from paraknow_core.engines.workers import Pool, WorkersEngine
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import create_run, delete
from paraknow_core.runs.processes import is_alive
from paraknow_core.runs.writer import RunWriter, StopRequested
from paraknow_core.spec import RunSpec
from tests.conftest import ROOT
from tests.engines.following import make, until, wait

REAL_PYTHON = sys.executable  # before a test puts its stand-in there
OWNER = """
import sys, time
from pathlib import Path
from paraknow_core.engines.workers import WorkersEngine
from paraknow_core.paths import workspace
from paraknow_core.runs.folder import RunFolder
WorkersEngine(workspace()).submit(RunFolder(Path(sys.argv[1])))
time.sleep(600)
"""


@pytest.fixture
def engine(place, worker):
    engine = WorkersEngine(place)
    yield engine
    engine.close()


@pytest.fixture
def signals(monkeypatch):
    """Signals that were sent meanwhile: none arrives."""
    sent = []
    monkeypatch.setattr("os.kill", lambda *one: sent.append(one))
    monkeypatch.setattr("os.killpg", lambda *one: sent.append(one))
    return sent


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def pids(*runs: RunFolder) -> list[int]:
    return [run.status().pid for run in runs]


def test_one_process_executes_one_run_after_the_other_each_with_its_own_log(engine, place):
    runs = make(place, "first", "fails", "third")
    engine.submit(*runs)
    assert [wait(run, "done", "failed") for run in runs] == ["done", "failed", "done"]
    assert len(set(pids(*runs))) == 1
    assert [run.log_tail().splitlines()[0] for run in runs] == [f"working on {run.spec().name}" for run in runs]
    until(lambda: "no such file" in runs[1].log_tail())
    assert "working on third" not in runs[0].log_tail()
    assert runs[0].process()["pid"] == runs[0].status().pid


def test_a_run_that_has_ended_can_be_resumed_and_deleted_while_its_worker_is_at_another(engine, place):
    first, stopped, slow = make(place, "first", "slow", "slow")
    engine.submit(first, stopped, slow)
    wait(stopped, "running")
    engine.stop(stopped)
    assert wait(stopped, "stopped") == "stopped"
    wait(slow, "running")
    assert len(set(pids(first, stopped, slow))) == 1
    delete(first)
    assert not first.path.exists()
    engine.submit(stopped)
    assert stopped.status().state == "queued"
    engine.stop(slow)
    assert wait(stopped, "running") == "running"
    assert stopped.status().attempt == 2


def test_a_run_without_an_end_is_lost_though_its_process_lives_on_with_another(engine, place):
    first, slow = make(place, "first", "slow")
    engine.submit(first, slow)
    assert wait(first, "done") == "done"
    wait(slow, "running")
    ended = read_json(first.file("status.json"))
    write_json(first.file("status.json"), {**ended, "state": "running"})  # as if its end could not be written
    assert is_alive(vars(first.written()))
    assert first.status().state == "lost"
    assert slow.status().state == "running"
    assert lifecycle.requeue(first) == [1]


def test_a_worker_with_a_bug_or_that_was_killed_is_replaced(engine, place):
    bug, killed, last = make(place, "bug", "slow", "last")
    engine.submit(bug, killed, last)
    wait(killed, "running")
    assert bug.status().state == "failed"
    os.kill(killed.status().pid, signal.SIGKILL)
    assert wait(killed, "lost") == "lost"
    assert wait(last, "done") == "done"
    assert len(set(pids(bug, killed, last))) == 3


def test_workers_that_have_been_idle_for_long_end(place, worker, monkeypatch):
    pool = Pool(place)
    (run,) = make(place, "short")
    pid = pool.give(run, *lifecycle.requeue(run))
    assert pool.has(run)
    assert pool.busy == 1
    while pool.busy:
        pool.wait(5.0)
    assert run.status().state == "done"
    assert not gone(pid)
    monkeypatch.setattr(workers, "IDLE_S", 0.0)
    pool.wait(5.0)
    until(lambda: gone(pid))


def test_a_tied_worker_ends_with_its_owner_in_the_middle_of_a_run(place, worker):
    (slow,) = make(place, "slow")
    script = "import sys; sys.executable = sys.argv[2]\n" + OWNER
    environment = os.environ | {"PARAKNOW_WORKSPACE": str(place.root)}
    command = [REAL_PYTHON, "-c", script, str(slow.path), sys.executable]
    owner = subprocess.Popen(command, cwd=ROOT, env=environment)
    wait(slow, "running")
    owner.kill()
    owner.wait()
    assert wait(slow, "lost") == "lost"
    until(lambda: gone(slow.status().pid))


def test_a_killed_queue_leaves_its_worker_to_finish_its_run_and_a_new_one_finds_it(place, worker):
    slow, second = make(place, "slow", "second")
    QueueEngine(place).submit(slow, second)
    wait(slow, "running")
    service = Service(place, "queue")
    os.kill(read_json(service.folder / "process.json")["pid"], signal.SIGKILL)
    until(lambda: not service.alive())
    assert slow.status().state == "running"
    lifecycle.ask_to_stop(slow)
    assert wait(slow, "stopped") == "stopped"
    until(lambda: gone(slow.status().pid))  # there is nobody left to work for


def test_the_real_worker_reads_the_settings_before_each_run_and_fails_with_sentences(place):
    changes = {"teacher.source": "/nowhere/at/all", "until": "sensitivity"}
    refused, run = (create_run(place, RunSpec(name=name).with_changes(changes)) for name in ("one", "two"))
    pool = Pool(place)
    write_json(place.settings_file, {"device": "abacus"})
    pool.give(refused, *lifecycle.requeue(refused))
    assert wait(refused, "failed", seconds=120) == "failed"
    assert "'device'" in refused.status().message
    write_json(place.settings_file, {"device": "cpu"})
    while pool.busy:
        pool.wait(5.0)
    pool.give(run, *lifecycle.requeue(run))
    assert wait(run, "failed", seconds=120) == "failed"
    assert "/nowhere/at/all" in run.status().message
    assert refused.status().pid == run.status().pid
    until(lambda: "/nowhere/at/all" in run.log_tail())  # said when the state has been written
    assert not any("Traceback" in one.log_tail() for one in (refused, run))
    pool.close()


def test_a_run_that_waits_is_taken_out_and_no_signal_reaches_the_process_of_the_study(engine, place, signals):
    slow, waits, asked = make(place, "slow", "short", "short")
    engine.submit(slow, waits, asked)
    wait(slow, "running")
    signal_group(waits, signal.SIGKILL)
    assert not signals
    signal_group(slow, signal.SIGTERM)
    assert [pid for pid, _ in signals] == [slow.status().pid]
    engine.stop(waits, grace_s=5.0)
    assert waits.status().state == "stopped" and waits.status().message == lifecycle.CANCELLED
    lifecycle.ask_to_stop(asked)  # another process knows no engine
    engine.stop(slow)
    assert wait(slow, "stopped") and wait(asked, "stopped")
    assert asked.status().attempt == 0
    engine.submit(waits)  # it is as new
    assert wait(waits, "done")


def test_a_run_that_is_computed_in_the_process_of_a_study_is_not_signalled(place, signals):
    (run,) = make(place, "one")
    begun, end = threading.Event(), threading.Event()

    def execute(run):
        with RunWriter(run):
            begun.set()
            end.wait(30)

    InlineEngine(place, execute).submit(run)
    begun.wait(30)
    assert run.status().pid == os.getpid()
    signal_group(run, signal.SIGKILL)
    end.set()
    assert wait(run, "done") and not signals
    write_json(run.file("status.json"), {**read_json(run.file("status.json")), "state": "running", "pid": 1})
    assert not is_shared(run, vars(run.written()))  # a later attempt, by hand: that claim does not speak of it


def test_a_bug_in_a_pack_of_a_study_ends_no_run_that_was_submitted_again(place, monkeypatch):
    monkeypatch.setattr(Service, "start", lambda _self: None)
    again, never_begun = runs = make(place, "one", "two")

    def execute_packed(_runs):
        with RunWriter(again):
            raise StopRequested
        QueueEngine(place).submit(again)
        raise ZeroDivisionError

    InlineEngine(place, lambda _run: None, execute_packed, pack=2).submit(*runs)
    assert wait(never_begun, "failed") == "failed"
    until(lambda: "ZeroDivisionError" in never_begun.log_tail())
    assert again.status().state == "queued"


def test_a_full_disk_in_the_middle_of_a_submit_leaves_no_run_waiting(engine, place, monkeypatch):
    one, two = make(place, "one", "two")
    left = [OSError(28, "No space left on device"), None]
    claim = lifecycle.claim

    def fails_second(*arguments):
        if (error := left.pop()) is not None:
            raise error
        claim(*arguments)

    monkeypatch.setattr(lifecycle, "claim", fails_second)
    with pytest.raises(OSError, match="No space"):
        engine.submit(one, two)
    monkeypatch.undo()
    assert not one.claimed and not two.claimed and not engine.alive(one)
