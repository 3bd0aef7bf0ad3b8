"""What a process gives up when it ends, and what has become another one's meanwhile."""

from contextlib import suppress

import pytest

from paraknow_core import packs, pipeline
from paraknow_core.cli.console import working
from paraknow_core.cli.run import REFUSED, execute_all, execute_together
from paraknow_core.engines import queue
from paraknow_core.engines.queue import QueueEngine
from paraknow_core.engines.service import Service
from paraknow_core.errors import ModelError, SpecError
from paraknow_core.paths import Workspace
from paraknow_core.runs.writer import RunWriter, StopRequested
from paraknow_core.settings import Settings
from tests.engines.following import make


@pytest.fixture
def place(tmp_path, monkeypatch) -> Workspace:
    monkeypatch.setattr(Service, "start", lambda _self: None)
    return Workspace(tmp_path / "workspace")


@pytest.mark.parametrize("packed", [True, False])
def test_a_run_that_was_stopped_and_submitted_again_goes_on_waiting_when_its_process_ends(place, monkeypatch, packed):
    again, stopped, _never_begun = runs = make(place, *"abc")

    def execute(run, _place, _settings, watch=None):
        if run is again:
            run.file("stop").touch()
        else:
            QueueEngine(place).submit(again)
        with RunWriter(run, watch):
            raise StopRequested

    def execute_packed(*_, **__):
        execute(again, place, None)
        execute(stopped, place, None)
        return [None] * len(runs)

    monkeypatch.setattr(pipeline, "execute", execute)
    monkeypatch.setattr(packs, "execute_packed", execute_packed)
    with working() as progress:
        (execute_together if packed else execute_all)(runs, place, Settings(), progress)
    assert [run.status().state for run in runs] == ["queued", "stopped", "stopped"]
    assert queue.read(place).waiting == [again.id]


def test_an_error_of_a_pack_ends_what_could_not_begin_and_nothing_that_was_submitted_again(place, monkeypatch):
    again, damaged = runs = make(place, *"ab")
    errors = [ModelError("student: holds no weights"), SpecError("spec: no such key")]

    def execute_packed(*_, **__):
        with suppress(ModelError), RunWriter(again):
            raise errors[0]
        QueueEngine(place).submit(again)
        return errors

    monkeypatch.setattr(packs, "execute_packed", execute_packed)
    with working() as progress:
        assert execute_together(runs, place, Settings(), progress) == [REFUSED, REFUSED]
    assert [run.status().state for run in runs] == ["queued", "failed"]
    assert damaged.status().message == "spec: no such key"
    assert "no weights" in again.log_tail()
