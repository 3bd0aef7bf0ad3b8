"""The local engine with real processes: what is its own beside the contract of all engines."""

import os
import signal

from paraknow_core.engines.local import LocalEngine
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.spec import RunSpec
from tests.engines.following import make, wait


def test_the_runs_of_one_submit_share_a_process_of_its_own_group_and_its_log(place, worker):
    runs = make(place, "short", "next")
    LocalEngine(place).submit(*runs)
    pid = runs[0].process()["pid"]
    assert runs[1].process()["pid"] == pid
    assert os.getpgid(pid) == pid
    assert [wait(run, "done") for run in runs] == ["done", "done"]
    assert "working on next" in runs[1].log_tail()
    assert runs[0].log_tail() == runs[1].log_tail()


def test_a_killed_process_leaves_lost_runs_also_those_that_it_had_not_begun(place, worker):
    slow, waiting = make(place, "slow", "next")
    LocalEngine(place).submit(slow, waiting)
    wait(slow, "running")
    os.kill(slow.process()["pid"], signal.SIGKILL)
    assert wait(slow, "lost") == "lost"
    assert wait(waiting, "lost") == "lost"
    LocalEngine(place).submit(waiting)
    assert wait(waiting, "done") == "done"


def test_the_real_command_fails_with_a_sentence_in_status_and_log(place):
    changes = {"teacher.source": "/nowhere/at/all", "until": "sensitivity"}
    runs = [create_run(place, RunSpec(name=str(i)).with_changes(changes)) for i in range(2)]
    LocalEngine(place).submit(*runs)
    for run in runs:
        assert wait(run, "failed", seconds=120) == "failed"
        assert "/nowhere/at/all" in run.status().message
        assert "Traceback" not in run.log_tail()
