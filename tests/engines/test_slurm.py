"""The engine of SLURM against a small cluster that really executes jobs: what is its own beside the contract."""

import json
import os
import signal
from pathlib import Path

import pytest

from paraknow_core import engines
from paraknow_core.cli import main
from paraknow_core.engines import slurm
from paraknow_core.engines.slurm import SlurmEngine, job_of
from paraknow_core.errors import Later, RunError, SpecError
from paraknow_core.files.json_file import write_json
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.runs.processes import this_process
from paraknow_core.spec import RunSpec
from paraknow_core.studies.conduct import launch
from paraknow_core.studies.folder import StudyFolder
from paraknow_core.studies.study import StudySpec
from tests.conftest import ROOT
from tests.engines.following import make, until, wait

POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.fixture
def engine(place, little_slurm):
    return SlurmEngine(place)


def begun(engine, place, name: str = "slow") -> RunFolder:
    """Return a run that has computed some steps."""
    [run] = make(place, name)
    engine.submit(run)
    wait(run, "running")
    until(run.metrics)
    return run


def over(engine, run: RunFolder) -> str:
    """Wait until SLURM has ended a run, and return its state."""
    until(lambda: not engine.alive(run))
    return run.status().state


def test_the_settings_reach_sbatch_and_options_come_last(place, little_slurm):
    asked = {"partition": "long", "account": "us", "time": "1:00:00", "memory": "16G", "options": ["--gres=gpu:1"]}
    write_json(place.settings_file, {"slurm": asked})
    [run] = make(place, "short")
    engines.engine_of(place, name="slurm", slurm={"partition": "short; rm"}).submit(run)
    assert wait(run, "done")
    [call] = little_slurm.calls("sbatch")
    for part in ("--partition=short; rm", "--account=us", "--time=1:00:00", "--mem=16G", "--no-requeue"):
        assert part in call
    assert call.endswith("--gres=gpu:1")


@pytest.mark.parametrize("name", ['it\'s "here"', "two\nlines", "$(touch hacked) `touch hacked`", "100%j \\ä", "-rf *"])
def test_a_folder_may_have_any_name(engine, place, name):
    folder = create_run(place, RunSpec(name="next"), place.runs / name)
    engine.submit(folder)
    assert wait(folder, "done") == "done"
    until(lambda: "working on next" in engine.logs(folder))
    assert not [*ROOT.glob("hacked"), *Path.cwd().glob("hacked"), *place.root.rglob("hacked")]


@pytest.mark.parametrize(
    ("ending", "state", "words"),
    [
        ("NODE_FAIL", "lost", "on node1 lost its node (NODE_FAIL); no step was saved"),
        ("TIMEOUT", "lost", "reached its time limit (TIMEOUT); raise settings.slurm.time; no step"),
        ("PREEMPTED", "lost", "had to make room for another job"),
        ("OUT_OF_MEMORY", "stopped", "ran out of memory (OUT_OF_MEMORY); raise settings.slurm.memory"),
        ("CANCELLED", "stopped", "was cancelled"),
    ],
)
def test_what_slurm_does_to_a_job_is_said_by_its_run(engine, place, little_slurm, ending, state, words):
    run = begun(engine, place)
    little_slurm.tell(job_of(run), ending)
    assert over(engine, run) == state
    assert words in run.status().message
    assert f"SLURM job {job_of(run)}" in run.status().message
    assert engine.standing(run) == engines.Standing("over", message=run.status().message)
    assert SlurmEngine(place).alive(run) is False  # whoever looks
    engine.submit(run)
    assert wait(run, "running") == "running"
    assert run.status().attempt == 2


def test_a_run_that_saves_and_stops_because_slurm_ends_it_is_lost_all_the_same(engine, place, little_slurm):
    """At its time limit a job gets SIGTERM first, and a run that hears it stops as if somebody had asked."""
    run = begun(engine, place)
    lifecycle.ask_to_stop(run)  # what the signal does in a real run; the stand-in does not hear signals
    little_slurm.tell(job_of(run), "TIMEOUT")
    until(lambda: run.written().state == "stopped")
    assert over(engine, run) == "lost"
    assert "settings.slurm.time" in run.status().message


def test_a_run_that_somebody_stops_is_stopped_whoever_looks(engine, place):
    run = begun(engine, place)
    engines.holder_of(place, run).stop(run)
    assert wait(run, "stopped") == "stopped"
    assert not engine.alive(run)
    assert over(SlurmEngine(place), run) == "stopped"


