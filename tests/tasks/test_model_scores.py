"""Scoring models: batches equal singles, sums equal plain loops, records arrive as they are made."""

import math

import pytest
import torch

from paraknow_core.errors import DataError, NumericError
from paraknow_core.tasks import likelihood
from paraknow_core.tasks.likelihood import Row, choice_rows, label_row, log_probabilities
from paraknow_core.tasks.model_scores import evaluate, evaluate_all
from paraknow_core.tasks.scorers import summarise
from paraknow_core.tasks.task import Example
from paraknow_core.tasks.templates import encode, render
from tests.marking import mostly_slow
from tests.tasks.conftest import ask, make_task
from tests.tiny_models import FAMILIES

EXAMPLES = [ask("What is " + "very " * (i % 5) + f"{i}?", f"answer #### {i}", f"e{i}") for i in range(11)]
ALL = ("number_match", "exact_match", "rouge_l", "perplexity")


def plain_log_prob(model, tokens, count):
    """Log-probability of tokens[count:] after tokens[:count], one full softmax a step, no batch."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokens])).logits[0].double()
    return sum(float(logits[at - 1].log_softmax(-1)[tokens[at]]) for at in range(count, len(tokens)))


@pytest.mark.parametrize("family", mostly_slow(FAMILIES, "llama", "gpt2", "gemma2", "gpt_neox"))
def test_log_probabilities_equal_a_plain_loop(tiny, family):
    model, tokenizer = tiny(family)
    entries = [encode(example, "tulu", tokenizer, 128) for example in EXAMPLES]
    rows = [label_row(entry) for entry in entries]
    wanted = [plain_log_prob(model, list(e.input_ids), e.prompt_length) for e in entries]
    for size in (1, 8):
        found = [total for (total,) in log_probabilities(model, rows, size)]
        assert found == pytest.approx(wanted, abs=1e-4)


def test_memory_cap_changes_nothing(tiny, monkeypatch):
    model, tokenizer = tiny("llama")
    rows = [label_row(encode(example, "tulu", tokenizer, 128)) for example in EXAMPLES]
    before, sizes = log_probabilities(model, rows, 8), []
    monkeypatch.setattr(likelihood, "MOST_LOGITS", 3 * 259 * 80)
    after = log_probabilities(model, rows, 8, on_batch=lambda part: sizes.append(len(part)))
    assert max(sizes) <= 4 and sum(sizes) == len(rows)
    assert [v for (v,) in after] == pytest.approx([v for (v,) in before], abs=1e-4)


def test_all_records_are_the_same_one_by_one_and_in_batches(tiny):
    model, tokenizer = tiny("llama")
    task = make_task(EXAMPLES, ALL)
    one = evaluate_all(model, tokenizer, task, EXAMPLES, ALL, batch_size=1)
    many = evaluate_all(model, tokenizer, task, EXAMPLES, ALL, batch_size=8)
    for scorer in ALL:
        assert [r.id for r in many[scorer]] == [e.id for e in EXAMPLES]
        assert [r.output for r in one[scorer]] == [r.output for r in many[scorer]]
        for first, second in zip(one[scorer], many[scorer], strict=True):
            assert first.score == pytest.approx(second.score, abs=1e-4)
            assert (first.scorer, first.reference) == (scorer, second.reference)


def test_perplexity_of_answers_and_of_text(tiny):
    model, tokenizer = tiny("llama")
    task = make_task(EXAMPLES, ("perplexity",))
    records = evaluate(model, tokenizer, task, EXAMPLES, "perplexity")
    entry = encode(EXAMPLES[3], "tulu", tokenizer, 128)
    assert records[3].detail["nats"] == pytest.approx(
        -plain_log_prob(model, list(entry.input_ids), entry.prompt_length), abs=1e-4
    )
    assert records[3].detail["tokens"] == len("answer #### 3") + 1  # bytes and the end mark
    assert records[3].detail["bytes"] == len("answer #### 3")

    text = [Example("t", text="To be, or not to be"), Example("u", text="é")]
    task = make_task(text, ("perplexity",), max_length=6)
    records = evaluate(model, tokenizer, task, text, "perplexity", batch_size=3)
    tokens = tokenizer(text[0].text, add_special_tokens=False)["input_ids"]
    wanted = -sum(plain_log_prob(model, [1, *tokens[at : at + 5]], 1) for at in range(0, len(tokens), 5))
    assert records[0].detail == {"nats": pytest.approx(wanted, abs=1e-4), "tokens": 19, "bytes": 19}
    assert records[1].detail["bytes"] == 2
    score = summarise("perplexity", records, task)
    assert score.value == pytest.approx(math.exp(sum(r.detail["nats"] for r in records) / 21))


LETTERS = [ask(f"Which? {i}", "ABCD"[i % 4], f"m{i}", ("A", "B", "C", "D")) for i in range(6)]
LONG = [ask("How?", "red cat", "l", ("red", "red cat", "a blue whale"))]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_letters_take_one_row_and_equal_a_plain_loop(tiny, family):
    model, tokenizer = tiny(family)
    task = make_task(LETTERS, ("multiple_choice",))
    assert all(len(choice_rows(e, "tulu", tokenizer, 128)) == 1 for e in LETTERS)
    for record, example in zip(
        evaluate(model, tokenizer, task, LETTERS, "multiple_choice", batch_size=4), LETTERS, strict=True
    ):
        tokens = tokenizer(render(example, "tulu", tokenizer).prompt)["input_ids"]
        wanted = {c: plain_log_prob(model, [*tokens, tokenizer(c)["input_ids"][-1]], len(tokens)) for c in "ABCD"}
        assert record.detail["log_probs"] == pytest.approx(wanted, abs=1e-4)
        assert record.output == max(wanted, key=wanted.get)
        assert record.score == float(record.output == example.reference)


def test_long_choices_count_their_end_mark(tiny):
    model, tokenizer = tiny("llama")
    (record,) = evaluate(model, tokenizer, make_task(LONG, ("multiple_choice",)), LONG, "multiple_choice")
    for choice, value in record.detail["log_probs"].items():
        entry = encode(LONG[0].with_answer(choice), "tulu", tokenizer, 128)
        assert entry.input_ids[-1] == tokenizer.eos_token_id
        assert value == pytest.approx(plain_log_prob(model, list(entry.input_ids), entry.prompt_length), abs=1e-4)


def test_the_right_choice_counts_in_either_unicode_form(tiny):
    model, tokenizer = tiny("llama")
    example = ask("How?", "caf\u00e9", "l", ("cafe\u0301", "x" * 40))  # the longer one is less likely
    (record,) = evaluate(model, tokenizer, make_task([example]), [example], "multiple_choice")
    assert (record.output, record.score) == ("cafe\u0301", 1.0)


class _Fixed(torch.nn.Module):
    """A judge that finds the token 'x' likely and everything else equally unlikely."""

    def __init__(self, tokenizer):
        super().__init__()
        self.one = torch.nn.Parameter(torch.zeros(1))
        self.config = type("Config", (), {"max_position_embeddings": 128, "eos_token_id": 2})()
        self.likely = tokenizer("x", add_special_tokens=False)["input_ids"][0]

    def forward(self, input_ids, attention_mask=None, use_cache=False):
        logits = torch.zeros(*input_ids.shape, 259)
        logits[..., self.likely] = 5.0
        return type("Output", (), {"logits": logits})()


def test_win_rate_by_hand(tiny, monkeypatch):
    from paraknow_core.tasks import model_scores

    model, tokenizer = tiny("llama")
    examples = [ask("q", "yy", name) for name in ("better", "same", "equal", "empty", "worse")]
    examples[4] = ask("q", "xy", "worse")
    texts = {"better": "xy", "same": "yy", "equal": "z", "empty": "", "worse": "yyx"}
    order = [e.id for e in examples]
    answers = iter([texts[name] for name in order])
    monkeypatch.setattr(model_scores, "answer_text", lambda *_: next(answers))
    task = make_task(examples, ("win_rate",))
    records = evaluate(model, tokenizer, task, examples, "win_rate", judge=(_Fixed(tokenizer), tokenizer))
    outcomes = {r.id: (r.detail["outcome"], r.score) for r in records}
    assert outcomes == {
        "better": ("win", 1.0),
        "same": ("tie", 0.5),
        "equal": ("tie", 0.5),
        "empty": ("loss", 0.0),
        "worse": ("loss", 0.0),
    }
    total = math.log(258 + math.exp(5))
    assert records[0].detail["output_nats"] == pytest.approx(total - 2.5, abs=1e-5)
    assert records[0].detail["reference_nats"] == pytest.approx(total, abs=1e-5)
    assert records[3].detail["output_nats"] is None
    assert "stopped" in records[0].detail


def test_win_rate_needs_a_judge(tiny):
    model, tokenizer = tiny("llama")
    with pytest.raises(DataError, match="win_rate: no judge is given; set task.judge"):
        evaluate(model, tokenizer, make_task(EXAMPLES), EXAMPLES, "win_rate")


def test_one_generation_serves_all_scorers_and_records_arrive_batch_by_batch(tiny, monkeypatch):
    from paraknow_core.tasks import model_scores

    model, tokenizer = tiny("llama")
    real, calls, told, steps = model_scores.generate, [], [], []

    def counting(*args, **kwargs):
        calls.append(len(args[1]))
        assert len(told) == 3 * sum(calls[:-1])  # everything before is already handed over
        return real(*args, **kwargs)

    monkeypatch.setattr(model_scores, "generate", counting)
    task = make_task(EXAMPLES, ALL)
    records = evaluate_all(
        model,
        tokenizer,
        task,
        EXAMPLES,
        ALL,
        batch_size=4,
        on_records=told.extend,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert calls == [4, 4, 3]
    assert len(told) == 4 * 11 == sum(map(len, records.values()))
    assert steps == [(4, 22), (8, 22), (11, 22), (15, 22), (19, 22), (22, 22)]


def test_what_is_done_is_skipped(tiny):
    model, tokenizer = tiny("llama")
    task = make_task(EXAMPLES, ALL)
    full = evaluate_all(model, tokenizer, task, EXAMPLES, ALL)
    rest = evaluate_all(model, tokenizer, task, EXAMPLES, ALL, skip={"e0", "e5"})
    assert [r.id for r in rest["rouge_l"]] == [e.id for e in EXAMPLES if e.id not in ("e0", "e5")]
    own = evaluate_all(model, tokenizer, task, EXAMPLES, ALL, skip={"rouge_l": {e.id for e in EXAMPLES}})
    assert (len(own["rouge_l"]), len(own["exact_match"])) == (0, 11)
    assert [r.output for r in own["exact_match"]] == [r.output for r in full["exact_match"]]
    everything = {e.id for e in EXAMPLES}
    assert evaluate_all(model, tokenizer, task, EXAMPLES, ALL, skip=everything) == {s: [] for s in ALL}


def test_mode_is_restored_and_no_gradient_is_kept(tiny):
    model, tokenizer = tiny("llama")
    model.train()
    evaluate(model, tokenizer, make_task(EXAMPLES), EXAMPLES[:2], "exact_match")
    assert model.training
    model.eval()
    model(input_ids=torch.tensor([[1, 5]]), labels=torch.tensor([[1, 5]])).loss.backward()  # still trainable
    model.zero_grad()


def test_examples_that_do_not_fit_are_named(tiny):
    model, tokenizer = tiny("llama")
    long = [ask("word " * 40, "A", "big", ("A", "B"))]
    task = make_task(long, max_length=2048)
    for scorer in ("exact_match", "multiple_choice", "perplexity"):
        with pytest.raises(DataError, match="example big: .*the limit is 128[;,] "):
            evaluate(model, tokenizer, task, long, scorer)


def test_nan_is_a_sentence(tiny):
    model, tokenizer = tiny("opt")
    row = Row("x", (1, 5, 6), (((0, 5),),))
    weight = model.model.decoder.final_layer_norm.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    with pytest.raises(NumericError, match="example x: .*not a number; check its weights"):
        log_probabilities(model, [row], 1)
    with torch.no_grad():
        weight.copy_(kept)


def test_adapter_models_are_scored_alike(tiny):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = tiny("mistral")
    task = make_task(EXAMPLES, ("exact_match", "perplexity"))
    plain = evaluate_all(model, tokenizer, task, EXAMPLES[:3], task.scorers)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    wrapped = evaluate_all(adapted, tokenizer, task, EXAMPLES[:3], task.scorers)
    adapted.unload()
    assert [r.output for r in plain["exact_match"]] == [r.output for r in wrapped["exact_match"]]
    assert [r.score for r in plain["perplexity"]] == pytest.approx([r.score for r in wrapped["perplexity"]], abs=1e-5)


def test_writing_ends_at_the_chat_templates_mark_and_thoughts_are_not_judged(tiny, monkeypatch):
    from paraknow_core.tasks import model_scores
    from paraknow_core.tasks.generation import Generated
    from tests.tasks.test_chat import with_template

    model, _ = tiny("llama")
    tokenizer = with_template(
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %} (end)<|stop|>\n"
        "{% else %}: {% endif %}{% endfor %}",
        ("<|stop|>",),
    )
    written = tokenizer("<think>xxx?</think>Lima (end)", add_special_tokens=False)["input_ids"]
    seen = []

    def generate(_model, prompts, *, ends, **_):
        seen.append(ends)
        return [Generated(tuple(written), "end") for _ in prompts]

    monkeypatch.setattr(model_scores, "generate", generate)
    examples = [ask("Capital of Peru?", "Lima")]
    task = make_task(examples, ("exact_match", "win_rate"), template="chat")
    judge = (_Fixed(tokenizer), tokenizer)
    judge[0].get_input_embeddings = lambda: torch.nn.Embedding(300, 1)
    monkeypatch.setattr(judge[0], "forward", _wide(judge[0].forward))
    found = evaluate_all(model, tokenizer, task, examples, task.scorers, judge=judge)
    assert tokenizer.convert_tokens_to_ids("<|stop|>") in seen[0]
    assert (found["exact_match"][0].score, found["exact_match"][0].output) == (1.0, "<think>xxx?</think>Lima")
    assert found["win_rate"][0].detail["outcome"] == "tie"  # the same answer, thoughts aside


def _wide(forward):
    """A fake judge's logits for a larger vocabulary."""

    def wide(**inputs):
        output = forward(**inputs)
        output.logits = torch.nn.functional.pad(output.logits, (0, 41))
        return output

    return wide
