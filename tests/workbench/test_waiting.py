"""How long a run waits: what it costs to say so, with many before it."""

import pytest

from paraknow_core.engines import choice, queue
from paraknow_core.engines.queue import QueueEngine
from paraknow_core.engines.service import Service
from paraknow_core.files.json_file import write_json
from paraknow_core.paths import Workspace
from paraknow_core.workbench import past_runs, starting, waiting
from paraknow_core.workbench.draft import Draft
from tests.pages import fabricate


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(Service, "start", lambda _self: None)
    return Workspace(tmp_path)


def counted(monkeypatch, owner, name):
    """Count the calls of a function."""
    calls, before = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given: calls.append(given) or before(*given))
    return calls


def test_earlier_runs_are_looked_through_once_for_all_that_wait(place, monkeypatch):
    tuned = fabricate.run(place, "done", {"until": "training"})
    write_json(tuned.file("result.json"), {"timings": {"sensitivity": 8.0, "fine-tuning": 20.0}, "budget": {}})
    fabricate.run(place, "done")
    line = [
        fabricate.run(place, "queued", {"seed": 9 + n, "until": ("training", "evaluation")[n % 2]}) for n in range(8)
    ]
    QueueEngine(place).submit(*line)
    looks = [counted(monkeypatch, past_runs, name) for name in ("past_runs", "newest_until")]
    wait = waiting.wait_of(place, line[-1])
    assert (wait.number, wait.whole) == (8, True)
    assert [len(calls) for calls in looks] == [1, 1]


@pytest.mark.parametrize(("gpu", "seconds"), [(True, 100 * (1 + 2 * choice.PACKED_SHARE)), (False, 300)])
def test_runs_of_one_pass_leave_their_place_together(place, monkeypatch, gpu, seconds):
    monkeypatch.setattr(choice.Machine, "here", classmethod(lambda cls, settings: choice.Machine(4, 64e9, gpu=gpu)))
    monkeypatch.setattr(waiting._Durations, "seconds", lambda *_: 100.0)
    write_json(place.settings_file, {"workers": 1})
    runs = [fabricate.run(place, "queued", {"seed": seed}) for seed in range(4)]
    with queue.changing(place) as order:
        order.working, order.waiting = [run.id for run in runs[:3]], [runs[3].id]
    found = waiting.wait_of(place, runs[3])
    assert (found.number, found.busy, found.seconds) == (1, 3, seconds)


def test_the_queue_is_read_once_for_all_runs_that_are_there(place, monkeypatch):
    line = [fabricate.run(place, "queued") for _ in range(6)]
    QueueEngine(place).submit(*line[:5])
    reads = counted(monkeypatch, queue, "read")
    plan = starting.plan(place, Draft())
    assert len(reads) == 1
    assert plan.states[0] == "queued"
