"""A tiny student, runs with adapters of it, and the playground's loop without its process."""

import gc

import pytest

from paraknow_core.engines.service import Service
from paraknow_core.paths import Workspace
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.playground.protocol import Slot
from paraknow_core.workbench.playground.serve import Loop
from tests.tiny_models import build_tiny


@pytest.fixture(scope="module", autouse=True)
def small_heap():
    """Freeing weights looks for garbage each time: among what these tests make, not in all that was loaded before."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def place(tmp_path, monkeypatch) -> Workspace:
    monkeypatch.setattr(Service, "start", lambda _self: None)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "settings.yaml").write_text("threads: 1\ndevice: cpu\n")
    return Workspace(tmp_path / "cache")


@pytest.fixture(scope="session")
def student(tmp_path_factory) -> str:
    return str(build_tiny("llama", tmp_path_factory.mktemp("models") / "student", tie_word_embeddings=True))


@pytest.fixture
def make_run(place, student):
    """Make a finished run whose adapter changes the student a lot; each seed gives another one.

    With `head` it also changes the tied embedding, and brings the output layer whole, as exported adapters do.
    """

    def made(seed: int, head: bool = False) -> Slot:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        run = create_run(place, RunSpec(name=f"run {seed}").with_changes({"student.source": student}))
        model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
        torch.manual_seed(seed)
        whole = {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]} if head else {}
        targets = {"target_modules": ["q_proj", "down_proj"]} | whole
        changed = get_peft_model(model, LoraConfig(r=2 + seed, init_lora_weights=False, **targets))
        if head:
            with torch.no_grad():
                changed.get_output_embeddings().weight.mul_(-seed)
        changed.save_pretrained(run.file("adapter"), save_embedding_layers=False)
        return Slot(source=student, run=run.id)

    return made


@pytest.fixture
def loop(place, monkeypatch) -> Loop:
    """The loop; `owner` is made to be the living process."""
    owner = ["here", 1.0]
    monkeypatch.setattr("paraknow_core.workbench.playground.protocol._owner", lambda _place: owner)
    return Loop(place, owner)


def work(loop: Loop, steps: int = 10_000) -> int:
    """Let the loop run until nothing is left to do; return how many steps that took."""
    for number in range(steps):
        if not loop.step():
            return number
    return steps
