"""What is remembered of files: until one of them changes, and the results that were asked for last."""

import os

from paraknow_core.files.remember import EVERY_RUN, while_unchanged


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
