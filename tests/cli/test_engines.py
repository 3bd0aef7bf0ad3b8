"""Who executes runs, picked by a command: what is refused, and what is handed on."""

import json

import pytest

from paraknow_core.cli import main
from paraknow_core.engines.base import Engine
from paraknow_core.engines.choice import Machine
from paraknow_core.files.json_file import write_json
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder, list_runs
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.runs.processes import this_process
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.studies.folder import StudyFolder, list_studies
from paraknow_core.studies.study import parse_study_yaml
from tests.studies.conducting import Fake


class Noting(Engine):
    """Executes runs by a rule at once, and remembers with which settings."""

    given: list[tuple[Settings, list[RunFolder]]]
    refuses = False

    def submit(self, *runs, first=False):
        if self.refuses:
            raise lifecycle.RunError("engine slurm: the controller cannot be reached")
        lifecycle.requeue(*runs)
        self.given.append((self.settings(), list(runs)))
        for run in runs:
            Fake()(run)


@pytest.fixture
def engine(monkeypatch, workspace):
    monkeypatch.setattr(Noting, "given", [], raising=False)
    asked = []

    def engine_class(name):
        asked.append(name)
        return Noting

    monkeypatch.setattr("paraknow_core.engines.engine_class", engine_class)
    Noting.asked = asked
    return Noting


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "spec.yaml").write_text("name: one\n")
    return tmp_path / "spec.yaml"


def told(capsys, *arguments, code=0) -> str:
    assert main([*map(str, arguments)]) == code
    seen = capsys.readouterr()
    return seen.err.strip() if code else seen.out


def test_runs_are_submitted_in_order_and_their_ids_are_printed(engine, workspace, spec, capsys):
    old = create_run(workspace, RunSpec(name="old"))
    rows = json.loads(told(capsys, "runs", "submit", spec, old.path, spec, "--engine", "slurm", "--json"))
    [(_, runs)] = engine.given
    assert [row["id"] for row in rows] == [run.id for run in runs]
    assert [run.spec().name for run in runs] == ["one", "old", "one"]
    assert runs[1] == RunFolder(old.path.resolve())
    assert engine.asked == ["slurm"]
    assert told(capsys, "runs", "submit", spec).split() == [engine.given[1][1][0].id]
    assert engine.asked[1:] == ["local"]


def test_what_is_refused_leaves_no_run_behind(engine, workspace, spec, capsys, monkeypatch):
    told(capsys, "runs", "submit", spec)
    [done] = list_runs(workspace)
    assert "is done" in told(capsys, "runs", "submit", spec, done.id, code=2)
    assert "there is no such file" in told(capsys, "runs", "submit", spec, "other.yaml", code=2)
    monkeypatch.setattr(engine, "refuses", True)
    assert "cannot be reached" in told(capsys, "runs", "submit", spec, code=2)
    assert list_runs(workspace) == [done]
    assert "--engine" in told(capsys, "runs", "submit", spec, "--engine", "abacus", code=2)


@pytest.mark.parametrize("command", [("runs", "resume"), ("runs", "submit"), ("study", "run")])
def test_an_address_reaches_ray_and_no_other_engine(engine, workspace, spec, tmp_path, capsys, command):
    write_json(workspace.settings_file, {"ray": {"gpus": 0.5}})
    (tmp_path / "study.yaml").write_text("arms: [default_lora]\nseeds: [0]\n")
    targets = {"submit": spec, "run": tmp_path / "study.yaml"}
    target = targets.get(command[1]) or create_run(workspace, RunSpec()).id
    assert "add --engine ray" in told(capsys, *command, target, "--address", "here:1", code=2)
    assert "add --engine ray" in told(capsys, *command, target, "--address", "here:1", "--engine", "slurm", code=2)
    told(capsys, *command, target, "--address", "here:1", "--engine", "ray")
    [(settings, _)] = engine.given
    assert (settings.ray.address, settings.ray.gpus) == ("here:1", 0.5)


@pytest.mark.parametrize("command", [("runs", "resume"), ("runs", "submit"), ("study", "run")])
def test_settings_that_are_flags_reach_the_engine(engine, workspace, spec, tmp_path, capsys, command):
    write_json(workspace.settings_file, {"dtype": "bfloat16", "threads": 2})
    (tmp_path / "study.yaml").write_text("arms: [default_lora]\nseeds: [0]\n")
    targets = {"submit": spec, "run": tmp_path / "study.yaml"}
    target = targets.get(command[1]) or create_run(workspace, RunSpec()).id
    told(capsys, *command, target, "--engine", "slurm", "--threads", "3", "--memory-budget", "2kB", "--offline")
    [(settings, _)] = engine.given
    assert (settings.threads, settings.memory_budget, settings.offline) == (3, 2000, True)
    assert (settings.dtype, settings.device) == ("bfloat16", "auto")


