"""What every engine does, whoever executes its runs: a new engine is one more name of `WITH_PROCESSES` here."""

import os
import signal
from pathlib import Path
from typing import get_args

import psutil
import pytest

from paraknow_core import engines
from paraknow_core.engines.inline import InlineEngine
from paraknow_core.engines.workers import WorkersEngine
from paraknow_core.errors import RunError, SpecError
from paraknow_core.files.json_file import write_json
from paraknow_core.runs.lifecycle import CUT_OFF
from paraknow_core.settings import EngineName
from tests.conftest import ROOT
from tests.engines.following import make, until, wait
from tests.slow_worker import work

# Those that can be killed; "workers" is the queue's pool.
WITH_PROCESSES = ["local", "queue", "slurm", "workers", pytest.param("ray", marks=pytest.mark.slow)]


@pytest.fixture
def engine(request, place, worker):
    if request.param in ("inline", "workers"):
        return InlineEngine(place, work) if request.param == "inline" else WorkersEngine(place)
    if request.param == "slurm":
        request.getfixturevalue("little_slurm")
    changes = {"ray": {"address": request.getfixturevalue("little_ray").address}} if request.param == "ray" else {}
    return engines.engine_of(place, name=request.param, **changes)


every_engine = pytest.mark.parametrize("engine", [*WITH_PROCESSES, "inline"], indirect=True)
engines_with_processes = pytest.mark.parametrize("engine", WITH_PROCESSES, indirect=True)


def test_no_engine_is_left_out():
    assert {*engines.ENGINES} == {"local", "queue", "slurm", "ray"}


@every_engine
def test_runs_go_one_after_the_other_and_a_failure_does_not_keep_the_next_one(engine, place):
    runs = make(place, "short", "fails", "third; $(touch hacked)")
    engine.submit(*runs)
    assert [wait(run, "done", "failed") for run in runs] == ["done", "failed", "done"]
    times = [(run.events()[0]["time"], run.events()[-1]["time"]) for run in runs]
    assert times[0][1] <= times[1][0]
    assert times[1][1] <= times[2][0]
    assert runs[1].status().message == "task: no such file; give a path that exists"
    until(lambda: "no such file" in engine.logs(runs[1]))
    assert not [*ROOT.glob("hacked"), *Path.cwd().glob("hacked"), *place.root.rglob("hacked")]


@every_engine
def test_only_what_was_submitted_and_has_not_ended_is_alive(engine, place):
    slow, waiting, other = make(place, "slow", "next", "never submitted")
    assert not engine.alive(slow)
    engine.submit(slow, waiting)
    assert engine.alive(slow)
    assert engine.alive(waiting)
    assert not engine.alive(other)
    wait(slow, "running")
    assert engine.alive(slow)
    engine.stop(slow)
    assert wait(slow, "stopped") == "stopped"
    assert wait(waiting, "done") == "done"
    assert not engine.alive(slow)
    assert not engine.alive(waiting)


@every_engine
def test_a_run_is_stopped_by_whoever_asks_and_goes_on_as_the_next_attempt(engine, place):
    [slow] = make(place, "slow")
    engine.submit(slow)
    wait(slow, "running")
    until(slow.metrics)
    engines.engine_of(place).stop(slow)  # as a page or a command does, knowing nothing of who has started it
    assert wait(slow, "stopped") == "stopped"
    until(lambda: not slow.file("stop").exists())
    engine.submit(slow)
    assert wait(slow, "running") == "running"
    assert slow.status().attempt == 2
    engine.stop(slow, grace_s=10)
    assert wait(slow, "stopped") == "stopped"
    with pytest.raises(RunError, match="nothing to stop"):
        engine.stop(slow)


@every_engine
def test_a_waiting_run_is_queued_and_can_be_stopped_before_it_begins(engine, place):
    slow, waiting = make(place, "slow", "next")
    engine.submit(slow, waiting)
    wait(slow, "running")
    assert waiting.status().state == "queued"
    engine.stop(waiting)
    engine.stop(slow)
    assert wait(slow, "stopped") == "stopped"
    assert wait(waiting, "stopped") == "stopped"
    assert waiting.metrics() == []


@every_engine
def test_what_is_going_on_or_given_twice_is_refused_and_nothing_changes(engine, place):
    slow, other = make(place, "slow", "other")
    engine.submit(slow)
    wait(slow, "running")
    for refused, words in (((other, slow), "already running; watch"), ((other, other), "only once"), ((), "only once")):
        with pytest.raises(RunError, match=words):
            engine.submit(*refused)
    assert not other.claimed
    assert not engine.alive(other)
    assert slow.status().attempt == 1


@engines_with_processes
def test_a_killed_run_is_lost_and_can_be_resumed(engine, place):
    [slow] = make(place, "slow")
    engine.submit(slow)
    wait(slow, "running")
    until(slow.metrics)
    os.kill(slow.status().pid, signal.SIGKILL)
    assert wait(slow, "lost") == "lost"
    engine.submit(slow)
    until(lambda: [e["attempt"] for e in slow.events() if e["event"] == "started"] == [1, 2])
    assert slow.status().state == "running"


