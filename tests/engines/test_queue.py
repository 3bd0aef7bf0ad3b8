"""The queue with real processes: order, moves, cancelling, failures, kills of everybody, and hostile names."""

import json
import os
import signal
import time
from dataclasses import asdict

import psutil
import pytest

from paraknow_core.engines import local, queue, queue_service
from paraknow_core.engines.base import SHARED
from paraknow_core.engines.local import LocalEngine
from paraknow_core.engines.queue import QueueEngine
from paraknow_core.engines.service import Service
from paraknow_core.engines.workers import WORKER, Pool
from paraknow_core.errors import RunError
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import CANCELLED, CUT_OFF, create_run, delete
from paraknow_core.runs.processes import this_process
from paraknow_core.spec import RunSpec
from tests.engines.following import make, until, wait


@pytest.fixture
def quiet(monkeypatch) -> None:
    """No process is started: what the file says is looked at alone."""
    monkeypatch.setattr(Service, "start", lambda _self: None)


def ids(*runs: RunFolder) -> list[str]:
    return [run.id for run in runs]


def test_a_waiting_run_is_queued_has_no_process_and_can_be_moved_and_cancelled(place, worker):
    slow, second, third, fourth = runs = make(place, "slow", "second", "third", "fourth")
    QueueEngine(place).submit(*runs)
    wait(slow, "running")
    assert [run.status().state for run in runs[1:]] == ["queued"] * 3
    assert not second.file("process.json").exists()
    queue.move(place, fourth, -2)
    assert queue.read(place).waiting == ids(fourth, second, third)
    queue.move(place, fourth, 99)
    assert queue.read(place).waiting == ids(second, third, fourth)
    QueueEngine(place).stop(third)
    assert (third.status().state, third.status().message) == ("stopped", CANCELLED)
    LocalEngine(place).stop(fourth)  # from the command line
    QueueEngine(place).stop(slow)
    assert [wait(run, "stopped", "done") for run in runs] == ["stopped", "done", "stopped", "stopped"]
    assert third.metrics() == []
    QueueEngine(place).submit(third)
    assert wait(third, "done") == "done"


