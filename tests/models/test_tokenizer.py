"""Vocabularies in the forms they come in, and their alignment."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paraknow_core.errors import ModelError
from paraknow_core.models.source import ModelSource
from paraknow_core.models.tokenizer import align_tokens, tokenizer_identity, vocabulary


@pytest.fixture
def folder_with(tmp_path):
    """Return `folder_with(**files) -> ModelSource`; file names have `_` for the dot."""

    def make(**files) -> ModelSource:
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name.replace("__", ".")).write_text(text, encoding="utf-8")
        return ModelSource("mine", "local", tmp_path)

    return make


def test_a_tiny_model_has_the_tokens_its_tokenizer_has(tiny):
    from transformers import AutoTokenizer

    folder = tiny("llama", extra_tokens=("one", 'qu"ote\\'))
    tokens = vocabulary(ModelSource("mine", "local", folder))
    assert tokens == AutoTokenizer.from_pretrained(folder).get_vocab()
    identity = tokenizer_identity(ModelSource("mine", "local", folder))
    assert (identity.kind, identity.size, len(identity.sha256)) == ("BPE", 261, 64)


def test_a_list_vocabulary_counts_positions(folder_with):
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["é▁", -1.5], ["b", -2]]}
    added = [{"id": 3, "content": "<new>", "special": True}, {"id": 2, "content": "b"}]
    source = folder_with(tokenizer__json={"added_tokens": added, "model": model})
    assert vocabulary(source) == {"<unk>": 0, "é▁": 1, "b": 2, "<new>": 3}
    assert tokenizer_identity(source).kind == "Unigram"


def test_vocab_json_with_added_tokens(folder_with):
    source = folder_with(vocab__json={"a": 0, "b": 1}, added_tokens__json={"<x>": 2}, merges__txt="a b")
    assert vocabulary(source) == {"a": 0, "b": 1, "<x>": 2}
    assert tokenizer_identity(source).size == 3


def test_a_model_without_a_tokenizer(folder_with):
    assert tokenizer_identity(folder_with()) is None
    with pytest.raises(ModelError, match="mine: has no tokenizer"):
        vocabulary(folder_with())


def test_only_sentencepiece(folder_with):
    source = folder_with(tokenizer__model="x")
    assert (tokenizer_identity(source).kind, tokenizer_identity(source).size) == ("sentencepiece", None)
    with pytest.raises(ModelError, match=r"only in tokenizer\.model"):
        vocabulary(source)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "nonsense",
        '{"model": {"vocab": {"a": 0}',
        '{"model": {}}',
        '{"model": {"vocab": 3}}',
        '{"model": {"vocab": {"a": "0"}}}',
        '{"model": {"vocab": {"a": -1}}}',
        '{"model": {"vocab": {"a": true}}}',
        '{"added_tokens": [{"id": 1}], "model": {"vocab": {}}}',
        '{"added_tokens": 3, "model": {"vocab": {}}}',
        '{"model": {"vocab": [[]]}}',
        '{"model": {"vocab": [3]}}',
        '{"model": 3}',
        "[" * 100_000,
        '{"a":' * 50_000,
    ],
)
def test_a_damaged_tokenizer_is_one_sentence(folder_with, content):
    with pytest.raises(ModelError, match=r"^mine: tokenizer\.json"):
        vocabulary(folder_with(tokenizer__json=content))


def test_a_damaged_vocab_json(folder_with):
    with pytest.raises(ModelError, match=r"vocab\.json is not a JSON object"):
        vocabulary(folder_with(vocab__json="[1]"))


def test_alignment_by_hand():
    aligned = align_tokens({"a": 4, "b": 1, "c": 0}, {"b": 0, "x": 1, "a": 2})
    assert aligned.student_ids.tolist() == [0, 2] and aligned.teacher_ids.tolist() == [1, 4]
    assert (aligned.shared, aligned.identical) == (2, False)
    assert align_tokens({}, {"a": 0}).shared == 0


def test_the_same_tokens_under_other_ids_are_not_identical():
    assert not align_tokens({"a": 0, "b": 1}, {"a": 1, "b": 0}).identical


_TOKENS = st.dictionaries(st.text("abc", max_size=3), st.integers(0, 50), max_size=12)


@given(_TOKENS, _TOKENS)
def test_alignment_agrees_with_two_loops(teacher, student):
    aligned = align_tokens(teacher, student)
    expected = sorted((s, t) for a, t in teacher.items() for b, s in student.items() if a == b)
    assert list(zip(aligned.student_ids.tolist(), aligned.teacher_ids.tolist(), strict=True)) == expected
    assert aligned.identical == (teacher == student)
