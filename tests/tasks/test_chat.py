"""Chat templates of many makes: one answer for learning, writing and scoring; a clock that stands; thoughts."""

import random

import pytest

from paraknow_core.errors import DataError
from paraknow_core.tasks.chat import TODAY, asks_for_the_date, chat_parts
from paraknow_core.tasks.generation import answer_text
from paraknow_core.tasks.likelihood import choice_rows
from paraknow_core.tasks.scorers import score_output
from paraknow_core.tasks.task import Example, Message
from paraknow_core.tasks.templates import answer_ends, encode, encode_prompt, render
from paraknow_core.tasks.thoughts import judged, starts_with_thought, without_thoughts
from tests.tasks.conftest import ask
from tests.tiny_models import build_tokenizer

PERU = ask("Capital of Peru?", "Lima")
TALK = Example(
    "t",
    (
        Message("user", "Hello"),
        Message("assistant", "Lima"),
        Message("user", "Capital of Peru?"),
        Message("assistant", "Lima"),
    ),
)


def chatml(answer: str = "", opening: str = "") -> str:
    """A template of turns between marks; what it writes before an answer, and at the end of a generation prompt."""
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
        + answer
        + "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
        + opening
        + "{% endif %}"
    )


THINK = "<think>\n\n</think>\n\n"
# As Qwen3 does: a thought of the answer's own takes the place of the empty one.
QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% set c = m.content %}"
    "{% set r = '' %}{% if '</think>' in c %}{% set r = c.split('</think>')[0].rstrip('\n').split('<think>')[-1]"
    ".lstrip('\n') %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{% if loop.last %}<think>\n"
    "{{ r.strip('\n') }}\n</think>\n\n{% endif %}{{ c }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# As DeepSeek R1 does: thoughts of answers are dropped, a generation prompt begins one.
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}{% else %}<|Assistant|>"
    "{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "<|Assistant|><think>\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} "
    "{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}"
    "<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
HEADER = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
SPACE = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} {% else %}ASSISTANT: {{ m.content }}"
    "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
# name: template, special tokens, what the prompt ends in, what is learnt.
MAKES = {
    "chatml": (chatml(), ("<|im_start|>", "<|im_end|>"), "<|im_start|>assistant\n", "Lima<|im_end|>"),
    "think block": (chatml(THINK), ("<|im_start|>", "<|im_end|>"), f"assistant\n{THINK}", "Lima<|im_end|>"),
    "think block as text": (chatml(THINK), (), f"assistant\n{THINK}", "Lima<|im_end|></s>"),
    "qwen": (QWEN, ("<|im_start|>", "<|im_end|>"), f"assistant\n{THINK}", "Lima<|im_end|>"),
    "empty block asked for": (chatml("", THINK), ("<|im_end|>",), f"assistant\n{THINK}", "Lima<|im_end|>"),
    "r1": (R1, ("<|User|>", "<|Assistant|>"), "Peru?<|Assistant|>", "Lima</s>"),
    "llama 3": (LLAMA3, ("<|eot_id|>",), "assistant<|end_header_id|>\n\n", "Lima<|eot_id|>"),
    "gemma": (GEMMA, ("<end_of_turn>",), "<start_of_turn>model\n", "Lima<end_of_turn>"),
    "mistral": (MISTRAL, (), "Peru? [/INST]", " Lima</s>"),
    "phi 3": (PHI3, ("<|end|>", "<|assistant|>"), "<|assistant|>\n", "Lima<|end|>"),
    "ignores the generation prompt": (HEADER, (), "</s>\n<|assistant|>\n", "Lima</s>"),
    "ends in a space": (SPACE, (), "ASSISTANT: ", "Lima</s>"),
    "text after the answer": (chatml().replace("}}<|im_end|>", "}} (end)</s>"), (), "assistant\n", "Lima (end)</s>"),
    "no end at all": ("{% for m in messages %}{{ m.content }}\n{% endfor %}", (), "Peru?\n", "Lima</s>"),
    "a new line first": (
        chatml().replace("{{ m.content }}", "{{ m.content }}\n"),
        (),
        "assistant\n",
        "Lima\n<|im_end|></s>",
    ),
    "shouts": (chatml().replace("m.content", "m.content | upper"), ("<|im_end|>",), "assistant\n", "Lima<|im_end|>"),
    "drops the answer": (
        "{% for m in messages if m.role == 'user' %}{{ m.content }}: {% endfor %}",
        (),
        "Peru?: ",
        "Lima</s>",
    ),
}


