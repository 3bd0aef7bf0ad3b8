"""Rows that begin alike share the reading of it: against each row alone, unpadded, in one pass without a cache."""

import random

import pytest
import torch

from paraknow_core.errors import NumericError
from paraknow_core.tasks import generation, likelihood
from paraknow_core.tasks.likelihood import Row, choice_rows, log_probabilities
from paraknow_core.tasks.model_scores import evaluate
from paraknow_core.tasks.task import Example
from tests.marking import mostly_slow
from tests.tasks.conftest import Reading, ask, make_task
from tests.tasks.test_lengths import KINDS, SWITCH, models, tokens  # noqa: F401 - a fixture
from tests.tasks.test_model_scores import plain_log_prob
from tests.tiny_models import FAMILIES, build_tiny

JAMBA = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "num_experts": 1,
    "vocab_size": 9,
    "pad_token_id": 0,
    "use_mamba_kernels": False,
}
ENDINGS = ("a red cat", "a red cat and its dog", "the sea", "nothing at all, he said")


def questions(count: int = 5) -> list[Example]:
    """Return examples with four choices of several tokens, and prompts of different lengths."""
    asked = ["What did " + "very " * (at % 4) + f"old man {at} see in the morning?" for at in range(count)]
    return [ask(question, ENDINGS[at % 4], f"c{at}", ENDINGS) for at, question in enumerate(asked)]


def rows_of(tokenizer, examples):
    return [row for example in examples for row in choice_rows(example, "tulu", tokenizer, 128)]


def alone(model, rows):
    """Return what is asked of each row, read by itself."""
    return [plain_log_prob(model, [*row.tokens], row.asked[0][0][0] + 1) for row in rows]


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, "llama", "gpt2", "gemma2", "gpt_neox", "opt"))
def test_choices_share_their_prompt_and_equal_each_alone(tiny, family):
    model, tokenizer = tiny(family)
    rows = rows_of(tokenizer, questions())
    wanted = alone(model, rows)
    for size, passes in ((32, 2), (8, 6), (1, 20)):
        with Reading(model) as made:
            found = [total for (total,) in log_probabilities(model, rows, size)]
        assert found == pytest.approx(wanted, rel=1e-6)
        assert len(made) == passes
    with Reading(model) as made:
        log_probabilities(model, rows, 32)
    prompt, rest = made
    assert prompt == (5, max(row.asked[0][0][0] for row in rows))
    assert rest == (20, max(len(row.asked[0]) for row in rows) + 1)  # and the prompt's last token


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_prompts_longer_than_a_sliding_window(family, tmp_path):
    model, tokenizer = loaded(build_tiny(family, tmp_path, sliding_window=8))
    rows = rows_of(tokenizer, questions())
    wanted = alone(model, rows)
    with Reading(model) as made:
        assert [total for (total,) in log_probabilities(model, rows, 32)] == pytest.approx(wanted, rel=1e-6)
    assert len(made) == 2


@pytest.mark.parametrize("name", KINDS)
def test_keys_of_one_rotary_table_never_serve_another(name, models):  # noqa: F811 - the fixture
    model = models(name)
    beginnings = [tokens(count, seed=count) for count in (9, 16, 18, SWITCH + 5)]
    rows = [
        Row(f"{len(start)}", (*start, *end), (tuple((len(start) + at - 1, end[at]) for at in range(len(end))),))
        for start in beginnings
        for end in (tokens(2, seed=1), tokens(3, seed=2))
    ]
    with Reading(model) as made:
        found = [total for (total,) in log_probabilities(model, rows, 8)]
    assert found == pytest.approx(alone(model, rows), abs=1e-3)
    # Whole rows, what is shared, and what follows it: long rows are all of one table of "longrope" alone.
    assert [count for count, _ in made] == ([2, 3, 6] if "longrope" in name else [4, 2, 4])


def test_letters_and_short_prompts_are_read_as_before(tiny):
    model, tokenizer = tiny("llama")
    short = [Row("s", (1, 5, *end), (((1, end[0]), (2, end[1])),)) for end in ((7, 8, 9, 10), (9, 8, 7, 6))]
    letters = rows_of(tokenizer, [ask("Which of them is it?", "A", f"m{at}", ("A", "B")) for at in range(3)])
    others = rows_of(tokenizer, questions(3))[::4]  # of another example each
    for rows in (short, letters, others):
        with Reading(model) as made:
            log_probabilities(model, rows, 8)
        assert [count for count, _ in made] == [len(rows)]


