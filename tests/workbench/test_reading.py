"""What is kept of files that were read: a file that changes is read again."""

import os
import sys

import pytest

from paraknow_core.engines.queue import QueueEngine
from paraknow_core.files.json_file import write_json
from paraknow_core.files.remember import one_look
from paraknow_core.paths import WORKSPACE_VARIABLE, Workspace
from paraknow_core.runs.folder import NOTE, RunFolder
from paraknow_core.runs.labels import set_label
from paraknow_core.runs.processes import this_process
from paraknow_core.sensitivity.store import TOTALS, SensitivityStore
from paraknow_core.studies import same
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
    assert read == [run.id for run in runs[3:5]]  # what is active or lost may change without a file that says so
    write_json(runs[5].file("process.json"), {"host": this_process()["host"], "pid": 2**22 - 7, "attempt": 0})
    assert reading.status(runs[5]).state == "lost"
    QueueEngine(place).submit(runs[2])
    assert reading.status(runs[2]).state == "queued"


@pytest.fixture
def opened(place):
    """Names of the files of this workspace's runs that were opened since it was cleared."""
    names, wanted = [], [str(place.runs)]

    def hook(event, arguments):  # it cannot be taken away again
        if event == "open" and wanted and str(arguments[0]).startswith(wanted[0]):
            names.append(str(arguments[0]))

    sys.addaudithook(hook)
    yield names
    wanted.clear()


def test_lists_open_each_file_once_and_then_only_those_that_changed(place, opened):
    runs = [fabricate.run(place, "done", {"seed": seed}) for seed in range(30)]

    def listed():
        opened.clear()
        titles, rows = reading.titles(place), reading.options(place, [run for run, _ in reading.all_facts(place)])
        return titles, rows, list(opened)

    titles, rows, first = listed()
    assert len(titles) == len(rows) == 30
    assert len(first) == len(set(first)) == 3 * 30  # spec, result, status
    assert listed() == (titles, rows, [])
    fabricate.run(place, "done", {"seed": 99})
    assert len(listed()[2]) == 3
    set_label(runs[3].path, name="mine")
    titles, _, again = listed()
    assert titles[runs[3].id] == "mine"
    assert {name.split("/")[-2] for name in again} == {runs[3].id}


def test_one_look_lists_and_reads_once_whoever_asks(place, monkeypatch):
    runs = [fabricate.run(place, "done", {"seed": seed}) for seed in range(5)]
    scans, asked = [], []
    monkeypatch.setattr("os.scandir", lambda path, before=os.scandir: scans.append(str(path)) or before(path))
    monkeypatch.setattr(reading, "facts", lambda run, before=reading.facts: asked.append(run.id) or before(run))
    for name in ("first", "second"):
        set_label(runs[0].path, name=name)  # is on the next draw
        scans.clear()
        asked.clear()
        with one_look():
            for _ in range(3):
                assert reading.titles(place)[runs[0].id] == reading.names(place)[runs[0].id] == name
                assert len(reading.all_facts(place)) == 5
                reading.siblings(place, reading.all_facts(place)[0][1])
        assert scans == [str(place.runs)]
        assert len(asked) == 5


def test_a_run_that_comes_or_ends_in_a_look_is_known(place):
    run = fabricate.run(place, "queued")
    with one_look():
        assert reading.status(run).state == "queued"
        assert len(reading.all_facts(place)) == len(reading.titles(place)) == 1
        other = fabricate.run(place, "done")
        os.utime(place.runs, (1, 1))
        assert len(reading.all_facts(place)) == len(reading.titles(place)) == 2
        write_json(run.file("status.json"), {"state": "stopped"})
        assert reading.status(run).state == "stopped"
        assert reading.facts(other).scores


def test_a_waiting_run_that_a_cluster_holds_is_looked_at_again(place):
    run = fabricate.run(place, "queued")
    assert reading.status(run).state == "queued"
    write_json(run.file(NOTE), {"engine": "slurm", "gone": "the node went down"})
    assert reading.status(run).state == "lost"


def test_runs_are_comparable_as_their_settings_and_contents_are(place):
    def made(content="0", **changes):
        run = fabricate.run(place, "done", changes)
        write_json(run.file("result.json"), (run.result() or {}) | {"fingerprints": {"train": content}})
        return reading.facts(run)

    own, again, rank = made(seed=0), made(seed=1), made(**{"factorisation.rank": 4})
    lora, data = made(method="default_lora"), made("1")
    assert own.compared is again.compared is not rank.compared
    for other in (own, again, rank, lora, data):
        differing = same.differing(own.settings, other.settings)
        assert reading.other_settings(own, other) == differing + ["seed"] * (other is again)
        contents = [same.content(one.spec, one.result) for one in (own, other)]
        assert reading.is_comparable(own, other) == (not differing and not same.other_content(*contents))
    assert [reading.is_comparable(own, one) for one in (again, rank, lora, data)] == [True, False, True, False]


def test_what_a_run_asks_is_worked_out_once(place, monkeypatch):
    fabricate.run(place, "done")
    (_, facts), asked = reading.all_facts(place)[0], []
    monkeypatch.setattr(same, "asked", lambda *parts, before=same.asked: asked.append(parts) or before(*parts))
    assert facts.asks(same.COST) == facts.asks(same.COST) != facts.asks(same.LOOKS_ALIKE)
    assert len(asked) == 2
