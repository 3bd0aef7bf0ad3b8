"""Whole runs on tiny models: end to end, twice the same, stopped, killed, resumed, and read by plain PEFT."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pkgutil import resolve_name
from typing import get_args

import pytest
import torch

from paraknow_core.adapters.merging import write_merged
from paraknow_core.adapters.saved import saved_changes
from paraknow_core.context import Context
from paraknow_core.display import outcome_text
from paraknow_core.errors import DataError, DivergedError, ModelError, NumericError, RunError, ShapeError
from paraknow_core.methods.base import Method
from paraknow_core.models.modules import logical_weight
from paraknow_core.models.shards import Shards
from paraknow_core.models.source import resolve_model
from paraknow_core.paths import PROJECT_ROOT, workspace
from paraknow_core.pipeline import STAGES, execute
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.tasks.examples import load_task
from paraknow_core.tasks.fitting import Reader

SETTINGS = Settings(threads=1)


@pytest.fixture
def spec(make_context, tiny):
    """A run of eight steps on the tiny pair."""
    context = make_context(
        tiny("llama"), {"finetuning.batch_size": 5, "finetuning.epochs": 2, "finetuning.learning_rate": 0.01}
    )
    return context.spec


def run_to_end(place, spec):
    run = create_run(place, spec)
    execute(run, place, SETTINGS)
    return run


def same(result):
    """What must not depend on when and how fast a run was made."""
    return {
        key: result[key] for key in ("scores", "references", "layer_mapping", "step0", "fingerprints", "machine")
    } | {"losses": [result["training"]["last_loss"], result["training"]["last_validation_loss"]]}


def test_stages_are_functions_and_until_is_one_of_their_names():
    assert all(callable(resolve_name(f"paraknow_core.{stage.code}")) for stage in STAGES)
    names = [stage.name for stage in STAGES]
    assert set(get_args(RunSpec.model_fields["until"].annotation)) <= set(names)
    assert names[-1] == RunSpec().until


def test_end_to_end_leaves_what_the_run_folder_promises(spec, tmp_path):
    place = workspace(tmp_path)
    run = run_to_end(place, spec)
    assert run.status().state == "done"
    names = {p.name for p in run.path.iterdir()}
    assert {
        "spec.yaml",
        "status.json",
        "events.jsonl",
        "extraction.json",
        "init_adapter",
        "adapter",
        "predictions.jsonl",
        "result.json",
        "sensitivity.json",
    } <= names
    result = run.result()
    assert [m["step"] for m in run.metrics()] == list(range(9))  # step 0 is the validation before training
    assert result["training"]["steps"] == 8
    assert result["training"]["last_loss"] < result["training"]["first_loss"]
    assert result["step0"]["evaluation"]["passed"]
    assert result["export_check"]["passed"]
    assert result["machine"] == {"device": "cpu", "dtype": "float32", "student_bits": None}
    score = result["scores"][0]
    assert (score["scorer"], score["n"]) == ("number_match", 6)
    assert score["low"] <= score["value"] <= score["high"]
    assert result["references"]["student"][0]["n"] == 6
    assert len({p["id"] for p in run.predictions()}) == 6
    stages = [e["stage"] for e in run.events() if e["event"] == "stage"]
    assert stages == ["prepare", "sensitivity", "injection", "fine-tuning", "export", "evaluation"]
    assert not list(place.root.rglob("*.tmp"))


def test_same_seed_same_numbers_other_seed_other_numbers(spec, tmp_path):
    first = run_to_end(workspace(tmp_path / "a"), spec).result()
    again = run_to_end(workspace(tmp_path / "b"), spec).result()  # nothing is shared, not even the cache
    other = run_to_end(workspace(tmp_path / "a"), spec.with_changes({"seed": 1})).result()
    assert same(first) == same(again)
    assert first["training"]["last_loss"] != other["training"]["last_loss"]


def test_a_methods_term_is_part_of_the_loss(spec, tmp_path, monkeypatch):
    place, spec = workspace(tmp_path), spec.with_changes({"method": "default_lora", "finetuning.max_steps": 1})
    plain = run_to_end(place, spec).metrics()
    monkeypatch.setattr(Method, "loss", lambda *_: lambda _model, _batch, outputs: outputs.loss)
    twice = run_to_end(place, spec).metrics()
    assert [line["loss"] for line in twice if "loss" in line] == [2 * line["loss"] for line in plain if "loss" in line]
    assert twice[0]["validation_loss"] == plain[0]["validation_loss"]


def test_a_run_without_training_is_the_untouched_student(spec, tmp_path):
    result = run_to_end(workspace(tmp_path), spec.with_changes({"finetuning.max_steps": 0})).result()
    assert result["scores"] == result["references"]["student"]


def test_a_run_without_training_has_a_budget_and_a_validation_loss(spec, tmp_path):
    result = run_to_end(workspace(tmp_path), spec.with_changes({"finetuning.max_steps": 0})).result()
    budget = result["budget"]
    assert (budget["steps"], budget["examples"], budget["tokens"], budget["forward_flops"]) == (0, 0, 0, 0)
    assert result["validation"]["final"] == result["validation"]["best"] > 0
    assert result["validation"]["final_step"] == 0


def test_a_run_until_training_knows_its_validation_loss_and_reads_no_test_example(spec, tmp_path, monkeypatch):
    place = workspace(tmp_path)
    whole = run_to_end(place, spec).result()
    read = []
    real = Reader.encode
    monkeypatch.setattr(
        Reader, "encode", lambda self, example, task: read.append(example.id) or real(self, example, task)
    )
    run = run_to_end(place, spec.with_changes({"until": "training", "references": ["student", "teacher"]}))
    result = run.result()
    assert run.status().state == "done"
    assert result["training"] | {"weights": 0} == whole["training"] | {"weights": 0}
    assert result["budget"] == whole["budget"]
    assert result["validation"] == whole["validation"]
    losses = {line["step"]: line["validation_loss"] for line in run.metrics() if "validation_loss" in line}
    assert result["validation"]["final"] == losses[8]
    assert result["validation"]["best"] == min(losses.values()) == losses[result["validation"]["best_step"]]
    assert not {"scores", "references", "export_check"} & result.keys()
    assert {path.name for path in run.path.iterdir()} & {"adapter", "predictions.jsonl"} == set()
    assert list(run.file("checkpoints").iterdir()) == []
    examples = load_task(spec.task)
    assert read and not {example.id for example in examples.split("test")} & set(read)
    assert outcome_text(result) == f"validation loss {result['validation']['final']:.3f}"


def test_a_rate_that_diverges_is_what_a_run_until_training_finds_out(spec, tmp_path, monkeypatch):
    place = workspace(tmp_path)
    real = Method.loss
    monkeypatch.setattr(Method, "loss", lambda *_: lambda _model, _batch, outputs: outputs.loss * float("inf"))
    spec = spec.with_changes({"method": "default_lora"})
    tuning = run_to_end(place, spec.with_changes({"until": "training"}))
    result = tuning.result()
    assert tuning.status().state == "done"
    assert result["diverged"]["step"] == result["budget"]["steps"] == 1
    assert result["warnings"] == [result["diverged"]["message"]]
    assert result["validation"]["final"] is None
    assert outcome_text(result) == "diverged"
    run = create_run(place, spec)
    with pytest.raises(DivergedError, match="at step 1 the loss is inf"):
        execute(run, place, SETTINGS)
    assert run.status().state == "failed"
    monkeypatch.setattr(Method, "loss", real)
    execute(run, place, SETTINGS)  # what was noted of the attempt before is not kept
    assert "diverged" not in run.result()


@pytest.mark.parametrize("student", [("llama", {"tie_word_embeddings": True}), ("gpt_neox", {})])
def test_full_finetuning_is_a_run_like_others(spec, tiny, tmp_path, student):
    family, overrides = student
    changes = {"method": "full_finetuning", "student.source": tiny(family, **overrides), "factorisation.rank": 4096}
    place, spec = workspace(tmp_path), spec.with_changes(changes)
    run = run_to_end(place, spec)
    result, again = run.result(), run_to_end(place, spec).result()
    assert same(again | {"layer_mapping": None}) == same(result | {"layer_mapping": None})
    assert result["step0"]["training"] | {"max_abs": 0} == result["step0"]["training"]
    assert result["export_check"]["passed"] and result["export_check"]["merges"]
    context = Context(spec, SETTINGS, place)
    stored = {m.parameter: m.shape[0] * m.shape[1] for m in context.student.anatomy.modules}
    weights = dict(context.student.load().named_parameters())
    assert result["budget"]["trainable_parameters"] == sum(weights[name].numel() for name in stored)
    changes = {change.module.name: change for change in saved_changes(run.path, context.student.anatomy)}
    facts = write_merged(Context(spec, SETTINGS, place), run.path, result, tmp_path / "merged")
    merged = Shards(resolve_model(str(tmp_path / "merged")), None)
    assert facts["rounding"]["max_abs"] == 0
    for module in context.student.anatomy.modules:
        b, a = changes[module.name].total
        moved = (b @ a).T if module.role == "embed" else b @ a
        own = logical_weight(weights[module.parameter].detach(), module)
        torch.testing.assert_close(logical_weight(merged[module.parameter], module), own + moved)
        assert moved.abs().max() > 0
        assert changes[module.name].first[0].shape[1] == 0
    cut = create_run(place, spec)

    def stop_at_step_3(status):
        if status.stage == "fine-tuning" and status.done == 3:
            cut.file("stop").touch()

    assert execute(cut, place, SETTINGS, stop_at_step_3) is None
    execute(cut, place, SETTINGS)
    assert cut.result()["training"]["resumed"]
    assert cut.result()["training"]["weights"] == result["training"]["weights"]
    assert cut.result()["budget"] == result["budget"]


def test_full_finetuning_has_nothing_to_extract(spec, tmp_path):
    changes = {"method": "full_finetuning", "until": "extraction"}
    with pytest.raises(RunError, match="no adapter to extract; run it until training or evaluation"):
        run_to_end(workspace(tmp_path), spec.with_changes(changes))


def test_stop_and_resume_gives_the_numbers_of_an_uninterrupted_run(spec, tmp_path):
    place = workspace(tmp_path)
    whole = run_to_end(place, spec).result()
    run = create_run(place, spec)

    def stop_at_step_3(status):
        if status.stage == "fine-tuning" and status.done == 3:
            run.file("stop").touch()

    assert execute(run, place, SETTINGS, stop_at_step_3) is None
    assert run.status().state == "stopped"
    assert max(m["step"] for m in run.metrics()) == 3
    execute(run, place, SETTINGS)
    assert run.status().state == "done"
    assert run.result()["training"]["resumed"]
    assert same(run.result()) == same(whole)
    assert [m["step"] for m in run.metrics()] == list(range(9))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["sensitivity", "fine-tuning", "evaluation"])
def test_kill_9_resumes_to_the_same_numbers(spec, tmp_path, moment):
    place = workspace(tmp_path)
    whole = run_to_end(workspace(tmp_path / "whole"), spec).result()
    run = create_run(place, spec)
    killer = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from paraknow_core.paths import workspace\n"
        "from paraknow_core.pipeline import execute\n"
        "from paraknow_core.runs.folder import RunFolder\n"
        "from paraknow_core.settings import Settings\n"
        "def kill(status):\n"
        f"    if status.stage == {moment!r} and status.done >= 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "execute(RunFolder(Path(sys.argv[1])), workspace(sys.argv[2]),"
        " Settings(threads=1, checkpoint_seconds=0), kill)\n"
    )
    child = subprocess.run([sys.executable, "-c", killer, run.path, place.root], cwd=PROJECT_ROOT, check=False)
    assert child.returncode == -signal.SIGKILL
    assert run.status().state == "lost"
    lines_before = run.file("events.jsonl").read_bytes()
    execute(run, place, SETTINGS)
    assert run.status().state == "done"
    assert run.file("events.jsonl").read_bytes().startswith(lines_before)
    assert same(run.result()) == same(whole)
    if moment == "fine-tuning":
        assert run.result()["training"]["resumed"]


@pytest.mark.slow
def test_sigterm_saves_and_stops(spec, tmp_path):
    place = workspace(tmp_path)
    run = create_run(place, spec.with_changes({"finetuning.max_steps": 10_000, "finetuning.validations": 0}))
    child = subprocess.Popen(
        [sys.executable, "-m", "paraknow_core", "run", str(run.path)],
        cwd=PROJECT_ROOT,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PARAKNOW_WORKSPACE": str(place.root)},
    )
    try:
        deadline = time.monotonic() + 120
        while not run.metrics() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert run.metrics(), run.log_tail()
        child.send_signal(signal.SIGTERM)
        child.wait(60)
    finally:
        child.kill()
    assert run.status().state == "stopped"
    assert list(run.file("checkpoints").glob("checkpoint-*/complete"))


@pytest.mark.slow
def test_the_exported_adapter_scores_the_same_with_plain_peft(spec, tmp_path):
    run = run_to_end(workspace(tmp_path), spec)
    script = (
        "import json, sys, torch\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "student, adapter, predictions = sys.argv[1:]\n"
        "tokenizer = AutoTokenizer.from_pretrained(student)\n"
        "model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)\n"
        "model = PeftModel.from_pretrained(model, adapter).eval()\n"
        "for line in open(predictions):\n"
        "    p = json.loads(line)\n"
        "    text = f'<|user|>\\n{p[\"prompt\"]}\\n\\n<|assistant|>\\n'\n"
        "    ids = tokenizer(text, return_tensors='pt').input_ids\n"
        "    out = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False, pad_token_id=2)\n"
        "    print(json.dumps([tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True), p['output']]))\n"
    )
    out = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            script,
            spec.student.source,
            run.file("adapter"),
            run.file("predictions.jsonl"),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    ).stdout.splitlines()
    pairs = [json.loads(line) for line in out if line.startswith("[")]
    assert len(pairs) == 6
    for theirs, ours in pairs:
        assert theirs.strip() == ours.strip()


def test_leftovers_in_a_models_folder_are_told_by_the_run(spec, tiny, tmp_path):
    student = shutil.copytree(tiny("llama"), tmp_path / "student")
    (student / "adapter_config.json").write_text("{}")
    changes = {"student.source": str(student), "until": "sensitivity", "sensitivity.samples": 1}
    run = run_to_end(workspace(tmp_path), spec.with_changes(changes))
    told = [w for w in run.result()["warnings"] if "adapter_config.json lies beside the model's weights" in w]
    assert len(told) == 1 and told[0] in [event.get("message") for event in run.events()]


def test_a_student_that_cannot_be_loaded_is_told_before_the_teacher_is_measured(spec, tiny, tmp_path):
    student = shutil.copytree(tiny("llama"), tmp_path / "student")
    (student / "tokenizer_config.json").write_text("{")
    place = workspace(tmp_path)
    with pytest.raises(ModelError, match="the tokenizer cannot be loaded"):
        execute(create_run(place, spec.with_changes({"student.source": str(student)})), place, SETTINGS)
    assert not place.sensitivity.exists() or not list(place.sensitivity.iterdir())


def test_runs_share_sensitivity_and_references(spec, tmp_path):
    place = workspace(tmp_path)
    run_to_end(place, spec)
    stores, references = list(place.sensitivity.iterdir()), list(place.evaluations.iterdir())
    run_to_end(place, spec.with_changes({"factorisation.rank": 2, "mapping": {"strategy": "last"}}))
    run_to_end(place, spec.with_changes({"method": "default_lora"}))
    assert (list(place.sensitivity.iterdir()), list(place.evaluations.iterdir())) == (stores, references)
    run_to_end(place, spec.with_changes({"sensitivity.samples": 3, "until": "sensitivity"}))
    assert len(list(place.sensitivity.iterdir())) == 2


def test_changed_weights_are_never_served_from_the_cache(spec, tmp_path):
    from tests.tiny_models import edit_weights

    teacher = tmp_path / "teacher"
    shutil.copytree(spec.teacher.source, teacher)
    place = workspace(tmp_path / "place")
    changed = spec.with_changes({"teacher.source": str(teacher), "until": "sensitivity"})
    before = run_to_end(place, changed).result()["sensitivity"]["key"]
    stamp = (teacher / "model.safetensors").stat()
    edit_weights(teacher, lambda tensors: {name: tensor * 1.01 for name, tensor in tensors.items()})
    os.utime(teacher / "model.safetensors", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same size, same time
    after = run_to_end(place, changed).result()["sensitivity"]["key"]
    assert before != after


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"factorisation.rank": 64}, ShapeError, "rank 64 does not fit"),
        ({"teacher.source": "./nowhere"}, ModelError, "no such folder"),
        ({"sensitivity.samples": 99}, DataError, "99 seed samples"),
        ({"task.source": "none.jsonl"}, DataError, "none.jsonl"),
        ({"mapping": {"strategy": "manual", "layers": [0, 9]}}, ShapeError, "layer 9 does not exist"),
        ({"extraction.origin": ["gate"], "student.source": "gpt2"}, ShapeError, "no module of these roles"),
        ({"finetuning.learning_rate": 10, "factorisation.lora_alpha": 1e6}, NumericError, "lower"),
    ],
)
def test_mistakes_end_a_run_with_a_sentence(spec, tmp_path, tiny, changes, error, words):
    if changes.get("student.source") == "gpt2":
        changes = {**changes, "student.source": tiny("gpt2")}
    place = workspace(tmp_path)
    run = create_run(place, spec.with_changes(changes))
    with pytest.raises(error) as caught:
        execute(run, place, SETTINGS)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert run.status().state == "failed"
    assert words in run.status().message


def with_a_long_one(folder, split):
    """Write a task of three files, one of which holds an example beyond every limit here."""
    folder.mkdir()
    for name, count in (("train", 12), ("validation", 3), ("test", 5)):
        pairs = [(f"{name} {i}?", f"#### {i}") for i in range(count)]
        pairs.insert(1, (f"{name} " + "x" * 200, "#### 1")) if name == split else None
        lines = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in pairs]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return str(folder)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_what_is_too_long_is_told_before_anything_costly(spec, tmp_path, split):
    place = workspace(tmp_path)
    run = create_run(place, spec.with_changes({"task.source": with_a_long_one(tmp_path / "data", split)}))
    with pytest.raises(DataError, match="example .*the limit is 64.*too long for the (student|teacher)"):
        execute(run, place, SETTINGS)
    events = [json.loads(line) for line in run.file("events.jsonl").read_text().splitlines()]
    assert [event["stage"] for event in events if event["event"] == "stage"] == ["prepare"]


def test_what_is_too_long_is_left_out_and_counted(spec, tmp_path):
    place = workspace(tmp_path)
    data = with_a_long_one(tmp_path / "data", "train")
    with_a_long_one(tmp_path / "more", "test")
    (tmp_path / "more" / "test.jsonl").rename(tmp_path / "data" / "test.jsonl")
    changes = {"task.source": data, "task.too_long": "leave_out", "finetuning.max_steps": 1, "sensitivity.samples": 3}
    result = run_to_end(place, spec.with_changes(changes)).result()
    assert result["task"]["left_out"] == {"train": 1, "validation": 0, "test": 1, "seed samples": 0}
    assert result["task"]["sizes"] == {"train": 12, "validation": 3, "test": 5}
    assert any("left out as too long for the limit: 1 of train, 1 of test" in said for said in result["warnings"])
    assert result["scores"][0]["n"] == result["references"]["student"][0]["n"] == 5
    short = with_a_long_one(tmp_path / "short", "none")  # the same task without them: the same numbers
    other = run_to_end(place, spec.with_changes(changes | {"task.source": short, "task.too_long": "refuse"})).result()
    assert other["sensitivity"]["key"] == result["sensitivity"]["key"]
    assert same(other) | {"fingerprints": 0} == same(result) | {"fingerprints": 0}
    assert "left_out" not in other["task"]


def test_a_token_without_a_row_is_told_before_anything_costly(spec, tmp_path, tiny):
    """For the teacher as for the student, whichever reads it first."""
    from transformers import AutoTokenizer

    for who in ("teacher", "student"):
        folder = tmp_path / who
        shutil.copytree(getattr(spec, who).source, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(["<|assistant|>"], special_tokens=True)
        tokenizer.save_pretrained(folder)
        place = workspace(tmp_path / f"place {who}")
        run = create_run(place, spec.with_changes({f"{who}.source": str(folder)}))
        with pytest.raises(ModelError, match=rf"^{who} .*token '<\|assistant\|>' \(id 259\) of example .* has no row"):
            execute(run, place, SETTINGS)
        assert run.status().stage == "prepare"


def test_a_model_that_has_learnt_the_data_scores_1_behind_a_think_block(spec, tmp_path):
    """One definition of the answer from labels to scores; the clock of its template stands, and the record says so."""
    from transformers import AutoTokenizer

    folder = tmp_path / "student"
    shutil.copytree(spec.student.source, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{{ strftime_now('%Y') }}\n{% for m in messages %}{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
        "<think>\n\n</think>\n\n{% endif %}{{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}"
        "assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    data = tmp_path / "data.jsonl"
    pair = '{{"messages": [{{"role": "user", "content": "say {}"}}, {{"role": "assistant", "content": "ab"}}]}}\n'
    data.write_text("".join(pair.format(letter) for letter in "abcdefghijklmnopqrstuvwx"))
    changes = {
        "student.source": str(folder),
        "task.source": str(data),
        "task.template": "chat",
        "method": "default_lora",
        "task.max_length": 100,
        "finetuning.max_steps": 60,
        "finetuning.learning_rate": 0.02,
        "factorisation.rank": 8,
        "factorisation.lora_alpha": 32.0,
    }
    run = run_to_end(workspace(tmp_path / "place"), spec.with_changes(changes))
    assert [(s["scorer"], s["value"]) for s in run.result()["scores"]] == [("exact_match", 1.0), ("rouge_l", 1.0)]
    assert run.result()["training"]["last_loss"] < 0.1
    assert run.result()["task"]["date"] == "2024-07-26"
    said = " ".join(run.result()["warnings"])
    assert "asks for the date; it is told 2024-07-26" in said
    assert "writes '<think>" in said
