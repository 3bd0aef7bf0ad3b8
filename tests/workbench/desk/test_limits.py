"""The desk is not ended by a question: what takes too long, too much, or ends its process is answered by a sentence."""

import os
import re
import subprocess
import sys
import time

import psutil
import pytest

from paraknow_core.engines.service import Service
from paraknow_core.memory import total_bytes
from paraknow_core.paths import PROJECT_ROOT, WORKSPACE_VARIABLE, Workspace
from paraknow_core.spec import ModelSpec, TaskSpec
from paraknow_core.workbench import desk
from paraknow_core.workbench.desk import questions, requests, serve
from paraknow_core.workbench.desk.requests import Question
from tests.workbench.desk.hostile import folder_with

ODD = """
import os, re, signal, sys, time
class PanicException(BaseException): pass
from paraknow_core.workbench.desk.requests import Question
class Odd(Question, subject="odd"):
    do: str
def odd(place, settings, question):
    if question.do == "say":
        print("noise on standard output", flush=True)
        return {"said": os.getpid()}
    {"sleep": lambda: time.sleep(600), "regex": lambda: re.match("(a+)+b", "a" * 60), "exit": lambda: sys.exit(3),
     "abort": os.abort, "hard": lambda: os._exit(0), "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
     "panic": panic, "deep": lambda: deep(0), "interrupt": interrupt, "memory": grow, "mute": lambda: 1 / 0}[
        question.do]()
def panic(): raise PanicException("called `Option::unwrap()` on a `None` value")
def interrupt(): raise KeyboardInterrupt
def deep(n): return deep(n + 1)
def grow():
    kept = []
    while True: kept.append(bytearray(b"x" * 20_000_000))
"""


class Odd(Question, subject="odd"):
    """The question that is answered above, as this process knows it."""

    do: str


