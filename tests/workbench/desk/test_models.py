"""Questions about models, tasks and costs: what the desk answers, against what the core says itself."""

import json

import numpy
import pytest

from paraknow_core.errors import DataError, ModelError, ShapeError
from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.source import resolve_model
from paraknow_core.paths import Workspace
from paraknow_core.spec import ROLES, ModelSpec, RunSpec, TaskSpec
from paraknow_core.tasks.examples import load_task
from paraknow_core.tasks.templates import encode
from paraknow_core.workbench.desk import requests
from paraknow_core.workbench.desk.kinds import known
from paraknow_core.workbench.desk.requests import question_from
from paraknow_core.workbench.desk.serve import work_out
from tests.tiny_models import FAMILIES, build_tiny

TEACHER, STUDENT = (ModelSpec(source=f"bundled:{name}") for name in ("teacher", "stranger"))
TASK = TaskSpec()


@pytest.fixture
def place(tmp_path) -> Workspace:
    (tmp_path / "settings.yaml").write_text("offline: true\n")
    return Workspace(tmp_path)


def ask(place, question):
    value, arrays = work_out(place, question_from(question.to_dict()))
    json.dumps(value, allow_nan=False)
    return value, arrays


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_every_family_add_up(place, tmp_path, family):
    folder = build_tiny(family, tmp_path / family)
    value, _ = ask(place, requests.Anatomy(model=ModelSpec(source=str(folder))))
    assert sum(part["parameters"] for part in value["parts"]) == value["parameters"]
    assert sum(part["modules"] for part in value["parts"][:-1]) == len(read_anatomy(resolve_model(str(folder))).modules)


def test_a_changed_folder_is_read_again(place, tmp_path):
    folder = build_tiny("llama", tmp_path / "model")
    before, _ = ask(place, requests.Anatomy(model=ModelSpec(source=str(folder))))
    build_tiny("llama", folder, num_hidden_layers=3)
    after, _ = ask(place, requests.Anatomy(model=ModelSpec(source=str(folder))))
    assert (before["num_hidden_layers"], after["num_hidden_layers"]) == (2, 3)


def test_results_are_kept_while_files_stay_and_only_the_last_ones(tmp_path):
    calls = []

    @known.kept(5, len)
    def work(model, word):
        calls.append(word)
        return word

    folder = tmp_path / "model"
    folder.mkdir()
    model = ModelSpec(source=str(folder))
    for word in ("one", "one", "be", "one", "three", "be"):  # "three" and "one" are more than 5 together
        assert work(model, word) == word
    assert calls == ["one", "be", "three", "be"]
    assert work(model, "longer than 5") == work(model, "longer than 5") and len(calls) == 5
    (folder / "config.json").write_text("{}")
    work(model, "longer than 5")
    assert len(calls) == 6


def test_compat_holds_every_module_and_the_overlap(place, tmp_path):
    value, _ = ask(place, requests.Compat(teacher=TEACHER, student=STUDENT, roles=list(ROLES), mapping=None))
    assert len(value["pairings"]) == 29
    assert value["counts"]["cut"] == 29
    assert value["overlap"] == {
        "identical": True,
        "shared": 1536,
        "teacher": 1536,
        "student": 1536,
        "same_id": 1536,
        "only_teacher": [],
        "only_student": [],
    }
    other = ModelSpec(source=str(build_tiny("llama", tmp_path / "tiny")))
    value, _ = ask(place, requests.Compat(teacher=TEACHER, student=other, roles=["q"], mapping=[5, None]))
    assert [p["action"] for p in value["pairings"]].count("skip") == len(value["pairings"]) - 1
    assert not value["overlap"]["identical"]
    assert value["overlap"]["only_teacher"]
    with pytest.raises(ShapeError, match="one entry a layer"):
        ask(place, requests.Compat(teacher=TEACHER, student=STUDENT, roles=list(ROLES), mapping=[1]))


def test_without_a_tokenizer_the_layers_are_still_compared(place, tmp_path):
    folder = build_tiny("llama", tmp_path / "bare")
    for file in folder.glob("*token*"):
        file.unlink()
    bare = ModelSpec(source=str(folder))
    value, _ = ask(place, requests.Compat(teacher=TEACHER, student=bare, roles=list(ROLES), mapping=None))
    assert value["overlap"] is None
    assert "has no tokenizer" in value["tokenizer_problem"]
    with pytest.raises(ModelError, match="has no tokenizer"):
        ask(place, requests.Lengths(task=TASK, model=bare, split="train"))


