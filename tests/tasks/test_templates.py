"""Templates, label masks and windows, by hand and against the published numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paraknow_core.errors import DataError
from paraknow_core.tasks import likelihood
from paraknow_core.tasks.likelihood import choice_rows
from paraknow_core.tasks.task import Example, Message
from paraknow_core.tasks.templates import encode, encode_prompt, encode_split, render, windows
from tests.tasks.conftest import ask, make_task
from tests.tiny_models import build_tokenizer

DIALOGUE = Example(
    "d",
    (
        Message("system", "S"),
        Message("user", "U1"),
        Message("assistant", "A1"),
        Message("user", "U2"),
        Message("assistant", "A2"),
    ),
)
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_tulu_by_hand(tokenizer):
    rendered = render(ask("q", "a"), "tulu", tokenizer)
    assert (rendered.prompt, rendered.answer) == ("<|user|>\nq\n\n<|assistant|>\n", "a</s>")
    rendered = render(DIALOGUE, "tulu", tokenizer)
    assert rendered.prompt == (
        "<|system|>\nS\n\n<|user|>\nU1\n\n<|assistant|>\nA1</s>\n\n<|user|>\nU2\n\n<|assistant|>\n"
    )
    assert rendered.answer == "A2</s>"


def test_plain_and_text_by_hand(tokenizer):
    assert render(ask("q", "a"), "plain", tokenizer).prompt == "q\n"
    assert render(ask("q", "a"), "plain", tokenizer).answer == "a</s>"
    rendered = render(Example("t", text="abc"), "tulu", tokenizer)
    assert (rendered.prompt, rendered.answer) == ("", "abc")


def test_chat_template_adds_no_second_first_token(tokenizer):
    tokenizer.chat_template = CHAT
    rendered = render(DIALOGUE, "chat", tokenizer)
    assert rendered.prompt == "<s>[system]S[user]U1[assistant]A1</s>[user]U2[assistant]"
    assert rendered.answer == "A2</s>"
    entry = encode(DIALOGUE, "chat", tokenizer, 100)
    assert list(entry.input_ids).count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode([label for label in entry.labels if label != -100]) == "A2</s>"


def test_chat_template_missing_or_refusing(tokenizer):
    with pytest.raises(DataError, match="has no chat template; choose tulu or plain"):
        render(ask("q", "a"), "chat", tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system turn') }}"
    with pytest.raises(DataError, match="example d: .*refuses its turns .no system turn"):
        render(DIALOGUE, "chat", tokenizer)


def test_chat_template_that_drops_the_prompt_still_gives_the_answer(tokenizer):
    tokenizer.chat_template = "{% if add_generation_prompt %}[think]{% else %}{{ messages[-1].content }}{% endif %}"
    rendered = render(ask("q", "a"), "chat", tokenizer)
    assert (rendered.prompt, rendered.answer) == ("[think]", "a</s>")


def test_encode_by_hand(tokenizer):
    entry = encode(ask("q", "ab"), "tulu", tokenizer, 100)
    prompt = "<|user|>\nq\n\n<|assistant|>\n"
    count = 1 + len(prompt)  # <s> and a token a byte
    assert entry.prompt_length == count
    assert entry.labels[:count] == (-100,) * count
    assert entry.labels[count:] == entry.input_ids[count:]
    assert tokenizer.decode(entry.input_ids) == f"<s>{prompt}ab</s>"
    assert (entry.prefix_ok, entry.bytes) == (True, 2)


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30), st.integers(2, 120))
def test_labels_are_the_answer_or_nothing(question, answer, length):
    tokenizer = build_tokenizer()
    try:
        entry = encode(ask(question, answer), "tulu", tokenizer, length)
    except DataError:
        assert len(encode_prompt(ask(question, answer), "tulu", tokenizer, 10_000, 1)) >= length
        return
    assert len(entry.input_ids) == len(entry.labels) <= length
    assert entry.labels[: entry.prompt_length] == (-100,) * entry.prompt_length
    assert entry.labels[entry.prompt_length :] == entry.input_ids[entry.prompt_length :] != ()
    full = encode(ask(question, answer), "tulu", tokenizer, 10_000)
    assert entry.input_ids == full.input_ids[:length]
    assert full.bytes == len(answer.encode())


def test_a_prompt_without_room_is_refused(tokenizer):
    needed = encode(ask("q", "ab"), "tulu", tokenizer, 100).prompt_length
    assert encode(ask("q", "ab"), "tulu", tokenizer, needed + 1).bytes == 1
    with pytest.raises(DataError, match=f"example e: its prompt alone has {needed} tokens.*the limit is {needed}; "):
        encode(ask("q", "ab"), "tulu", tokenizer, needed)
    task = make_task([ask("q", "ab")], max_length=needed)
    with pytest.raises(DataError, match=f"the limit is {needed}; raise task.max_length"):
        encode_split(task.split("test"), task, tokenizer, needed + 9)
    task = make_task([ask("q", "ab")], max_length=needed + 9)
    with pytest.raises(DataError, match=f"the limit is {needed}; the model's context sets it: take a model with a"):
        encode_split(task.split("test"), task, tokenizer, needed)
    assert encode_prompt(ask("q", "ab"), "tulu", tokenizer, needed + 3, room=3)
    with pytest.raises(DataError, match=f"example e: its prompt has {needed} tokens and 4 more"):
        encode_prompt(ask("q", "ab"), "tulu", tokenizer, needed + 3, room=4)


def test_prompt_tokens_are_those_of_the_whole(tokenizer):
    entry = encode(DIALOGUE, "tulu", tokenizer, 1000)
    prompt = encode_prompt(DIALOGUE, "tulu", tokenizer, 1000, room=1)
    assert tuple(prompt) == entry.input_ids[: entry.prompt_length]


def test_a_tokenizer_that_appends_the_end_mark_does_not_shift_the_mask(tokenizer):
    from tokenizers import processors

    plain = encode(ask("q", "ab"), "tulu", tokenizer, 100)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert encode(ask("q", "ab"), "tulu", tokenizer, 100) == plain
    assert encode_prompt(ask("q", "ab"), "tulu", tokenizer, 100, 1)[-1] != tokenizer.eos_token_id


def test_a_token_across_the_border_masks_nothing_of_the_answer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "q": 1, "\n": 2, "a": 3, "\na": 4}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("\n", "a")], unk_token="<unk>"))
    merging = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    entry = encode(ask("q", "aa"), "plain", merging, 10)
    assert (entry.input_ids, entry.labels, entry.prompt_length, entry.prefix_ok) == (
        (1, 2, 3, 3),
        (-100, -100, 3, 3),
        2,
        False,
    )
    assert encode_prompt(ask("q", "aa"), "plain", merging, 10, 1) == [1, 2]


@given(st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=4), st.integers(2, 20), st.booleans())
def test_windows_predict_every_token_once(texts, length, with_first):
    tokenizer = build_tokenizer()
    if not with_first:
        from tokenizers import processors

        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    examples = [Example(str(i), text=text) for i, text in enumerate(texts)]
    made = windows(examples, tokenizer, length)
    for example in examples:
        own = [entry for entry in made if entry.id == example.id]
        tokens = tokenizer(example.text, add_special_tokens=False)["input_ids"]
        predicted = [label for entry in own for label in entry.labels if label != -100]
        assert predicted == (tokens if with_first else tokens[1:])
        first = 0 if with_first else len(example.text[0].encode())
        if own:
            assert sum(entry.bytes for entry in own) == len(example.text.encode()) - first
    for entry in made:
        assert len(entry.input_ids) == len(entry.labels) <= length
        assert entry.labels[0] == -100
        assert (entry.input_ids[0] == tokenizer.bos_token_id) or not with_first


def test_windows_by_hand(tokenizer):
    made = windows([Example("t", text="abcde")], tokenizer, 3)
    assert [tokenizer.decode(entry.input_ids) for entry in made] == ["<s>ab", "<s>cd", "<s>e"]
    assert [entry.bytes for entry in made] == [2, 2, 1]
    with pytest.raises(DataError, match="1 is too short"):
        windows([], tokenizer, 1)


def test_encode_split_takes_windows_for_text_only(tokenizer):
    text = make_task([Example("t", text="abcdef")], ("perplexity",), max_length=50)
    assert len(encode_split(text.split("test"), text, tokenizer, 4)) == 2
    task = make_task([ask("q", "a", "1"), ask("q", "a", "2")])
    assert [entry.id for entry in encode_split(task.split("test"), task, tokenizer)] == ["1", "2"]


SPACE = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} {% else %}ASSISTANT: {{ m.content }}"
    "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def trained_tokenizer(metaspace: str = ""):
    """A tokenizer with merges: byte-level, whose words begin with a space, or one that puts a space first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if metaspace:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=metaspace)
        backend.decoder = decoders.Metaspace(prepend_scheme=metaspace)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(["USER: Which is a fruit? ASSISTANT: Lima ASSISTANT: Lima A B C D"] * 30, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    made.chat_template = SPACE
    return made


@pytest.mark.parametrize("metaspace", ["", "always", "first", "never"])
def test_a_prompt_that_ends_in_a_space_masks_nothing_of_the_answer(metaspace):
    tokenizer = trained_tokenizer(metaspace)
    entry = encode(ask("Which?", "Lima"), "chat", tokenizer, 100)
    assert not entry.prefix_ok
    assert tokenizer.decode(entry.input_ids) == "USER: Which? ASSISTANT: Lima</s>"
    assert tokenizer.decode([label for label in entry.labels if label != -100]) == "Lima</s>"
    assert list(entry.input_ids[: entry.prompt_length]) == encode_prompt(ask("Which?", ""), "chat", tokenizer, 100, 1)
    letters = ask("Which?", "A", choices=("A", "B", "C", "D"))
    ((row),) = choice_rows(letters, "chat", tokenizer, 100)
    assert [tokenizer.decode([token]) for ((_, token),) in row.asked] == ["A", "B", "C", "D"]


def test_where_one_choice_merges_with_the_prompt_all_are_taken_apart_from_it(monkeypatch):
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    names = ["<unk>", "</s>", "q", "\n", "A", "B", "b", "\nA", "Ab", "Bb"]
    merges = [("\n", "A"), ("A", "b"), ("B", "b")]
    backend = Tokenizer(models.BPE(vocab={n: i for i, n in enumerate(names)}, merges=merges, unk_token="<unk>"))
    backend.decoder = decoders.Fuse()
    merging = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    apart = []
    monkeypatch.setattr(likelihood, "encode", lambda *a, **k: apart.append(k.get("apart", False)) or encode(*a, **k))
    rows = choice_rows(ask("q", "Ab", choices=("Ab", "Bb")), "plain", merging, 100)
    assert apart == [False, False, True, True]
    asked = [merging.convert_ids_to_tokens([token for _, token in row.asked[0]]) for row in rows]
    assert asked == [["Ab", "</s>"], ["Bb", "</s>"]]