def test_a_killed_queue_is_started_again_and_knows_who_works_and_who_waits(place, worker):
    slow, second = make(place, "slow", "second")
    QueueEngine(place).submit(slow, second)
    wait(slow, "running")
    service = Service(place, "queue")
    pid = read_json(service.folder / "process.json")["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not service.alive())
    time.sleep(0.5)
    queue.ensure(place)
    until(lambda: service.alive() and read_json(service.folder / "process.json")["pid"] != pid)
    time.sleep(1)
    assert slow.status().state == "running"
    assert second.status().state == "queued"
    LocalEngine(place).stop(slow)
    assert wait(second, "done") == "done"
    assert slow.status().attempt == 1


def test_a_killed_worker_is_lost_and_the_next_one_follows(place, worker):
    slow, second = make(place, "slow", "second")
    QueueEngine(place).submit(slow, second)
    wait(slow, "running")
    os.kill(slow.status().pid, signal.SIGKILL)
    assert wait(slow, "lost") == "lost"
    assert wait(second, "done") == "done"


def test_two_at_once_when_the_settings_say_so(place, worker):
    write_json(place.settings_file, {"workers": 2})  # JSON is YAML, too
    one, two, three = make(place, "slow", "slow", "third")
    QueueEngine(place).submit(one, two, three)
    wait(one, "running")
    wait(two, "running")
    assert three.status().state == "queued"
    LocalEngine(place).stop(two)
    assert wait(three, "done") == "done"
    assert one.status().state == "running"


def test_a_run_that_does_not_listen_is_ended_and_can_be_resumed(place, worker):
    deaf, second = make(place, "deaf", "second")
    QueueEngine(place).submit(deaf, second)
    wait(deaf, "running")
    until(lambda: deaf.status().done >= 1)  # from here on it hears nothing; while it begins it still does
    pid = deaf.status().pid
    queue.end(place, deaf)
    assert wait(deaf, "stopped") == "stopped"
    assert deaf.status().message == CUT_OFF
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert wait(second, "done") == "done"
    until(lambda: queue.read(place).empty)


def test_what_is_going_on_waiting_done_or_elsewhere_is_refused_and_nothing_changes(place, quiet, tmp_path):
    waiting, done, other = make(place, "waiting", "done", "other")
    QueueEngine(place).submit(waiting)
    write_json(done.file("status.json"), {"state": "done"})
    elsewhere = create_run(place, RunSpec(), tmp_path / "elsewhere")
    for refused, words in ((waiting, "waiting already"), (done, "is done"), (elsewhere, "outside the workspace")):
        with pytest.raises(RunError, match=words):
            QueueEngine(place).submit(other, refused)
    with pytest.raises(RunError, match="each only once"):
        QueueEngine(place).submit(other, other)
    with pytest.raises(RunError, match="each only once"):
        QueueEngine(place).submit()
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
    QueueEngine(place).submit(run)
    assert json.loads((queue.folder_of(place) / "order.json").read_text())["waiting"] == [run.id]


def test_runs_put_first_go_before_the_others_in_their_own_order_and_after_a_restart(place, quiet):
    slow = make(place, *(f"slow {n}" for n in range(3)))
    QueueEngine(place).submit(*slow)
    lesson, next_lesson = make(place, "a", "b"), make(place, "c", "d")
    QueueEngine(place).submit(*lesson, first=True)
    assert queue.read(place).waiting == ids(*lesson, *slow)
    QueueEngine(place).submit(*next_lesson, first=True)  # behind those put first before
    assert queue.read(place).waiting == ids(*lesson, *next_lesson, *slow)
    later = make(place, "later")
    QueueEngine(place).submit(*later)
    assert queue.read(place).waiting == ids(*lesson, *next_lesson, *slow, *later)
    QueueEngine(place).stop(lesson[0])
    assert queue.read(place).first == ids(lesson[1], *next_lesson)


def test_nobody_is_passed_for_ever_by_runs_that_are_put_first(place, quiet):
    [slow, later] = make(place, "slow", "later")
    QueueEngine(place).submit(slow)
    half = queue.MOST_AHEAD // 2
    for number in range(4):
        lesson = make(place, *(f"lesson {number}.{n}" for n in range(half)))
        QueueEngine(place).submit(*lesson, first=True)
        if number == 1:
            QueueEngine(place).submit(later)
    waiting = queue.read(place).waiting
    assert waiting.index(slow.id) == queue.MOST_AHEAD
    assert waiting.index(later.id) == len(waiting) - 1
    assert [name for name in waiting if "slow" not in name and "later" not in name] == queue.read(place).first


def test_a_place_that_somebody_chose_is_kept_when_others_are_put_first(place, quiet):
    slow, [lesson, more] = make(place, "one", "two"), make(place, "lesson", "more")
    QueueEngine(place).submit(*slow)
    QueueEngine(place).submit(lesson, first=True)
    queue.move(place, slow[1], -2)
    assert queue.read(place).waiting == ids(slow[1], lesson, slow[0])
    QueueEngine(place).submit(more, first=True)
    assert queue.read(place).waiting == ids(more, slow[1], lesson, slow[0])


def at_work(run: RunFolder, attempt: int, state: str = "running") -> None:
    """Say that this process works on a run."""
    write_json(run.file("status.json"), {"state": state, "attempt": attempt, **this_process()})


def test_a_resumed_run_is_not_ended_by_what_was_asked_of_the_attempt_before(place, quiet, monkeypatch):
    killed: list[str] = []
    monkeypatch.setattr(local, "signal_group", lambda run, _number, **_: killed.append(run.id))
    monkeypatch.setattr(queue_service, "GRACE_S", -1.0)
    resumed, by_hand, deaf = make(place, "resumed", "by hand", "deaf")
    for run in (resumed, by_hand, deaf):
        at_work(run, 1)
        queue.end(place, run)
    for run in (resumed, by_hand):
        write_json(run.file("status.json"), {"state": "stopped", "attempt": 1})
    write_json(queue.folder_of(place) / "order.json", {**asdict(queue.read(place)), "working": ids(resumed)})
    QueueEngine(place).submit(resumed)
    order = queue.read(place)
    assert (order.waiting, order.working, list(order.ending)) == (ids(resumed), [], ids(by_hand, deaf))
    at_work(by_hand, 2)  # from the command line, which knows no queue
    monkeypatch.setattr(Pool, "give", lambda *_: 1)
    queue_service.turn(place, Pool(place))
    assert killed == ids(deaf)
    assert list(queue.read(place).ending) == ids(deaf)


def test_a_run_behind_a_link_is_refused_as_it_would_vanish_from_the_queue(place, quiet, tmp_path):
    elsewhere = create_run(place, RunSpec(), tmp_path / "elsewhere")
    place.runs.mkdir(parents=True)
    (place.runs / "linked").symlink_to(elsewhere.path)
    with pytest.raises(RunError, match="outside the workspace"):
        QueueEngine(place).submit(queue.run_of(place, "linked"))
    assert queue.read(place).empty


def test_a_deleted_run_leaves_the_queue_and_a_moved_one_that_began_is_no_error(place, quiet):
    first, second = make(place, "first", "second")
    QueueEngine(place).submit(first, second)
    delete(first)
    assert queue.read(place).waiting == [second.id]
    queue.move(place, first, 1)
    assert queue.read(place).waiting == [second.id]


def test_an_idle_queue_goes_only_when_nobody_has_submitted_meanwhile(place, quiet):
    service = Service(place, "queue")
    [run] = make(place, "late")
    with service.hold():
        QueueEngine(place).submit(run)
        assert not queue_service._leave(place, service)
        assert service.alive()
        QueueEngine(place).stop(run)
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
    QueueEngine(place).submit(run)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Pool, "give", full)
    assert queue_service.turn(place, Pool(place)) is False
    assert run.status().state == "failed"
    assert "No space left on device" in run.status().message


