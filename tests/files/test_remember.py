"""What is remembered of files: until one of them changes, and the results that were asked for last."""

import gc
import os
from threading import Thread

import pytest

from paraknow_core.files import remember
from paraknow_core.files.remember import EVERY_RUN, once_a_look, once_each, one_look, while_unchanged


def test_a_result_is_read_again_once_a_file_has_changed(tmp_path):
    file, read = tmp_path / "a", []

    @while_unchanged(lambda path: [str(path)], most=3)
    def size(path):
        read.append(path)
        return path.stat().st_size if path.exists() else None

    assert [size(file), size(file)] == [None, None]  # also that there is none
    assert len(read) == 1
    file.write_text("12")
    assert [size(file), size(file)] == [2, 2]
    os.utime(file, (1, 1))
    assert size(file) == 2
    assert len(read) == 3


def test_an_error_is_not_remembered(tmp_path):
    tries = []

    @while_unchanged(lambda _: [tmp_path / "a"], most=3)
    def fails(number):
        tries.append(number)
        raise ValueError

    for _ in range(2):
        try:
            fails(1)
        except ValueError:
            continue
    assert tries == [1, 1]


def test_what_was_asked_for_last_is_kept(tmp_path):
    read = []

    @while_unchanged(lambda _: [tmp_path / "a"], most=2)
    def itself(number):
        read.append(number)
        return number

    assert [itself(number) for number in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert read == [1, 2, 3, 2]


def test_a_list_of_ten_thousand_runs_is_remembered_whole():
    assert EVERY_RUN >= 10_000


@pytest.fixture
def listed(tmp_path):
    """A function that lists a folder once a look, and what it was called for."""
    calls = []

    @once_a_look(lambda folder: [folder])
    def names(folder):
        calls.append(folder)
        return sorted(path.name for path in folder.iterdir())

    return names, calls


def test_a_look_lists_once_and_the_next_one_again(tmp_path, listed):
    names, calls = listed
    for _ in range(2):
        with one_look():
            names(tmp_path)
            with one_look():  # a part of the other
                names(tmp_path)
            names(tmp_path)
    assert len(calls) == 2
    assert [names(tmp_path), names(tmp_path)] == [[], []]
    assert len(calls) == 4  # outside of looks every time


def test_what_comes_in_the_middle_of_a_look_is_seen(tmp_path, listed):
    names, calls = listed
    with one_look():
        assert names(tmp_path) == []
        (tmp_path / "a").touch()
        os.utime(tmp_path, (1, 1))  # a clock of the disk may be too coarse to tell both moments apart
        assert names(tmp_path) == ["a"]
    assert len(calls) == 2


def test_a_look_is_over_after_an_error_and_belongs_to_its_thread(tmp_path, listed):
    names, calls = listed
    with pytest.raises(ValueError, match="drawn"), one_look():
        names(tmp_path)
        raise ValueError("drawn")
    with one_look():
        names(tmp_path)
        other = Thread(target=lambda: [names(tmp_path), names(tmp_path)])
        other.start()
        other.join()
    assert len(calls) == 4


class Thing:
    def __eq__(self, _):
        raise AssertionError("it is the object that counts")

    __hash__ = None


def test_a_result_is_remembered_for_as_long_as_its_object_lives():
    calls = []
    number = once_each(lambda thing: calls.append(1) or len(calls))
    first, second = Thing(), Thing()
    assert [number(first), number(second), number(first)] == [1, 2, 1]
    for _ in range(3):
        assert number(Thing()) == len(calls)  # also where it lies where the last one lay
    assert len(calls) == 5


def test_what_a_look_has_read_in_thousands_is_kept_apart(tmp_path, monkeypatch):
    apart = []
    monkeypatch.setattr(remember, "MANY", 3)
    monkeypatch.setattr(gc, "freeze", lambda: apart.append(1))
    itself = while_unchanged(lambda _: [tmp_path], most=10)(lambda number: number)
    for numbers in ((0, 1), (0, 1, 2, 3), (4, 5, 6), (4, 5, 6)):
        with one_look():
            assert [itself(number) for number in numbers] == [*numbers]
            assert gc.isenabled() == (numbers[0] < 4 or len(apart) > 0)  # paused while much is read
        assert gc.isenabled()
    assert len(apart) == 1
