"""What a cached score of an untouched model is kept under: all that its numbers depend on."""

import json
import shutil

import pytest

from paraknow_core.settings import Settings
from paraknow_core.training import evaluation
from paraknow_core.training.evaluation import reference_key
from tests.tiny_models import edit_config


@pytest.fixture
def key_of(make_context, tiny, tmp_path):
    """Return `key_of(change, changes, **settings)`: the key of a student's scores once its folder was changed."""
    folder = shutil.copytree(tiny("llama"), tmp_path / "student")

    def get(change=None, changes=None, **settings):
        if change:
            change(folder)
        context = make_context(folder, {"student.source": str(folder), **(changes or {})})
        context.settings = Settings(**{"threads": 1, "dtype": "float32", **settings})
        return reference_key(context, context.student)

    return get


def generation_config(**values):
    return lambda folder: (folder / "generation_config.json").write_text(json.dumps(values))


def chat_template(folder):
    (folder / "chat_template.jinja").write_text("{{ messages }}")


def tokenizer_config(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_prefix_space": True}))


@pytest.mark.parametrize(
    "change",
    [
        generation_config(eos_token_id=[2, 70]),
        generation_config(eos_token_id=70),
        lambda folder: edit_config(folder, eos_token_id=71),
        lambda folder: edit_config(folder, rope_scaling={"rope_type": "linear", "factor": 2.0}),
        chat_template,
        tokenizer_config,
    ],
    ids=["more ends", "another end", "end token of the config", "positions", "template", "tokenizer"],
)
def test_a_file_that_changes_the_numbers_changes_the_key(change, key_of):
    assert key_of() != key_of(change)


@pytest.mark.parametrize("changes", [{"task.max_new_tokens": 5}, {"task.max_length": 99}, {"task.template": "plain"}])
def test_a_spec_that_changes_the_numbers_changes_the_key(changes, key_of):
    assert key_of() != key_of(changes=changes)


def test_number_format_and_libraries_change_the_key(key_of, monkeypatch):
    first = key_of()
    assert key_of(dtype="bfloat16") != first
    assert key_of() == first
    monkeypatch.setattr(evaluation, "version", lambda package: f"{package} 0")
    assert key_of() != first


def test_what_changes_no_number_keeps_the_key(key_of):
    first = key_of(generation_config(eos_token_id=2))
    assert key_of(generation_config(eos_token_id=2, temperature=0.1, do_sample=True, repetition_penalty=2.0)) == first
    assert key_of(changes={"factorisation.rank": 2, "seed": 5}) == first
