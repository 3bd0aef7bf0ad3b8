"""A hub token stays in the environment: nothing that is computed, shown or kept repeats it."""

import os
import time

import pytest

from paraknow_core.engines.service import Service
from paraknow_core.paths import Workspace
from paraknow_core.spec import TaskSpec
from paraknow_core.workbench import desk, playground
from paraknow_core.workbench.desk import serve as desk_serve
from paraknow_core.workbench.desk.requests import TaskExamples
from paraknow_core.workbench.playground.protocol import Asked, Slot, Turn

TOKEN = "hf_" + "Z9y8X7w6V5u4T3s2R1q0" * 2
SPEC = """
name: secrets
until: extraction
student: {source: "bundled:stranger"}
sensitivity: {samples: 1}
factorisation: {rank: 2}
task: {sizes: {train: 4, validation: 2, test: 2}}
"""


def wait(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_token_in_the_environment_is_nowhere_in_the_workspace(workspace, run_cli, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    (tmp_path / "spec.yaml").write_text(SPEC)
    runs = [
        run_cli("run", tmp_path / "spec.yaml"),
        run_cli("inspect", "no-such-owner/no-such-model"),
        run_cli("run", tmp_path / "spec.yaml", "--offline", "--json"),
    ]
    assert runs[0].returncode == 0, runs[0].stderr
    place = Workspace(workspace.root)
    slot = Slot(source="bundled:kin")
    try:
        playground.ask(place, "load", slot, Slot(source="no-such-owner/no-such-model"))
        wait(lambda: playground.holding(place, slot).state == "loaded")
        name = playground.begin(place, Asked(slots=[slot], turns=[Turn(content="2 + 2?")], max_new_tokens=4))
        wait(lambda: not playground.generation(place, name).active)
        assert playground.generation(place, name).columns[slot.key].tokens
    finally:
        playground.service(place).stop(wait_s=20)
    monkeypatch.setattr(Service, "start", lambda _self: None)
    desk.ask(place, TaskExamples(task=TaskSpec(source="hub:no-such-owner/no-such-set"), split="test"))
    for question in (desk.questions.desk_folder(place) / "questions").glob("*.json"):
        desk_serve.answer_question(place, question)
    printed = "".join(done.stdout + done.stderr for done in runs)
    assert TOKEN not in printed
    files = [path for path in workspace.root.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert os.environ["HF_TOKEN"] == TOKEN