def test_a_study_goes_to_the_engine_of_the_settings_unless_a_flag_says_otherwise(
    engine, workspace, tmp_path, capsys, monkeypatch
):
    fake = Fake()
    monkeypatch.setattr("paraknow_core.pipeline.execute", lambda run, *_: fake(run))
    (tmp_path / "study.yaml").write_text("arms: [default_lora]\nseeds: [0]\n")
    write_json(workspace.settings_file, {"engine": "slurm"})
    told(capsys, "study", "run", tmp_path / "study.yaml")
    assert engine.asked == ["slurm"] and len(engine.given) == 1
    (tmp_path / "study.yaml").write_text("arms: [seeking]\nagainst: seeking\nseeds: [1]\n")
    told(capsys, "study", "run", tmp_path / "study.yaml", "--engine", "inline")
    assert len(engine.given) == 1 and [run.method for run in fake.ran] == ["seeking"]


def test_a_study_is_resumed_with_the_engine_that_was_asked_for(engine, workspace, tmp_path, capsys, monkeypatch):
    fake, launched = Fake(), []
    monkeypatch.setattr("paraknow_core.pipeline.execute", lambda run, *_: fake(run))
    monkeypatch.setattr("paraknow_core.studies.conduct.launch", lambda folder, *options: launched.append(options))
    (tmp_path / "study.yaml").write_text("arms: [default_lora]\nseeds: [0]\n")
    told(capsys, "study", "run", tmp_path / "study.yaml", "--out", tmp_path / "small", "--engine", "inline")
    told(capsys, "study", "resume", tmp_path / "small", "--engine", "ray", "--address", "here:1")
    told(capsys, "study", "resume", tmp_path / "small")
    told(capsys, "study", "resume", tmp_path / "small", "--memory-budget", "3.5GB", "--threads", "2")
    assert launched == [("--engine", "ray", "--address", "here:1"), (), ("--threads=2", "--memory-budget=3.5GB")]
    assert "add --engine ray" in told(capsys, "study", "resume", tmp_path / "small", "--address", "x", code=2)


def test_broken_settings_are_refused_at_once_and_said_by_run_folders(engine, workspace, spec, capsys):
    run = create_run(workspace, RunSpec())
    lifecycle.claim(run, this_process(), 0)
    write_json(workspace.settings_file, {"device": "abacus"})
    assert "'device'" in told(capsys, "runs", "submit", spec, code=2)
    assert list_runs(workspace) == [run] and not engine.given
    assert "'device'" in told(capsys, "run", run.path, code=2)
    assert run.status().state == "failed"
    assert "'device'" in run.status().message


def test_even_if_slower_needs_packed(workspace, spec, capsys):
    assert "add --packed" in told(capsys, "run", spec, "--even-if-slower", code=2)
    assert not list_runs(workspace)


@pytest.fixture
def study_spec(tmp_path):
    (tmp_path / "study.yaml").write_text("arms: [default_lora]\nseeds: [0, 1, 2]\n")
    return tmp_path / "study.yaml"


def test_a_study_whose_engine_cannot_be_used_is_refused_before_there_is_one(
    engine, workspace, study_spec, capsys, monkeypatch
):
    def together(_self):
        raise lifecycle.RunError("engine slurm: there is no sbatch")

    assert "add --engine ray" in told(capsys, "study", "run", study_spec, "--address", "x", code=2)
    monkeypatch.setattr(engine, "together", together)
    write_json(workspace.settings_file, {"slurm": {"partition": "long"}})
    for options in ((), ("--engine", "auto"), ("--engine", "slurm")):
        assert "no sbatch" in told(capsys, "study", "run", study_spec, *options, code=2)
    assert not list_studies(workspace)


def test_a_study_in_the_background_says_why_it_cannot_go_on(engine, workspace, study_spec, capsys, monkeypatch):
    def together(_self):
        raise lifecycle.RunError("engine slurm: there is no sbatch")

    folder = StudyFolder.create(workspace, parse_study_yaml(study_spec.read_text(), "study.yaml"))
    lifecycle.claim(folder, this_process(), 0)  # as `launch` does
    monkeypatch.setattr(engine, "together", together)
    told(capsys, "study", "run", folder.path, "--engine", "slurm", code=2)
    assert (folder.state(), folder.status().message) == ("failed", "engine slurm: there is no sbatch")
    lifecycle.claim(folder, this_process(), *lifecycle.requeue(folder))
    write_json(workspace.settings_file, {"device": "abacus"})
    told(capsys, "study", "run", folder.path, code=2)
    assert folder.state() == "failed" and "'device'" in folder.status().message


@pytest.mark.parametrize(("settings", "workers"), [({}, 1), ({"workers": 3}, 3), ({"slurm": {"partition": "a"}}, 1)])
def test_workers_that_are_asked_for_are_as_many_as_fit(workspace, study_spec, capsys, monkeypatch, settings, workers):
    seen = []

    def conduct(folder, executor, follow, together, holder):
        seen.append((type(executor).__name__, executor.count, together))
        raise lifecycle.RunError("enough")

    monkeypatch.setattr(Machine, "here", classmethod(lambda cls, settings: Machine(1, 64e9)))
    monkeypatch.setattr("paraknow_core.studies.conduct.conduct", conduct)
    write_json(workspace.settings_file, settings)
    told(capsys, "study", "run", study_spec, "--engine", "workers", code=2)
    assert seen == [("WorkersEngine", workers, workers)]
