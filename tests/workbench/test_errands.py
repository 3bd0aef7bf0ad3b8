"""A click returns at once, however long a cluster takes; what comes of it is said afterwards."""

import threading
import time

import pytest

from paraknow_core.engines import slurm
from paraknow_core.engines.queue import QueueEngine
from paraknow_core.engines.ray import RayEngine
from paraknow_core.engines.slurm import SlurmEngine
from paraknow_core.errors import Later, RunError
from paraknow_core.files.json_file import write_json
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.runs.processes import this_process
from paraknow_core.spec import RunSpec
from paraknow_core.workbench import errands
from tests.pages import fabricate


@pytest.fixture
def place(tmp_path):
    return Workspace(tmp_path)


class Cluster:
    """Answers when it is told to, with an error if one is set."""

    def __init__(self, monkeypatch, *methods):
        self.answer, self.error, self.asked = threading.Event(), None, 0
        for engine, name in methods:
            monkeypatch.setattr(engine, name, lambda *_, **__: self.wait())
        monkeypatch.setattr(errands, "PATIENCE_S", 0.05)

    def wait(self):
        self.asked += 1
        assert self.answer.wait(30)
        if self.error is not None:
            raise self.error


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def held(place, engine):
    run = fabricate.run(place, "running")
    lifecycle.hold(run, engine, job="7")
    return run


def test_a_start_returns_while_slurm_is_asked_and_says_later_why_it_was_refused(place, monkeypatch):
    cluster, run = Cluster(monkeypatch, (SlurmEngine, "submit")), create_run(place, RunSpec())
    write_json(place.settings_file, {"engine": "slurm"})
    errands.submit(place, run)
    assert errands.is_going(run) and errands.word(run) == "SLURM is being asked to take it"
    with pytest.raises(RunError, match="SLURM is being asked to take it; wait for the answer"):
        errands.submit(place, run)
    assert cluster.asked == 1
    cluster.error = Later("engine slurm: the controller cannot be reached; try again when `sinfo` answers")
    cluster.answer.set()
    until(lambda: not errands.is_going(run))
    assert errands.word(run) == str(cluster.error)
    cluster.error = None
    errands.submit(place, run)
    until(lambda: not errands.word(run))
    cluster.error = RunError("engine slurm: mend settings.slurm.partition")
    monkeypatch.setattr(errands, "PATIENCE_S", 30)
    with pytest.raises(RunError, match="mend settings"):  # said at once, where the cluster answers at once
        errands.submit(place, run)
    assert not errands.word(run)


def refused_late(place, monkeypatch):
    """Return a run that SLURM was asked to take, and that it did not take when the click had long returned."""
    cluster, run = Cluster(monkeypatch, (SlurmEngine, "submit")), fabricate.run(place, "stopped")
    write_json(place.settings_file, {"engine": "slurm"})
    errands.submit(place, run)
    cluster.error = Later("engine slurm: the controller cannot be reached; try again when `sinfo` answers")
    cluster.answer.set()
    until(lambda: not errands.is_going(run))
    assert "cannot be reached" in errands.word(run)
    return run


def test_what_a_cluster_did_not_do_is_not_said_any_more_when_another_engine_was_asked(place, monkeypatch):
    run = refused_late(place, monkeypatch)
    write_json(place.settings_file, {"engine": "queue"})
    monkeypatch.setattr(QueueEngine, "submit", lambda *_, **__: None)
    errands.submit(place, run)
    assert not errands.word(run)


@pytest.mark.parametrize("now", [{"state": "running"}, {"attempt": 2}])
def test_what_a_cluster_did_not_do_is_not_said_of_a_run_that_has_gone_on_since(place, monkeypatch, now):
    run = refused_late(place, monkeypatch)
    write_json(run.file("status.json"), {**vars(run.written()), **this_process(), **now})  # as after a command
    assert not errands.word(run)


@pytest.mark.parametrize(("engine", "kind"), [("slurm", SlurmEngine), ("ray", RayEngine)])
@pytest.mark.parametrize("ask", [errands.stop, errands.end])
def test_stop_and_end_return_while_a_cluster_is_asked(place, monkeypatch, engine, kind, ask):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    cluster, run = Cluster(monkeypatch, (kind, "stop")), held(place, engine)
    ask(place, run)
    assert errands.is_going(run) and "is being asked to" in errands.word(run)
    cluster.answer.set()
    until(lambda: not errands.is_going(run))
    assert not errands.word(run)


def test_the_request_to_stop_is_there_before_slurm_has_answered(place, monkeypatch):
    cluster, run = Cluster(monkeypatch, (slurm.Cluster, "cancel")), fabricate.run(place, "queued")
    lifecycle.hold(run, "slurm", job="7")
    errands.stop(place, run)
    until(lambda: cluster.asked)
    assert run.file("stop").exists() and errands.is_going(run)
    cluster.error = Later("engine slurm: scancel has not answered for 30 s; try again later")
    cluster.answer.set()
    until(lambda: not errands.is_going(run))
    assert "scancel has not answered" in errands.word(run)


def test_an_engine_of_this_machine_does_it_at_once(place):
    run = fabricate.run(place, "running")
    errands.stop(place, run)
    assert run.status().state == "stopping" and not errands.word(run)
    with pytest.raises(RunError, match="nothing to stop"):
        errands.stop(place, fabricate.run(place, "done"))