def test_one_call_may_hold_rows_of_both_ways(tiny):
    model, tokenizer = tiny("llama")
    letters = [ask("Which of them is it?", "A", f"m{at}", ("A", "B")) for at in range(3)]
    mixed = [example for pair in zip(letters, questions(3), strict=True) for example in pair]
    rows, told = rows_of(tokenizer, mixed), {}
    with Reading(model) as made:
        found = log_probabilities(model, rows, 32, on_batch=told.update)
    assert [count for count, _ in made] == [3, 3, 12]
    assert [told[index] for index in range(len(rows))] == found
    wanted = [
        plain_log_prob(model, [*r.tokens, token], len(r.tokens))
        for r in rows
        if len(r.asked) > 1
        for ((_, token),) in r.asked
    ]
    assert [value for sums in found if len(sums) > 1 for value in sums] == pytest.approx(wanted, rel=1e-6)
    long = [row for row in rows if len(row.asked) == 1]
    assert [sums[0] for sums in found if len(sums) == 1] == pytest.approx(alone(model, long), rel=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_any_lengths_give_the_same_sums_and_never_more_to_read(tiny, seed, monkeypatch):
    model, _ = tiny("llama")
    chance, rows = random.Random(seed), []
    for at in range(12):
        start = tokens(chance.randint(1, 60), seed=at)
        for number in range(chance.randint(1, 5)):
            end = tokens(chance.randint(1, 30), seed=number)
            asked = tuple((len(start) + place - 1, token) for place, token in enumerate(end))
            rows.append(Row(str(at), (*start, *end), (asked,)))
    size, read = chance.choice((4, 7, 64)), []
    for worth in (generation.WORTH, 2.0):
        monkeypatch.setattr(generation, "WORTH", worth)
        with Reading(model) as made:
            found = [total for (total,) in log_probabilities(model, rows, size)]
        assert found == pytest.approx(alone(model, rows), rel=1e-6)
        read.append(sum(count * width for count, width in made))
    assert read[0] < read[1]


def test_memory_bounds_what_is_cached_and_the_logits(tiny, monkeypatch):
    model, tokenizer = tiny("llama")
    rows = rows_of(tokenizer, questions())
    wanted = pytest.approx(alone(model, rows), rel=1e-6)
    a_row = 2 * 4 * 2 * 2 * 8 * max(len(row.tokens) for row in rows)  # layers, heads, width of a head
    for name, bound, passes in (
        ("MOST_CACHED", 9 * a_row, [2, 8, 2, 8, 1, 4]),
        ("MOST_CACHED", 3 * a_row, [20]),  # not even one example: as whole rows
        ("MOST_LOGITS", 9 * 30 * 259, [2, 8, 2, 8, 1, 4]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(likelihood, name, bound)
            with Reading(model) as made:
                assert [total for (total,) in log_probabilities(model, rows, 32)] == wanted
        assert [count for count, _ in made] == passes


def test_a_model_without_such_a_cache_reads_whole_rows(tiny, monkeypatch):
    model, tokenizer = tiny("llama")
    rows = rows_of(tokenizer, questions())
    wanted = alone(model, rows)
    monkeypatch.setattr(likelihood, "new_cache", lambda _: None)
    with Reading(model) as made:
        assert [total for (total,) in log_probabilities(model, rows, 32)] == pytest.approx(wanted, rel=1e-6)
    assert [count for count, _ in made] == [20]


def test_what_can_go_on_from_a_cache(tiny):
    from transformers import AutoModelForCausalLM, JambaConfig, MambaConfig

    assert all(generation.new_cache(tiny(family)[0]) is not None for family in ("llama", "gpt2", "opt"))
    states = AutoModelForCausalLM.from_config(MambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=9))
    assert generation.new_cache(states) is None
    mixed = AutoModelForCausalLM.from_config(JambaConfig(**JAMBA))  # some layers keep states, some keys and values
    assert generation.new_cache(mixed) is None
    assert generation.new_cache(torch.nn.Linear(1, 1)) is None


def test_an_adapters_choices_share_too(tiny):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = tiny("mistral")
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ).eval()
    try:
        rows = rows_of(tokenizer, questions())
        wanted = alone(adapted, rows)
        with Reading(model) as made:
            assert [total for (total,) in log_probabilities(adapted, rows, 32)] == pytest.approx(wanted, rel=1e-6)
        assert len(made) == 2
    finally:
        adapted.unload()


def test_a_number_that_is_none_names_its_example(tmp_path):
    model, tokenizer = loaded(build_tiny("llama", tmp_path))
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("Z", add_special_tokens=False)["input_ids"][0]] = float("nan")
    examples = [*questions(2), ask("What did old man Z see in the morning?", ENDINGS[0], "bad", ENDINGS)]
    with Reading(model) as made, pytest.raises(NumericError, match="example bad: .*not a number; check its weights"):
        log_probabilities(model, rows_of(tokenizer, examples), 32)
    assert [count for count, _ in made] == [3, 12]


def test_the_likeliest_choice_is_that_of_whole_rows(tiny, monkeypatch):
    model, tokenizer = tiny("gpt2")
    task = make_task(questions(9), ("multiple_choice",))
    shared = evaluate(model, tokenizer, task, questions(9), "multiple_choice")
    monkeypatch.setattr(generation, "WORTH", 2.0)
    whole = evaluate(model, tokenizer, task, questions(9), "multiple_choice")
    assert [(r.id, r.output, r.score) for r in shared] == [(r.id, r.output, r.score) for r in whole]
    for new, old in zip(shared, whole, strict=True):
        assert new.detail["log_probs"] == pytest.approx(old.detail["log_probs"], rel=1e-6)


def test_a_judge_reads_the_prompt_of_both_answers_once(tiny, monkeypatch):
    model, tokenizer = tiny("llama")
    judge, examples = tiny("gpt2"), questions(3)
    task = make_task(examples, ("win_rate",), max_new_tokens=12)
    with Reading(judge[0]) as made:
        shared = evaluate(model, tokenizer, task, examples, "win_rate", judge=judge)
    assert [count for count, _ in made] == [3, 6]
    monkeypatch.setattr(generation, "WORTH", 2.0)
    whole = evaluate(model, tokenizer, task, examples, "win_rate", judge=judge)
    for new, old in zip(shared, whole, strict=True):
        assert new.output == old.output and new.detail["outcome"] == old.detail["outcome"]
        for side in ("output_nats", "reference_nats"):
            assert new.detail[side] == pytest.approx(old.detail[side], rel=1e-6)


def loaded(folder):
    """Return the model and the tokenizer of a folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval(), AutoTokenizer.from_pretrained(folder)
