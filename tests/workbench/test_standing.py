"""Where runs stand, in words; an engine that does not answer keeps no page waiting."""

import shutil
import threading
import time
from types import SimpleNamespace

import pytest

from paraknow_core.engines import Standing
from paraknow_core.engines.slurm import SlurmEngine
from paraknow_core.errors import RunError
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.workbench import standing
from tests.pages import fabricate


@pytest.fixture
def place(tmp_path):
    return Workspace(tmp_path)


@pytest.fixture
def held(place):
    run = fabricate.run(place, "queued")
    lifecycle.hold(run, "slurm", job="7")
    return run


def test_words():
    assert standing.words(Standing("waiting")) == "waiting"
    assert [standing.words(Standing("waiting", n)) for n in (0, 2)] == ["next", "3rd in line"]
    assert standing.words(Standing("working", where="node1")) == "on node1"
    assert standing.words(Standing("working", where="this machine")) == standing.words(Standing("over")) == ""


def test_a_cluster_that_hangs_keeps_nobody_waiting_and_is_heard_later(place, held, monkeypatch):
    answer, calls = threading.Event(), []

    def slow(engine, run):
        calls.append(run)
        answer.wait(20)
        return Standing("waiting", 3, "", "SLURM job 7: other jobs come first")

    monkeypatch.setattr(SlurmEngine, "standing", slow)
    began = time.monotonic()
    said = [standing.standings(place, [held], 0.05)[held.id] for _ in range(3)]
    assert time.monotonic() - began < 5
    assert said[0] == Standing("waiting", message="SLURM is being asked") and len(calls) == 1
    monkeypatch.setattr(standing, "SILENT_S", 0.0)
    assert "SLURM has not answered for" in standing.standings(place, [held], 0.05)[held.id].message
    monkeypatch.setattr(standing, "SILENT_S", 60.0)
    answer.set()
    until = time.monotonic() + 20
    while (now := standing.standings(place, [held])[held.id]).ahead is None and time.monotonic() < until:
        time.sleep(0.01)
    assert now == Standing("waiting", 3, "", "SLURM job 7: other jobs come first")


def test_a_refused_login_is_what_an_engine_says(place, held, monkeypatch):
    def refused(engine, run):
        raise RunError("engine slurm: the login is refused; log in to the cluster anew")

    monkeypatch.setattr(SlurmEngine, "standing", refused)
    assert standing.standings(place, [held], 5)[held.id].message.endswith("log in to the cluster anew")


def test_a_run_of_this_machine_is_asked_at_once(place):
    running = fabricate.run(place, "running")
    assert standing.standings(place, [running], 0)[running.id].state == "working"
    assert standing.has_more_to_say(running)
    done = fabricate.run(place, "done")
    assert not standing.has_more_to_say(done)


def test_what_an_engine_has_noted_needs_no_other_word(place, held):
    assert standing.has_more_to_say(held)
    lifecycle.lose(held, "SLURM job 7 lost its node", job="7")
    assert not standing.has_more_to_say(held)


def test_a_run_that_was_to_stop_and_is_silent_may_still_be_at_a_node(place):
    run = fabricate.run(place, "lost")
    run.file("stop").touch()
    assert run.status().state == "stopped" and not standing.has_more_to_say(run)
    lifecycle.hold(run, "ray", moves=True)
    assert standing.has_more_to_say(run)
    lifecycle.let_go(run)
    assert not standing.has_more_to_say(run)


def test_a_full_disk_is_said_with_what_to_do(place, monkeypatch):
    assert standing.disk_words(place) == ""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3e6))
    assert "only 3.0 MB left" in standing.disk_words(place) or "3 MB" in standing.disk_words(place)
    assert "free some space" in standing.disk_words(place)
