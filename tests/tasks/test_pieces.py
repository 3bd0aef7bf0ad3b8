"""The text behind each token: joined it is the example; special tokens and parts of characters have their names."""

import pytest

from paraknow_core.models.source import resolve_model
from paraknow_core.models.tokenizer import load_tokenizer
from paraknow_core.tasks.pieces import marks, token_texts
from paraknow_core.tasks.task import Example, Message
from paraknow_core.tasks.templates import encode, render, windows

TALK = Example("a", (Message("user", "Wie viele Äpfel? 🍎\tJa"), Message("assistant", "3 + 4 = 7\n#### 7")))


@pytest.fixture(scope="module")
def bundled():
    return load_tokenizer(resolve_model("bundled:teacher"))


@pytest.mark.parametrize("template", ["tulu", "plain"])
def test_the_pieces_are_the_example(bundled, template):
    encoded = encode(TALK, template, bundled, 10_000)
    texts = token_texts(TALK, template, bundled, encoded.input_ids)
    assert len(texts) == len(encoded.input_ids)
    rendered = render(TALK, template, bundled)
    special = {index for index, token in enumerate(encoded.input_ids) if token in marks(bundled)}
    inside = "".join(text for index, text in enumerate(texts) if index not in special)
    expected = rendered.prompt + rendered.answer
    for name in {texts[index] for index in special}:
        expected = expected.replace(name, "")
    # A token that is the second part of a character is shown by its own name; all else is the text itself.
    for piece in expected.split("🍎"):
        assert piece.strip("Ä") in inside or "Ä" in piece
    assert all(texts)
    assert texts[0] == bundled.bos_token
    assert texts[-1] == bundled.eos_token


def test_windows_of_a_text_have_pieces_too(bundled):
    text = Example("t", text="There are 12 nuts in a box. " * 20)
    window = windows([text], bundled, 32)[1]
    texts = token_texts(text, "plain", bundled, window.input_ids)
    assert len(texts) == len(window.input_ids)
    assert "".join(texts[1:]).strip() in text.text + text.text
