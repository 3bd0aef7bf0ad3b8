"""Fixtures: tiny pairs, a tiny task and contexts over them; everything is built here, nothing is downloaded."""

import json

import pytest

from paraknow_core.context import Context
from paraknow_core.paths import workspace
from paraknow_core.settings import Settings
from paraknow_core.spec import RunSpec
from tests.tiny_models import build_tiny


@pytest.fixture(scope="session")
def chat_file(tmp_path_factory):
    """A tiny task: 40 questions with numbers as answers."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": f"{a} + {b}?"}, {"role": "assistant", "content": f"#### {a + b}"}]}
        for a in range(8)
        for b in range(5)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a function that builds each tiny model once a session."""
    built = {}

    def build(family, **overrides):
        key = (family, repr(sorted(overrides.items())))
        if key not in built:
            built[key] = build_tiny(family, tmp_path_factory.mktemp(family), **overrides)
        return str(built[key])

    return build


@pytest.fixture(scope="session")
def teacher(tiny):
    """A Llama larger than every tiny student: 48 wide, 4 layers."""
    return tiny(
        "llama",
        seed=1,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        tie_word_embeddings=False,
    )


@pytest.fixture(scope="session")
def session_place(tmp_path_factory):
    """One workspace for all contexts, so that the teacher's sensitivity is computed once."""
    return workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def make_context(teacher, chat_file, session_place):
    """Return a function that makes a context from a student folder and dotted changes."""

    def make(student, changes=None, place=session_place, **options):
        spec = RunSpec().with_changes(
            {
                "teacher.source": teacher,
                "student.source": student,
                "task.source": str(chat_file),
                "task.max_length": 64,
                "task.max_new_tokens": 4,
                "task.sizes": {"train": 20, "validation": 4, "test": 6},
                "sensitivity.samples": 4,
                "factorisation.rank": 4,
                "factorisation.lora_alpha": 6.0,
                **(changes or {}),
            }
        )
        return Context(spec, Settings(), place, **options)

    return make