def test_a_waiting_run_is_taken_back_and_never_begins(engine, place):
    run = begun(engine, place)
    [waiting] = make(place, "next")
    engine.submit(waiting)
    assert engine.standing(waiting) == engines.Standing(
        "waiting", message=f"SLURM job {job_of(waiting)}: other jobs come first"
    )
    engine.stop(waiting)
    assert waiting.status().state == "stopped"
    assert waiting.status().message == lifecycle.CANCELLED
    engine.stop(run, grace_s=10)
    assert run.status().state == "stopped"
    assert waiting.events() == []


def test_a_request_that_slurm_did_not_hear_is_heard_at_the_next_look(engine, place, little_slurm):
    """Whoever asked could not reach it, or has gone before it did; the job must not begin only to stop."""
    run = begun(engine, place)
    unheard, by_file = make(place, "next", "next")
    engine.submit(unheard, by_file)
    (little_slurm.folder / "down").write_text("")
    with pytest.raises(Later):
        engine.stop(unheard)
    lifecycle.ask_to_stop(by_file)  # by who knows no engine
    (little_slurm.folder / "down").unlink()
    slurm._cluster.cache_clear()  # another process
    for waiting in (unheard, by_file):
        until(lambda waiting=waiting: not SlurmEngine(place).alive(waiting))
        assert (waiting.status().state, waiting.status().message) == ("stopped", lifecycle.CANCELLED)
        assert waiting.events() == []
    assert little_slurm.calls("scancel")[-2:] == [f"scancel --state=PENDING {n}" for n in (2, 3)]
    engine.stop(run)


def test_a_study_whose_process_is_gone_stops_its_runs_all_the_same(engine, place, little_slurm, capsys):
    run = begun(engine, place)
    folder = StudyFolder.create(place, StudySpec.model_validate({"arms": ["default_lora"], "seeds": [0, 1]}))
    waiting = [create_run(place, cell.cell.spec) for cell in folder.cells()]
    engine.submit(*waiting)
    write_json(folder.file("runs.json"), {cell.cell.key: r.id for cell, r in zip(folder.cells(), waiting, strict=True)})
    write_json(folder.file("status.json"), {"state": "running", "attempt": 1, **this_process(), "pid": 2**22 + 1})
    assert folder.state() == "lost"
    stop = ["--workspace", str(place.root), "study", "stop", folder.id]
    assert main(stop) == 0
    assert "2 runs asked to save and stop" in capsys.readouterr().out
    assert [one.status().state for one in waiting] == ["stopped", "stopped"]
    assert main(stop) == 2
    assert "is lost, not running; there is nothing to stop" in capsys.readouterr().err
    engine.stop(run)


def test_a_run_that_was_to_stop_and_whose_process_was_killed_is_stopped(engine, place):
    run = begun(engine, place, "deaf")
    until(lambda: run.status().done >= 1)
    engine.stop(run)
    os.kill(run.status().pid, signal.SIGKILL)
    assert over(engine, run) == "stopped"
    assert run.status().message.startswith(lifecycle.CUT_OFF)


def test_a_job_that_is_cancelled_while_it_waits_does_not_wait_for_ever(engine, place, little_slurm):
    run = begun(engine, place)
    [waiting] = make(place, "next")
    engine.submit(waiting)
    assert engine.alive(waiting)
    engine.cluster.cancel(job_of(waiting))  # by hand
    assert over(engine, waiting) == "stopped"
    assert "was cancelled (CANCELLED)" in waiting.status().message
    engine.stop(run)


def test_a_run_is_ended_at_once_without_waiting_and_is_stopped_then(engine, place):
    run = begun(engine, place)
    lifecycle.ask_to_stop(run)
    engines.end_now(place, run)
    assert over(engine, run) == "stopped"
    deaf, _ = make(place, "deaf", "other")
    engine.submit(deaf)
    wait(deaf, "running")
    until(lambda: deaf.status().done >= 1)
    engines.end_now(place, deaf)
    assert over(engine, deaf) == "stopped"
    assert deaf.status().message.startswith(lifecycle.CUT_OFF)


def test_commands_on_runs_tell_what_slurm_says(engine, place, capsys):
    run = begun(engine, place)
    [waiting] = make(place, "next")
    engine.submit(waiting)
    assert told(capsys, place, "show", waiting.id)["message"].endswith("other jobs come first")
    engine.cluster.cancel(job_of(waiting))
    slurm._cluster.cache_clear()  # another process
    assert {row["id"]: row["state"] for row in told(capsys, place, "list")}[waiting.id] == "stopped"
    engine.stop(run)


