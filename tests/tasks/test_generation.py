"""Greedy generation against a plain loop without cache, against transformers, and alone against in a batch."""

import pytest
import torch

from paraknow_core.models.load import load_model
from paraknow_core.models.source import resolve_model
from paraknow_core.tasks.generation import (
    CACHE_BYTES,
    answer_text,
    context_limit,
    end_tokens,
    generate,
    keeps_logits,
    rows_at_once,
)
from tests.marking import mostly_slow
from tests.tasks.conftest import Reading
from tests.tiny_models import FAMILIES, build_tiny

PROMPTS = [[1, 70, 71, 72], [1], [1, 9, 8, 7, 6, 5, 4, 3, 9, 10, 11, 12], [5, 200], [1, 30, 31], [1, 99, 98, 97, 96]]


def plain_loop(model, prompt, most, limit, ends):
    tokens = list(prompt)
    while len(tokens) < limit and len(tokens) - len(prompt) < most:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax())
        if token in ends:
            return tokens[len(prompt) :], "end"
        tokens.append(token)
    return tokens[len(prompt) :], "max_new_tokens" if limit - len(prompt) >= most else "context"


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, "llama", "gpt2", "gemma2", "gpt_neox"))
def test_batches_equal_a_plain_loop(tiny, family):
    model, _ = tiny(family)
    free = [tokens for tokens, _ in (plain_loop(model, p, 12, 40, set()) for p in PROMPTS)]
    ends = {free[0][3], free[3][1]}  # tokens that some rows really write, so that rows end at different times
    wanted = [plain_loop(model, prompt, 12, 20, ends) for prompt in PROMPTS]
    assert {reason for _, reason in wanted} >= {"end"}
    for size in (1, len(PROMPTS)):
        made = []
        for start in range(0, len(PROMPTS), size):
            made += generate(model, PROMPTS[start : start + size], max_new_tokens=12, limit=20, ends=ends)
        assert [(list(answer.tokens), answer.stopped) for answer in made] == wanted


def test_the_same_tokens_as_transformers(tiny):
    model, _ = tiny("llama")
    made = generate(model, PROMPTS, max_new_tokens=10, limit=100, ends={2})
    for prompt, answer in zip(PROMPTS, made, strict=True):
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=10,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=2,
        )
        tokens = out[0, len(prompt) :].tolist()
        assert list(answer.tokens) == (tokens[: tokens.index(2)] if 2 in tokens else tokens)


def test_sampling_settings_of_the_model_are_not_used(tiny, recwarn):
    model, _ = tiny("llama")
    before = generate(model, PROMPTS, max_new_tokens=6, limit=100, ends=set())
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, top_k=2)
    assert generate(model, PROMPTS, max_new_tokens=6, limit=100, ends=set()) == before
    assert not recwarn.list


def test_limits(tiny):
    model, _ = tiny("llama")
    short, long = generate(model, [[1, 5], [1, *range(50, 66)]], max_new_tokens=4, limit=19, ends=set())
    assert (len(short.tokens), short.stopped) == (4, "max_new_tokens")
    assert (len(long.tokens), long.stopped) == (2, "context")
    (exact,) = generate(model, [[1, 5]], max_new_tokens=4, limit=6, ends=set())
    assert (len(exact.tokens), exact.stopped) == (4, "max_new_tokens")
    (full,) = generate(model, [[1, 5]], max_new_tokens=4, limit=2, ends=set())
    assert (full.tokens, full.stopped) == ((), "context")


def test_end_tokens_of_every_place(tiny):
    model, tokenizer = tiny("llama")

    class Config:
        eos_token_id = [7, 8]

    class Other:
        config, generation_config = Config(), None

    assert end_tokens(Other(), tokenizer) == {2, 7, 8}
    assert end_tokens(model, tokenizer) == {2}


def test_context_limit_and_saved_logits(tiny):
    model, _ = tiny("gpt2")
    assert context_limit(model, 2048) == 128
    assert context_limit(model, 50) == 50
    assert keeps_logits(model)


def test_answer_text_ends_at_the_next_turn(tokenizer):
    tokens = tokenizer("  12 \n<|user|>\nnext <|assistant|> 13", add_special_tokens=False)["input_ids"]
    assert answer_text(tokenizer, [*tokens, 2], "tulu") == "12"
    assert answer_text(tokenizer, tokens, "plain").endswith("13")
    assert answer_text(tokenizer, [], "tulu") == ""


def test_small_models_write_more_answers_at_once_by_their_size_alone(tiny):
    model, _ = tiny("llama")
    size = model.config
    a_token = 2 * 4 * size.num_hidden_layers * size.num_key_value_heads * size.head_dim
    rows = rows_at_once(model, 100, 32)
    assert rows * 100 * a_token <= CACHE_BYTES < (rows + 1) * 100 * a_token
    assert rows_at_once(model, 10**9, 32) == 32
    assert rows_at_once(torch.nn.Linear(1, 1), 1, 32) == 32
    assert rows_at_once(tiny("gpt2")[0], 100, 1) > 1  # its config has other names for its sizes


SHARED = [1, *range(100, 130)]


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, "llama", "gpt2", "gemma2", "gpt_neox"))
def test_what_all_prompts_begin_with_is_read_once(tiny, family):
    model, _ = tiny(family)
    prompts = [SHARED + prompt for prompt in PROMPTS]
    free = [tokens for tokens, _ in (plain_loop(model, p, 12, 60, set()) for p in prompts)]
    ends = {free[0][3], free[3][1]}
    wanted = [plain_loop(model, prompt, 12, 46, ends) for prompt in prompts]
    with Reading(model) as made:
        answers = generate(model, prompts, max_new_tokens=12, limit=46, ends=ends)
    assert [(list(answer.tokens), answer.stopped) for answer in answers] == wanted
    assert made[:2] == [(1, 31), (6, max(map(len, PROMPTS)))]


def test_prompts_that_are_equal_or_share_little(tiny):
    model, _ = tiny("llama")
    for prompts, passes in (([SHARED] * 3, [(1, 30), (3, 1)]), (PROMPTS[2:3], [(1, 12)]), (PROMPTS, [(6, 12)])):
        wanted = [plain_loop(model, prompt, 1, 60, set())[0] for prompt in prompts]
        with Reading(model) as made:
            answers = generate(model, prompts, max_new_tokens=1, limit=60, ends=set())
        assert [list(answer.tokens) for answer in answers] == wanted
        assert made == passes


@pytest.mark.parametrize("window", [8, 48, 49])
def test_a_sliding_window_may_count_what_fills_up(window, tmp_path):
    model = load_model(resolve_model(str(build_tiny("mistral", tmp_path, sliding_window=window))))
    with torch.no_grad():  # large enough that a token more or less gives other answers
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1)
    prompts = [SHARED + prompt for prompt in PROMPTS]
    wanted = [plain_loop(model, prompt, 5, 60, set())[0] for prompt in prompts]
    with Reading(model) as made:
        answers = generate(model, prompts, max_new_tokens=5, limit=60, ends=set())
    assert [list(answer.tokens) for answer in answers] == wanted
    assert made[0] == ((1, 31) if window > 43 + 5 else (6, 43))
