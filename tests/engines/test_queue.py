"""The queue with real processes: order, moves, cancelling, failures, kills of everybody, and hostile names."""

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from paraknow_core.engines import local, queue, queue_service
from paraknow_core.engines.service import Service
from paraknow_core.errors import RunError
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import RunFolder, create_run, this_process
from paraknow_core.spec import RunSpec
from tests.engines.test_local import ROOT, wait


@pytest.fixture
def place(tmp_path) -> Workspace:
    return Workspace(tmp_path / "a folder with spaces; $(touch hacked) 'quotes'")


@pytest.fixture
def quiet(monkeypatch) -> None:
    """No process is started: what the file says is looked at alone."""
    monkeypatch.setattr(Service, "start", lambda _self: None)


@pytest.fixture
def worker(place, tmp_path, monkeypatch):
    """Runs and queue are real processes, but no model is loaded; all are ended after the test."""
    script = tmp_path / "worker"
    script.write_text(f"#!{sys.executable}\n{(ROOT / 'tests' / 'slow_worker.py').read_text()}")
    script.chmod(0o755)
    monkeypatch.setattr(local.sys, "executable", str(script))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("paraknow_core.engines.service.RESTART_AFTER_S", 0.5)
    yield
    Service(place, "queue").stop(wait_s=10)
    for process in psutil.process_iter(["cmdline"]):
        if str(script) in (process.info["cmdline"] or []):
            process.kill()


def make(place: Workspace, *names: str) -> list[RunFolder]:
    return [create_run(place, RunSpec(name=name)) for name in names]


def until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def ids(*runs: RunFolder) -> list[str]:
    return [run.id for run in runs]


def test_runs_go_one_after_the_other_and_a_failure_does_not_keep_the_next_one(place, worker):
    runs = make(place, "short", "fails", "third; $(touch hacked)")
    queue.submit(place, *runs)
    assert [wait(run, "done", "failed") for run in runs] == ["done", "failed", "done"]
    times = [(run.events()[0]["time"], run.events()[-1]["time"]) for run in runs]
    assert times[0][1] <= times[1][0]
    assert times[1][1] <= times[2][0]
    assert [f"working on {run.spec().name}" in run.log_tail() for run in runs] == [True] * 3
    assert "working on short" not in runs[2].log_tail()
    until(lambda: queue.read(place).empty)
    assert not list(Path.cwd().rglob("hacked"))[:1]


def test_a_waiting_run_is_queued_has_no_process_and_can_be_moved_and_cancelled(place, worker):
    slow, second, third, fourth = runs = make(place, "slow", "second", "third", "fourth")
    queue.submit(place, *runs)
    wait(slow, "running")
    assert [run.status().state for run in runs[1:]] == ["queued"] * 3
    assert not second.file("process.json").exists()
    queue.move(place, fourth, -2)
    assert queue.read(place).waiting == ids(fourth, second, third)
    queue.move(place, fourth, 99)
    assert queue.read(place).waiting == ids(second, third, fourth)
    queue.cancel(place, third)
    assert (third.status().state, third.status().message) == ("stopped", queue.CANCELLED)
    local.stop(fourth)  # from the command line
    queue.cancel(place, slow)
    assert [wait(run, "stopped", "done") for run in runs] == ["stopped", "done", "stopped", "stopped"]
    assert third.metrics() == []
    queue.submit(place, third)
    assert wait(third, "done") == "done"


