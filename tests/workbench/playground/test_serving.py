"""The playground's loop: answers are those of plain generation, weights are shared and freed, windows do not mix."""

import json
import shutil

import pytest
import torch

from paraknow_core.errors import RunError
from paraknow_core.tasks import scorers
from paraknow_core.workbench import playground
from paraknow_core.workbench.playground import protocol
from paraknow_core.workbench.playground.protocol import Asked, Slot, Turn
from paraknow_core.workbench.playground.serve import IDLE_S, Loop, writing
from tests.tiny_models import build_tiny, edit_weights
from tests.workbench.playground.conftest import work


def asked(*slots: Slot, text: str = "3 + 4?", **options) -> Asked:
    values = {"max_new_tokens": 12, "template": "tulu", **options}
    return Asked(slots=slots, turns=[Turn(content=text)], **values)


def greedy_tokens(source: str, adapter=None, text: str = "3 + 4?", count: int = 12) -> str:
    """The same answer by the project's own batch generation on a freshly loaded model."""
    from peft import PeftModel

    from paraknow_core.models.load import load_model
    from paraknow_core.models.source import resolve_model
    from paraknow_core.models.tokenizer import load_tokenizer
    from paraknow_core.tasks.generation import end_tokens, generate

    found = resolve_model(source)
    model, tokenizer = load_model(found), load_tokenizer(found)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
    prompt = tokenizer(f"<|user|>\n{text}\n\n<|assistant|>\n")["input_ids"]
    [made] = generate(model, [prompt], max_new_tokens=count, limit=128, ends=end_tokens(model, tokenizer))
    return tokenizer.decode(made.tokens, skip_special_tokens=True)


