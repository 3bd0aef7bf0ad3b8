"""A clock that is set, forwards or back: live work stays alive, dead work dead, and helpers start."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from paraknow_core.engines import local, queue, queue_service
from paraknow_core.engines.service import Service
from paraknow_core.engines.workers import Pool
from paraknow_core.errors import RunError
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.paths import workspace
from paraknow_core.runs import processes
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import create_run, delete, requeue
from paraknow_core.runs.processes import is_alive, process_identity, this_process
from paraknow_core.runs.writer import RunWriter
from paraknow_core.spec import RunSpec

STEPS = (3600.0, -3600.0, 1.5, -1.5)
RealProcess = psutil.Process


@pytest.fixture
def place(tmp_path):
    return workspace(tmp_path)


@pytest.fixture
def set_clock(monkeypatch):
    """Return a function that sets the clock, as everything in this process sees it."""
    real, created = time.time, RealProcess.create_time

    def step(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)
        monkeypatch.setattr(RealProcess, "create_time", lambda self: created(self) + seconds)

    return step


@pytest.fixture
def without_boot(monkeypatch):
    """Where the system tells neither its name nor when a process started: macOS, or an earlier version's files."""
    monkeypatch.setattr(processes, "boot_id", lambda: None)


@pytest.mark.parametrize("step", STEPS)
def test_a_live_run_stays_alive_and_is_not_deleted(place, set_clock, step):
    run = create_run(place, RunSpec())
    with RunWriter(run):
        set_clock(step)
        assert run.status().state == "running"
        with pytest.raises(RunError, match="still running"):
            delete(run)
        with pytest.raises(RunError, match="already running"):
            requeue(run)
    assert run.path.exists()


@pytest.mark.parametrize("step", STEPS)
def test_where_only_the_clock_names_a_process_the_lock_that_it_holds_counts(place, set_clock, without_boot, step):
    run = create_run(place, RunSpec())
    with RunWriter(run):
        assert read_json(run.file("status.json"))["process_started"] > 1e9
        set_clock(step)
        assert run.status().state == "running"
        with pytest.raises(RunError, match="still running"):
            delete(run)


def test_nobody_deletes_under_a_writer_whatever_the_state_says(place):
    run = create_run(place, RunSpec())
    with RunWriter(run):
        write_json(run.file("status.json"), {"state": "failed"})
        with pytest.raises(RunError, match="still working on it"):
            delete(run)
    delete(run)
    assert not run.path.exists()


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_waits_for_its_process_is_not_lost(place, set_clock, step):
    run = create_run(place, RunSpec())
    write_json(run.file("process.json"), {**this_process(), "launched": time.time(), "attempt": 0})
    set_clock(step)
    assert run.status().state == "queued"
    with pytest.raises(RunError, match="still queued"):
        delete(run)


def test_a_dead_process_is_dead_whatever_the_clock_says(place, set_clock):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = process_identity(child.pid)
    assert is_alive(known)
    child.kill()
    child.wait()
    for step in STEPS:
        set_clock(step)
        assert not is_alive(known)


def test_the_same_number_in_another_run_of_the_system_is_another_process():
    known = this_process()
    assert is_alive(known)
    assert not is_alive({**known, "boot": "before the machine was started anew"})
    assert not is_alive({**known, "process_started": known["process_started"] - 1})
    assert known["process_started"] < time.time() - 1e8  # no time of day


def test_what_an_earlier_version_wrote_is_still_understood(place):
    created = psutil.Process().create_time()
    old = {"host": this_process()["host"], "pid": os.getpid(), "process_started": created}
    assert is_alive(old)
    assert not is_alive({**old, "process_started": created - 60})
    run = create_run(place, RunSpec())
    write_json(run.file("status.json"), {"state": "running", **old})
    assert run.status().state == "running"


def test_a_zombie_is_no_process_and_a_program_may_be_called_anything(tmp_path):
    program = tmp_path / "a) S 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "60"])
    known = process_identity(child.pid)
    assert is_alive(known)
    child.kill()
    deadline = time.monotonic() + 10
    while is_alive(known) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(known)
    child.wait()


