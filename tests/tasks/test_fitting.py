"""Examples that a model cannot read are found before anything costly: by length, and token by token."""

from types import SimpleNamespace

import pytest

from paraknow_core.errors import DataError, ModelError
from paraknow_core.remembered import Remembered
from paraknow_core.spec import SensitivitySpec
from paraknow_core.tasks import fitting as fitting_module
from paraknow_core.tasks.fitting import (
    Reader,
    check,
    check_rows,
    date_of,
    fitting,
    leave_out,
    left_out_sentence,
    rows_of,
    scoring_uses,
    seeds_that_fit,
    template_notes,
)
from paraknow_core.tasks.model_scores import evaluate
from paraknow_core.tasks.task import Example, Task
from paraknow_core.tasks.templates import TooLongError
from tests.tasks.conftest import ask, make_task
from tests.tasks.test_chat import CLOCK, HEADER, MAKES, THINK, chatml, with_template
from tests.tiny_models import build_tokenizer

SHORT = [ask(f"q{i}", "ab", f"s{i}") for i in range(4)]
LONG = ask("q" * 90, "ab", "long")
LIMIT = 60


def reader(context=1000, rows=259, tokenizer=None, who="student m"):
    return Reader(who, tokenizer or build_tokenizer(), context, rows)


def follow(examples, _what):
    return examples


@pytest.mark.parametrize("use", ["learn", "write", "choose", "judge"])
@pytest.mark.parametrize("of_model", [True, False])
def test_the_first_that_is_too_long_is_named_with_their_number(use, of_model):
    examples = [Example(e.id, e.messages, ("ab", "abc")) for e in (*SHORT, LONG, LONG)]
    task = make_task(examples, max_length=1000 if of_model else LIMIT)
    one = reader(LIMIT if of_model else 1000)
    says = "example long: .*limit is 60.*2 of the 6 test examples are too long for the student m; task.too_long: leave"
    with pytest.raises(TooLongError, match=says):
        check(examples, "test examples", task, [(one, (use,))], follow)
    check(examples[:4], "test examples", task, [(one, (use,))], follow)
    kept, count = fitting(examples, "test", task, [(one, (use,))], follow)
    assert ([e.id for e in kept], count) == (["s0", "s1", "s2", "s3"], 2)


def test_an_answer_that_is_cut_at_the_end_is_kept():
    examples = [ask("q", "a" * 200, "cut")]
    task = make_task(examples, max_length=LIMIT)
    check(examples, "train examples", task, [(reader(), ("learn", "write"))], follow)


def test_leaving_out_is_by_split_and_counted():
    task = Task(
        "t",
        "T",
        {"train": (*SHORT, LONG), "validation": (LONG,), "test": (LONG, SHORT[0])},
        ("exact_match",),
        max_length=LIMIT,
    )
    student = [(reader(), ("learn",))]
    made, left = leave_out(task, {"train": student, "validation": student, "test": student}, follow)
    assert {name: [e.id for e in part] for name, part in made.splits.items()} == {
        "train": ["s0", "s1", "s2", "s3"],
        "validation": [],
        "test": ["s0"],
    }
    assert left == {"train": 1, "validation": 1, "test": 1}
    assert left_out_sentence(left).endswith("1 of train, 1 of validation, 1 of test")
    assert left_out_sentence({"train": 0}) == ""
    assert made.fingerprint("test") != task.fingerprint("test")
    with pytest.raises(DataError, match="leaves out all 2 examples for test, nothing is left; raise task.max_length"):
        leave_out(task, {"test": [(reader(context=10), ("learn",))]}, follow)


def test_seed_samples_are_chosen_among_those_that_fit():
    whole = make_task([LONG, *SHORT], max_length=1000)
    teacher = [(reader(LIMIT, who="teacher m"), ("learn",))]
    first, count = seeds_that_fit(whole, whole, SensitivitySpec(samples=2), teacher, follow)
    assert ([e.id for e in first], count) == (["s0", "s1"], 1)
    by_hand = SensitivitySpec(samples=2, selection="manual", ids=("s3", "long"))
    chosen, count = seeds_that_fit(whole, whole, by_hand, teacher, follow)
    assert ([e.id for e in chosen], count) == (["s3"], 1)
    with pytest.raises(DataError, match="the train split of task mini has 4 examples"):
        seeds_that_fit(whole, whole, SensitivitySpec(samples=5), teacher, follow)
    with pytest.raises(DataError, match="leaves out all 1 examples for seed samples"):
        only = SensitivitySpec(samples=1, selection="manual", ids=("long",))
        seeds_that_fit(whole, whole, only, teacher, follow)
    with pytest.raises(DataError, match="'none' is not in the train split"):
        none = SensitivitySpec(samples=1, selection="manual", ids=("none",))
        seeds_that_fit(whole, whole, none, teacher, follow)


