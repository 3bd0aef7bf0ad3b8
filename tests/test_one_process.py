"""Many runs in one process: each as if it were alone, and nothing remembered that has changed since."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paraknow_core import context as context_module
from paraknow_core.context import Context, Model
from paraknow_core.errors import ModelError
from paraknow_core.models import fingerprint
from paraknow_core.paths import PROJECT_ROOT, workspace
from paraknow_core.pipeline import execute
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.settings import Settings
from tests.tiny_models import edit_weights

SETTINGS = Settings(threads=1)
OTHERS = (
    {},
    {"method": "pissa", "task.template": "plain", "seed": 3, "injection.mode": "residual"},
    {"method": "default_lora", "task.max_length": 40, "finetuning.seed": 2, "factorisation.rank": 2},
)


@pytest.fixture
def spec(make_context, tiny):
    return make_context(tiny("llama"), {"finetuning.batch_size": 5, "finetuning.max_steps": 4}).spec


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once, so that what a process remembers of them is used."""
    moment = time.time
    monkeypatch.setattr(fingerprint.time, "time", lambda: moment() + 60)


def numbers(run: Path) -> dict:
    """What a run has computed, digit by digit; not how long it took."""
    result = json.loads((run / "result.json").read_text())
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    untimed = ("time", "tokens_per_s", "memory_bytes")
    metrics = [{k: v for k, v in line.items() if k not in untimed} for line in lines if line["event"] == "metrics"]
    adapters = [(run / folder / "adapter_model.safetensors").read_bytes() for folder in ("init_adapter", "adapter")]
    for name in ("timings", "peak_memory_bytes"):
        result.pop(name)
    return {"result": result, "metrics": metrics, "adapters": adapters, "text": (run / "predictions.jsonl").read_text()}


@pytest.mark.slow
def test_runs_of_one_process_are_those_of_processes_of_their_own(spec, tmp_path):
    specs = [spec.with_changes(changes) for changes in (*OTHERS, OTHERS[0])]
    together = workspace(tmp_path / "together")
    runs = [create_run(together, one) for one in specs]
    for run in runs:
        execute(run, together, SETTINGS)
    for number, run in enumerate(runs[: len(OTHERS)]):
        alone = workspace(tmp_path / f"alone{number}")
        single = create_run(alone, specs[number])
        command = [sys.executable, "-m", "paraknow_core", "--workspace", str(alone.root), "run", str(single.path)]
        done = subprocess.run(
            [*command, "--threads", "1"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert numbers(run.path) == numbers(single.path)
    assert numbers(runs[-1].path) == numbers(runs[0].path)


@pytest.mark.usefixtures("settled")
def test_an_edited_task_is_read_anew(spec, tmp_path):
    file = Path(shutil.copy(spec.task.source, tmp_path / "task.jsonl"))
    place = workspace(tmp_path / "place")

    def read():
        context = Context(spec.with_changes({"task.source": str(file)}), SETTINGS, place)
        encoded = context.encode(context.task.split("train"), context.student)
        return context.task.fingerprint("train"), [entry.input_ids for entry in encoded]

    before = read()
    assert read() == before
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line["messages"][0]["content"] += "!"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    after = read()
    assert all(one != other for one, other in zip(before, after, strict=True))


@pytest.mark.usefixtures("settled")
def test_a_replaced_model_is_looked_at_anew(spec, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(spec.student.source, tmp_path / "student"))
    source, built = spec.student.model_copy(update={"source": str(folder)}), []
    real = Model._build  # noqa: SLF001
    monkeypatch.setattr(Model, "_build", lambda model: built.append(model) or real(model))
    monkeypatch.setattr(context_module, "_SOUND", context_module.Remembered(2))

    def model():
        return Model(source, SETTINGS, workspace(tmp_path / "place"))

    first = model()
    first.check()
    before = first.fingerprint
    model().check()
    assert len(built) == 1 and model().anatomy is first.anatomy
    edit_weights(folder, lambda tensors: {name: tensor * 1.01 for name, tensor in tensors.items()})
    model().check()
    assert len(built) == 2 and model().anatomy == first.anatomy
    assert model().fingerprint != before
    edit_weights(folder, lambda tensors: dict(list(tensors.items())[1:]))
    for _ in range(2):
        with pytest.raises(ModelError):
            model().check()