def first_probability(source: str, adapter=None) -> float:
    """The probability of the most likely first token, on a freshly loaded model."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)) if adapter is not None else model
    ids = AutoTokenizer.from_pretrained(source)("<|user|>\n3 + 4?\n\n<|assistant|>\n", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model.eval()(ids).logits[0, -1].double().softmax(-1).max().item()


def load(place, loop, *slots):
    playground.ask(place, "load", *slots)
    work(loop)
    for slot in slots:
        assert playground.holding(place, slot).state == "loaded", playground.holding(place, slot).error


def test_an_answer_that_grows_into_another_rotary_table_is_that_of_plain_generation(place, loop, tmp_path):
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0, 6.0, 9.0, 12.0],
        "original_max_position_embeddings": 32,
        "factor": 4.0,
    }
    folder = build_tiny("phi3", tmp_path / "long", rope_parameters=rope, original_max_position_embeddings=32)
    edit_weights(folder, lambda tensors: {name: t * 6 if t.dim() > 1 else t for name, t in tensors.items()})
    slot = Slot(source=str(folder))
    load(place, loop, slot)
    name = playground.begin(place, asked(slot, text="3", max_new_tokens=24))
    work(loop)
    made = playground.generation(place, name).columns[slot.key]
    assert made.prompt_tokens <= 32 < made.prompt_tokens + 24
    assert made.text == greedy_tokens(str(folder), text="3", count=24)


def test_sampling_settings_of_a_model_are_not_used(place, loop, student, tmp_path):
    folder = shutil.copytree(student, tmp_path / "settings")
    settings = {
        "do_sample": True,
        "temperature": 9.0,
        "repetition_penalty": 5.0,
        "suppress_tokens": list(range(200)),
        "bad_words_ids": [[70]],
        "forced_eos_token_id": 70,
        "min_new_tokens": 3,
        "max_length": 3,
    }
    (folder / "generation_config.json").write_text(json.dumps(settings))
    slots = Slot(source=str(folder)), Slot(source=student)
    load(place, loop, *slots)
    name = playground.begin(place, asked(*slots))
    work(loop)
    one, two = (playground.generation(place, name).columns[slot.key] for slot in slots)
    assert one.text == two.text == greedy_tokens(str(folder))
    assert [token["p"] for token in one.tokens] == [token["p"] for token in two.tokens]


def test_everybody_answers_as_in_plain_generation_from_one_shared_base(place, loop, student, make_run):
    plain, one, two = Slot(source=student), make_run(1), make_run(2)
    load(place, loop, plain, one, two)
    assert len(loop.shelf.bases) == 1
    name = playground.begin(place, asked(one, plain, two))
    work(loop)
    made = playground.generation(place, name)
    assert not made.active
    adapters = {slot.key: place.runs / slot.run / "adapter" for slot in (one, two)}
    for slot in (plain, one, two):
        column = made.columns[slot.key]
        assert column.text == greedy_tokens(student, adapters.get(slot.key)), slot
        assert column.tokens[0]["p"] == pytest.approx(first_probability(student, adapters.get(slot.key)), abs=1e-6)
        assert column.prompt == "<s><|user|>\n3 + 4?\n\n<|assistant|>\n"
        assert column.end in ("max_new_tokens", "end", "turn")
        for token in column.tokens:
            assert token["p"] == pytest.approx(token["top"][0][1])  # greedy takes the most likely
            assert [p for _, p in token["top"]] == sorted((p for _, p in token["top"]), reverse=True)
            assert len(token["top"]) == 5
    assert len({round(column.tokens[0]["p"], 8) for column in made.columns.values()}) == 3


def test_freeing_an_adapter_leaves_the_base_as_it_was_and_the_last_one_frees_it(place, loop, student, make_run):
    plain, one = Slot(source=student), make_run(1)
    load(place, loop, one, plain)
    both = playground.holding(place, one)
    assert both.shared == playground.holding(place, plain).bytes > 0
    assert both.bytes > both.shared
    playground.ask(place, "free", one)
    work(loop)
    assert playground.holding(place, one).state == "free"
    assert playground.holding(place, plain).shared == 0
    name = playground.begin(place, asked(plain))
    work(loop)
    assert playground.generation(place, name).columns[plain.key].text == greedy_tokens(student)
    playground.ask(place, "free", plain)
    work(loop)
    assert loop.shelf.bases == {}


@pytest.mark.parametrize(
    "order", [(0, 1, 2), *(pytest.param(order, marks=pytest.mark.slow) for order in ((2, 1, 0), (1, 2, 0), (0, 2, 1)))]
)
def test_adapters_that_bring_an_output_layer_come_and_go_beside_others(place, loop, student, make_run, order):
    plain, runs = Slot(source=student), [make_run(1, head=True), make_run(2, head=True), make_run(3)]
    expected = {plain.key: first_probability(student)}
    expected |= {run.key: first_probability(student, place.runs / run.run / "adapter") for run in runs}
    assert len({round(p, 8) for p in expected.values()}) == 4

    def check(*slots):
        name = playground.begin(place, asked(*slots, max_new_tokens=2))
        work(loop)
        for slot in slots:
            made = playground.generation(place, name).columns[slot.key]
            assert made.tokens[0]["p"] == pytest.approx(expected[slot.key], abs=1e-6), slot

    load(place, loop, *(runs[each] for each in order), plain)
    check(plain, *runs)
    left = [plain, *(runs[each] for each in order)]
    for each in order:
        playground.ask(place, "free", runs[each])
        work(loop)
        left.remove(runs[each])
        check(*left)
    load(place, loop, runs[0])
    check(plain, runs[0])


def test_what_a_look_promises_is_what_loading_takes(place, loop, student, make_run):
    for slot in (Slot(source=student), make_run(1), make_run(2, head=True)):
        playground.ask(place, "look", slot)
        work(loop)
        promised = playground.holding(place, slot)
        assert promised.state == "free"
        load(place, loop, slot)
        taken = playground.holding(place, slot)
        assert (taken.bytes, taken.parameters) == (promised.bytes, promised.parameters)
    assert playground.process_memory(place) > 10_000_000


def test_two_windows_grow_side_by_side_and_do_not_mix(place, loop, student):
    slot = Slot(source=student)
    load(place, loop, slot)
    first = playground.begin(place, asked(slot, text="one", max_new_tokens=30))
    second = playground.begin(place, asked(slot, text="quite another", max_new_tokens=30))
    for _ in range(6):
        loop.step()
    halfway = [len(playground.generation(place, name).columns[slot.key].tokens) for name in (first, second)]
    assert all(0 < count < 30 for count in halfway)
    work(loop)
    for name, text in ((first, "one"), (second, "quite another")):
        assert playground.generation(place, name).columns[slot.key].text == greedy_tokens(student, None, text, 30)


def test_stop_ends_after_the_token_it_is_at_and_keeps_what_is_written(place, loop, student):
    slot = Slot(source=student)
    load(place, loop, slot)
    name = playground.begin(place, asked(slot, max_new_tokens=100))
    for _ in range(4):
        loop.step()
    protocol.stop(place, name)
    work(loop)
    column = playground.generation(place, name).columns[slot.key]
    assert column.end == "stopped"
    assert 0 < len(column.tokens) < 10


def test_sampling_repeats_with_its_seed_and_differs_with_another(place, loop, student):
    slot = Slot(source=student)
    load(place, loop, slot)
    texts = []
    for seed in (1, 1, 2):
        name = playground.begin(place, asked(slot, temperature=1.5, seed=seed))
        work(loop)
        texts.append(playground.generation(place, name).columns[slot.key].text)
    assert texts[0] == texts[1] != texts[2]


def test_all_columns_of_a_prompt_draw_with_one_seed(place, loop, student, make_run):
    plain, one = Slot(source=student), make_run(1)
    load(place, loop, plain, one)
    playground.begin(place, asked(plain, one, temperature=1.5, seed=7))
    loop.step()
    [writing_now] = loop.writings
    assert [row.generator.initial_seed() for row in writing_now.rows] == [7, 7]
    work(loop)


@pytest.mark.parametrize(
    ("slot", "text", "options", "message"),
    [
        (None, "x" * 400, {}, "prompt has"),
        (None, "x" * 400, {"template": "none"}, "prompt: has"),
        (None, "x" * 400, {}, "the model's context; shorten the prompt, or take a model with a longer one"),
        (None, "x" * 40, {"max_length": 8}, "the limit is 8; shorten the prompt, or raise task.max_length"),
        (None, "x" * 40, {"max_length": 8, "template": "none"}, "shorten the prompt, or raise task.max_length"),
        (None, "hello", {"template": "chat"}, "no chat template"),
        (Slot(source="bundled:teacher"), "hello", {}, "not loaded"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence_in_its_column(place, loop, student, slot, text, options, message):
    loaded = Slot(source=student)
    load(place, loop, loaded)
    name = playground.begin(place, asked(slot or loaded, text=text, **options))
    work(loop)
    [column] = playground.generation(place, name).columns.values()
    assert column.end == "failed"
    assert message in column.error


def test_a_raw_prompt_is_given_as_it_is(place, loop, student):
    slot = Slot(source=student)
    load(place, loop, slot)
    name = playground.begin(place, asked(slot, text="once upon", template="none"))
    work(loop)
    assert playground.generation(place, name).columns[slot.key].prompt == "<s>once upon"


def test_the_answer_is_scored_by_the_tasks_scorer(place, loop, student):
    slot = Slot(source=student)
    load(place, loop, slot)
    text = greedy_tokens(student)
    for reference, score in ((text, 1.0), ("certainly not this", 0.0)):
        name = playground.begin(place, asked(slot, reference=reference, scorer="exact_match"))
        work(loop)
        assert playground.generation(place, name).columns[slot.key].score == score


def test_an_answer_ends_and_is_judged_as_in_a_run(place, loop, tmp_path, monkeypatch):
    """At the template's own end mark, and without the thoughts before it."""
    from transformers import AutoTokenizer

    folder = build_tiny("llama", tmp_path / "model", extra_tokens=("<|end|>",))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
        "<|end|>{% endfor %}"
    )
    tokenizer.save_pretrained(folder)
    script = iter(tokenizer("a</think>Lima<|end|>rest", add_special_tokens=False)["input_ids"])
    monkeypatch.setattr(writing, "choose", lambda *_: next(script))
    slot = Slot(source=str(folder))
    load(place, loop, slot)
    name = playground.begin(
        place, asked(slot, template="chat", reference="Lima", scorer="exact_match", max_new_tokens=40)
    )
    work(loop)
    column = playground.generation(place, name).columns[slot.key]
    assert column.prompt.endswith("assistant: <think></think>")
    assert (column.end, column.text, column.score) == ("end", "a</think>Lima", 1.0)


