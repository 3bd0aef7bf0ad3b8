"""The desk: a question is answered by a real process, once, and failures are sentences."""

import importlib
import inspect
import os
import re
import time
from pathlib import Path

import numpy
import pytest

from paraknow_core.engines.service import Service
from paraknow_core.errors import DataError
from paraknow_core.paths import Workspace
from paraknow_core.spec import ModelSpec, RunSpec, TaskSpec
from paraknow_core.workbench import desk, sources
from paraknow_core.workbench.access import ADDRESS_VARIABLE, DEMO_VARIABLE
from paraknow_core.workbench.desk import kinds, questions, requests, serve
from paraknow_core.workbench.desk.requests import KINDS, Question

ECHO = """
import numpy
from paraknow_core.errors import DataError
def echo(place, settings, question):
    if question.say == "refuse":
        raise DataError("echo: refused; ask for something else")
    if question.say == "crash":
        raise ZeroDivisionError("one by nothing")
    return {"said": question.say}, {"numbers": numpy.arange(4.0)}
"""


class Echo(Question, subject="echo"):
    """A question of these tests."""

    say: str = ""
    model: ModelSpec | None = None
    task: TaskSpec | None = None


@pytest.fixture
def place(tmp_path) -> Workspace:
    return Workspace(tmp_path / "cache")


@pytest.fixture
def echo(monkeypatch, tmp_path):
    """Whoever answers `Echo`."""
    (tmp_path / "echo.py").write_text(ECHO)
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(tmp_path)])
    monkeypatch.setattr(Service, "start", lambda self: None)


def answer_all(place: Workspace) -> None:
    for question in sorted((questions.desk_folder(place) / "questions").glob("*.json")):
        serve.answer_question(place, question)


def test_an_answer_is_kept_with_its_arrays(place, echo):
    assert desk.ask(place, Echo(say="hello")).state == "waiting"
    answer_all(place)
    reply = desk.ask(place, Echo(say="hello"))
    assert (reply.state, reply.value) == ("done", {"said": "hello"})
    numpy.testing.assert_array_equal(reply.array("numbers"), numpy.arange(4.0))
    with pytest.raises(DataError, match="no 'letters'"):
        reply.array("letters")
    assert not list((questions.desk_folder(place) / "questions").iterdir())


@pytest.mark.parametrize(
    ("say", "message"), [("refuse", "echo: refused; ask for something else"), ("crash", "echo: .*one by nothing")]
)
def test_a_failure_is_a_sentence_and_can_be_asked_again(place, echo, say, message):
    desk.ask(place, Echo(say=say))
    answer_all(place)
    reply = desk.ask(place, Echo(say=say))
    assert reply.state == "failed"
    assert re.search(message, reply.error)
    desk.forget(reply)
    assert desk.ask(place, Echo(say=say)).state == "waiting"


@pytest.mark.parametrize(
    ("kind", "request_", "message"),
    [
        ("no_such", {}, "desk: nobody answers questions of kind 'no_such'"),
        ("../serve", {}, "desk: nobody answers questions of kind '../serve'"),
        ("anatomy", {}, "anatomy: model: Field required"),
        ("anatomy", {"self": 1}, "anatomy: model: Field required"),
        ("anatomy", {"model": {"source": "x"}, "path": "/etc"}, "anatomy: path: Extra inputs are not permitted"),
        ("examples", {"task": {"source": 3}}, "examples: task.source: Input should be a valid string"),
    ],
)
def test_a_file_that_asks_what_nobody_asks_is_answered_by_a_sentence(place, kind, request_, message):
    questions.inbox_of(place).leave("key", {"kind": kind, "request": request_})
    answer_all(place)
    assert questions.answer_in(questions.desk_folder(place) / "key").error.startswith(message)
    assert not questions.inbox_of(place).contents(taken=True)