def with_template(template, special=()):
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


def written(example, tokenizer, tokens):
    """What a model that writes these tokens has answered: they end at the end mark."""
    rendered = render(example, "chat", tokenizer)
    ends = {tokenizer.eos_token_id} | answer_ends(rendered, tokenizer)
    count = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
    return answer_text(tokenizer, tokens[:count], "chat", rendered.tail)


@pytest.mark.parametrize("example", [PERU, TALK], ids=["question", "talk"])
@pytest.mark.parametrize("name", MAKES)
def test_what_is_learnt_is_what_is_judged(name, example):
    template, special, given, learnt = MAKES[name]
    tokenizer = with_template(template, special)
    entry = encode(example, "chat", tokenizer, 1000)
    labels = [label for label in entry.labels if label != -100]
    assert tokenizer.decode(labels) == learnt
    assert tokenizer.decode(entry.input_ids[: entry.prompt_length]).endswith(given)
    assert encode_prompt(example, "chat", tokenizer, 1000, 1) == list(entry.input_ids[: entry.prompt_length])
    assert written(example, tokenizer, labels) == "Lima"
    assert score_output("exact_match", example, written(example, tokenizer, labels)).score == 1
    going_on = labels + tokenizer("<|im_start|>user\nCapital of Chile?", add_special_tokens=False)["input_ids"]
    assert written(example, tokenizer, going_on) == "Lima"


@pytest.mark.parametrize("name", MAKES)
def test_choices_are_compared_by_their_own_tokens(name):
    template, special, *_ = MAKES[name]
    tokenizer = with_template(template, special)
    letters = ask("Which is a fruit?", "A", choices=("A", "B", "C", "D"))
    rows = choice_rows(letters, "chat", tokenizer, 1000)
    wanted = [[" A", " B", " C", " D"], [*"ABCD"]]
    if name == "mistral":  # a space and a letter are two tokens here, and both count
        assert [len(row.asked[0]) for row in rows] == [3] * 4
    else:
        assert [tokenizer.decode([token]) for ((_, token),) in rows[0].asked] in wanted


def test_an_answer_that_also_stands_in_the_prompt_is_found_by_its_place():
    tokenizer = with_template(chatml(THINK), ("<|im_end|>",))
    example = ask("Lima Lima 7351924680 <think> Lima", "Lima")
    entry = encode(example, "chat", tokenizer, 1000)
    assert tokenizer.decode([label for label in entry.labels if label != -100]) == "Lima<|im_end|>"


def test_a_template_may_trim_or_pad_answers():
    tokenizer = with_template(LLAMA3, ("<|eot_id|>",))
    assert render(ask("q", "  a b \n"), "chat", tokenizer).answer == "a b<|eot_id|>"
    tokenizer = with_template(chatml(), ("<|im_end|>",))
    assert render(ask("q", "  a b \n"), "chat", tokenizer).answer == "  a b \n<|im_end|>"


@pytest.mark.parametrize(
    ("name", "given", "learnt"),
    [
        ("qwen", "assistant\n", "<think>\nSouth.\n</think>\n\nLima<|im_end|>"),
        ("think block", "assistant\n", "<think>\nSouth.\n</think>\nLima<|im_end|>"),
        ("r1", "<|Assistant|>", "<think>\nSouth.\n</think>\nLima</s>"),
        ("chatml", "assistant\n", "<think>\nSouth.\n</think>\nLima<|im_end|>"),
    ],
)
def test_a_thought_of_the_datas_own_is_learnt_with_the_answer(name, given, learnt):
    template, special, *_ = MAKES[name]
    tokenizer = with_template(template, special)
    example = ask("Capital of Peru?", "<think>\nSouth.\n</think>\nLima")
    rendered = render(example, "chat", tokenizer)
    assert rendered.prompt.endswith(given)
    assert not rendered.prompt.endswith(THINK)
    assert rendered.answer == learnt
    labels = [label for label in encode(example, "chat", tokenizer, 1000).labels if label != -100]
    record = score_output("exact_match", example, written(example, tokenizer, labels))
    assert record.score == 1
    assert "South" in record.output  # nothing of what was written is lost


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Lima", "Lima"),
        ("<think>\nSouth. Perhaps Quito?\n</think>\n\nLima", "Lima"),
        ("South.</think>Lima", "Lima"),
        ("<think>a</think>Quito<think>b</think> Lima", "Lima"),
        ("<think>South. It must be Lima", ""),
        ("<think>a</think> Lima <think> or", ""),
        ("[THINK]South[/THINK]Lima", "Lima"),
        ("<think></think>", ""),
    ],
)
def test_what_comes_after_the_thoughts_is_the_answer(text, answer):
    assert without_thoughts(text) == answer
    assert score_output("exact_match", PERU, text).score == float(answer == "Lima")


