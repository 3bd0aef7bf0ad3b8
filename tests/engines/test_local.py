"""The local engine with real processes: order, stop, kill, resume, refusal."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from paraknow_core.engines import local
from paraknow_core.errors import RunError
from paraknow_core.files.json_file import read_json
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder, create_run
from paraknow_core.spec import RunSpec

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path) -> Workspace:
    return Workspace(tmp_path / "a folder with spaces; $(touch hacked) 'quotes'")


@pytest.fixture
def worker(tmp_path, monkeypatch) -> None:
    """Let the engine start the stand-in instead of the pipeline; everything else is real."""
    script = tmp_path / "worker"
    script.write_text(f"#!{sys.executable}\n{(ROOT / 'tests' / 'slow_worker.py').read_text()}")
    script.chmod(0o755)
    monkeypatch.setattr(local.sys, "executable", str(script))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def make(place: Workspace, name: str) -> RunFolder:
    return create_run(place, RunSpec(name=name))


def wait(run: RunFolder, *states: str, seconds: float = 30) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = run.status().state
        if state in states:
            return state
        time.sleep(0.05)
    raise AssertionError(f"{run.id} is {run.status()} after {seconds} s; log: {run.log_tail()}")


def test_one_run_is_executed_in_its_own_group_with_its_log(place, worker):
    run = make(place, "quick")
    pid = local.submit(place, run)
    assert os.getpgid(pid) == pid
    assert wait(run, "done") == "done"
    assert "working on quick" in run.log_tail()
    assert not (ROOT / "hacked").exists()


def test_several_runs_go_one_after_the_other_in_one_process(place, worker):
    runs = [make(place, name) for name in ("first", "fails", "third")]
    pid = local.submit(place, *runs)
    assert [wait(run, "done", "failed") for run in runs] == ["done", "failed", "done"]
    assert {read_json(run.file("process.json"))["pid"] for run in runs} == {pid}
    starts = [run.events()[0]["time"] for run in runs]
    ends = [run.events()[-1]["time"] for run in runs]
    assert starts[1] >= ends[0]
    assert starts[2] >= ends[1]
    assert runs[1].status().message == "task: no such file; give a path that exists"
    assert "working on third" in runs[2].log_tail()


def test_a_run_waiting_in_line_is_queued_and_can_be_stopped_before_it_begins(place, worker):
    slow, waiting = make(place, "slow"), make(place, "next")
    local.submit(place, slow, waiting)
    wait(slow, "running")
    assert waiting.status().state == "queued"
    local.stop(waiting)
    local.stop(slow)
    assert wait(slow, "stopped") == "stopped"
    assert wait(waiting, "stopped") == "stopped"
    assert waiting.metrics() == []


def test_a_killed_process_leaves_lost_runs_that_can_be_resumed(place, worker):
    slow, waiting = make(place, "slow"), make(place, "next")
    pid = local.submit(place, slow, waiting)
    wait(slow, "running")
    os.kill(pid, signal.SIGKILL)
    assert wait(slow, "lost") == "lost"
    assert wait(waiting, "lost") == "lost"
    local.submit(place, waiting)
    assert wait(waiting, "done") == "done"
    local.submit(place, slow)
    assert wait(slow, "running") == "running"
    assert slow.status().attempt == 2
    local.stop(slow, grace_s=10)
    assert slow.status().state == "stopped"


def test_a_run_that_is_going_on_is_refused_and_nothing_else_is_started(place, worker):
    slow, other = make(place, "slow"), make(place, "other")
    local.submit(place, slow)
    wait(slow, "running")
    with pytest.raises(RunError, match="already running; watch it"):
        local.submit(place, other, slow)
    assert not other.file("process.json").exists()
    local.stop(slow, grace_s=10)


def test_nothing_or_the_same_run_twice_is_refused(place, worker):
    run = make(place, "quick")
    with pytest.raises(RunError, match="each only once"):
        local.submit(place)
    with pytest.raises(RunError, match="each only once"):
        local.submit(place, run, run)
    assert run.status().state == "queued"


def test_a_process_that_does_not_listen_is_ended_after_the_grace_period(place, worker):
    run = make(place, "deaf")
    pid = local.submit(place, run)
    wait(run, "running")
    local.stop(run, grace_s=0.5)
    assert run.status().state == "lost"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_real_command_fails_with_a_sentence_in_status_and_log(place):
    changes = {"teacher.source": "/nowhere/at/all", "until": "sensitivity"}
    runs = [create_run(place, RunSpec(name=str(i)).with_changes(changes)) for i in range(2)]
    local.submit(place, *runs)
    for run in runs:
        assert wait(run, "failed", seconds=120) == "failed"
        assert "/nowhere/at/all" in run.status().message
        assert "Traceback" not in run.log_tail()