@pytest.mark.parametrize("use", ["learn", "write", "choose", "judge"])
def test_a_token_without_a_row_is_named(use):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<|user|>"], special_tokens=True)
    example = ask("q", "a", "e1", ("a", "b"))
    says = r"student m: token '<\|user\|>' \(id 259\) of example e1 has no row in the embedding of 259 tokens; give the"
    with pytest.raises(ModelError, match=says):
        check([example], "test", make_task([example]), [(reader(tokenizer=tokenizer), (use,))], follow)
    check([example], "test", make_task([example]), [(reader(rows=260, tokenizer=tokenizer), (use,))], follow)


def test_a_choice_without_a_row_is_named():
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["β"])
    example = ask("q", "A", "e1", ("A", "β"))
    with pytest.raises(ModelError, match=r"token 'β' \(id 259\)"):
        reader(tokenizer=tokenizer).read(example, make_task([example]), ("choose",))


def test_a_tokenizer_that_is_larger_than_the_embedding_is_no_mistake_by_itself():
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<|never|>"])
    reader(tokenizer=tokenizer).read(SHORT[0], make_task(SHORT), ("learn", "write"))
    check_rows([258], 259, tokenizer, "the prompt")


@pytest.mark.parametrize(("scorer", "judge"), [("exact_match", None), ("perplexity", None), ("multiple_choice", None)])
def test_scoring_a_model_says_it_too(tiny, scorer, judge):
    model, tokenizer = tiny("llama")
    import copy

    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<|user|>"], special_tokens=True)
    example = ask("q", "a", "e1", ("a", "b"))
    with pytest.raises(ModelError, match=r"token '<\|user\|>' \(id 259\) of example e1 has no row"):
        evaluate(model, larger, make_task([example]), [example], scorer, judge=judge)
    assert rows_of(model) == 259
    assert rows_of(SimpleNamespace()) > 1 << 30


def test_scorers_say_how_a_split_is_read():
    assert scoring_uses(("win_rate", "exact_match")) == ("write",)
    assert scoring_uses(("multiple_choice", "perplexity")) == ("choose", "learn")
    assert scoring_uses(("rouge_l", "perplexity")) == ("write", "learn")


def test_what_is_tokenised_is_tokenised_once(monkeypatch):
    from paraknow_core.tasks import fitting as module

    calls = []
    monkeypatch.setattr(module, "encode_split", lambda *a: calls.append(1) or [])
    one, task = reader(), make_task(SHORT)
    for _ in range(2):
        check(SHORT, "train", task, [(one, ("learn",))], follow)
    assert len(calls) == len(SHORT)


def notes(template, special=(), example=SHORT[0]):
    task = make_task([example], template="chat")
    one = Reader("teacher t", with_template(template, special), 1000, 300)
    one.encode(example, task)
    two = Reader("student s", one.tokenizer, 1000, 300)
    return template_notes([example], task, [one, two]), date_of([one], task)


def test_chat_templates_say_what_a_reader_should_know():
    assert notes(*MAKES["chatml"][:2]) == ([], None)
    (said,), date = notes(CLOCK)
    assert said.startswith("chat template of the teacher t and the student s: asks for the date; it is told 2024-07-26")
    assert date == "2024-07-26"
    (said,), _ = notes(chatml(THINK))
    assert f"writes {THINK!r} before an answer, where its generation prompt has nothing" in said
    (said,), _ = notes(HEADER)
    assert "writes '<|assistant|>\\n' before an answer" in said
    (said,), _ = notes(chatml().replace("m.content", "m.content | upper"))
    assert "the teacher t: would write 1 of the answers otherwise than the data has them (first: s0)" in said
    assert template_notes(SHORT, make_task(SHORT), [reader()]) == []


def test_readers_of_one_tokenizer_share_tokens_and_no_others_do(monkeypatch):
    examples, made = [ask(f"shared {i}", "ab", f"s{i}") for i in range(3)], []
    real = fitting_module.encode_split
    monkeypatch.setattr(fitting_module, "encode_split", lambda *all_: made.append(all_[0][0].id) or real(*all_))
    monkeypatch.setattr(fitting_module, "_TOKENS", Remembered(100, fitting_module._TOKENS._size))  # noqa: SLF001
    task, plain = make_task(examples), make_task(examples, template="plain")

    def read(identity, of, context=1000, rows=259):
        made.clear()
        found = Reader("student m", build_tokenizer(), context, rows, identity).encode(examples[0], of)
        return found, len(made)

    first, count = read("one", task)
    assert count == 1 and read("one", task) == (first, 0)
    assert read("other", task) == (first, 1) and read("", task) == (first, 1)
    other, count = read("one", plain)
    assert count == 1 and other != first
    assert read("one", task, context=999) == (first, 1)
    with pytest.raises(ModelError):
        read("one", task, rows=3)
    with pytest.raises(ModelError):  # nor is what was refused taken for read
        read("one", task, rows=3)
    for example in examples * 3:
        Reader("student m", build_tokenizer(), 1000, 259, "one").encode(example, task)
        assert fitting_module._TOKENS.held <= 100  # noqa: SLF001
