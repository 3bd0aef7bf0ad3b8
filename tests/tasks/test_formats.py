"""Reading data files: what is accepted as it is, and the sentence for everything that is not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paraknow_core.errors import DataError
from paraknow_core.tasks import formats
from paraknow_core.tasks.formats import multiple_choice, read_examples, text_pieces
from tests.tasks.conftest import chat

GOOD = json.dumps(chat("q", "a"))


def test_chat_with_byte_order_mark_and_crlf(write):
    body = "\r\n".join([json.dumps(chat("1+1?", "2", id=7)), "", json.dumps(chat("é?", "ü"))]) + "\r\n"
    format, (first, second) = read_examples(write("a.jsonl", b"\xef\xbb\xbf" + body.encode()))
    assert format == "chat_jsonl"
    assert (first.id, first.question, first.reference) == ("7", "1+1?", "2")
    assert (second.id, second.reference) == ("a:3", "ü")


def test_gsm8k_loses_calculator_marks_only_where_the_answer_is_marked(write):
    path = write(
        "g.jsonl",
        [{"question": "q", "answer": "48/2 = <<48/2=24>>24\n#### 24"}, {"question": "r", "answer": "cout <<x>> 3"}],
    )
    format, (first, second) = read_examples(path)
    assert format == "gsm8k"
    assert first.reference == "48/2 = 24\n#### 24"
    assert second.reference == "cout <<x>> 3"


def test_mmlu_prompt_by_hand(write):
    path = write("high_school_physics_dev.csv", '"Two, or\nthree?",1,2,"3, 4",5,C\r\n\r\n')
    format, (example,) = read_examples(path)
    assert format == "mmlu"
    assert example.question == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "Two, or\nthree?\nA. 1\nB. 2\nC. 3, 4\nD. 5\nAnswer:"
    )
    assert (example.reference, example.choices) == ("C", ("A", "B", "C", "D"))


def test_mmlu_without_a_subject():
    assert multiple_choice("q", ("x", "y"), "B", "n").question.startswith(
        "The following are multiple choice questions (with answers).\n\nq\nA. x\nB. y\nAnswer:"
    )


BAD_JSONL = {
    "not UTF-8": (b"\n\xff\xfe{}", "line 2: is not UTF-8"),
    "UTF-16": (GOOD.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
    "not JSON": (GOOD + "\n{'a'}", "line 2: is not JSON"),
    "deep JSON": ("[" * 100_000, "line 1: is not JSON"),
    "a number": ("3", "line 1: holds 3, not an object"),
    "unknown layout": ('{"prompt": "x"}', "line 1: unknown layout with keys prompt"),
    "a key less": (GOOD + '\n{"id": "x"}', "line 2: has no 'messages', which 1 of 2 lines have"),
    "messages are text": ('{"messages": "hi"}', "'messages' must be a list"),
    "turn without role": ('{"messages": [{"content": "x"}]}', "message 1: a turn needs the keys"),
    "unknown role": ('{"messages": [{"role": "tool", "content": "x"}]}', "the role is 'tool'; choose from user"),
    "content a number": ('{"messages": [{"role": "user", "content": 3}]}', "'content' is 3; it must be text"),
    "content empty": (json.dumps(chat(" \n", "a")), "message 1: 'content' is empty"),
    "no answer": ('{"messages": [{"role": "user", "content": "x"}]}', "no assistant answer at the end"),
    "no question": ('{"messages": [{"role": "assistant", "content": "x"}]}', "an answer without a question"),
    "half a character": ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "half a character"),
    "id a list": (json.dumps(chat("q", "a", id=[])), "'id' is list"),
    "id true": (json.dumps(chat("q", "a", id=True)), "'id' is True"),
    "id twice": (json.dumps(chat("q", "a", id="x")) + "\n" + json.dumps(chat("r", "b", id="x")), "'x' is given twice"),
    "choices text": (json.dumps(chat("q", "a", choices="ab")), "'choices' must be a list of texts"),
    "choices same": (json.dumps(chat("q", "a", choices=["a", "a"])), "two or more different"),
    "choices without answer": (json.dumps(chat("q", "a", choices=["b", "c"])), "'a' is not among the choices"),
    "empty": ("", "is empty"),
    "blank": ("\n \n", "holds no example"),
    "gsm answer missing": (
        '{"question": "q", "answer": "a"}\n{"question": "q"}',
        "line 2: has no 'answer', which 1 of 2 lines have",
    ),
    "gsm answer a list": ('{"question": "q", "answer": [3]}', "'answer' is list; it must be text"),
    "gsm answer null": (
        '{"question": "q", "answer": "a"}\n{"question": "q", "answer":null}',
        "line 2: 'answer' is null",
    ),
    "gsm answer NaN": ('{"question": "q", "answer": NaN}', "line 1: 'answer' is NaN; fill it in or remove the line"),
    "gsm question infinite": ('{"question": -Infinity, "answer": "a"}', "line 1: 'question' is infinite"),
    "too large a number": ('{"question": "q", "answer": 1e999}', "line 1: 'answer' is infinite"),
    "trailing comma": ('{"question": "q", "answer": "a",}', "line 1: is not JSON"),
    "a key twice": ('{"question": "q", "answer": "a", "answer": "b"}', "line 1: the key 'answer' is given twice"),
    "a side file of macOS": (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "is a macOS side file"),
}


@pytest.mark.parametrize("content, sentence", BAD_JSONL.values(), ids=BAD_JSONL)
def test_bad_jsonl_is_named(write, content, sentence):
    with pytest.raises(DataError, match="bad.jsonl") as error:
        read_examples(write("bad.jsonl", content))
    assert sentence in str(error.value)
    assert "; " in str(error.value)


BAD_CSV = {
    "five columns": ("q,1,2,3,A", "line 1: has 5 columns; 6 are needed"),
    "letter": ("q,1,2,3,4,D\nq,1,2,3,4,E", "line 2: the answer is 'E'; it must be A, B, C or D"),
    "header alone": ("question,A,B,C,D,answer", "holds no example"),
    "unknown header": ("Frage,a1,a2,a3,a4,Buchstabe\n" + "q,1,2,3,4,A\n" * 9, "line 1: the answer is 'Buchstabe'"),
    "unknown names": ("prompt;reply\nx;y", "line 1: has 2 columns; 6 are needed: question, A, B, C, D, letter, or"),
    "names twice": ("question,answer,answer\nx,y,z", "line 1: names the column 'answer' twice"),
    "a cell too many": ("question,answer\nx,y\nx,y,z", "line 3: has 3 columns, line 1 names 2"),
    "empty cell": ("question,answer\nx,y\nx,", "line 3: 'answer' is empty"),
    "empty choice": ("q,1,,3,4,A", "'choice B' is empty"),
    "open quote": ('"q,1,2,3,4,A', "line 1: is not valid CSV"),
}


@pytest.mark.parametrize("content, sentence", BAD_CSV.values(), ids=BAD_CSV)
def test_bad_csv_is_named(write, content, sentence):
    with pytest.raises(DataError) as error:
        read_examples(write("bad.csv", content))
    assert sentence in str(error.value)


def test_files_that_cannot_be_read(tmp_path, write, monkeypatch):
    with pytest.raises(DataError, match="is not a file"):
        read_examples(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="does not tell the format"):
        read_examples(write("a.parquet", b"PAR1"))
    with pytest.raises(DataError, match="'csv' is not one of a file"):
        read_examples(write("a.jsonl", GOOD), "csv")
    monkeypatch.setattr(formats, "MAX_BYTES", 3)
    with pytest.raises(DataError, match="at most 2 GB"):
        read_examples(write("a.jsonl", GOOD))


def test_given_format_beats_the_extension(write):
    assert read_examples(write("a.data", GOOD), "chat_jsonl")[0] == "chat_jsonl"


def test_choices_and_answer_may_have_different_unicode_forms(write):
    choices = ["caf\u00e9", "the"]
    _, (example,) = read_examples(write("c.jsonl", [chat("q", "cafe\u0301", choices=choices)]))
    assert (example.reference, example.choices) == ("caf\u00e9", tuple(choices))  # learnt as it is scored
    with pytest.raises(DataError, match="line 1: 'choices' must be two or more different texts"):
        read_examples(write("c.jsonl", [chat("q", "caf\u00e9", choices=["caf\u00e9", "cafe\u0301"])]))
    with pytest.raises(DataError, match="is not among the choices"):
        read_examples(write("c.jsonl", [chat("q", "102", choices=["10\u00b2", "x"])]))


PARTS = st.sampled_from(["a", "word ", "\n", "\n\n", " \n \n", "é", "x" * 30, "\r"])


@given(st.lists(PARTS, min_size=1, max_size=60).map("".join), st.integers(1, 40))
def test_text_pieces_lose_nothing_and_fit(text, size):
    pieces = text_pieces(text, size)
    assert "".join(pieces) == text
    for piece in pieces:
        assert len(piece.strip()) <= size
        assert piece.strip() or not text.strip()


def test_text_pieces_by_hand():
    assert text_pieces("aa\n\nbb\n\ncccc\nd", 8) == ["aa\n\nbb\n\n", "cccc\nd"]
    assert text_pieces("one\ntwo\nthree", 5) == ["one\n", "two\n", "three"]


@pytest.mark.parametrize("text", ["\n" * 300_000, "a" + " \n" * 100_000, "\n\x0b" * 100_000 + "a", "\r" * 200_000])
def test_blank_lines_of_any_number_are_one_piece_and_lose_nothing(text):
    assert text_pieces(text) == [text]


def test_blank_units_stay_with_the_piece_before_them():
    assert text_pieces("abcdefgh\n\n\n\n\n\n\n\nij", 10) == ["abcdefgh\n\n\n\n\n\n\n\n", "ij"]
    assert text_pieces("\n\n\nabcdefghij\nkl", 8) == ["\n\n\nabcdefgh", "ij\nkl"]