@engines_with_processes
def test_a_run_that_was_to_stop_and_is_killed_is_stopped_and_can_be_resumed(engine, place):
    """That is what was asked for, whatever ended it."""
    [deaf] = make(place, "deaf")
    engine.submit(deaf)
    wait(deaf, "running")
    until(lambda: deaf.status().done >= 1)
    engine.stop(deaf)
    os.kill(deaf.status().pid, signal.SIGKILL)
    assert wait(deaf, "stopped", "lost") == "stopped"
    assert deaf.status().message.startswith(CUT_OFF)
    until(lambda: not engine.alive(deaf))
    assert deaf.status().state == "stopped"
    engine.submit(deaf)
    until(lambda: deaf.status().attempt == 2 and deaf.status().state == "running")


@engines_with_processes
def test_a_process_that_does_not_listen_is_ended_after_the_grace_period(engine, place, monkeypatch):
    for name in ("local", "slurm"):
        monkeypatch.setattr(f"paraknow_core.engines.{name}.HARDER_S", 0.5)
    [deaf] = make(place, "deaf")
    engine.submit(deaf)
    wait(deaf, "running")
    until(lambda: deaf.status().done >= 1)  # from here on it hears nothing; while it begins it still does
    pid = deaf.status().pid
    engine.stop(deaf, grace_s=0.5)
    wait(deaf, "lost", "stopped")  # as Ray's process notes of one that was to stop
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    engine.submit(deaf)  # that it was asked to stop was said of the attempt before
    until(lambda: deaf.status().attempt == 2 and deaf.status().done >= 1)


def test_the_settings_pick_an_engine_and_broken_ones_pick_none(place):
    assert get_args(EngineName) == ("auto", *engines.ENGINES)
    assert isinstance(engines.engine_of(place), engines.QueueEngine)
    assert isinstance(engines.engine_of(place, otherwise="local"), engines.LocalEngine)
    kinds = {"local": engines.LocalEngine, "abacus": engines.QueueEngine, "auto": engines.QueueEngine}
    for name, kind in kinds.items():
        content = {"engine": name}
        write_json(place.settings_file, content)  # JSON is YAML, too
        assert isinstance(engines.engine_of(place), kind)
    write_json(place.settings_file, {"engine": "auto", "slurm": {"partition": "long"}})
    assert isinstance(engines.engine_of(place), engines.engine_class("slurm"))  # as the choice says before the start
    [run] = make(place, "next")
    assert isinstance(engines.holder_of(place, run), engines.QueueEngine)  # SLURM was never given it


def test_a_command_picks_another_engine_and_changes_its_settings_for_itself(place):
    write_json(place.settings_file, {"engine": "queue", "slurm": {"partition": "long", "account": "us"}})
    assert isinstance(engines.engine_of(place, name="local"), engines.LocalEngine)
    changed = engines.engine_of(place, slurm={"partition": "short"}).settings()
    assert (changed.slurm.partition, changed.slurm.account, changed.engine) == ("short", "us", "queue")
    with pytest.raises(SpecError, match=r"slurm.memory.*16G"):
        engines.engine_of(place, slurm={"memory": "much"})
    with pytest.raises(SpecError, match="'engine'"):
        engines.engine_of(place, name="abacus")


@pytest.mark.parametrize("name", [name for name in WITH_PROCESSES if name != "workers"])
def test_settings_of_a_command_reach_the_runs_that_it_submits(request, place, worker, name):
    if name == "slurm":
        request.getfixturevalue("little_slurm")
    changes = {"ray": {"address": request.getfixturevalue("little_ray").address}} if name == "ray" else {}
    given, plain = make(place, "short", "short")
    flags = {"threads": 1, "device": "cpu", "offline": True, "memory_budget": "3GB"}
    engines.engine_of(place, name=name, **changes, **flags).submit(given)
    engines.engine_of(place, name=name, **changes).submit(plain)
    assert wait(given, "done") and wait(plain, "done")
    until(lambda: "working on" in given.log_tail() and "working on" in plain.log_tail())
    assert "with --device=cpu --threads=1 --memory-budget=3GB --offline\n" in given.log_tail()
    assert "with " not in plain.log_tail()


@every_engine
def test_an_engine_says_where_a_run_stands(engine, place):
    slow, waiting, other = make(place, "slow", "next", "never submitted")
    engine.submit(slow, waiting)
    wait(slow, "running")
    assert engine.standing(slow).state == "working"
    assert engine.standing(slow).where
    until(lambda: engine.standing(waiting).state == "waiting")
    assert engine.standing(waiting).ahead in (0, None)
    assert engine.standing(other).state == "over"
    engine.stop(slow)
    wait(waiting, "done")
    until(lambda: engine.standing(slow).state == engine.standing(waiting).state == "over")
