"""Run folders: one writer, many readers, and states that tell the truth after a kill."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from paraknow_core.errors import NumericError, RunError, SpecError
from paraknow_core.files.json_file import write_json
from paraknow_core.paths import workspace
from paraknow_core.runs.folder import RunFolder, find_run, list_runs
from paraknow_core.runs.lifecycle import ask_to_stop, create_run, delete
from paraknow_core.runs.processes import this_process
from paraknow_core.runs.status import Status
from paraknow_core.runs.table import differing_settings, flat_settings, runs_table
from paraknow_core.runs.writer import RunWriter, StopRequested
from paraknow_core.spec import RunSpec


@pytest.fixture
def place(tmp_path):
    return workspace(tmp_path)


def test_a_new_run_is_queued_and_keeps_its_spec(place):
    spec = RunSpec(name="My Run / ../x", seed=3)
    run = create_run(place, spec)
    assert run.status().state == "queued"
    assert run.spec() == spec
    assert run.path.parent == place.runs
    assert "my-run-x" in run.id
    assert run.events() == []
    assert run.result() is None
    assert run.log_tail() == ""


def test_a_folder_with_files_is_refused(place, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").write_text("mine")
    with pytest.raises(RunError, match="already holds files"):
        create_run(place, RunSpec(), tmp_path / "x")
    with pytest.raises(RunError, match="already holds files"):
        create_run(place, RunSpec(), tmp_path / "x" / "file")


def test_writer_leaves_done_stopped_or_failed(place):
    run = create_run(place, RunSpec())
    with RunWriter(run) as writer:
        assert run.status().state == "running"
        writer.stage("sensitivity")
        writer.progress(1, 4, "seed samples")
        writer.progress(4, 4, "seed samples")
        assert run.status().fraction == 1
    assert run.status().state == "done"
    with RunWriter(run):
        raise StopRequested
    assert run.status().state == "stopped"
    with pytest.raises(KeyError), RunWriter(run):
        raise KeyError("boom")
    status = run.status()
    assert (status.state, status.attempt) == ("failed", 3)
    assert "boom" in status.message
    assert [e["event"] for e in run.events()] == ["started", "stage", "ended"] + ["started", "ended"] * 2


def test_only_one_writer(place):
    run = create_run(place, RunSpec())
    with RunWriter(run), pytest.raises(RunError, match="another process"), RunWriter(run):
        pass
    assert run.status().state == "done"


def test_stop_request_is_seen_and_cleared(place):
    run = create_run(place, RunSpec())
    with RunWriter(run) as writer:
        assert not writer.stop_requested
        ask_to_stop(run)
        assert run.status().state == "stopping"  # at once, whenever the run's next step is
        assert writer.stop_requested
        assert run.status().state == "stopping"
        writer.check_stop()
    assert run.status().state == "stopped"
    assert not run.file("stop").exists()
    with pytest.raises(RunError, match="nothing to stop"):
        ask_to_stop(run)


def test_a_value_that_is_not_finite_never_reaches_the_file(place):
    run = create_run(place, RunSpec())
    with pytest.raises(NumericError, match="not a finite number"), RunWriter(run) as writer:
        writer.event("metrics", step=1, loss=float("nan"))
    assert run.status().state == "failed"
    assert not any(e["event"] == "metrics" for e in run.events())


def test_heartbeat_moves_while_nothing_else_happens(place, monkeypatch):
    monkeypatch.setattr("paraknow_core.runs.writer.HEARTBEAT_S", 0.05)
    run = create_run(place, RunSpec())
    with RunWriter(run):
        first = run.status().heartbeat
        deadline = time.monotonic() + 5
        while run.status().heartbeat == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert run.status().heartbeat > first


WRITER = """
import sys, time
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.writer import RunWriter
from pathlib import Path
with RunWriter(RunFolder(Path(sys.argv[1]))) as writer:
    for n in range(10**9):
        writer.event("metrics", step=n, loss=1.0)
        print(n, flush=True)
