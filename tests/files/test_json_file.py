"""What is written is read again, whatever a kill or a full disk has left of it."""

import json
import os

import pytest

from paraknow_core.files import json_file
from paraknow_core.files.json_file import append_line, open_lines, read_json, read_lines, write_json, write_json_anyhow


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_torn_json_reads_as_default(tmp_path):
    (tmp_path / "a.json").write_text('{"x": 1')
    assert read_json(tmp_path / "a.json", "default") == "default"


def test_lines_survive_a_torn_one(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": 2')  # killed while writing
    assert read_lines(path) == [{"n": 1}]
    descriptor = open_lines(path)
    append_line(descriptor, {"n": 3})
    with pytest.raises(ValueError, match="JSON"):
        append_line(descriptor, {"n": float("inf")})
    os.close(descriptor)
    assert read_lines(path) == [{"n": 1}, {"n": 3}]
    assert read_lines(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("torn", "left"),
    [(b'{"n": 2', b""), (b"\0" * 70_000, b""), (b'{"n": 2}', b'{"n": 2}\n'), (b'["n"', b""), (b"", b"")],
)
def test_a_torn_last_line_is_ignored_and_cut_off_by_the_next_writer(tmp_path, torn, left):
    path = tmp_path / "lines.jsonl"
    whole = b'{"n": 1}\n' + b'{"long": "' + b"x" * 70_000 + b'"}\n'
    path.write_bytes(whole + torn)
    assert [line.get("n") for line in read_lines(path)] == [1, None, *([2] if left else [])]
    os.close(open_lines(path))
    assert path.read_bytes() == whole + left


def test_a_file_without_any_whole_line_begins_anew(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"torn"')
    os.close(open_lines(path))
    assert path.read_bytes() == b""


@pytest.fixture
def nearly_full(monkeypatch):
    """Return `nearly_full(bytes)`: the disk takes so many more, in small parts, and then none."""
    real = os.write

    def fill(left: float) -> None:
        def write(descriptor, content):
            nonlocal left
            if left <= 0:
                raise OSError(28, "No space left on device")
            written = real(descriptor, bytes(content)[: int(min(left, 7))])
            left -= written
            return written

        monkeypatch.setattr(os, "write", write)

    return fill


def test_a_line_is_written_whole_however_little_a_write_takes(tmp_path, nearly_full):
    path = tmp_path / "lines.jsonl"
    descriptor = open_lines(path)
    nearly_full(1e9)
    append_line(descriptor, {"text": "ä" * 100})
    os.close(descriptor)
    assert read_lines(path) == [{"text": "ä" * 100}]


def test_a_line_that_a_full_disk_cuts_is_taken_back_and_later_ones_are_whole(tmp_path, nearly_full):
    path = tmp_path / "lines.jsonl"
    descriptor = open_lines(path)
    append_line(descriptor, {"n": 1})
    nearly_full(20)
    with pytest.raises(OSError, match="No space"):
        append_line(descriptor, {"text": "x" * 100})
    assert path.read_bytes() == b'{"n": 1}\n'
    nearly_full(1e9)
    append_line(descriptor, {"n": 3})
    os.close(descriptor)
    assert read_lines(path) == [{"n": 1}, {"n": 3}]


def test_last_words_are_written_where_no_new_file_has_room(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_json(path, {"state": "running", "message": "a long one, so that there is room"})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("paraknow_core.files.atomic.secrets.token_hex", full)
    write_json_anyhow(path, {"state": "failed"})
    assert read_json(path) == {"state": "failed"}
    write_json_anyhow(path, {"state": "failed", "message": "longer than what was there before " * 4})
    assert read_json(path)["state"] == "failed"


@pytest.mark.parametrize(
    "text",
    [
        *(
            '{"a": 1, "a": 2}',
            "-0",
            "[1e5, 1E5, 0.1, 12345678901234567.8]",
            '"7e123"',
            '" \\u0041\\/"',
            " 1 \n",
            "[]",
            '"ü"',
        ),
        *("NaN", "[-Infinity]", "1e999", "[1E+0400]", "-1e400", "9" * 19, "[1" + "0" * 400 + ".0]", '"\\uD83d"', "{"),
        *("", "\ufeff1", "01", "1.", "[1,]", '"\t"', "[1] 2", "nul", '{"\\ud800": "\\ud83d\\ude00"}'),
    ],
)
def test_the_quick_way_reads_what_the_plain_one_reads(text, tmp_path):
    def plainly():
        try:
            return json_file._plain(json.loads(text))
        except ValueError:
            return "nothing"

    file = tmp_path / "a.json"
    file.write_text(text, encoding="utf-8")
    assert repr(json_file.read_json(file, "nothing")) == repr(plainly())