def told(capsys, place, *command):
    assert main(["--workspace", str(place.root), "runs", *command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_process_that_dies_by_itself_is_lost_with_its_exit_code(engine, place, monkeypatch):
    run = begun(engine, place)
    os.kill(run.status().pid, signal.SIGKILL)
    assert over(engine, run) == "lost"
    assert "ended before its run did (FAILED, exit code 0:9)" in run.status().message


@pytest.mark.parametrize("ask", [SlurmEngine.stop, lambda engine, run: engines.end_now(engine.place, run)])
@pytest.mark.parametrize("state", ["lost", "stopped"])
def test_a_run_of_which_nothing_is_heard_though_its_job_goes_on_can_be_stopped(
    engine, place, little_slurm, monkeypatch, state, ask
):
    run = begun(engine, place, "deaf")
    if state == "stopped":  # what it looks like when it was asked before
        until(lambda: run.status().done >= 1)
        engine.stop(run)
    os.kill(run.status().pid, signal.SIGKILL)
    until(lambda: run.status().state == state)
    monkeypatch.setattr(engine.cluster, "look", lambda *_: slurm.Job("RUNNING", node="node1"))
    assert engine.alive(run)
    assert engine.standing(run).message == f"SLURM job {job_of(run)} is running"
    ask(engine, run)
    assert run.status().state == "stopped"
    assert run.status().message.startswith(lifecycle.CUT_OFF)
    assert not engine.alive(run)
    assert little_slurm.calls("scancel") == [f"scancel {job_of(run)}"]
    with pytest.raises(RunError, match="is stopped, not running"):
        engine.stop(run)


def test_a_run_that_falls_silent_while_its_end_is_waited_for_is_ended_all_the_same(
    engine, place, little_slurm, monkeypatch
):
    run, asks = begun(engine, place, "deaf"), lifecycle.ask_to_stop
    until(lambda: run.status().done >= 1)

    def ask(run):
        asks(run)
        os.kill(run.status().pid, signal.SIGKILL)
        until(lambda: run.status().state == "stopped")

    monkeypatch.setattr(engine.cluster, "look", lambda *_: slurm.Job("RUNNING", node="node1"))
    monkeypatch.setattr(lifecycle, "ask_to_stop", ask)
    monkeypatch.setattr(slurm, "HARDER_S", 0.1)
    engine.stop(run, grace_s=0.1)
    assert little_slurm.calls("scancel") == [f"scancel --signal=TERM --full {job_of(run)}", f"scancel {job_of(run)}"]


def test_a_run_that_slurm_holds_is_not_started_elsewhere(engine, place):
    run = begun(engine, place)
    [waiting] = make(place, "next")
    engine.submit(waiting)
    for name in ("local", "queue"):
        assert engines.engine_of(place, name=name).alive(waiting)
        with pytest.raises(RunError, match="is already queued"):
            engines.engine_of(place, name=name).submit(waiting)
    with pytest.raises(RunError, match="stop it before"):
        lifecycle.delete(waiting)
    engine.stop(run)
    assert wait(waiting, "done") == "done"


@pytest.mark.parametrize("without", ["sacct", "squeue"])
def test_one_of_the_two_commands_that_tell_the_state_is_enough(engine, place, little_slurm, without):
    (little_slurm.folder / without).write_text("#!/bin/sh\necho Slurm accounting storage is disabled >&2\nexit 1\n")
    run = begun(engine, place)
    little_slurm.tell(job_of(run), "NODE_FAIL")
    assert over(engine, run) == "lost"
    assert "lost its node" in run.status().message


def test_many_jobs_are_asked_about_in_one_call(place, little_slurm, monkeypatch):
    monkeypatch.setattr(slurm, "POLL_S", 60)
    engine, runs = SlurmEngine(place), make(place, "slow", *(["next"] * 11))
    engine.submit(*runs)
    before = len(little_slurm.calls())
    assert all(engine.alive(run) for run in runs)
    assert len(little_slurm.calls()) - before <= 2  # sacct, and squeue for those that wait
    slurm._cluster.cache_clear()  # another process
    other = SlurmEngine(place)
    before = len(little_slurm.calls())
    assert all(other.alive(run) for run in runs)
    assert all(other.standing(run).message for run in runs[1:])
    assert len(little_slurm.calls()) - before <= 2
    for run in runs:
        lifecycle.ask_to_stop(run)


REFUSALS = (
    ("Invalid account or account/partition combination specified", "settings.slurm.account", RunError),
    ("invalid partition specified: long", "settings.slurm.partition", RunError),
    ("Requested time limit is invalid (missing or exceeds some limit)", "settings.slurm.time", RunError),
    ("Unable to contact slurm controller (connect failure)", "the controller cannot be reached", Later),
    ("Protocol authentication error", "the login is refused", RunError),
    ("QOSMaxSubmitJobPerUserLimit", "wait until some jobs have ended", Later),
    (f"AssocGrpSubmitJobsLimit {POLICY}", "wait until some jobs have ended", Later),
    (f"QOSMaxWallDurationPerJobLimit {POLICY}", "does not allow such a job; ask for less", RunError),
    (POLICY, "wait until some jobs have ended", Later),
    ("Socket timed out on send/recv operation", "the controller cannot be reached", Later),
    ("Requested node configuration is not available", "mend what it names", RunError),
)


def test_what_sbatch_refuses_is_one_sentence_and_changes_nothing(engine, place, little_slurm):
    stopped = begun(engine, place)
    engine.stop(stopped, grace_s=10)
    before, text = stopped.status(), "sbatch: error: {}\nsbatch: error: Batch job submission failed\n"
    for said, words, error in REFUSALS:
        [new] = make(place, "next")
        (little_slurm.folder / "refuses").write_text(text.format(said))
        with pytest.raises(RunError, match=r"^engine slurm: ") as refused:
            engine.submit(stopped, new)
        assert type(refused.value) is error, said
        assert words in str(refused.value)
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
        assert stopped.status() == before, said
        assert not engine.alive(new), said
        assert not new.claimed, said


def test_a_lost_run_that_slurm_does_not_take_says_again_why_it_is_lost(engine, place, little_slurm):
    run = begun(engine, place)
    little_slurm.tell(job_of(run), "NODE_FAIL")
    assert over(engine, run) == "lost"
    run.file("stop").write_text("")
    before, note = run.status(), run.note()
    (little_slurm.folder / "down").write_text("")
    with pytest.raises(Later, match="the controller cannot be reached"):
        engine.submit(run)
    assert (run.status(), run.note(), run.file("stop").exists()) == (before, note, True)
    (little_slurm.folder / "down").unlink()
    engine.submit(run)
    assert wait(run, "running") == "running"


def test_a_command_that_does_not_answer_in_time_may_later(engine, place, little_slurm, monkeypatch):
    (little_slurm.folder / "sbatch").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(slurm, "COMMAND_S", 0.1)
    [run] = make(place, "next")
    with pytest.raises(Later, match="sbatch has not answered"):
        engine.submit(run)
    assert not run.claimed


def test_a_job_that_nobody_knows_of_because_sbatch_said_nothing_in_time_computes_nothing(
    engine, place, little_slurm, monkeypatch
):
    (little_slurm.folder / "slots").write_text("0")
    [run, other] = make(place, "next", "next")
    real = slurm._submit

    def too_late(*args):
        real(*args)
        raise Later("engine slurm: sbatch has not answered for 30 s; try again later")

    with monkeypatch.context() as patch:
        patch.setattr(slurm, "_submit", too_late)
        for one in (run, other):
            with pytest.raises(Later):
                engine.submit(one)
    assert not run.claimed
    engine.submit(other)  # now as job 3
    (little_slurm.folder / "slots").write_text("3")
    assert wait(other, "done") == "done"
    until(lambda: engine.cluster.look("1", fresh=True).over and engine.cluster.look("2", fresh=True).over)
    assert run.status().state == "queued"
    assert run.events() == []
    assert len([event for event in other.events() if event["event"] == "started"]) == 1
    for one in (run, other):
        assert "this job is not the run's, or not any more: it computes nothing" in one.log_tail()


def test_a_run_whose_submission_was_cut_off_can_be_submitted_again(engine, place, little_slurm, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    [run] = make(place, "next")
    with monkeypatch.context() as patch:
        patch.setattr(slurm, "_submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.submit(run)
        assert not run.claimed
        patch.setattr(lifecycle, "put_back", lambda *_: None)  # it is killed: nothing follows
        with pytest.raises(KeyboardInterrupt):
            engine.submit(run)
    assert engine.alive(run)
    monkeypatch.setattr(slurm, "SUBMITTING_S", 0)
    assert not engine.alive(run)
    assert run.status().state == "lost"
    assert "cut off while it was submitted; resume submits it again" in run.status().message
    engine.submit(run)
    assert wait(run, "done") == "done"


def test_as_many_runs_of_a_study_are_submitted_at_a_time_as_the_settings_say(place, little_slurm):
    assert SlurmEngine(place, workers=3).together() == 3
    (place.settings_file).unlink()
    assert SlurmEngine(place).together() == slurm.TOGETHER


def test_of_several_runs_all_are_taken_or_none(engine, place, monkeypatch):
    runs = make(place, "slow", "next")
    real = slurm._submit

    def second_is_refused(run, *rest):
        if run == runs[1]:
            raise RunError("engine slurm: refused")
        return real(run, *rest)

    monkeypatch.setattr(slurm, "_submit", second_is_refused)
    with pytest.raises(RunError, match="refused"):
        engine.submit(*runs)
    assert not any(run.claimed or engine.alive(run) for run in runs)


def test_a_controller_that_does_not_answer_ends_nothing(engine, place, little_slurm):
    run = begun(engine, place)
    [waiting] = make(place, "next")
    engine.submit(waiting)
    (little_slurm.folder / "down").write_text("")
    assert engine.alive(run)
    assert engine.alive(waiting)
    assert "the controller cannot be reached" in engine.standing(waiting).message
    assert waiting.status().state == "queued"
    (little_slurm.folder / "down").unlink()
    engine.stop(run)
    assert wait(waiting, "done") == "done"


def test_without_slurm_it_says_where_to_go(place, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    [run] = make(place, "next")
    with pytest.raises(RunError, match="no command sbatch on this machine; work on a login node"):
        SlurmEngine(place).submit(run)
    assert not run.claimed
    with pytest.raises(RunError, match="no command sbatch on this machine"):
        SlurmEngine(place).together()  # before a study gives it anything


def test_settings_that_slurm_would_misread_are_refused(place):
    for text, words in (
        ("slurm: {time: 2:00:00}", "in quotes"),  # YAML reads 7200, SLURM would read minutes
        ("slurm: {memory: plenty}", "such as 16G"),
        ("slurm: {options: [gres]}", "--gres=gpu:1"),
        ("slurm: {partitions: long}", "known settings are partition, account"),
    ):
        place.settings_file.parent.mkdir(parents=True, exist_ok=True)
        place.settings_file.write_text(text)
        with pytest.raises(SpecError, match=words):
            SlurmEngine(place).settings()


@pytest.mark.slow
def test_a_study_on_the_cluster_survives_a_lost_node_with_the_numbers_of_this_machine(
    slurm_commands, teacher, tiny, chat_file, tmp_path
):
    """Started as a page starts it: who executes its runs stands in the settings alone."""
    base = {
        "teacher": {"source": teacher},
        "student": {"source": tiny("llama")},
        "task": {"source": str(chat_file), "max_new_tokens": 4, "sizes": {"train": 24, "validation": 4, "test": 8}},
        "sensitivity": {"samples": 2},
        "factorisation": {"rank": 2},
        "finetuning": {"max_steps": 60, "batch_size": 4, "validations": 2},
    }
    study = StudySpec.model_validate({"base": base, "arms": ["default_lora", "seeking"], "seeds": [0]})
    folders = {}
    for engine in ("slurm", "local"):
        place = Workspace(tmp_path / engine)
        folders[engine] = StudyFolder.create(place, study)
        write_json(place.settings_file, {"engine": engine, "threads": 1, "checkpoint_seconds": 0, "offline": True})
        launch(folders[engine])
        if engine == "slurm":
            until(lambda place=place: any(run.saved_step() for run in list_runs(place)), seconds=120)
            [run] = [run for run in list_runs(place) if run.saved_step()]
            slurm_commands.tell(job_of(run), "NODE_FAIL")
        wait(folders[engine], "done", seconds=240)
    again = [event for event in folders["slurm"].events() if event["event"] == "resubmitted"]
    assert [event["run"] for event in again] == [run.id]
    assert "lost" in again[0]["message"] or "is gone" in again[0]["message"]
    assert len([event for event in run.events() if event["event"] == "started"]) == 2
    assert slurm_commands.calls("sbatch")[2:] and not slurm_commands.calls("sbatch")[3:]
    there, here = ([cell.run for cell in folders[engine].cells()] for engine in ("slurm", "local"))
    for one, other in zip(there, here, strict=True):
        losses = [[(m["step"], m.get("loss"), m.get("validation_loss")) for m in run.metrics()] for run in (one, other)]
        assert losses[0] == losses[1] and len(losses[0]) > 60
        assert one.result()["scores"] == other.result()["scores"]
        assert one.predictions() == other.predictions()
