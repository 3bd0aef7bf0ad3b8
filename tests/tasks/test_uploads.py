"""Uploads: every kind of broken file is one sentence that names the line; a mapping lays a file out anew."""

import json

import pytest

from paraknow_core.errors import DataError
from paraknow_core.tasks import uploads
from paraknow_core.tasks.formats import read_examples
from paraknow_core.tasks.uploads import columns_of, load_upload, mapped, write_chat


def rewrite(path, columns, target):
    return write_chat(mapped(path, columns), target)


GOOD = '{"question": "1 + 1?", "answer": "2"}\n'
BROKEN = {
    "empty.jsonl": (b"", "empty.jsonl: is empty"),
    "blank.jsonl": (b"\n\n  \n", "holds no example"),
    "line3.jsonl": ((GOOD * 2 + '{"question": oops\n').encode(), "line3.jsonl line 3: is not JSON"),
    "binary.jsonl": (GOOD.encode() + bytes(range(256)), "line 2 holds a zero byte"),
    "binary.txt": (b"\x89PNG\r\n\0\0", "is not text"),
    "utf16.txt": ("hello".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
    "latin.jsonl": ('{"question": "café", "answer": "x"}\n'.encode("latin-1"), "line 1: is not UTF-8"),
    "latin.csv": ("q,a,b,c,d,A\ncafé,a,b,c,d,A\n".encode("latin-1"), "line 2: is not UTF-8"),
    "wide.csv": (b",".join([b""] * 400_000) + b"\n", "line 1: has 400,000 columns; at most 100 are read"),
    "million.csv": (b",".join([b"x"] * 1_000_000) + b"\n", "line 1: is longer than 1 MB"),
    "wide.jsonl": (json.dumps({str(i): i for i in range(200)}).encode(), "line 1: has 200 columns"),
    "long.jsonl": (b'{"question": "' + b"a" * 1_500_000 + b'"}\n', "line 1: is longer than 1 MB"),
    "deep.jsonl": (b"[" * 100_000 + b"\n", "line 1: is not JSON"),
    "six.csv": (b"q,a,b,c,d,A\nq,a,b,c,d,E\n", "line 2: the answer is 'E'"),
    "quote.csv": (b'q,a,b,c,d,A\n"q,a,b,c,d,A\n', "is not valid CSV"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_sentence(write, name):
    content, said = BROKEN[name]
    with pytest.raises(DataError) as refused:
        load_upload(write(name, content))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_too_large_a_file_is_refused_by_its_size(write, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_BYTES", 20)
    with pytest.raises(DataError, match="can be uploaded"):
        load_upload(write("large.jsonl", GOOD))


def test_good_files_are_counted(write):
    for name, content, format, count in (
        ("a.jsonl", GOOD * 3, "gsm8k", 3),
        ("a.csv", 'q,"a, b",b,c,d,A\n' * 2, "mmlu", 2),
        ("a.txt", "One line.\n\nAnother.\n", "text", 1),
    ):
        data = load_upload(write(name, content))
        assert (data.format, len(data.parts[0])) == (format, count)


def test_columns_are_offered_only_where_the_layout_is_unknown(write):
    assert columns_of(write("a.jsonl", '{"told": "x", "output": 3}\n')) == {"told": "x", "output": "3"}
    assert columns_of(write("g.jsonl", '{"instruction": "x", "output": 3}\n')) == {}
    assert columns_of(write("b.csv", "prompt,reply\nhello,you\n")) == {"prompt": "hello", "reply": "you"}
    assert columns_of(write("c.jsonl", GOOD + "{\n")) == {}
    assert columns_of(write("d.csv", "q,a,b,c,d,A\nq,a,b,c,d,E\n")) == {}
    assert columns_of(write("e.jsonl", "[1, 2]\n")) == {}
    assert columns_of(write("f.csv", "same,same\n1,2\n")) == {}


def test_mapped_columns_become_examples_that_a_run_reads(write, tmp_path):
    rows = [{"problem": f"{i} + {i}?", "solution": 2 * i, "other": None} for i in range(4)]
    path = write("a.jsonl", rows)
    target = tmp_path / "a.mapped.jsonl"
    assert rewrite(path, {"question": "problem", "answer": "solution"}, target) == 4
    layout, examples = read_examples(target)
    assert layout == "chat_jsonl"
    assert [(e.question, e.reference) for e in examples] == [(f"{i} + {i}?", str(2 * i)) for i in range(4)]


def test_choices_are_laid_out_as_letters(write, tmp_path):
    path = write("a.jsonl", [{"q": "Which?", "options": ["red", "blue"], "right": place} for place in (1, 0)])
    rewrite(path, {"question": "q", "answer": "right", "choices": "options"}, tmp_path / "b.jsonl")
    _, (first, _) = read_examples(tmp_path / "b.jsonl")
    assert first.choices == ("A", "B")
    assert first.reference == "B"
    assert "B. blue" in first.question


@pytest.mark.parametrize(
    ("content", "columns", "said"),
    [
        ([{"q": "x", "a": "y"}, {"q": "x"}], {"question": "q", "answer": "a"}, "line 2: has no 'a'"),
        ([{"q": "x", "a": ["y"]}], {"question": "q", "answer": "a"}, "line 1: 'a' is list"),
        ([{"q": "x", "a": "y"}], {"question": "q"}, "no column is chosen for answer"),
        (
            [{"q": "x", "a": "y", "c": "z"}],
            {"question": "q", "answer": "a", "choices": "c"},
            "line 1: the choices must be a list of 2 to 26 texts, and 'c' is 'z'",
        ),
    ],
)
def test_a_mapping_that_does_not_fit_names_the_line(write, tmp_path, content, columns, said):
    with pytest.raises(DataError) as refused:
        rewrite(write("a.jsonl", content), columns, tmp_path / "b.jsonl")
    assert said in str(refused.value)
    assert not (tmp_path / "b.jsonl").exists()


def test_rows_of_another_width_name_the_line(write, tmp_path):
    path = write("a.csv", "q,a\nx,y\nx,y,z\n")
    with pytest.raises(DataError, match="line 3: has 3 columns, line 1 names 2"):
        rewrite(path, {"question": "q", "answer": "a"}, tmp_path / "b.jsonl")