def test_a_thousand_names_are_looked_at_without_resolving_any(place, quiet, monkeypatch):
    runs = make(place, *(f"run {number}" for number in range(5)))
    QueueEngine(place).submit(*runs)
    linked = place.runs / "linked"
    linked.symlink_to(runs[0].path)
    outside = place.root / "outside"
    outside.mkdir()
    (outside / "spec.yaml").write_text("")
    (place.runs / "away").symlink_to(outside)
    order = read_json(place.root / "queue" / "order.json")
    resolved = []
    contained = queue.contained
    monkeypatch.setattr(queue, "contained", lambda root, name: resolved.append(name) or contained(root, name))
    for odd in ("linked", "away", "../outside", "", ".", "gone", runs[1].id):
        write_json(place.root / "queue" / "order.json", {**order, "waiting": [*order["waiting"], odd]})
        waiting = queue.read(place).waiting
        assert waiting == [*ids(*runs), *(["linked"] if odd == "linked" else [])]
    assert resolved == ["linked", "away", "../outside", "", "."]


def test_a_run_that_is_resumed_before_its_worker_is_through_with_it_waits_for_that(place, quiet, monkeypatch):
    [run] = make(place, "resumed")
    pool, given = Pool(place), []
    monkeypatch.setattr(Pool, "has", lambda *_: not given)
    monkeypatch.setattr(Pool, "give", lambda _pool, run, attempt, _settings: given.append(attempt))
    QueueEngine(place).submit(run)
    assert queue_service.turn(place, pool)
    assert queue.read(place).waiting == [run.id]
    given.append("through")
    queue_service.turn(place, pool)
    assert given == ["through", 0]


def test_a_run_that_was_done_elsewhere_while_it_waited_is_not_executed_again(place, quiet):
    (run,) = make(place, "one")
    QueueEngine(place).submit(run)
    ended = {**read_json(run.file("status.json")), "state": "done", "attempt": 1, "ended": 1.0}
    write_json(run.file("status.json"), ended)
    queue_service.turn(place, Pool(place))
    assert run.status().state == "done" and not run.claimed
    assert queue.read(place).empty


def pids(*runs: RunFolder) -> list[int]:
    return [run.status().pid for run in runs]


