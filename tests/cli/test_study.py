"""Commands on studies: what they print, what they refuse, and their exit codes. Runs are executed by a known rule."""

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from paraknow_core.catalogue import ARMS
from paraknow_core.cli import main
from paraknow_core.cli.study import _verdict_row
from paraknow_core.runs.folder import list_runs
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.spec import RunSpec
from paraknow_core.studies.folder import StudyFolder, list_studies
from paraknow_core.studies.presets import PRESETS
from paraknow_core.studies.study import StudySpec, parse_study_yaml
from tests.studies import made
from tests.studies.conducting import Fake
from tests.tiny_models import build_tiny

STUDY = "name: small\narms: [default_lora, seeking]\nseeds: [0, 1]\n"


@pytest.fixture
def fake(monkeypatch) -> Fake:
    """Let commands execute runs by a rule, without a model."""
    fake = Fake()
    monkeypatch.setattr("paraknow_core.pipeline.execute", lambda run, *_: fake(run))
    monkeypatch.setattr("paraknow_core.engines.choice.usable_cores", lambda: 1)  # one after the other, in this process
    return fake


@pytest.fixture
def spec(workspace, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path / "study.yaml"


def told(capsys, *arguments: str, code: int = 0) -> str:
    """Run a command and return what it printed on stdout."""
    assert main(["study", *map(str, arguments)]) == code
    return capsys.readouterr().out


def refused(capsys, *arguments: object) -> str:
    assert main(["study", *map(str, arguments)]) == 2
    text = capsys.readouterr().err.strip()
    assert "\n" not in text and "Traceback" not in text
    return text


def test_a_study_from_its_plan_to_its_verdict(spec, fake, workspace, capsys):
    plan = json.loads(told(capsys, "plan", spec, "--json"))
    assert (plan["runs"], plan["already"]) == (4, 0)
    assert plan["seconds"] > 0 and plan["bytes"] > 0
    assert "smallest detectable effect" in told(capsys, "plan", spec)
    assert "no studies yet" in told(capsys, "list")
    ran = json.loads(told(capsys, "run", spec, "--json"))
    assert (ran["state"], ran["runs"], ran["failed_runs"]) == ("done", {"done": 4}, 0)
    (folder,) = list_studies(workspace)
    assert ran["id"] == folder.id
    (listed,) = json.loads(told(capsys, "list", "--json"))
    assert (listed["name"], listed["state"]) == ("small", "done")
    assert "4 of 4" in told(capsys, "list")
    shown = json.loads(told(capsys, "show", folder.id[:16], "--json"))
    assert len(shown["outcome"]["groups"]) == 2
    assert "seed 1" in told(capsys, "show", folder.id)
    verdict = json.loads(told(capsys, "verdict", folder.path, "--json"))
    assert verdict["groups"][1]["verdict"]["verdict"] == "undecided"  # two seeds
    text = told(capsys, "verdict", folder.id)
    assert "2 seeds x 50 examples, smallest detectable none: undecided" in text and "warning: 2 seeds" in text
    runs = json.loads(main(["runs", "list", "--study", folder.id, "--json"]) or capsys.readouterr().out)
    assert len(runs) == 4 and runs[0]["studies"] == [folder.id]


def test_a_study_is_written_where_it_is_asked_for_and_goes_on_from_there(spec, fake, tmp_path, workspace, capsys):
    fake.fails = lambda spec: spec.method == "seeking"
    text = told(capsys, "run", spec, "--out", tmp_path / "there", code=2)
    assert "2 runs failed" in text
    fake.fails = lambda spec: False
    assert "done;" in told(capsys, "run", tmp_path / "there")
    assert [run.method for run in fake.ran[4:]] == ["seeking"] * 2
    assert list_studies(workspace) == []


def test_failures_are_said_as_they_happen(spec, fake, capsys):
    fake.fails = lambda spec: spec.method == "seeking" and spec.seed == 1
    assert main(["study", "run", str(spec)]) == 2
    assert capsys.readouterr().err.count("no such file; give a path that exists") == 1


def test_runs_of_other_studies_are_left_out_of_a_list(spec, fake, workspace, capsys):
    create_run(workspace, RunSpec(method="olora"))
    told(capsys, "run", spec)
    (folder,) = list_studies(workspace)
    assert main(["runs", "list", "--study", folder.id, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4
    assert main(["runs", "list", "--study", "nothing"]) == 2
    assert "no study has this id" in capsys.readouterr().err


def test_a_study_is_deleted_with_its_runs_or_without(spec, fake, workspace, capsys):
    told(capsys, "run", spec)
    spec.write_text(STUDY.replace("small", "other").replace("[0, 1]", "[0]"))
    told(capsys, "run", spec)
    ids = {folder.spec().name: folder.id for folder in list_studies(workspace)}
    other, first = ids["other"], ids["small"]
    assert "add --yes" in refused(capsys, "delete", first)
    assert "2 runs of it, too" in told(capsys, "delete", first, "--runs", "--yes")
    assert len(list_runs(workspace)) == 2  # those that the other study has as well
    (workspace.studies / other / "notes.txt").touch()
    assert "holds other files (notes.txt)" in refused(capsys, "delete", other, "--yes")
    (workspace.studies / other / "notes.txt").unlink()
    told(capsys, "delete", other, "--yes")
    assert len(list_runs(workspace)) == 2
    assert list_studies(workspace) == []


def test_a_study_is_exported_and_reported(spec, fake, workspace, tmp_path, capsys):
    told(capsys, "run", spec)
    (folder,) = list_studies(workspace)
    packed = json.loads(told(capsys, "export", folder.id, "--json"))
    with zipfile.ZipFile(packed["file"]) as file:
        names = {Path(name).name for name in file.namelist()}
        data = json.loads(file.read(f"{folder.id}/outcome.json"))
    assert names == {"study.yaml", "outcome.json", "methods.txt", "report.html", "records.parquet"}
    assert data["study"]["name"] == "small"
    assert "exists already" in refused(capsys, "export", folder.id)
    told(capsys, "report", folder.id, "--out", tmp_path / "page.html")
    assert "<html" in (tmp_path / "page.html").read_text()


def test_presets_are_listed_and_written(workspace, tmp_path, capsys):
    assert [row["name"] for row in json.loads(told(capsys, "presets", "--json"))] == list(PRESETS)
    name = next(iter(PRESETS))
    text = told(capsys, "new", name, "--pocket", "--set", "seeds=[0, 1]", "--set", "student.source=bundled:kin")
    study = parse_study_yaml(text)
    assert (study.preset, study.seeds, study.base.student.source) == (name, (0, 1), "bundled:kin")
    (tmp_path / "base.yaml").write_text("factorisation: {rank: 4}\n")
    text = told(capsys, "new", name, "--base", tmp_path / "base.yaml", "--json")
    assert json.loads(text)["base"]["factorisation"]["rank"] == 4


def test_every_arm_says_whether_it_keeps_the_student_and_its_budget(capsys):
    rows = {row["name"]: row for row in json.loads(told(capsys, "arms", "--json"))}
    assert rows.keys() == ARMS.keys()
    assert (rows["difference"]["keeps_student"], rows["default_lora"]["keeps_student"]) == (False, True)
    assert not rows["zero_step"]["equal_budget"]
    assert "trains nothing" in told(capsys, "arms")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nothing.yaml"], "`study new PRESET > study.yaml` writes one"),
        (["run", "nothing"], "no study has this id"),
        (["run", "nothing", "--out", "x"], "only for a study's spec"),
        (["plan", "broken.yaml"], "unknown key 'armz'"),
        (["run", "broken.yaml"], "unknown key 'armz'"),
        (["run", "numbers.yaml"], "seeds.0: '0' given"),
        (["run", "study.yaml", "--out", "full"], "already holds files"),
        (["run", "no-task.yaml"], "no bundled task 'nothing'"),
        (["new", "nothing"], "preset 'nothing' is unknown; choose from"),
        (["new", "table1", "--set", "seeds"], "write KEY=VALUE"),
        (["new", "table1", "--set", "seeds=["], "not valid YAML"),
        (["new", "table1", "--set", "seedz=1"], "seedz"),
        (["new", "table1", "--set", "seeds=[0]", "--set", "seeds=[1]"], "given twice"),
        (["verdict", "../x"], "holds no study.yaml"),
        (["stop", "made"], "not running; there is nothing to stop"),
        (["show", "damaged"], "not valid YAML"),
        (["resume", "damaged"], "not valid YAML"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(spec, workspace, tmp_path, capsys, arguments, words):
    (tmp_path / "broken.yaml").write_text("armz: [seeking]\n")
    (tmp_path / "numbers.yaml").write_text('seeds: ["0"]\n')
    (tmp_path / "no-task.yaml").write_text("base: {task: {source: bundled:nothing}}\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    made = StudyFolder.create(workspace, StudySpec(name="made"), workspace.studies / "made")
    made.file("status.json").write_text('{"state": "done"}')
    damaged = StudyFolder.create(workspace, StudySpec(), workspace.studies / "damaged")
    damaged.file("study.yaml").write_text("arms: [")
    assert words in refused(capsys, *arguments)
    assert "failed" in told(capsys, "list")  # one damaged study does not hide the others


def lines_of_sums(count: int) -> str:
    """Return a data file of questions that tiny models can be trained on in a moment."""
    pairs = ((f"{i} + {i}?", f"#### {2 * i}") for i in range(count))
    return "".join(
        json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}) + "\n"
        for q, a in pairs
    )


@pytest.fixture
def tiny_base(tmp_path) -> dict:
    """Return the base of studies whose runs take a second each."""
    build_tiny("llama", tmp_path / "teacher", seed=1, hidden_size=48, num_hidden_layers=3, tie_word_embeddings=True)
    build_tiny("llama", tmp_path / "student", seed=2, tie_word_embeddings=True)
    (tmp_path / "sums.jsonl").write_text(lines_of_sums(40))
    return {
        "teacher": {"source": str(tmp_path / "teacher")},
        "student": {"source": str(tmp_path / "student")},
        "task": {
            "source": str(tmp_path / "sums.jsonl"),
            "max_new_tokens": 4,
            "sizes": {"train": 24, "validation": 4, "test": 8},
        },
        "sensitivity": {"samples": 2},
        "factorisation": {"rank": 2},
        "finetuning": {"epochs": 1, "batch_size": 8, "validations": 1},
    }


@pytest.mark.slow
def test_a_tuned_study_of_real_runs(tiny_base, workspace, tmp_path, capsys):
    study = {
        "base": tiny_base,
        "arms": ["default_lora"],
        "factors": {"finetuning.batch_size": [4, 8]},
        "tuning": {"points": 2, "centre": 0.01, "seeds": [0]},
        "seeds": [0],
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    told(capsys, "run", tmp_path / "study.yaml", "--offline", "--threads", "1")
    (folder,) = list_studies(workspace)
    data = json.loads(told(capsys, "verdict", folder.id, "--json"))
    assert data["state"] == "done"
    assert {group["budget"]["steps"] for group in data["groups"]} == {3}  # the base's, whatever the batch
    assert all(group["rate"] and group["value"] is not None for group in data["groups"])
    before = {run.id for run in list_runs(workspace)}
    told(capsys, "run", folder.id)
    assert {run.id for run in list_runs(workspace)} == before


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["queue", "local", "workers"])
def test_a_study_may_leave_its_runs_to_an_engine(tiny_base, workspace, tmp_path, capsys, engine):
    study = {"base": tiny_base, "arms": ["default_lora"], "seeds": [0]}
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    told(capsys, "run", tmp_path / "study.yaml", "--engine", engine)
    (run,) = list_runs(workspace)
    assert run.status().state == "done" and run.status().pid != os.getpid()


def test_an_arm_that_is_the_method_itself_says_so_in_the_table():
    found = made.outcome(StudySpec(arms=("default_lora", "random_offset")))
    same = replace(found.groups[1], verdict=None, vacuous="is the method itself here")
    assert "is the method itself here" in _verdict_row(same, "default_lora", same.label)