def test_a_killed_queue_is_started_again_and_knows_who_works_and_who_waits(place, worker):
    slow, second = make(place, "slow", "second")
    queue.submit(place, slow, second)
    wait(slow, "running")
    service = Service(place, "queue")
    pid = read_json(service.folder / "process.json")["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not service.alive())
    time.sleep(0.5)
    queue.ensure(place)
    until(service.alive)
    assert read_json(service.folder / "process.json")["pid"] != pid
    time.sleep(1)
    assert slow.status().state == "running"
    assert second.status().state == "queued"
    local.stop(slow)
    assert wait(second, "done") == "done"
    assert slow.status().attempt == 1


def test_a_killed_worker_is_lost_the_next_one_follows_and_the_lost_one_resumes(place, worker):
    slow, second = make(place, "slow", "second")
    queue.submit(place, slow, second)
    wait(slow, "running")
    os.kill(slow.status().pid, signal.SIGKILL)
    assert wait(slow, "lost") == "lost"
    assert wait(second, "done") == "done"
    queue.submit(place, slow)
    until(lambda: [e["attempt"] for e in slow.events() if e["event"] == "started"] == [1, 2])
    assert slow.status().state == "running"


def test_two_at_once_when_the_settings_say_so(place, worker):
    write_json(place.settings_file, {"workers": 2})  # JSON is YAML, too
    one, two, three = make(place, "slow", "slow", "third")
    queue.submit(place, one, two, three)
    wait(one, "running")
    wait(two, "running")
    assert three.status().state == "queued"
    local.stop(two)
    assert wait(three, "done") == "done"
    assert one.status().state == "running"


def test_a_run_that_does_not_listen_is_ended_and_can_be_resumed(place, worker):
    deaf, second = make(place, "deaf", "second")
    queue.submit(place, deaf, second)
    wait(deaf, "running")
    until(lambda: deaf.status().done >= 1)  # from here on it hears nothing; while it begins it still does
    pid = deaf.status().pid
    queue.end(place, deaf)
    assert wait(deaf, "stopped") == "stopped"
    assert deaf.status().message == queue.ENDED
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert wait(second, "done") == "done"
    until(lambda: queue.read(place).empty)


def test_what_is_going_on_waiting_done_or_elsewhere_is_refused_and_nothing_changes(place, quiet, tmp_path):
    waiting, done, other = make(place, "waiting", "done", "other")
    queue.submit(place, waiting)
    write_json(done.file("status.json"), {"state": "done"})
    elsewhere = create_run(place, RunSpec(), tmp_path / "elsewhere")
    for refused, words in ((waiting, "waiting already"), (done, "is done"), (elsewhere, "outside the workspace")):
        with pytest.raises(RunError, match=words):
            queue.submit(place, other, refused)
    with pytest.raises(RunError, match="each only once"):
        queue.submit(place, other, other)
    with pytest.raises(RunError, match="each only once"):
        queue.submit(place)
    assert queue.read(place).waiting == [waiting.id]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"waiting": 3, "working": null, "ending": []}',
        '{"waiting": [null, 3, "../..", "", "gone"]}',
        '{"first": 3, "passed": [1]}',
        '{"first": [[]], "passed": {"gone": "x"}}',
        '{"ending": {"gone": "soon"}}',
        '{"ending": {"gone": 3.5}}',
    ],
)
def test_a_damaged_file_is_an_empty_queue(place, quiet, content):
    queue.folder_of(place).mkdir(parents=True)
    (queue.folder_of(place) / "order.json").write_text(content)
    assert queue.read(place) == queue.Order()
    [run] = make(place, "next")
    queue.submit(place, run)
    assert json.loads((queue.folder_of(place) / "order.json").read_text())["waiting"] == [run.id]


def test_runs_put_first_go_before_the_others_in_their_own_order_and_after_a_restart(place, quiet):
    slow = make(place, *(f"slow {n}" for n in range(3)))
    queue.submit(place, *slow)
    lesson, next_lesson = make(place, "a", "b"), make(place, "c", "d")
    queue.submit(place, *lesson)
    queue.put_first(place, *lesson)
    assert queue.read(place).waiting == ids(*lesson, *slow)
    queue.submit(place, *next_lesson)
    queue.put_first(place, *next_lesson)  # what is known is in the file: whoever comes next reads it there
    assert queue.read(place).waiting == ids(*lesson, *next_lesson, *slow)
    later = make(place, "later")
    queue.submit(place, *later)
    assert queue.read(place).waiting == ids(*lesson, *next_lesson, *slow, *later)
    queue.put_first(place, *make(place, "begun already"))
    assert queue.read(place).waiting == ids(*lesson, *next_lesson, *slow, *later)
    queue.cancel(place, lesson[0])
    assert queue.read(place).first == ids(lesson[1], *next_lesson)


def test_nobody_is_passed_for_ever_by_runs_that_are_put_first(place, quiet):
    [slow, later] = make(place, "slow", "later")
    queue.submit(place, slow)
    half = queue.MOST_AHEAD // 2
    for number in range(4):
        lesson = make(place, *(f"lesson {number}.{n}" for n in range(half)))
        queue.submit(place, *lesson)
        queue.put_first(place, *lesson)
        if number == 1:
            queue.submit(place, later)
    waiting = queue.read(place).waiting
    assert waiting.index(slow.id) == queue.MOST_AHEAD
    assert waiting.index(later.id) == len(waiting) - 1
    assert [name for name in waiting if "slow" not in name and "later" not in name] == queue.read(place).first