def test_lengths_are_those_of_the_encoder_before_any_cut(place):
    value, arrays = ask(place, requests.Lengths(task=TASK, model=TEACHER, split="validation"))
    examples = load_task(TaskSpec()).split("validation")
    tokenizer = known.tokenizer_of(TEACHER, known_settings(place))
    assert value["ids"] == [example.id for example in examples]
    for index in (0, 7, 99):
        encoded = encode(examples[index], "tulu", tokenizer, 10_000)
        assert (arrays["whole"][index], arrays["prompt"][index]) == (len(encoded.input_ids), encoded.prompt_length)
    assert arrays["whole"].dtype == numpy.int32


def known_settings(place):
    from paraknow_core.settings import load_settings

    return load_settings(place)


def test_examples_carry_tokens_mask_and_marks(place):
    value, _ = ask(place, requests.Examples(task=TASK, model=TEACHER, split="train", start=8, count=3))
    assert len(value["examples"]) == 3
    first = value["examples"][0]
    assert len(first["texts"]) == len(first["ids"]) == first["tokens"]
    assert 0 < first["prompt"] < first["tokens"]
    assert first["texts"][first["special"][0]] == "<s>"
    assert first["special"][-1] == first["tokens"] - 1
    beyond, _ = ask(place, requests.Examples(task=TASK, model=TEACHER, split="train", start=1000, count=8))
    assert beyond["examples"] == []


def test_seeds_are_those_of_the_task(place):
    spec = RunSpec().with_changes({"sensitivity.selection": "random", "sensitivity.samples": 5, "sensitivity.seed": 3})
    value, _ = ask(place, requests.Seeds(spec=spec, with_models=False))
    for with_models in (False, True):
        other = RunSpec().with_changes({"sensitivity.task": "bundled:open_writing", "sensitivity.samples": 2})
        of_other, _ = ask(place, requests.Seeds(spec=other, with_models=with_models))
        assert (of_other["ids"], of_other["positions"]) == (["open_writing/train/0", "open_writing/train/1"], [0, 1])
    assert value["ids"] == [e.id for e in load_task(TaskSpec()).seed_samples(spec.sensitivity)]
    assert value["positions"] == sorted(value["positions"])
    with pytest.raises(DataError, match="seed samples asked for"):
        many = RunSpec().with_changes({"sensitivity.samples": 2000})
        ask(place, requests.Seeds(spec=many, with_models=False))


def test_a_task_says_its_sizes_and_warnings(place, tmp_path):
    line = '{"question": "same?", "answer": "yes"}\n'
    (tmp_path / "train.jsonl").write_text(line + "".join(line.replace("same", str(i)) for i in range(40)))
    (tmp_path / "test.jsonl").write_text(line.replace("same", "SAME").replace("yes", "no"))
    task = TaskSpec(source=str(tmp_path / "train.jsonl"), test_source=str(tmp_path / "test.jsonl"))
    value, _ = ask(place, requests.Task(task=task))
    assert value["sizes"]["test"] == 1
    assert any("also occur in train" in warning for warning in value["warnings"])


@pytest.mark.parametrize("method_scorers", [[], ["multiple_choice"]])
def test_an_estimate_covers_every_stage(place, method_scorers):
    changes = {"task.sizes.train": 64, "task.sizes.test": 16, "sensitivity.samples": 4}
    if method_scorers:
        changes |= {"task.source": "bundled:multiple_choice"}
    spec = RunSpec().with_changes(changes)
    value, _ = ask(place, requests.Estimate(spec=spec))
    needs = value["sensitivity"]["plan"]["needs"]
    assert value["sensitivity"]["samples"] == 4
    assert needs["resident"]["seconds"] > 0
    assert set(value["student"]["stages"]) == {"injection", "fine-tuning", "evaluation"}
    assert all(need["memory"] > 1e8 and need["seconds"] > 0 for need in value["student"]["stages"].values())
    assert value["student"]["training"]["steps"] == 3
    assert value["student"]["adapters"] == 184_320


def test_an_estimate_within_too_small_a_budget_is_a_sentence(place):
    (place.root / "settings.yaml").write_text("offline: true\nmemory_budget: 50MB\n")
    value, _ = ask(place, requests.Estimate(spec=RunSpec()))
    assert value["sensitivity"]["plan"] is None
    assert "memory budget" in value["sensitivity"]["problem"]


def test_an_upload_is_read_mapped_or_refused(place, tmp_path):
    place.uploads.mkdir()
    path = place.uploads / "waiting-x.jsonl"
    path.write_text('{"a": "x", "b": "y"}\n')
    value, _ = ask(place, requests.Upload(path=str(path), columns={}))
    assert "unknown layout" in value["refused"]
    assert (list(value["columns"]), value["guess"]) == (["a", "b"], {"choices": "a,b"})
    value, _ = ask(place, requests.Upload(path=str(path), columns={"question": "a", "answer": "b"}))
    assert (value["refused"], value["examples"], value["file"]) == ("", 1, "waiting-x.mapped.jsonl")
    value, _ = ask(place, requests.Upload(path=str(path), columns={"question": "a", "answer": "nothing"}))
    assert "is 'nothing', which is not a column" in value["refused"]
    assert [file.name for file in place.uploads.iterdir()] == ["waiting-x.jsonl"]
    outside = tmp_path / "outside.jsonl"
    outside.write_text('{"question": "x", "answer": "y"}\n')
    assert "not there any more" in ask(place, requests.Upload(path=str(outside), columns={}))[0]["refused"]


