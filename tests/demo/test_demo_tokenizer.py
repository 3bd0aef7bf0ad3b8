"""The shipped tokenizer: lossless, digits alone, and prompts that are token prefixes."""

import pytest
from transformers import AutoTokenizer

from paraknow_core.demo.build import MODELS
from paraknow_core.demo.corpus import PROMPT
from paraknow_core.demo.recipes import VOCAB_SIZE
from paraknow_core.demo.tasks import SPLITS, TASKS, examples

NAMES = ("teacher", "kin", "stranger")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODELS / "teacher")


def test_all_models_share_one_tokenizer():
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert len({(MODELS / name / file).read_bytes() for name in NAMES}) == 1


def test_special_tokens(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer("</s>").input_ids == [1, 2]
    assert len(tokenizer("<|user|><|assistant|>").input_ids) == 3
    assert len(tokenizer) == VOCAB_SIZE
    assert tokenizer.model_max_length == 512


@pytest.mark.parametrize(
    "text",
    ["", " ", "1234", "a\n\n\nb", "  two  spaces ", "Zürich – 東京 🦊", "\x00\x7f", "tab\there", "don't STOP 3.50"],
)
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_digits_and_newlines_stand_alone(tokenizer):
    tokens = tokenizer.tokenize("12 + 345\n\n6")
    assert [t for t in tokens if any(c.isdigit() for c in t)] == list("123456")
    assert tokens.count("Ċ") == 2
    for token in tokenizer.get_vocab():
        digits = sum(c in "0123456789" for c in token)
        assert digits == 0 or len(token) == 1
        assert "Ċ" not in token or token == "Ċ"


@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_token_prefixes_and_examples_are_short(tokenizer, task):
    for split in SPLITS:
        rows = examples(task, split)
        prompts = [PROMPT.format(question=row["messages"][0]["content"]) for row in rows]
        answers = [row["messages"][1]["content"] + tokenizer.eos_token for row in rows]
        heads = tokenizer(prompts).input_ids
        wholes = tokenizer([p + a for p, a in zip(prompts, answers, strict=True)]).input_ids
        for head, whole in zip(heads, wholes, strict=True):
            assert whole[: len(head)] == head
            assert whole[0] == 1
            assert whole[-1] == 2
            assert len(whole) - len(head) <= TASKS[task].max_new_tokens
            assert len(whole) <= 80


def test_chat_template_is_the_template(tokenizer):
    messages = examples("word_problems", "test")[0]["messages"]
    asked, answered = messages[0]["content"], messages[1]["content"]
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == PROMPT.format(question=asked)
    assert tokenizer.apply_chat_template(messages, tokenize=False) == prompt + answered + "</s>"