def test_runs_of_one_kind_join_the_first_in_one_process_and_others_keep_their_turn(place, worker):
    write_json(place.settings_file, {"workers": 1, "pack": 3})
    one, two, three, four = make(place, "slow", "slow", "fails", "last")
    other = create_run(place, RunSpec(name="other").with_changes({"factorisation.rank": 3}))
    QueueEngine(place).submit(one, other, two, three, four)
    for run in (one, two):
        wait(run, "running")
    assert wait(three, "failed") == "failed"  # beside two that go on
    assert [run.status().state for run in (other, four)] == ["queued", "queued"]
    assert len(set(pids(one, two, three))) == 1
    assert "working on slow" in one.log_tail()
    assert one.id in two.log_tail()  # where to look
    QueueEngine(place).stop(one)
    assert wait(one, "stopped") == "stopped"
    assert two.status().state == "running"
    QueueEngine(place).submit(one)  # while its pack goes on: after those that wait
    assert queue.read(place).waiting == ids(other, four, one)
    LocalEngine(place).stop(two, grace_s=0.1)  # no signal: it would end the others
    assert wait(two, "stopped") == "stopped"
    assert wait(other, "done") == "done"
    assert pids(other) == pids(two)  # one that was submitted again keeps no worker from going on
    assert wait(four, "done") == "done"
    assert wait(one, "running") == "running"
    assert one.status().attempt == 2
    assert other.status().ended <= four.status().started


@pytest.mark.slow
def test_a_pack_is_lost_with_its_process_and_the_queue_goes_on(place, worker):
    write_json(place.settings_file, {"workers": 1, "pack": 2})
    one, two, next_one = make(place, "slow", "deaf", "next")
    QueueEngine(place).submit(one, two, next_one)
    for run in (one, two):
        wait(run, "running")
    until(lambda: two.status().done >= 1)
    queue.end(place, two)  # it is only asked: the process is the other one's, too
    time.sleep(1.5)  # longer than the queue waits before it takes stronger signals
    assert [run.status().state for run in (one, two)] == ["running", "stopping"]
    os.kill(one.status().pid, signal.SIGKILL)
    assert wait(one, "lost") == "lost"
    assert wait(two, "lost", "stopped") == "stopped"  # as it was asked to
    assert wait(next_one, "done") == "done"


def test_a_pack_that_does_not_listen_is_ended_once_all_its_runs_are_to_end(place, worker):
    write_json(place.settings_file, {"workers": 1, "pack": 2})
    one, two, next_one = make(place, "deaf", "deaf", "next")
    QueueEngine(place).submit(one, two, next_one)
    for run in (one, two):
        wait(run, "running")
        until(lambda run=run: run.status().done >= 1)
        queue.end(place, run)
    for run in (one, two):
        assert wait(run, "stopped", "lost") == "stopped"
        assert run.status().message.startswith(CUT_OFF)
    assert wait(next_one, "done") == "done"
    until(lambda: queue.read(place).empty)


def in_process(run: RunFolder, **marks: bool) -> None:
    """Say that a run was given to this process."""
    lifecycle.claim(run, {**this_process(), **marks}, 0)


def test_a_signal_reaches_a_pack_when_all_that_go_on_there_have_had_their_time(place, quiet, monkeypatch):
    write_json(place.settings_file, {"workers": 1})
    sent, moment = [], [100.0]
    monkeypatch.setattr(local, "signal_group", lambda run, number, shared: sent.append((run.id, number, shared)))
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    one, two, ended, waits, studied = runs = make(place, "one", "two", "ended", "waits", "studied")
    for run in runs:
        in_process(run, **{SHARED: True, WORKER: True})
    for run in (one, two, studied):
        at_work(run, 1)
    in_process(studied, **{SHARED: True})  # by the process of a study, which does more than any runs
    write_json(ended.file("status.json"), {"state": "done", "attempt": 1})
    with queue.changing(place) as order:
        order.working, order.waiting = ids(one, ended), ids(two)  # the queue was killed while it gave them away

    def turns(later: float) -> list:
        sent.clear()
        for seconds in (0.0, later):
            moment[0] += seconds
            queue_service.turn(place, Pool(place))
        return sent

    queue.end(place, one)
    assert turns(100.0) == []
    queue.end(place, two)
    with queue.changing(place) as order:
        order.working += ids(waits)
    assert turns(100.0) == []
    lifecycle.ask_to_stop(waits)  # it has nothing to save
    assert turns(0.0)[:2] == [(one.id, signal.SIGKILL, True), (two.id, signal.SIGKILL, True)]
    queue.end(place, studied)
    assert (studied.id, signal.SIGTERM, False) in turns(queue_service.GRACE_S + 1)


