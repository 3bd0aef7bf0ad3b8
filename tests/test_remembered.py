"""What a process remembers: bounded, by content, and never an error."""

import pytest

from paraknow_core.remembered import Remembered


def test_it_is_worked_out_once():
    memory, calls = Remembered(4), []
    for _ in range(3):
        assert memory.recall("a", lambda: calls.append(0) or len(calls)) == 1
    memory.forget()
    assert memory.recall("a", lambda: calls.append(0) or len(calls)) == 2


def test_what_was_not_asked_for_longest_goes_first():
    memory, made = Remembered(6, size=len), []

    def ask(key):
        return memory.recall(key, lambda: made.append(key) or key)

    for key in ("aa", "bbb", "aa", "cc", "aa", "bbb"):
        assert ask(key) == key
    assert made == ["aa", "bbb", "cc", "bbb"] and memory.held == 5
    assert ask("larger than all") and memory.held == 0  # given, not kept


def test_an_error_is_not_remembered():
    memory = Remembered(1)
    with pytest.raises(ZeroDivisionError):
        memory.recall("a", lambda: 1 // 0)
    assert memory.recall("a", lambda: 1) == 1