HAND = """
import sys
import paraknow_core.workbench.desk.kinds as kinds
from paraknow_core.workbench.desk import serve
from paraknow_core.paths import workspace
kinds.__path__.append(sys.argv[1])
import paraknow_core.workbench.desk.kinds.odd
serve._prepare_torch = lambda place: None
serve.work(workspace())
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Workspace:
    monkeypatch.setattr(Service, "start", lambda _self: None)
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "odd.py").write_text(ODD)
    return Workspace(tmp_path / "cache")


@pytest.fixture
def hand(place, tmp_path):
    """A hand that knows the kind of question above and needs no torch."""
    with serve.Hand(place, (sys.executable, "-c", HAND, str(tmp_path / "kinds"))) as one:
        yield one


def asked(place: Workspace, hand: serve.Hand, do: str) -> desk.Reply:
    """Ask, have it answered, and return the answer."""
    desk.ask(place, Odd(do=do))
    [question] = (questions.desk_folder(place) / "questions").glob("*.json")
    assert hand.answer(question)
    assert not list((questions.desk_folder(place) / "questions").iterdir())
    return desk.ask(place, Odd(do=do))


@pytest.mark.parametrize(
    ("do", "said"),
    [
        ("sleep", "took longer than 0.6 s and was ended"),
        ("regex", "took longer than 0.6 s and was ended"),
        ("memory", "took more than .* MB of memory and was ended"),
        ("panic", "its library gave up"),
        ("exit", "was ended, perhaps because"),
        ("abort", "was ended, perhaps because"),
        ("hard", "was ended, perhaps"),
        ("kill", "was ended, perhaps"),
        ("interrupt", "was ended, perhaps"),
        ("deep", "RecursionError"),
        ("mute", "ZeroDivisionError"),
    ],
)
def test_a_question_that_goes_wrong_is_a_sentence_and_the_next_one_is_answered(place, hand, monkeypatch, do, said):
    assert asked(place, hand, "say").state == "done"
    seconds = 60.0 if do != "sleep" and do != "regex" else 0.6
    monkeypatch.setattr(serve, "limits", lambda *_: (seconds, 300e6))
    reply = asked(place, hand, do)
    assert reply.state == "failed"
    assert re.search(f"^odd: .*{said}", reply.error), reply.error
    monkeypatch.setattr(serve, "limits", lambda *_: (60.0, 300e6))
    again = desk.ask(place, Odd(do="say"))
    desk.forget(again)
    assert asked(place, hand, "say").value["said"] == hand._process.pid


def test_a_process_stays_warm_between_questions_and_ends_with_whoever_started_it(place, hand):
    first = asked(place, hand, "say").value["said"]
    desk.forget(desk.ask(place, Odd(do="say")))
    assert asked(place, hand, "say").value["said"] == first
    hand.__exit__()
    assert not psutil.pid_exists(first)


def test_a_hand_that_was_killed_between_two_questions_is_replaced(place, hand):
    asked(place, hand, "say")
    desk.forget(desk.ask(place, Odd(do="say")))
    hand._process.kill()
    assert asked(place, hand, "say").state == "done"


def test_a_question_is_left_for_later_where_the_desk_is_asked_to_stop(place, hand):
    desk.ask(place, Odd(do="sleep"))
    folder = questions.desk_folder(place) / "questions"
    [question] = folder.iterdir()
    assert hand.answer(question, lambda: not question.exists())
    assert [file.suffix for file in folder.iterdir()] == [".json"]
    assert desk.ask(place, Odd(do="sleep")).state == "waiting"


def test_a_hand_that_cannot_start_ends_the_desk_so_that_its_log_is_shown(place):
    with serve.Hand(place, (sys.executable, "-c", "raise SystemExit(1)")) as hand:
        desk.ask(place, Odd(do="say"))
        [question] = (questions.desk_folder(place) / "questions").iterdir()
        assert not hand.answer(question)
    assert question.exists()


def test_a_damaged_question_or_answer_is_no_end(place, hand):
    folder = questions.desk_folder(place) / "questions"
    folder.mkdir(parents=True)
    for content in ("", "[]", "{}", '{"kind": 3, "request": {}}', '{"kind": "odd", "request": []}', '{"kind": "odd"}'):
        (folder / "x.json").write_text(content)
        assert hand.answer(folder / "x.json")
        assert not list(folder.iterdir())
    desk.ask(place, Odd(do="say"))
    answer = questions.desk_folder(place) / questions.question_key(Odd(do="say"), place)
    answer.mkdir()
    for content in ("", "[]", "{}", '{"value": 3}', '{"error": []}', '{"value": '):
        (answer / questions.ANSWER).write_text(content)
        assert asked(place, hand, "say").state == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own signal")
def test_a_desk_that_is_killed_leaves_no_process_behind(place, tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from paraknow_core.workbench.desk import serve
from paraknow_core.paths import Workspace
place, kinds = Workspace(Path({str(place.root)!r})), {str(tmp_path / "kinds")!r}
with serve.Hand(place, (sys.executable, "-c", {HAND!r}, kinds)) as one:
    one._hears(60, 1e12, lambda: False)
    print(one._process.pid, flush=True)
    time.sleep(600)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, WORKSPACE_VARIABLE: str(place.root)},
    )
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    child.wait(timeout=30)


def test_limits_are_longer_where_a_hub_is_asked_and_larger_for_weights():
    seconds, size = serve.limits(anatomy("bundled:kin"))
    assert serve.limits(anatomy("owner/name")) == (serve.HUB_S, size)
    task = requests.Task(task=TaskSpec(source="hub:owner/name"))
    assert serve.limits(task)[0] == serve.HUB_S > requests.DATA.seconds > seconds
    assert requests.TransferBlock.limits is requests.WEIGHTS
    assert size <= max(total_bytes(), serve.LEAST_BYTES)


def anatomy(source) -> requests.Anatomy:
    return requests.Anatomy(model=ModelSpec(source=str(source)))


@pytest.mark.slow
def test_the_whole_desk_goes_on_after_a_crafted_tokenizer_and_a_template_that_hangs(tmp_path, place, monkeypatch):
    """A real desk with its real hand: the questions that a page would ask about such models."""
    monkeypatch.undo()
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    hostile = [
        folder_with(tmp_path / "loop", chat_template=loop),
        folder_with(tmp_path / "memory", chat_template="{{ 'x' * 30000000000 }}"),
        folder_with(tmp_path / "panic", {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}),
        folder_with(tmp_path / "zero", {"pre_tokenizer": {"type": "FixedLength", "length": 0}}),
    ]
    place = Workspace(tmp_path / "cache")
    try:
        for model in hostile:
            task, named = TaskSpec(template="chat"), ModelSpec(source=str(model))
            reply = wait_for(place, requests.Lengths(task=task, split="test", model=named))
            assert (reply.state, "chat template" in reply.error or "tokenizer" in reply.error) == ("failed", True), (
                reply
            )
        assert wait_for(place, anatomy("bundled:kin")).state == "done"
    finally:
        Service(place, "desk").stop(wait_s=20)


def wait_for(place: Workspace, question: Question) -> desk.Reply:
    deadline = time.monotonic() + 200
    while (reply := desk.ask(place, question)).state == "waiting":
        assert time.monotonic() < deadline, (Service(place, "desk").folder / "log.txt").read_text()[-2000:]
        time.sleep(0.05)
    return reply