def test_every_question_has_exactly_one_answering_function():
    """In the file of its subject, under the name of its kind; and no other function answers anything."""
    answering = []
    for file in Path(kinds.__file__).parent.glob("[a-z]*.py"):
        module = importlib.import_module(f"{kinds.__name__}.{file.stem}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            for question in inspect.get_annotations(function).values():
                if function.__module__ == module.__name__ and name[0] != "_" and getattr(question, "subject", ""):
                    answering.append((question, file.stem, name))
    asked = [(cls, cls.subject, cls.kind) for cls in KINDS.values() if cls.__module__ == requests.__name__]
    assert sorted(answering, key=str) == sorted(asked, key=str)


def test_a_question_about_a_spec_is_another_one_only_where_its_answer_may_be():
    def plan(**changes) -> requests.TransferPlan:
        changes = {key.replace("__", "."): value for key, value in changes.items()}
        return requests.TransferPlan(spec=RunSpec().with_changes(changes), stores=["one"])

    assert plan(factorisation__rank=8, extraction__seed=3, name="x") == plan()
    assert plan(extraction__origin=["ffn"], extraction__seed=3) == plan(extraction__origin=["ffn"]) != plan()
    assert plan(teacher__source="bundled:kin") != plan()
    for cls in KINDS.values():
        for key in getattr(cls, "reads", ()):
            part, _, inner = key.partition(".")
            assert part in RunSpec.model_fields
            assert not inner or hasattr(getattr(RunSpec(), part), inner)


def test_bad_settings_are_the_answer_to_every_question_and_do_not_end_the_process(place, echo):
    place.root.mkdir(parents=True)
    place.settings_file.write_text("threads: many")
    serve._prepare_torch(place)
    desk.ask(place, Echo(say="hello"))
    answer_all(place)
    assert "settings: 'threads'" in desk.ask(place, Echo(say="hello")).error


@pytest.mark.parametrize("variable", [DEMO_VARIABLE, ADDRESS_VARIABLE])
def test_what_visitors_may_not_read_is_never_asked(place, echo, monkeypatch, variable):
    question = Echo(task=TaskSpec(test_source="/etc/passwd"))
    assert desk.ask(place, question).state == "waiting"
    monkeypatch.setenv(variable, "1")
    with pytest.raises(DataError, match="demo mode|outside the folders"):
        desk.ask(place, question)


def test_a_changed_file_is_another_question(place, tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text("{}\n")
    question = Echo(task=TaskSpec(source=str(file)))
    before = questions.question_key(question, place)
    assert questions.question_key(question, place) == before
    file.write_text("{}\n{}\n")
    assert questions.question_key(question, place) != before


def test_changed_settings_are_another_question(place, echo, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    desk.ask(place, Echo(say="hello"))
    answer_all(place)
    assert desk.ask(place, Echo(say="hello")).state == "done"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert desk.ask(place, Echo(say="hello")).state == "waiting"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    place.settings_file.write_text("dtype: bfloat16\n")
    assert desk.ask(place, Echo(say="hello")).state == "waiting"


def test_a_rebuilt_bundled_model_and_a_changed_file_with_a_colon_are_other_questions(place, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BUNDLED_FOLDER", tmp_path)
    (tmp_path / "one").mkdir()
    for source, file in (("bundled:one", tmp_path / "one" / "config.json"), (f"{tmp_path}/a:b", tmp_path / "a:b")):
        question = Echo(model=ModelSpec(source=source))
        before = questions.question_key(question, place)
        file.write_text("{}")
        assert questions.question_key(question, place) != before


def test_what_a_hub_holds_without_a_revision_is_asked_again_the_next_day(place, monkeypatch):
    named = (("owner/name", None), ("hub:owner/name", None), ("owner/name", "main"), ("bundled:teacher", None))

    def keys() -> list[str]:
        models = (ModelSpec(source=source, revision=revision) for source, revision in named)
        return [questions.question_key(Echo(model=model), place) for model in models]

    today, tomorrow = keys(), time.time() + 86_400
    monkeypatch.setattr(sources.time, "time", lambda: tomorrow)
    assert [a == b for a, b in zip(today, keys(), strict=True)] == [False, False, True, True]


def test_a_question_that_nobody_waits_for_is_dropped_and_the_newest_comes_first(place, echo):
    for number, word in enumerate(("old", "middle", "new")):
        desk.ask(place, Echo(say=word))
        key = questions.question_key(Echo(say=word), place)
        moment = time.time() - (serve.STALE_S + 5 if word == "old" else 3 - number)
        os.utime(questions.desk_folder(place) / "questions" / f"{key}.json", (moment, moment))
    folder = questions.desk_folder(place) / "questions"
    newest = serve._newest(folder)
    assert newest.stem == questions.question_key(Echo(say="new"), place)
    assert len(list(folder.iterdir())) == 2


def test_a_question_that_is_being_worked_out_is_not_asked_anew(place, echo):
    desk.ask(place, Echo(say="slow"))
    folder = questions.desk_folder(place) / "questions"
    [question] = folder.iterdir()
    question.replace(question.with_suffix(".working"))
    assert desk.ask(place, Echo(say="slow")).state == "waiting"
    assert [file.suffix for file in folder.iterdir()] == [".working"]


def test_an_answer_that_comes_between_two_looks_is_taken_and_not_worked_out_again(place, echo, monkeypatch):
    assert desk.ask(place, Echo(say="hello")).state == "waiting"
    looks: list[object] = []
    before = questions.read_json

    def late(path, *default):
        looks.append(path)
        if len(looks) > 1:
            return before(path, *default)
        answer_all(place)  # the first look finds nothing; now it is answered, and no `.working` is left
        return None

    monkeypatch.setattr(questions, "read_json", late)
    assert desk.ask(place, Echo(say="hello")).state == "done"
    assert not list((questions.desk_folder(place) / "questions").iterdir())


def test_a_question_whose_answer_is_there_is_dropped(place, echo, monkeypatch):
    desk.ask(place, Echo(say="hello"))
    [question] = (questions.desk_folder(place) / "questions").iterdir()
    content = question.read_text()
    answer_all(place)
    question.write_text(content)
    monkeypatch.setattr(serve, "work_out", lambda *_: pytest.fail("worked out twice"))
    answer_all(place)
    assert not question.exists()


def test_old_answers_go_when_they_are_too_many_or_too_large(place, monkeypatch):
    folder = questions.desk_folder(place)

    def answers(*ages: int) -> list[str]:
        for age in ages:
            (folder / str(age)).mkdir(parents=True, exist_ok=True)
            (folder / str(age) / questions.ANSWER).write_text("x" * 100)
            os.utime(folder / str(age), (1e9 - age, 1e9 - age))
        serve._prune(folder)
        return sorted(path.name for path in folder.iterdir())

    assert answers(1, 2, 3) == ["1", "2", "3"]
    monkeypatch.setattr(serve, "MOST_BYTES", 250)
    assert answers(1, 2, 3) == ["1", "2"]
    monkeypatch.setattr(serve, "MOST_ANSWERS", 1)
    assert answers(1, 2) == ["1"]
    monkeypatch.setattr(serve, "MOST_BYTES", 50)
    assert answers(1) == ["1"]


def test_old_answers_go_while_the_desk_serves(place, monkeypatch):
    monkeypatch.setattr(serve, "PRUNE_EVERY_S", 0.0)
    monkeypatch.setattr(serve, "IDLE_S", 0.2)
    pruned = []
    monkeypatch.setattr(serve, "_prune", pruned.append)
    serve.serve(place)
    assert len(pruned) > 1


def test_a_question_that_ended_the_process_is_answered_with_that(place, echo, monkeypatch):
    desk.ask(place, Echo(say="boom"))
    [question] = (questions.desk_folder(place) / "questions").iterdir()
    question.replace(question.with_suffix(".working"))
    monkeypatch.setattr(serve, "IDLE_S", 0.0)
    serve.serve(place)
    assert re.fullmatch("echo: .*memory ran out.*", desk.ask(place, Echo(say="boom")).error)


def test_a_real_process_answers_and_ends_when_asked(place):
    deadline = time.monotonic() + 90
    while (reply := desk.ask(place, Echo())).state == "waiting":
        assert time.monotonic() < deadline, Path(Service(place, "desk").folder / "log.txt").read_text()
        time.sleep(0.1)
    assert "nobody answers questions of kind 'echo'" in reply.error  # it is known to these tests only
    service = Service(place, "desk")
    assert service.alive()
    with service.hold() as mine:
        assert not mine
    service.stop(wait_s=20)
    assert not service.alive()