def test_the_fields_of_a_file_or_folder_are_offered_with_what_they_most_likely_are(place, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").write_text("problem;hint;answer;A;B\n1 + 1?;add;A;2;3\n")
    (folder / "._train.csv").write_bytes(b"\x00\x05\x16\x07")
    for source in (folder, folder / "train.csv"):
        value, _ = ask(place, requests.Columns(task=TaskSpec(source=str(source))))
        assert value["columns"] == {"problem": "1 + 1?", "hint": "add", "answer": "A", "A": "2", "B": "3"}
        assert value["fields"] == {"question": "problem", "answer": "answer", "choices": "A,B"}
    (folder / "train.csv").write_text("1 + 1?,1,2,3,4,B\n")
    assert ask(place, requests.Columns(task=TaskSpec(source=str(folder))))[0]["columns"] == {}
    with pytest.raises(DataError, match="does not exist"):
        ask(place, requests.Columns(task=TaskSpec(source=str(folder / "none.csv"))))


def test_the_hubs_cache_lists_models_and_data_sets(place, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert ask(place, requests.HubCache(stamp=0))[0] == {"models": [], "datasets": []}
    commit = "a" * 40
    for kind, name in (("models", "some--model"), ("datasets", "some--data")):
        snapshot = tmp_path / "hub" / f"{kind}--{name}" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        refs = tmp_path / "hub" / f"{kind}--{name}" / "refs"
        refs.mkdir()
        (refs / "main").write_text(commit)
    value, _ = ask(place, requests.HubCache(stamp=1))
    assert [model["name"] for model in value["models"]] == ["some/model"]
    assert value["models"][0]["revisions"] == [{"commit": commit, "refs": ["main"]}]
    assert [each["name"] for each in value["datasets"]] == ["some/data"]


def fit_spec(tmp_path, where: str, **changes) -> RunSpec:
    """A spec of the bundled pair whose train or test split holds one example beyond the models' context."""
    for split, count in (("train", 12), ("validation", 2), ("test", 6)):
        pairs = [(f"{split} {i}", "yes") for i in range(count)] + [("long " * 600, "no")] * (split == where)
        lines = [
            json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]})
            for q, a in pairs
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    return RunSpec().with_changes({"task.source": str(tmp_path), "sensitivity.samples": 12, **changes})


@pytest.mark.parametrize("where", ["train", "test"])
def test_fit_says_what_a_run_would_refuse_or_leave_out(place, tmp_path, where):
    folder = tmp_path / "data"
    folder.mkdir()
    value, _ = ask(place, requests.Fit(spec=fit_spec(folder, where)))
    assert "the limit is 512" in value["problem"]
    assert f"this one of the {where} examples is too long for the student bundled:stranger" in value["problem"]
    spec = fit_spec(folder, where, **{"task.too_long": "leave_out"})
    value, _ = ask(place, requests.Fit(spec=spec))
    assert value["problem"] == ""
    assert value["left_out"] == {"train": 0, "validation": 0, "test": 0, "seed samples": 0} | {where: 1}
    estimate, _ = ask(place, requests.Estimate(spec=spec))
    assert estimate["left_out"] == value["left_out"]
    seeds, _ = ask(place, requests.Seeds(spec=spec, with_models=True))
    assert seeds["ids"] == [f"train:{i}" for i in range(1, 13)]


def test_fit_and_examples_name_a_token_without_a_row(place, tmp_path):
    from tests.tiny_models import build_tokenizer

    folder = build_tiny("llama", tmp_path / "model")
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<|user|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    model = ModelSpec(source=str(folder))
    spec = RunSpec().with_changes({"student.source": str(folder), "task.sizes.train": 40})
    value, _ = ask(place, requests.Fit(spec=spec))
    assert "model: token '<|user|>' (id 259) of example word_problems/train/0 has no row" in value["problem"]
    value, _ = ask(place, requests.Examples(task=TASK, model=model, split="train", start=0, count=1))
    assert value["examples"][0]["without_row"] == "<|user|> (id 259, 259 rows)"
    value, _ = ask(place, requests.Examples(task=TASK, model=TEACHER, split="train", start=0, count=1))
    assert (value["examples"][0]["without_row"], value["notes"]) == ("", [])
