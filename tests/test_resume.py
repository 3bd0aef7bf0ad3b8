"""Runs that go on: with the same data, models and weights as before, or not at all; and after damage and full disks."""

import errno
import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from paraknow_core.errors import ModelError, RunError
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.paths import workspace
from paraknow_core.pipeline import execute
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from paraknow_core.tasks import model_scores
from tests.marking import mostly_slow
from tests.tiny_models import edit_weights

SETTINGS = Settings(threads=1, checkpoint_seconds=0)
STEPS = 6  # four make an epoch: the last step lies within the second one


class Killed(BaseException):
    """Ends a run at once, whatever it is at."""


@pytest.fixture(scope="module", autouse=True)
def small_batches():
    """Several batches of answers, so that an evaluation can be cut off within."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_scores, "evaluate_all", partial(model_scores.evaluate_all, batch_size=2))
        yield


@pytest.fixture(scope="module")
def spec(teacher, tiny, chat_file):
    return RunSpec().with_changes(
        {
            "teacher.source": teacher,
            "student.source": tiny("llama"),
            "task.source": str(chat_file),
            "task.max_length": 64,
            "task.max_new_tokens": 4,
            "task.sizes": {"train": 20, "validation": 4, "test": 6},
            "sensitivity.samples": 2,
            "factorisation.rank": 4,
            "finetuning.batch_size": 5,
            "finetuning.micro_batch_size": 1,
            "finetuning.max_steps": STEPS,
            "finetuning.learning_rate": 0.02,
            "finetuning.validations": 2,
        }
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One workspace, so that sensitivity and references are computed once."""
    return workspace(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def whole(spec, place):
    """A run that nothing has interrupted."""
    run = create_run(place, spec)
    execute(run, place, SETTINGS)
    return run


def cut_off(run: RunFolder, place, stage: str, done: float = 0, settings: Settings = SETTINGS) -> None:
    """Execute a run until it is killed in a stage."""

    def kill(status) -> None:
        if status.state == "running" and status.stage == stage and status.done >= done:
            raise Killed

    with pytest.raises(Killed):
        execute(run, place, settings, kill)


def made(run: RunFolder) -> dict:
    """What must be the same however often a run was interrupted, byte for byte."""
    result = run.result()
    return {
        "adapter": run.file("adapter/adapter_model.safetensors").read_bytes(),
        "initial": run.file("init_adapter/adapter_model.safetensors").read_bytes(),
        "predictions": sorted(run.file("predictions.jsonl").read_text().splitlines()),
        "scores": result["scores"],
        "references": result["references"],
        "fingerprints": result["fingerprints"],
        "weights": result["training"]["weights"],
        "last_loss": result["training"]["last_loss"],
        "last_validation_loss": result["training"]["last_validation_loss"],
        "steps": [m["step"] for m in run.metrics()],
    }


@pytest.mark.parametrize(
    ("stage", "done", "times"),
    mostly_slow(
        [
            ("prepare", 0, 1),
            ("sensitivity", 0, 1),
            ("injection", 0, 1),
            ("fine-tuning", 0, 1),
            ("fine-tuning", 3, 1),
            ("fine-tuning", STEPS, 2),
            ("export", 0, 3),
            ("evaluation", 0, 2),
            ("evaluation", 2, 3),
        ],
        ("sensitivity", 0, 1),
        ("fine-tuning", 3, 1),
        ("export", 0, 3),
        ("evaluation", 2, 3),
    ),
)
def test_a_run_cut_off_anywhere_ends_as_one_that_was_not(spec, place, whole, stage, done, times):
    run = create_run(place, spec)
    for _ in range(times):
        cut_off(run, place, stage, done)
    execute(run, place, SETTINGS)
    assert made(run) == made(whole)
    assert run.result()["warnings"] == []
    assert [path.name for path in run.file("checkpoints").iterdir()] == [f"checkpoint-{STEPS}"]


@pytest.mark.parametrize("stage", ["export", "evaluation"])
def test_a_stop_after_training_trains_no_step_more(spec, place, whole, stage):
    run = create_run(place, spec)

    def stop(status) -> None:
        if status.stage == stage and status.state == "running":
            run.file("stop").touch()

    for _ in range(3):
        assert execute(run, place, SETTINGS, stop) is None
    steps = [event["step"] for event in run.events() if "loss" in event]
    assert steps == list(range(1, STEPS + 1))
    assert run.way_on(stage) == f"training is done, and resume goes on with the {stage}"
    execute(run, place, SETTINGS)
    assert made(run) == made(whole)


def test_a_run_of_an_earlier_version_goes_on_from_its_last_step(spec, place, whole):
    run = create_run(place, spec)
    cut_off(run, place, "evaluation", 2)
    (run.file("checkpoints") / f"checkpoint-{STEPS}" / "complete").write_text("")
    partial = read_json(run.file("partial.json"))
    for key in ("inputs", "warnings"):
        partial.pop(key)
    partial["training"].pop("weights")
    partial["revisions"].pop("task")
    write_json(run.file("partial.json"), partial)
    before = run.file("predictions.jsonl").read_text()
    execute(run, place, SETTINGS)
    assert run.file("predictions.jsonl").read_text().startswith(before)
    assert made(run) == made(whole)


def test_what_an_earlier_version_made_by_training_on_is_made_anew(spec, place, whole):
    run = create_run(place, spec)
    cut_off(run, place, "evaluation", 2)
    saves = run.file("checkpoints")
    shutil.rmtree(saves / f"checkpoint-{STEPS - 1}")
    beyond = saves / f"checkpoint-{STEPS + 1}"
    (saves / f"checkpoint-{STEPS}").rename(beyond)
    (beyond / "complete").write_text("")
    partial = read_json(run.file("partial.json"))
    partial["training"].pop("weights")
    write_json(run.file("partial.json"), partial)
    first = json.loads(run.file("predictions.jsonl").read_text().splitlines()[0])
    run.file("predictions.jsonl").write_text(json.dumps({**first, "output": "of another model"}) + "\n")
    execute(run, place, SETTINGS)
    assert made(run) == made(whole)
    warnings = " ".join(run.result()["warnings"])
    assert "beyond the last step" in warnings
    assert "export and evaluation begin again" in warnings


def test_a_damaged_save_falls_back_to_the_one_before_and_says_so(spec, place, whole):
    run = create_run(place, spec)
    cut_off(run, place, "fine-tuning", 5)
    newest = max(run.file("checkpoints").iterdir())
    assert newest.name == "checkpoint-4"
    os.truncate(newest / "optimizer.pt", 100)
    execute(run, place, SETTINGS)
    assert made(run) == made(whole)
    [warning] = run.result()["warnings"]
    assert warning == "fine-tuning: the save of step 4 is damaged, so it goes on from step 3"
    assert warning in [event.get("message") for event in run.events() if event["event"] == "warning"]


def test_with_no_save_left_training_starts_anew(spec, place, whole):
    run = create_run(place, spec)
    cut_off(run, place, "evaluation", 2)
    for save in run.file("checkpoints").iterdir():
        (save / "adapter_model.safetensors").write_bytes(bytes(100))
    execute(run, place, SETTINGS)
    assert made(run) == made(whole)
    assert "starts again from the first step" in run.result()["warnings"][0]


def test_a_damaged_initial_adapter_begins_anew_with_a_word(spec, place, whole):
    run = create_run(place, spec)
    cut_off(run, place, "fine-tuning", 3)
    os.truncate(run.file("init_adapter/adapter_model.safetensors"), 200)
    execute(run, place, SETTINGS)
    assert made(run) == made(whole)
    assert "initial adapter is damaged" in run.result()["warnings"][0]


def test_a_damaged_export_is_made_again(spec, place, whole):
    run = create_run(place, spec)
    cut_off(run, place, "evaluation", 2)
    os.truncate(run.file("adapter/adapter_model.safetensors"), 200)
    execute(run, place, SETTINGS)
    assert made(run) == made(whole)


@pytest.fixture
def own(spec, tmp_path, chat_file):
    """The spec with data and models of this test's own, which it may replace."""
    for name, source in (("teacher", spec.teacher.source), ("student", spec.student.source)):
        shutil.copytree(source, tmp_path / name)
    shutil.copy(chat_file, tmp_path / "task.jsonl")
    return spec.with_changes(
        {
            "teacher.source": str(tmp_path / "teacher"),
            "student.source": str(tmp_path / "student"),
            "task.source": str(tmp_path / "task.jsonl"),
            "finetuning.max_steps": 3,
            "references": [],
        }
    )


def replace_weights(folder: Path) -> None:
    edit_weights(folder, lambda tensors: {name: tensor * 1.01 for name, tensor in tensors.items()})


def replace_lines(file: Path, which: slice) -> None:
    lines = file.read_text().splitlines()
    lines[which] = [line.replace(" + ", " plus ") for line in lines[which]]
    file.write_text("\n".join(lines))


def add_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


def replace_generation(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": 5}')


REPLACED = {
    "the training examples": lambda root: replace_lines(root / "task.jsonl", slice(None)),
    "the student's weights": lambda root: replace_weights(root / "student"),
    "the teacher's weights": lambda root: replace_weights(root / "teacher"),
    "the student's tokenizer": lambda root: add_template(root / "student"),
    "the teacher's tokenizer": lambda root: add_template(root / "teacher"),
    "the student's generation_config.json": lambda root: replace_generation(root / "student"),
}


@pytest.mark.parametrize("what", REPLACED)
def test_a_resume_with_other_data_or_models_is_refused_and_goes_on_once_they_are_back(own, tmp_path, what):
    place = workspace(tmp_path / "place")
    run = create_run(place, own)
    cut_off(run, place, "fine-tuning", 2)
    kept = tmp_path / "kept"
    for name in ("teacher", "student"):
        shutil.copytree(tmp_path / name, kept / name)
    shutil.copy(tmp_path / "task.jsonl", kept)
    before = read_json(run.file("partial.json"))
    REPLACED[what](tmp_path)
    with pytest.raises(RunError, match="not what this run began with") as refused:
        execute(run, place, SETTINGS)
    assert what in str(refused.value)
    assert "duplicate" in str(refused.value)
    assert run.status().state == "failed"
    assert run.status().message == str(refused.value)
    after = read_json(run.file("partial.json"))
    assert after["fingerprints"] == before["fingerprints"]
    assert after["inputs"] == before["inputs"]
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    for name in ("chat_template.jinja", "generation_config.json"):
        for model in ("teacher", "student"):
            if not (kept / model / name).exists():
                (tmp_path / model / name).unlink(missing_ok=True)
    execute(run, place, SETTINGS)
    assert run.result()["training"]["resumed"]
    assert run.result()["fingerprints"] == before["fingerprints"]


@pytest.mark.parametrize("stage", ["injection", "evaluation"])
def test_data_replaced_after_any_stage_is_refused(own, tmp_path, stage):
    place = workspace(tmp_path / "place")
    run = create_run(place, own)
    cut_off(run, place, stage)
    replace_lines(tmp_path / "task.jsonl", slice(None))
    with pytest.raises(RunError, match="not what this run began with"):
        execute(run, place, SETTINGS)


def test_data_mended_before_anything_was_computed_are_taken(own, tmp_path):
    place = workspace(tmp_path / "place")
    run = create_run(place, own)
    cut_off(run, place, "sensitivity")
    replace_lines(tmp_path / "task.jsonl", slice(None))
    execute(run, place, SETTINGS)
    assert "plus" in run.predictions()[0]["prompt"]


def test_a_teacher_that_a_run_does_not_read_may_change(own, tmp_path):
    place = workspace(tmp_path / "place")
    run = create_run(place, own.with_changes({"method": "default_lora"}))
    cut_off(run, place, "fine-tuning", 2)
    replace_weights(tmp_path / "teacher")
    execute(run, place, SETTINGS)
    assert run.status().state == "done"


def test_weights_replaced_while_a_run_goes_on_are_never_taken_for_the_named_ones(own, tmp_path):
    place = workspace(tmp_path / "place")
    run = create_run(place, own.with_changes({"until": "extraction"}))

    def replace(status) -> None:
        if status.stage == "sensitivity" and not status.message:
            replace_weights(tmp_path / "teacher")

    with pytest.raises(ModelError, match="replaced while they were used"):
        execute(run, place, SETTINGS, replace)
    assert [path for path in place.sensitivity.iterdir() if not path.name.startswith(".")] == []


def test_without_a_word_of_what_it_was_computed_with_a_run_begins_anew(spec, place, whole):
    run = create_run(place, spec)
    cut_off(run, place, "fine-tuning", 3)
    run.file("partial.json").write_text("{")
    execute(run, place, SETTINGS)
    assert made(run) == made(whole)
    assert "partial.json" in run.result()["warnings"][0]
    assert not run.result()["training"]["resumed"]


def test_another_precision_is_refused(spec, place):
    run = create_run(place, spec)
    cut_off(run, place, "fine-tuning", 3)
    with pytest.raises(RunError, match="computes with dtype float32, and here it would go on with bfloat16"):
        execute(run, place, SETTINGS.model_copy(update={"dtype": "bfloat16"}))
    execute(run, place, SETTINGS)


def test_other_versions_are_said_and_both_are_in_the_record(spec, place, monkeypatch):
    run = create_run(place, spec)
    cut_off(run, place, "fine-tuning", 3)
    monkeypatch.setattr("paraknow_core.training.inputs.versions", lambda: {"torch": "99.0"})
    cut_off(run, place, "evaluation")
    execute(run, place, SETTINGS)
    result = run.result()
    [warning] = result["warnings"]
    assert "99.0 now" in warning
    assert [each["versions"]["torch"] == "99.0" for each in result["computed_with"]] == [False, True]


@pytest.mark.parametrize("damage", ["cut", "missing reductions", "totals"])
def test_a_damaged_sensitivity_in_the_cache_is_measured_again(own, tmp_path, damage):
    place = workspace(tmp_path / "place")
    measured = own.with_changes({"until": "sensitivity"})
    first = create_run(place, measured)
    execute(first, place, SETTINGS)
    [store] = place.sensitivity.iterdir()
    file = store / "sensitivity.safetensors"
    if damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "totals":
        (store / "sensitivity.json").write_text('{"modules": {"a"')
    else:
        (store / "reductions.safetensors").unlink()
    second = create_run(place, measured)
    execute(second, place, SETTINGS)
    assert read_json(second.file("sensitivity.json"))["total"] == read_json(first.file("sensitivity.json"))["total"]
    assert any("is damaged" in event.get("message", "") for event in second.events())
    third = create_run(place, measured)
    execute(third, place, SETTINGS)
    assert not any("damaged" in event.get("message", "") for event in third.events())


@pytest.mark.parametrize("damage", ["scores.json", "predictions.jsonl", "odd scores"])
def test_damaged_reference_scores_are_computed_again(spec, place, whole, damage):
    [folder] = place.evaluations.iterdir()
    if damage == "odd scores":
        write_json(folder / "scores.json", {"scores": [3]})
    else:
        os.truncate(folder / damage, 20)
    run = create_run(place, spec.with_changes({"finetuning.max_steps": 0}))
    execute(run, place, SETTINGS)
    assert run.result()["references"] == whole.result()["references"]
    assert any("are damaged" in event.get("message", "") for event in run.events())


@pytest.mark.parametrize(
    ("where", "stage"),
    [
        ("safetensors.torch.save_file", "export"),
        ("paraknow_core.training.checkpoints.sync_tree", "fine-tuning"),
        ("torch.save", "fine-tuning"),
        ("paraknow_core.training.evaluation.append_line", "evaluation"),
        ("paraknow_core.methods.start.write_json", "injection"),
    ],
)
def test_a_disk_that_fills_is_one_sentence_and_the_run_goes_on_later(spec, place, whole, monkeypatch, where, stage):
    run = create_run(place, spec)

    def full(*_, **__):
        if where == "torch.save":  # as it does
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(where, full)
        with pytest.raises(RunError, match="disk: ") as said:
            execute(run, place, SETTINGS)
    assert "\n" not in str(said.value)
    assert f"(stage {stage})" in str(said.value)
    assert (run.status().state, run.status().message) == ("failed", str(said.value))
    execute(run, place, SETTINGS)
    assert made(run) == made(whole)


def test_a_disk_with_no_room_for_the_last_words_still_says_failed(spec, place, monkeypatch):
    run = create_run(place, spec)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(status) -> None:
        if status.stage == "fine-tuning" and status.done == 2:
            monkeypatch.setattr("paraknow_core.files.atomic.secrets.token_hex", full)
            monkeypatch.setattr("paraknow_core.files.json_file.os.write", full)

    with pytest.raises(RunError, match="disk: full"):
        execute(run, place, SETTINGS, fill)
    monkeypatch.undo()
    assert run.status().state == "failed"
    assert "free some space" in run.status().message
