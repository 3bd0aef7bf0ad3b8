"""A chat template is somebody else's program: what it may take is bounded, and a bound is a sentence."""

import signal
import threading
import time
from types import SimpleNamespace

import pytest

from paraknow_core.errors import DataError, is_panic, without_panic
from paraknow_core.tasks import bounds, templates
from paraknow_core.tasks.bounds import OutOfBoundsError, bounded
from paraknow_core.tasks.task import Example, Message
from paraknow_core.tasks.templates import render

EXAMPLE = Example("one", (Message("user", "2 + 2?"), Message("assistant", "4")))
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    from paraknow_core.models.source import resolve_model
    from paraknow_core.models.tokenizer import load_tokenizer

    return load_tokenizer(resolve_model("bundled:kin"))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (LOOP, "took longer than 0.2 s"),
        ("{{ 'x' * 9000000000 }}", "took more than 0.3 GB of memory"),
        ("{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "memory"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        ("{{ messages[99].content }}", "refuses its turns"),
        ("{{ ''.__class__.__mro__ }}", "refuses its turns"),
        ("{% if", "refuses its turns"),
    ],
)
def test_a_template_that_takes_too_much_or_is_none_is_a_sentence(tokenizer, monkeypatch, template, said):
    monkeypatch.setattr(bounds, "SECONDS", 0.2)
    monkeypatch.setattr(bounded.__wrapped__, "__defaults__", (0.2 if template is LOOP else 20.0, 300_000_000))
    monkeypatch.setattr(tokenizer, "chat_template", template)
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(DataError, match=f"example one: the model's chat template refuses its turns.*{said}|{said}"):
        render(EXAMPLE, "chat", tokenizer)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_bound_leaves_somebody_elses_alarm_and_limit_as_they_were():
    import resource

    rung, limits = [], resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with bounded(5.0):
            pass
        deadline = time.monotonic() + 30
        while not rung:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


def test_in_another_thread_there_is_no_alarm():
    found = []
    thread = threading.Thread(target=lambda: found.append(_bounded_sum()))
    thread.start()
    thread.join()
    assert found == [10]


def _bounded_sum() -> int:
    with bounded(0.001):
        return sum(range(5))


def test_time_that_is_over_is_told_inside_the_block():
    with pytest.raises(OutOfBoundsError, match="longer than 0.05 s"), bounded(0.05):
        while True:
            pass


class PanicException(BaseException):
    """As a library written in Rust raises it."""


def test_a_panic_is_an_error_that_can_be_taken_care_of():
    assert is_panic(PanicException()) and not is_panic(KeyboardInterrupt()) and not is_panic(ValueError())
    with pytest.raises(RuntimeError, match="unwrap"), without_panic():
        raise PanicException("unwrap on None")
    with pytest.raises(KeyboardInterrupt), without_panic():
        raise KeyboardInterrupt


def test_a_tokenizer_that_panics_is_a_sentence():
    def panic(*_arguments, **_options):
        raise PanicException("chunk size must be non-zero")

    class Broken(SimpleNamespace):
        def __call__(self, *arguments, **options):
            return panic(*arguments, **options)

    tokenizer = Broken(eos_token="</s>", eos_token_id=2, bos_token_id=1)
    with pytest.raises(DataError, match=r"tokenizer: is damaged .*chunk size must be non-zero.*; get the model's"):
        templates.encode(EXAMPLE, "plain", tokenizer, 100)