def test_a_place_that_somebody_chose_is_kept_when_others_are_put_first(place, quiet):
    slow, [lesson, more] = make(place, "one", "two"), make(place, "lesson", "more")
    queue.submit(place, *slow, lesson)
    queue.put_first(place, lesson)
    queue.move(place, slow[1], -2)
    assert queue.read(place).waiting == ids(slow[1], lesson, slow[0])
    queue.submit(place, more)
    queue.put_first(place, more)
    assert queue.read(place).waiting == ids(more, slow[1], lesson, slow[0])


def at_work(run: RunFolder, attempt: int, state: str = "running") -> None:
    """Say that this process works on a run."""
    write_json(run.file("status.json"), {"state": state, "attempt": attempt, **this_process()})


def test_a_resumed_run_is_not_ended_by_what_was_asked_of_the_attempt_before(place, quiet, monkeypatch):
    killed: list[str] = []
    monkeypatch.setattr(local, "signal_group", lambda run, _number: killed.append(run.id))
    monkeypatch.setattr(queue_service, "GRACE_S", -1.0)
    resumed, by_hand, deaf = make(place, "resumed", "by hand", "deaf")
    for run in (resumed, by_hand, deaf):
        at_work(run, 1)
        queue.end(place, run)
    for run in (resumed, by_hand):
        write_json(run.file("status.json"), {"state": "stopped", "attempt": 1})
    write_json(queue.folder_of(place) / "order.json", {**asdict(queue.read(place)), "working": ids(resumed)})
    queue.submit(place, resumed)
    order = queue.read(place)
    assert (order.waiting, order.working, list(order.ending)) == (ids(resumed), [], ids(by_hand, deaf))
    at_work(by_hand, 2)  # from the command line, which knows no queue
    monkeypatch.setattr(local, "submit", lambda *_: 1)
    queue_service.turn(place)
    assert killed == ids(deaf)
    assert list(queue.read(place).ending) == ids(deaf)


def test_a_run_behind_a_link_is_refused_as_it_would_vanish_from_the_queue(place, quiet, tmp_path):
    elsewhere = create_run(place, RunSpec(), tmp_path / "elsewhere")
    place.runs.mkdir(parents=True)
    (place.runs / "linked").symlink_to(elsewhere.path)
    with pytest.raises(RunError, match="outside the workspace"):
        queue.submit(place, queue.run_of(place, "linked"))
    assert queue.read(place).empty


def test_a_deleted_run_leaves_the_queue_and_a_moved_one_that_began_is_no_error(place, quiet):
    first, second = make(place, "first", "second")
    queue.submit(place, first, second)
    first.delete()
    assert queue.read(place).waiting == [second.id]
    queue.move(place, first, 1)
    assert queue.read(place).waiting == [second.id]


def test_an_idle_queue_goes_only_when_nobody_has_submitted_meanwhile(place, quiet):
    service = Service(place, "queue")
    [run] = make(place, "late")
    with service.hold():
        queue.submit(place, run)
        assert not queue_service._leave(place, service)
        assert service.alive()
        queue.cancel(place, run)
        assert queue_service._leave(place, service)
        assert not service.alive()


def test_a_process_of_another_host_is_alive_while_it_holds_the_lock_and_is_never_killed_here(place, monkeypatch):
    service = Service(place, "queue")
    with service.hold():
        mine = read_json(service.folder / "process.json")
        write_json(service.folder / "process.json", {**mine, "host": "another host"})
        assert service.alive()
        monkeypatch.setattr(psutil.Process, "kill", lambda _self: pytest.fail("killed a process of this host"))
        service.stop(wait_s=0.2)
        assert service.asked_to_stop
    write_json(service.folder / "process.json", {**mine, "host": "another host"})
    assert not service.alive()  # it was killed, or its host is gone: the lock is free


def test_broken_settings_do_not_stop_the_queue_and_a_full_disk_is_said_in_the_run(place, quiet, monkeypatch):
    place.root.mkdir(parents=True)
    place.settings_file.write_text("workers: many")
    [run] = make(place, "unlucky")
    queue.submit(place, run)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local, "submit", full)
    assert queue_service.turn(place) is False
    assert run.status().state == "failed"
    assert "No space left on device" in run.status().message
