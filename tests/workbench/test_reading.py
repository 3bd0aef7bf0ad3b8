"""What is kept of files that were read: a file that changes is read again."""

import pytest

from paraknow_core.engines.queue import QueueEngine
from paraknow_core.paths import WORKSPACE_VARIABLE, Workspace
from paraknow_core.runs.folder import RunFolder
from paraknow_core.sensitivity.store import TOTALS, SensitivityStore
from paraknow_core.workbench import reading
from paraknow_core.workbench.views.mapping import totals_of
from tests.pages import fabricate


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(tmp_path))
    return Workspace(tmp_path)


def test_a_damaged_sensitivity_is_read_again_once_it_is_whole(place):
    file = fabricate.store(place) / TOTALS
    whole = file.read_text()
    file.write_text("{")
    assert totals_of(SensitivityStore(file.parent))["samples"] == 0
    file.write_text(whole)
    assert totals_of(SensitivityStore(file.parent))["samples"] == 32


def test_the_state_of_an_ended_run_is_read_once_and_again_when_it_goes_on(place, monkeypatch):
    runs = [fabricate.run(place, word) for word in ("done", "failed", "stopped", "running", "lost", "queued")]
    words = [reading.status(run).state for run in runs]
    read = []
    monkeypatch.setattr(RunFolder, "status", lambda run, before=RunFolder.status: read.append(run.id) or before(run))
    assert [reading.status(run).state for run in runs] == words
    assert read == [run.id for run in runs[3:]]  # what is active or lost may change without a file that says so
    QueueEngine(place).submit(runs[2])
    assert reading.status(runs[2]).state == "queued"