@pytest.mark.parametrize("name", ["queue", "desk", "playground"])
@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_helpers_start_after_the_clock_was_set_but_not_again_and_again(place, set_clock, monkeypatch, name, step):
    started: list = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: started.append(args))
    service = Service(place, name)
    service.start()
    service.start()
    assert len(started) == 1
    assert service.starting
    set_clock(step)
    service.start()
    assert len(started) == 1  # it was launched just now, whatever the clock says
    moment = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: moment + 60)
    assert not service.starting
    service.start()
    assert len(started) == 2


def test_a_helper_launched_in_the_future_by_an_earlier_version_is_launched_now(place, monkeypatch):
    started: list = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **_: started.append(args))
    service = Service(place, "queue")
    service.folder.mkdir(parents=True)
    (service.folder / "launched").write_text("")
    ahead = time.time() + 3600
    os.utime(service.folder / "launched", (ahead, ahead))
    service.start()
    assert len(started) == 1


@pytest.mark.parametrize("step", STEPS)
def test_a_live_helper_is_alive_and_not_started_twice(place, set_clock, monkeypatch, step):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started twice"))
    service = Service(place, "queue")
    with service.hold() as mine:
        assert mine
        set_clock(step)
        assert service.alive()
        service.start()
        with Service(place, "queue").hold() as other:
            assert not other
    assert not service.alive()


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_the_queue_gives_a_run_its_time_to_save_by_its_own_watch(place, set_clock, monkeypatch, step):
    monkeypatch.setattr(Service, "start", lambda _self: None)
    sent: list = []
    monkeypatch.setattr(local, "signal_group", lambda _run, number, **_: sent.append(number.name))
    run = create_run(place, RunSpec())
    with RunWriter(run):
        queue.end(place, run)
        queue_service.turn(place, Pool(place))
        set_clock(step)
        queue_service.turn(place, Pool(place))
        assert sent == []
        moment = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: moment + queue_service.GRACE_S + 1)
        queue_service.turn(place, Pool(place))
        monkeypatch.setattr(time, "monotonic", lambda: moment + queue_service.GRACE_S + queue_service.HARDER_S + 1)
        queue_service.turn(place, Pool(place))
        assert sent == ["SIGTERM", "SIGKILL"]


def elsewhere(run: RunFolder, heartbeat: float) -> None:
    status = {"state": "running", "host": "elsewhere", "pid": 1, "process_started": 5.0, "boot": "x"}
    write_json(run.file("status.json"), {**status, "heartbeat": heartbeat})


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
def test_a_host_whose_clock_is_wrong_is_judged_by_what_it_goes_on_saying(place, monkeypatch, skew):
    run = create_run(place, RunSpec())
    moment, real = time.monotonic(), time.time
    said = real() + skew
    elsewhere(run, said)
    run.status()
    elsewhere(run, said + 2)
    assert run.status().state == "running"
    monkeypatch.setattr(time, "monotonic", lambda: moment + processes.REMOTE_SILENCE_S - 5)
    assert run.status().state == "running"
    monkeypatch.setattr(time, "monotonic", lambda: moment + processes.REMOTE_SILENCE_S + 5)
    assert run.status().state == "lost"


def test_a_run_of_a_host_whose_clock_is_behind_is_watched_before_it_is_deleted(place, monkeypatch):
    run = create_run(place, RunSpec())
    elsewhere(run, time.time() - 7200)
    assert run.status().state == "lost"

    def beat(_seconds: float) -> None:
        elsewhere(run, time.time() - 7198)

    monkeypatch.setattr("paraknow_core.runs.lifecycle.time.sleep", beat)
    with pytest.raises(RunError, match="still working on it"):
        delete(run)
    assert run.path.exists()


def test_a_silent_run_of_another_host_can_be_deleted(place, monkeypatch):
    monkeypatch.setattr("paraknow_core.runs.lifecycle.WATCH_S", 0.05)
    run = create_run(place, RunSpec())
    elsewhere(run, time.time() - 7200)
    delete(run)
    assert not run.path.exists()


def test_a_reader_that_looks_at_a_lock_does_not_keep_the_next_writer_out(place):
    import fcntl
    import threading

    run = create_run(place, RunSpec())
    run.file("lock").touch()
    reader = run.file("lock").open("rb")
    fcntl.flock(reader, fcntl.LOCK_SH)
    letting_go = threading.Timer(0.1, reader.close)
    letting_go.start()
    with RunWriter(run):
        assert run.status().state == "running"
    letting_go.join()