"""


def test_kill_9_shows_lost_and_loses_no_acknowledged_line(place):
    run = create_run(place, RunSpec())
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(run.path)], stdout=subprocess.PIPE, text=True)
    for _ in range(200):
        child.stdout.readline()
    assert run.status().state == "running"
    os.kill(child.pid, signal.SIGKILL)
    acknowledged = [int(line) for line in child.stdout.read().split()]
    # Until it is waited for, the child is a zombie: dead, but its pid still exists.
    deadline = time.monotonic() + 5
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    assert run.status().state == "lost"
    child.wait()
    assert run.status().state == "lost"
    written = {m["step"] for m in run.metrics()}
    assert set(range(max(acknowledged, default=199) + 1)) <= written
    run.file("events.jsonl").open("ab").write(b'{"event": "metr')
    with RunWriter(run):
        pass
    assert run.status().state == "done"
    assert run.events()[-1]["event"] == "ended"


def test_a_reused_pid_does_not_look_alive(place):
    run = create_run(place, RunSpec())
    identity = this_process()
    write_json(run.file("status.json"), {"state": "running", **identity})
    assert run.status().state == "running"
    write_json(run.file("status.json"), {"state": "running", **identity, "process_started": 1.0})
    assert run.status().state == "lost"


def test_other_hosts_are_judged_by_heartbeat(place):
    run = create_run(place, RunSpec())
    status = {"state": "running", "host": "elsewhere", "pid": 1, "heartbeat": time.time()}
    write_json(run.file("status.json"), status)
    assert run.status().state == "running"
    write_json(run.file("status.json"), {**status, "heartbeat": time.time() - 3600})
    assert run.status().state == "lost"


def test_metrics_merge_by_step_and_the_last_attempt_counts(place):
    run = create_run(place, RunSpec())
    with RunWriter(run) as writer:
        for step, loss in ((1, 3.0), (2, 2.0), (2, 2.5)):
            writer.event("metrics", step=step, loss=loss)
        writer.event("metrics", step=2, validation_loss=9.0)
    assert [(m["step"], m["loss"]) for m in run.metrics()] == [(1, 3.0), (2, 2.5)]
    assert run.metrics()[1]["validation_loss"] == 9.0


def test_find_list_table_and_delete(place):
    assert list_runs(place) == []
    a = create_run(place, RunSpec(name="a", seed=1))
    b = create_run(place, RunSpec(name="b").with_changes({"factorisation.rank": 4}))
    write_json(b.file("result.json"), {"scores": [{"scorer": "number_match", "value": 0.5, "n": 10}]})
    assert find_run(place, a.id) == a
    with pytest.raises(RunError, match="2 runs begin"):
        find_run(place, a.id[:8])
    for bad in ("nope", "../x", ""):
        with pytest.raises(RunError):
            find_run(place, bad)
    table = runs_table(list_runs(place)).set_index("id")
    assert table.loc[b.id, "score.value"] == 0.5
    assert set(differing_settings(table)) == {"spec.seed", "spec.factorisation.rank"}
    delete(b)
    assert list_runs(place) == [a]
    with RunWriter(a), pytest.raises(RunError, match="still running"):
        delete(a)


def test_a_damaged_run_is_listed_not_fatal(place):
    run = create_run(place, RunSpec())
    run.file("spec.yaml").write_text("factorisation: {rnak: 1}")
    run.file("status.json").write_text("{")
    row = runs_table(list_runs(place)).iloc[0]
    assert row["state"] == "failed"
    assert "rnak" in row["stage"]
    with pytest.raises(SpecError):
        run.spec()


def test_log_tail_shows_the_last_drawing_of_a_progress_bar(place):
    run = create_run(place, RunSpec())
    run.file("log.txt").write_bytes(b"first\n10%\r50%\r100%\nlast\xff\n")
    assert run.log_tail(2).splitlines()[0] == "100%"


def test_status_ignores_unknown_keys():
    assert Status.from_dict({"state": "done", "colour": "blue"}).state == "done"
    assert Status.from_dict({}).state == "queued"


def test_a_memo_keeps_rows_of_ended_and_of_waiting_runs_until_a_file_changes(place, monkeypatch):
    done, active, waiting = (create_run(place, RunSpec(seed=seed)) for seed in (1, 2, 3))
    with RunWriter(done):
        pass
    write_json(active.file("process.json"), this_process())  # may be lost at any moment
    memo: dict = {}
    first = runs_table([done, active], memo)
    assert {key for key in memo if key != "table"} == {done.path}
    runs_table([waiting], memo)
    assert runs_table([waiting], memo)["state"][0] == "queued"
    write_json(waiting.file("process.json"), {"host": this_process()["host"], "pid": 2**22 - 7, "attempt": 0})
    assert runs_table([waiting], memo)["state"][0] == "lost"
    read = []
    monkeypatch.setattr(RunFolder, "spec", lambda run: read.append(run.path) or RunSpec(seed=9))
    again = runs_table([done, active], memo)
    assert read == [active.path]
    assert list(first["spec.seed"]) == [1, 2]
    assert list(again["spec.seed"]) == [1, 9]
    write_json(done.file("result.json"), {"scores": [{"scorer": "number_match", "value": 0.5}]})
    assert runs_table([done], memo)["score.value"][0] == 0.5


def test_flat_settings_name_every_value_once():
    assert flat_settings({"a": {"b": 1, "c": {"d": [2]}, "e": {}}, "f": None}) == {
        "a.b": 1,
        "a.c.d": [2],
        "a.e": {},
        "f": None,
    }


def test_a_table_of_the_same_rows_is_the_same_table(place):
    done = create_run(place, RunSpec(seed=1))
    with RunWriter(done):
        pass
    memo: dict = {}
    first = runs_table([done], memo)
    assert runs_table([done], memo) is first
    create_run(place, RunSpec(seed=2))
    assert len(runs_table(list_runs(place), memo)) == 2
    write_json(done.file("result.json"), {"scores": [{"scorer": "number_match", "value": 0.5}]})
    assert runs_table([done], memo) is not first