def test_references_without_an_answer_or_about_tags_are_compared_as_they_are():
    assert judged("<think>", "<think>") == ("<think>", "<think>")
    assert judged("the </think> tag", "the </think> tag") == ("the </think> tag",) * 2
    assert judged("<think>x</think>a", "<think>y</think>a") == ("a", "a")
    assert not starts_with_thought("<think>never closed")
    numbers = ask("6 * 7?", "<think>1 2 3</think> 42")
    assert score_output("number_match", numbers, "<think>5</think>It is 42").score == 1
    assert score_output("number_match", numbers, "<think>42").score == 0


def test_think_tags_that_are_special_tokens_still_count():
    tokenizer = with_template(chatml(), ("<|im_end|>", "<think>", "</think>"))
    tokens = tokenizer("<think>South</think>Lima", add_special_tokens=False)["input_ids"]
    assert without_thoughts(answer_text(tokenizer, tokens, "chat")) == "Lima"
    assert without_thoughts(answer_text(tokenizer, tokens[:4], "chat")) == ""


CLOCK = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = "
    "strftime_now('%d %b %Y') %}{%- endif %}{%- endif %}Today: {{ date_string }}\n"
) + chatml()


def test_the_clock_stands():
    tokenizer = with_template(CLOCK, ("<|im_end|>",))
    assert asks_for_the_date(tokenizer)
    assert render(PERU, "chat", tokenizer).prompt.startswith("Today: 26 Jul 2024\n<|im_start|>user")
    assert not asks_for_the_date(with_template(chatml()))


@pytest.mark.parametrize("form", ["%A, %B %d, %Y", "%Y-%m-%dT%H:%M:%S", "%-d.%-m.%y", "%j %U %% %p %I", "%%d", "%F %T"])
def test_the_clock_knows_the_forms_of_strftime(form):
    tokenizer = with_template("{{ strftime_now('" + form + "') }}|{{ strftime_now(format='%d') }}" + chatml())
    assert render(PERU, "chat", tokenizer).prompt.split("<|")[0] == f"{TODAY.strftime(form)}|26"


def test_chance_is_the_same_every_time_and_touches_nobody_elses():
    tokenizer = with_template("{{ range(1000) | random }} {{ lipsum(n=1) }}" + chatml())
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first = render(PERU, "chat", tokenizer)
    assert random.random() == expected
    assert render(PERU, "chat", tokenizer) == first


def test_a_template_that_refuses_is_a_sentence():
    system = Example("s", (Message("system", "S"), Message("user", "q"), Message("assistant", "a")))
    with pytest.raises(DataError, match="example s: .*System role not supported.*choose template tulu or plain"):
        render(system, "chat", with_template(GEMMA))
    with pytest.raises(DataError, match="example e: .*'now' is undefined"):
        render(PERU, "chat", with_template("{{ now() }}" + chatml()))
    only_whole = "{% if add_generation_prompt %}{{ raise_exception('no') }}{% endif %}" + chatml()
    assert render(PERU, "chat", with_template(only_whole)).answer.startswith("Lima")
    assert chat_parts(PERU, with_template(only_whole)).opening is None


def test_thoughts_of_references_do_not_decide_how_they_are_scored(write):
    from paraknow_core.spec import TaskSpec
    from paraknow_core.tasks.examples import load_task

    rows = [{"question": f"{i} + 1?", "answer": f"<think>{i} and 1 is #### 5</think>It is {i + 1}."} for i in range(30)]
    task = load_task(TaskSpec(source=str(write("a.jsonl", rows))))
    assert task.scorers == ("exact_match", "rouge_l")
    load_task(TaskSpec(source=str(write("a.jsonl", rows)), scorers=("number_match",)))
    bare = [row | {"answer": "<think>5</think>many"} for row in rows]
    with pytest.raises(DataError, match="its answer holds no number"):
        load_task(TaskSpec(source=str(write("b.jsonl", bare)), scorers=("number_match",)))