def test_a_prompt_with_a_token_that_the_embedding_lacks_is_a_sentence(place, loop, tmp_path):
    from transformers import AutoTokenizer

    folder = build_tiny("llama", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|user|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    slot = Slot(source=str(folder))
    load(place, loop, slot)
    name = playground.begin(place, asked(slot))
    work(loop)
    column = playground.generation(place, name).columns[slot.key]
    assert column.end == "failed"
    assert "token '<|user|>' (id 259) of the prompt has no row in the embedding of 259 tokens" in column.error


def test_what_cannot_be_loaded_is_a_sentence_and_the_loop_goes_on(place, loop, student, make_run, monkeypatch):
    broken = make_run(1)
    (place.runs / broken.run / "adapter" / "adapter_model.safetensors").write_bytes(b"nothing")
    gone = Slot(source=student, run="20200101-000000-gone")
    missing = Slot(source="/no/such/folder")
    playground.ask(place, "load", broken, gone, missing)
    work(loop)
    words = [playground.holding(place, slot).error for slot in (broken, gone, missing)]
    assert "adapter cannot be read" in words[0]
    assert "no run has this id" in words[1]
    assert "no such folder" in words[2]
    assert loop.shelf.bases == {}
    monkeypatch.setattr("paraknow_core.workbench.playground.serve.shelf.available_bytes", lambda: 200_000_100)
    playground.ask(place, "load", Slot(source=student))
    work(loop)
    assert "of memory" in playground.holding(place, Slot(source=student)).error


def test_an_answer_whose_process_was_killed_is_orphaned_and_a_new_process_begins_clean(
    place, loop, student, monkeypatch
):
    slot = Slot(source=student)
    load(place, loop, slot)
    name = playground.begin(place, asked(slot, max_new_tokens=100))
    for _ in range(3):
        loop.step()
    assert playground.generation(place, name).active
    monkeypatch.setattr(protocol, "_owner", lambda _place: None)
    dead = playground.generation(place, name)
    assert dead.orphaned
    assert not dead.active
    assert dead.columns[slot.key].tokens
    assert playground.holding(place, slot).state == "unknown"
    monkeypatch.setattr(protocol, "_owner", lambda _place: ["next", 2.0])
    after = Loop(place, ["next", 2.0])
    after.clean_up()
    assert playground.holding(place, slot).state == "unknown"
    assert work(after) == 0


def test_a_wish_that_ended_the_process_is_not_tried_again(place, loop, student):
    slot = Slot(source=student)
    playground.ask(place, "load", slot)
    [wish] = (protocol.folder(place) / "commands").glob("*.json")
    wish.replace(wish.with_suffix(".working"))
    loop.clean_up()
    assert work(loop) == 0
    assert "memory ran out" in playground.holding(place, slot).error


def test_unused_weights_are_freed_and_then_the_process_may_end(place, loop, student):
    slot = Slot(source=student)
    load(place, loop, slot)
    assert not loop.step() and loop.shelf.bases
    loop.shelf.held[slot.key].used -= IDLE_S + 1
    assert not loop.step()  # nothing to do: the process ends when that has been so for long
    assert loop.shelf.bases == {}
    assert playground.holding(place, slot).state == "free"


@pytest.mark.parametrize("what", ["model", "adapter"])
def test_a_folder_that_is_replaced_is_not_answered_from_memory(place, loop, student, make_run, tmp_path, what):
    folder = shutil.copytree(student, tmp_path / "model")
    run = make_run(1)
    plain, tuned = Slot(source=str(folder)), Slot(source=str(folder), run=run.run)
    load(place, loop, plain, tuned)
    adapter = place.runs / run.run / "adapter"
    if what == "model":
        edit_weights(folder, lambda tensors: {name: -tensor for name, tensor in tensors.items()})
    else:
        shutil.rmtree(adapter)
        shutil.copytree(place.runs / make_run(2).run / "adapter", adapter)
    stale = {plain.key, tuned.key} if what == "model" else {tuned.key}
    name = playground.begin(place, asked(plain, tuned))
    work(loop)
    columns = playground.generation(place, name).columns
    said = {key for key, column in columns.items() if "its files were replaced since it was loaded" in column.error}
    assert said == stale
    assert playground.holding(place, tuned).state == "free"
    load(place, loop, plain, tuned)
    name = playground.begin(place, asked(plain, tuned))
    work(loop)
    columns = playground.generation(place, name).columns
    for slot, used in ((plain, None), (tuned, adapter)):
        share = first_probability(str(folder), used)
        assert columns[slot.key].tokens[0]["p"] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("name", ["../../x", "", "20260101-000000-zzzzzzzz", "20260101-000000-00000000", "a\0b"])
def test_a_generation_that_is_not_there_is_a_sentence(place, name):
    with pytest.raises(RunError, match="not kept"):
        playground.generation(place, name)


@pytest.mark.parametrize("trouble", ["logits", "score", "disk", "row", "begin"])
def test_what_fails_while_answers_are_written_ends_one_answer_and_not_the_process(
    place, loop, student, monkeypatch, trouble
):
    slot = Slot(source=student)
    load(place, loop, slot)
    before, name = writing.append_line, playground.begin(place, asked(slot, reference="7", scorer="exact_match"))

    def broken(*_args, **_options):
        raise ZeroDivisionError("one by nothing")

    def full(file, record):
        if "text" in record or len(refused) < 2:
            refused.append(record)
            raise OSError(28, "No space left on device")
        before(file, record)

    refused: list[dict] = []
    infinite = torch.tensor([0.0, float("inf"), 1.0])
    patches = {
        "logits": (writing._Row, "_logits", lambda _self: infinite),
        "score": (scorers, "score_output", broken),
        "disk": (writing, "append_line", full),
        "row": (writing, "context_limit", broken),
        "begin": (writing, "open_lines", broken),
    }
    with monkeypatch.context() as patch:
        if trouble == "disk":  # it fills up after the answer has begun
            loop.step()
        patch.setattr(*patches[trouble])
        assert work(loop, 200) < 200
    made = playground.generation(place, name)
    assert not made.active
    assert not list((protocol.folder(place) / "commands").iterdir())
    said = {"logits": "NaN or infinity", "score": "", "disk": "No space left", "row": "one by nothing", "begin": ""}
    assert said[trouble] in made.columns[slot.key].error
    again = playground.begin(place, asked(slot))
    work(loop)
    assert playground.generation(place, again).columns[slot.key].text == greedy_tokens(student)


def test_a_full_disk_does_not_end_the_process_that_holds_weights(place, loop, student, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    slot, other = Slot(source=student), Slot(source="/no/such/folder")
    load(place, loop, slot)
    playground.ask(place, "look", slot, other)
    monkeypatch.setattr("paraknow_core.workbench.playground.serve.write_json", full)
    work(loop)
    assert list(loop.shelf.held) == [slot.key]


def test_damaged_files_do_not_end_the_loop(place, loop, student):
    commands = protocol.folder(place) / "commands"
    commands.mkdir(parents=True)
    for number, text in enumerate(
        (
            "{",
            "[]",
            '{"do": "load"}',
            '{"do": "load", "slot": {"source": 3}}',
            '{"do": "generate", "id": "../x"}',
            json.dumps({"do": "x", "slot": None}),
        )
    ):
        (commands / f"{number}.json").write_text(text)
    work(loop, 50)
    assert not list(commands.iterdir())


PANICS = {
    "at loading": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    "at the prompt": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
}


@pytest.mark.parametrize("when", PANICS)
def test_a_tokenizer_that_panics_is_a_sentence_and_the_loop_goes_on(place, loop, student, tmp_path, when):
    shutil.copytree(student, tmp_path / "crafted")
    file = tmp_path / "crafted" / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **PANICS[when]}))
    crafted, whole = Slot(source=str(tmp_path / "crafted")), Slot(source=student)
    playground.ask(place, "load", crafted, whole)
    work(loop)
    assert playground.holding(place, whole).state == "loaded"
    said = playground.holding(place, crafted).error
    if when == "at the prompt":
        name = playground.begin(place, asked(crafted, whole))
        work(loop)
        columns = playground.generation(place, name).columns
        assert columns[whole.key].tokens and columns[crafted.key].end == "failed"
        said = columns[crafted.key].error
    assert "tokenizer" in said and ";" in said


@pytest.mark.parametrize("content", ["[]", "3", "null", '{"state": 3}', '{"state": "loaded", "more": 1, "bytes": "x"}'])
def test_what_the_process_says_may_be_damaged(place, student, content, monkeypatch):
    slot, models = Slot(source=student), protocol.folder(place) / "models"
    models.mkdir(parents=True)
    monkeypatch.setattr(protocol, "_owner", lambda _place: None)
    for file in (models / f"{slot.key}.json", protocol.folder(place) / "process.json"):
        file.write_text(content)
    assert playground.holding(place, slot).bytes == 0
    assert playground.process_memory(place) is None