def test_a_grace_period_for_one_of_a_pack_leaves_its_end_to_the_queue(place, quiet, monkeypatch):
    monkeypatch.setattr(local, "signal_group", lambda *_, **__: None)
    monkeypatch.setattr(local, "HARDER_S", 0.0)
    packed, studied = make(place, "packed", "studied")
    for run in (packed, studied):
        at_work(run, 1)
    in_process(packed, **{SHARED: True, WORKER: True})
    in_process(studied, **{SHARED: True})
    for run in (packed, studied):
        QueueEngine(place).stop(run)
        assert not queue.read(place).ending
    for run in (studied, packed):
        QueueEngine(place).stop(run, grace_s=0.0)
    assert list(queue.read(place).ending) == ids(packed)


def test_who_joins_the_first_run(place, quiet, monkeypatch):
    """Those of its kind, in their order, as many as the settings say; none that is done, stopped or elsewhere."""
    runs = make(place, *"abcdefg")
    QueueEngine(place).submit(*runs)
    write_json(runs[1].file("status.json"), {"state": "done"})
    runs[2].file("stop").touch()
    write_json(runs[3].file("spec.yaml"), {"abacus": 1})
    with queue.changing(place) as order:
        order.waiting.remove(runs[0].id)

    def joining(**settings):
        write_json(place.settings_file, settings)
        with queue.changing(place) as order:
            return ids(*queue_service._joining(place, order, runs[0], Pool(place)))

    assert joining() == []  # on a processor, unless somebody asks for it
    assert joining(pack=9) == ids(*runs[4:])
    assert joining(pack=3) == ids(*runs[4:6])
    with queue.changing(place) as order:
        order.settings[runs[4].id] = {"offline": True}  # flags of its own
    assert joining(pack=3) == ids(*runs[5:])
    assert joining(pack=3, processes=2) == []
    assert joining(pack="many") == []
    write_json(runs[0].file("spec.yaml"), {"abacus": 1})
    assert joining(pack=3) == []


def test_where_two_go_on_at_a_time_nobody_joins(place, quiet, monkeypatch):
    write_json(place.settings_file, {"workers": 2, "pack": 4})
    runs, given = make(place, *"abc"), []
    QueueEngine(place).submit(*runs)
    pool = Pool(place)

    def give(pack, settings=None):
        given.append(ids(*pack))
        for run in pack:
            lifecycle.claim(run, this_process(), 0)
        return 1

    monkeypatch.setattr(pool, "give_pack", give)
    queue_service.turn(place, pool)
    assert given == [ids(runs[0]), ids(runs[1])]


def test_a_full_disk_ends_those_of_a_pack_that_cannot_be_started(place, quiet, monkeypatch):
    write_json(place.settings_file, {"workers": 1, "pack": 4})
    runs = make(place, *"ab")
    QueueEngine(place).submit(*runs)
    pool = Pool(place)
    monkeypatch.setattr(pool, "give_pack", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    queue_service.turn(place, pool)
    assert [run.status().state for run in runs] == ["failed"] * 2
    assert "No space" in runs[1].status().message
    assert queue.read(place).empty


def test_a_study_lets_as_many_wait_as_go_in_one_pass(place):
    write_json(place.settings_file, {"pack": 12, "workers": 1})
    assert QueueEngine(place).together() == 12
    write_json(place.settings_file, {"pack": 12, "workers": 2})
    assert QueueEngine(place).together() == 2
