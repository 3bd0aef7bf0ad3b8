"""Fixtures of the task tests: a tiny model with its tokenizer, small files, the shared real data."""

import json
from pathlib import Path

import pytest
from hypothesis import settings

from paraknow_core.tasks.task import Example, Message, Task
from tests.tiny_models import build_tiny, build_tokenizer

settings.register_profile("no deadline", deadline=None)  # first calls import libraries
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def tiny():
    """Return (family -> (model, tokenizer)), built once each."""
    import tempfile

    from transformers import AutoModelForCausalLM, AutoTokenizer

    built = {}
    with tempfile.TemporaryDirectory() as place:

        def get(family: str):
            if family not in built:
                folder = build_tiny(family, Path(place) / family)
                model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
                built[family] = model, AutoTokenizer.from_pretrained(folder)
            return built[family]

        yield get


@pytest.fixture
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file: text as it is, lists as JSON lines."""

    def put(name: str, content: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(json.dumps(line) + "\n" for line in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


def ask(question: str, answer: str, name: str = "e", choices: tuple[str, ...] = ()) -> Example:
    return Example(name, (Message("user", question), Message("assistant", answer)), choices)


def chat(question: str, answer: str, **more: object) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def make_task(examples, scorers=("exact_match",), **options) -> Task:
    splits = {"train": tuple(examples), "validation": (), "test": tuple(examples)}
    return Task("mini", "Mini", splits, tuple(scorers), **{"max_length": 128, "max_new_tokens": 8, **options})


class Reading:
    """Notes the size (rows, tokens) of every forward pass of a model inside the `with` block."""

    def __init__(self, model):
        self.model, self.passes = model, []

    def __enter__(self):
        def note(_module, _args, inputs):
            self.passes.append(tuple(inputs["input_ids"].shape))

        self.hook = self.model.register_forward_pre_hook(note, with_kwargs=True)
        return self.passes

    def __exit__(self, *_):
        self.hook.remove()
