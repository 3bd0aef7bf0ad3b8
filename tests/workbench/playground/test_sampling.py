"""Choosing tokens and writing them out, against plain computations."""

import math
from collections import Counter

import pytest
import torch

from paraknow_core.errors import NumericError
from paraknow_core.workbench.playground.serve.sampling import Pieces, choose, shortlist
from tests.tiny_models import build_tokenizer


def test_temperature_zero_takes_the_first_of_the_most_likely():
    assert choose(torch.tensor([0.0, 2.0, 2.0]), 0, 1.0, torch.Generator()) == 1


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.8), (1.0, 0.3)])
def test_draws_follow_the_nucleus(temperature, top_p):
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    shares = [math.exp(x / temperature) for x in logits.tolist()]
    shares = [s / sum(shares) for s in shares]
    kept, total = [], 0.0
    for index in sorted(range(4), key=lambda i: -shares[i]):
        if total < top_p:
            kept.append(index)
        total += shares[index]
    generator = torch.Generator().manual_seed(0)
    n = 4000
    drawn = Counter(choose(logits, temperature, top_p, generator) for _ in range(n))
    assert set(drawn) == set(kept)
    whole = sum(shares[i] for i in kept)
    for index in kept:
        expected = shares[index] / whole
        assert abs(drawn[index] / n - expected) < 4.5 * math.sqrt(expected * (1 - expected) / n) + 1e-9


def test_a_model_without_numbers_is_refused():
    for logits in (torch.tensor([0.0, math.nan]), torch.full((3,), -math.inf)):
        with pytest.raises(NumericError, match="NaN"):
            choose(logits, 0, 1.0, torch.Generator())


def test_shortlist_is_the_softmax():
    logits = torch.tensor([0.0, 1.0, 3.0])
    p, top = shortlist(logits, 0, 2)
    whole = sum(math.exp(x) for x in (0, 1, 3))
    assert p == pytest.approx(1 / whole)
    assert [index for index, _ in top] == [2, 1]
    assert [share for _, share in top] == pytest.approx([math.exp(3) / whole, math.exp(1) / whole])


@pytest.mark.parametrize("text", ["plain words, two", "naïve – ☃ 🙂 日本", "\n\n a\tb ", "🙂🙂🙂🙂🙂🙂🙂🙂"])
def test_pieces_add_up_to_the_text_whatever_its_bytes(text):
    tokenizer = build_tokenizer()
    prompt, tokens = tokenizer("before")["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = Pieces(tokenizer, prompt)
    assert "".join(pieces.add(token) for token in tokens) == text


def test_half_a_character_is_held_back_and_looking_ahead_changes_nothing():
    tokenizer = build_tokenizer()
    pieces = Pieces(tokenizer, [1])
    first, *rest = tokenizer("é", add_special_tokens=False)["input_ids"]
    assert pieces.add(first) == ""
    assert pieces.peek(rest[0]) == "é"
    assert pieces.add(rest[0]) == "é"
    assert pieces.peek(tokenizer("a", add_special_tokens=False)["input_ids"][0]) == "a"
