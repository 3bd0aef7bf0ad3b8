"""Fields of data: every usual layout keeps its whole prompt, and what is not understood is named."""

import json

import pytest

from paraknow_core.errors import DataError
from paraknow_core.spec import TaskSpec
from paraknow_core.tasks.examples import load_task
from paraknow_core.tasks.formats import read_examples, read_files
from paraknow_core.tasks.layouts import guess

TEXTS = ["apple", "stone", "iron", "glass"]
LETTERED = "Which is a fruit?\nA. apple\nB. stone\nC. iron\nD. glass\nAnswer:"
INTRO = "The following are multiple choice questions (with answers).\n\n"


def turns(example) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in example.messages]


def read(write, record, name="x.jsonl", **options):
    return read_files([write(name, [record] if isinstance(record, dict) else record)], **options)


PROMPTS = {
    "Alpaca": (
        {"instruction": "Translate", "input": "the cat", "output": "le chat"},
        [("user", "Translate\n\nthe cat"), ("assistant", "le chat")],
    ),
    "Alpaca without input": (
        {"instruction": "Sing", "input": "", "output": "la"},
        [("user", "Sing"), ("assistant", "la")],
    ),
    "Alpaca with system and history": (
        {"instruction": "And 3?", "input": "", "output": "4", "system": "Add 1.", "history": [["1?", "2"]]},
        [("system", "Add 1."), ("user", "1?"), ("assistant", "2"), ("user", "And 3?"), ("assistant", "4")],
    ),
    "SQuAD": (
        {
            "context": "Rome is in Italy.",
            "question": "Where is Rome?",
            "answers": {"text": ["Italy", "in Italy"], "answer_start": [11, 8]},
        },
        [("user", "Rome is in Italy.\n\nWhere is Rome?"), ("assistant", "Italy")],
    ),
    "context, question, answer": (
        {"question": "Where?", "answer": "Here", "context": "We are here."},
        [("user", "We are here.\n\nWhere?"), ("assistant", "Here")],
    ),
    "a truth value": (
        {"passage": "Ice is cold.", "question": "is ice cold", "answer": True},
        [("user", "Ice is cold.\n\nis ice cold"), ("assistant", "true")],
    ),
    "Dolly": (
        {"instruction": "Sum it up", "context": "Long text", "response": "Short", "category": "x"},
        [("user", "Sum it up\n\nLong text"), ("assistant", "Short")],
    ),
    "ShareGPT": (
        {
            "conversations": [
                {"from": "system", "value": "Be brief"},
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Ho"},
            ]
        },
        [("system", "Be brief"), ("user", "Hi"), ("assistant", "Ho")],
    ),
    "ShareGPT, system apart": (
        {"system": "Be brief", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
        [("system", "Be brief"), ("user", "Hi"), ("assistant", "Ho")],
    ),
    "prompt, completion": ({"prompt": "1, 2,", "completion": " 3"}, [("user", "1, 2,"), ("assistant", " 3")]),
    "prompt and completion as turns": (
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
            "completion": [{"role": "assistant", "content": "a"}],
        },
        [("system", "s"), ("user", "q"), ("assistant", "a")],
    ),
    "messages and system": (
        {"system": "s", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        [("system", "s"), ("user", "q"), ("assistant", "a")],
    ),
    "Super-NaturalInstructions": (
        {"id": "t-1", "definition": ["Translate."], "inputs": "cat", "targets": "chat"},
        [("user", "Translate.\n\ncat"), ("assistant", "chat")],
    ),
    "input, output": ({"input": "cat", "output": "chat"}, [("user", "cat"), ("assistant", "chat")]),
    "problem, solution": ({"Problem": "1 + 1", "Solution": "2"}, [("user", "1 + 1"), ("assistant", "2")]),
    "a number as written": ({"question": "half?", "answer": 0.50}, [("user", "half?"), ("assistant", "0.5")]),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_every_field_of_the_prompt_is_in_it(write, name):
    record, expected = PROMPTS[name]
    assert turns(read(write, record).parts[0][0]) == expected


@pytest.mark.parametrize("written", ["1.50", "1.0", "1", "-0.0", "1e3", "12345678901234567890"])
def test_numbers_are_learnt_as_they_are_written(write, written):
    _, (example,) = read_examples(write("x.jsonl", f'{{"question": "q", "answer": {written}}}'))
    assert example.reference == written


CHOICES = {
    "choices": {"choices": TEXTS},
    "options": {"options": TEXTS},
    "endings": {"endings": TEXTS},
    "A to D": dict(zip("ABCD", TEXTS, strict=True)),
    "a to d": dict(zip("abcd", TEXTS, strict=True)),
    "option_a": {f"option_{mark}": text for mark, text in zip("abcd", TEXTS, strict=True)},
    "choice1": {f"choice{index}": text for index, text in enumerate(TEXTS, 1)},
    "ending0": {f"ending{index}": text for index, text in enumerate(TEXTS)},
    "ARC": {"choices": {"text": TEXTS, "label": list("ABCD")}},
    "objects": {"choices": [{"label": mark, "text": text} for mark, text in zip("ABCD", TEXTS, strict=True)]},
    "by letter": {"options": dict(zip("ABCD", TEXTS, strict=True))},
}


@pytest.mark.parametrize("choices", CHOICES)
def test_choices_of_every_layout_are_in_the_prompt(write, choices):
    rows = [{"question": "Which is a fruit?", **CHOICES[choices], "answer": letter} for letter in "ABCD"]
    data = read(write, rows)
    assert data.format == "mmlu"
    assert [e.reference for e in data.parts[0]] == list("ABCD")
    assert {e.question for e in data.parts[0]} == {INTRO + LETTERED}
    assert data.notes == ()


ANSWERS = {
    "letters": ({"answer": ["A", "C"]}, "AC"),
    "letters in brackets": ({"answer": ["(a)", "c."]}, "AC"),
    "from 0": ({"answer": [0, 2]}, "AC"),
    "from 0, as text": ({"answer": ["0", "2"]}, "AC"),
    "from 1": ({"answer": [1, 4]}, "AD"),
    "from 0, of a table with holes": ({"label": [0.0, 2.0]}, "AC"),
    "texts": ({"answer": ["apple", "iron "]}, "AC"),
    "texts in another Unicode form": ({"answer": ["apple", "cafe\u0301"]}, "AE"),
    "answerKey": ({"answerKey": ["A", "C"]}, "AC"),
    "answerKey from 1": ({"answerKey": ["1", "4"]}, "AD"),
    "label": ({"label": [3, 0]}, "DA"),
    "MMLU-Pro": ({"answer": ["B", "C"], "answer_index": [1, 2]}, "BC"),
    "text and letter": ({"answer": ["stone", "iron"], "answer_idx": ["B", "C"]}, "BC"),
    "an index decides": ({"answer": ["2", "3"], "answer_index": [1, 2]}, "BC"),
    "answer_index alone counts from 0": ({"answer_index": [1, 2]}, "BC"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_name_their_choice_in_one_way_for_the_whole_file(write, name):
    columns, expected = ANSWERS[name]
    rows = [
        {"question": f"q{i}", "options": [*TEXTS, "caf\u00e9"][: 5 if "Unicode" in name else 4]}
        | {key: values[i] for key, values in columns.items()}
        for i in (0, 1)
    ]
    assert "".join(e.reference for e in read(write, rows).parts[0]) == expected


BLOOD = ["B", "A", "AB", "0"]
UNSETTLED = {
    "a letter that is a choice": ([(BLOOD, "A")], "line 1: the answer 'A' may be a letter ('B') or the text of"),
    "0 or 1": ([(TEXTS, 1), (TEXTS, 2)], "line 1: the answer 1 may be a position counted from 0 ('stone') or"),
    "none": ([(TEXTS, "A"), (TEXTS, "E")], "line 2: the answer 'E' names none of 4 choices by a letter, as 1 of 2"),
    "another way": ([(TEXTS, "A"), (TEXTS, "B"), (TEXTS, "iron")], "line 3: the answer 'iron' names none of 4 choices"),
    "no way": ([(TEXTS, "wood")], "line 1: the answer 'wood' names none of 4 choices; give a letter (A to D)"),
    "text twice": ([(["x", "x"], "x")], "line 1: the answer 'x' names none of 2 choices"),
    "null": ([(TEXTS, "A"), (TEXTS, None)], "line 2: 'answer' is null; fill it in or remove the line"),
    "NaN": ([(TEXTS, 0), (TEXTS, float("nan"))], "line 2: 'answer' is NaN"),
    "a hole among the choices": ([(["x", None], 0)], "line 1: 'choices, choice 2' is null"),
    "NaN among the choices": ([(["x", float("nan")], 0)], "line 1: 'choices, choice 2' is NaN"),
    "a label that is no list": ([({"text": ["x"], "label": 1}, 0)], "line 1: 'choices' holds 1"),
    "one choice": ([(["x"], 0)], "line 1: 'choices' holds 1; the choices must be a list of 2 to 26 texts"),
    "no list": ([({"temperature": 1}, 0)], "line 1: 'choices' holds 1"),
}


@pytest.mark.parametrize("name", UNSETTLED)
def test_an_answer_that_may_be_two_choices_is_never_guessed(write, name):
    rows, said = UNSETTLED[name]
    with pytest.raises(DataError) as refused:
        read(write, [{"question": "q", "choices": choices, "answer": answer} for choices, answer in rows])
    assert said in str(refused.value)


def test_other_lines_decide_what_a_letter_is(write):
    rows = [{"question": "q", "choices": BLOOD, "answer": "A"}, {"question": "q", "choices": TEXTS, "answer": "D"}]
    assert [e.reference for e in read(write, rows).parts[0]] == ["A", "D"]
    rows[1]["answer"] = "glass"
    assert [e.reference for e in read(write, rows).parts[0]] == ["B", "D"]


def test_answers_of_two_fields_that_disagree_are_named(write):
    rows = [{"question": "q", "options": TEXTS, "answer": "ABCD"[i], "answer_index": i} for i in range(4)]
    rows[2]["answer_index"] = 0
    with pytest.raises(DataError, match="line 3: 'answer' is 'C' and 'answer_index' is 0, which are different choices"):
        read(write, rows)


def test_ten_choices_numbers_and_a_context_before_the_question(write):
    rows = [{"article": "Ten.", "question": "Which?", "options": list(range(10, 20)), "answer": mark} for mark in "JA"]
    first, _ = read(write, rows).parts[0]
    assert first.choices == tuple("ABCDEFGHIJ")
    assert first.question.startswith(f"{INTRO}Ten.\n\nWhich?\nA. 10\nB. 11")
    assert first.reference == "J"


def test_fields_that_are_not_used_are_named_once_a_file(write):
    rows = [
        {"id": i, "question": "q", "answer": "a", "difficulty": 3, "source": "web", "empty": None} for i in range(9)
    ]
    assert read(write, rows).notes == ("x.jsonl: the fields 'difficulty', 'source' are not used",)
    path = write("y.jsonl", [row | {"question": f"{row['id']}"} for row in rows])
    assert load_task(TaskSpec(source=str(path))).warnings == (
        "y.jsonl: the fields 'difficulty', 'source' are not used",
    )
    many = {"question": "q", "answer": "a", **{f"f{i}": 1 for i in range(20)}}
    assert read(write, many).notes[0].endswith("'f7' and 12 more are not used")
    turn = {"messages": [{"role": "user", "content": "q", "name": "x"}, {"role": "assistant", "content": "a"}]}
    assert read(write, turn).notes == ("x.jsonl: of the turns, the field 'name' is not used",)


UNCLEAR = {
    "two questions": {"instruction": "x", "question": "y", "answer": "z"},
    "two answers": {"problem": "x", "solution": "y", "answer": "z"},
    "two contexts": {"question": "x", "answer": "y", "context": "c", "passage": "p"},
    "two lists": {"question": "x", "answer": "A", "choices": ["x", "y"], "options": ["x", "y"]},
    "a gap in the letters": {"question": "x", "answer": "A", "A": "x", "B": "y", "D": "z"},
    "a class beside a text": {"text": "x", "label": 1},
    "no answer": {"prompt": "x", "chosen": "y", "rejected": "z"},
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_may_belong_to_the_prompt_is_never_left_out(write, name):
    with pytest.raises(DataError, match="line 1: unknown layout with keys .*say with task.columns") as refused:
        read(write, UNCLEAR[name])
    assert "\n" not in str(refused.value)


QA, MC = {"question": "q", "answer": "a"}, {"question": "q", "answer": "A", "choices": TEXTS}
ODD = {
    "choices of one": (QA, QA | {"choices": TEXTS}, "also has 'choices', which 5 of 6 lines do not have"),
    "no choices": (MC, QA, "has no 'choices', which 5 of 6 lines have"),
    "other names": (QA, {"prompt": "q", "answer": "a"}, "has no 'question', which 5 of 6 lines have"),
    "a chat": (QA, {"messages": []}, "has no 'question', which 5 of 6 lines have"),
    "a second question": (QA, QA | {"prompt": "p"}, "(the field 'prompt' may belong to the prompt)"),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", ODD)
def test_one_odd_line_is_named_and_the_file_keeps_its_layout(write, name, first):
    usual, odd, said = ODD[name]
    rows = [odd, *[usual] * 5] if first else [*[usual] * 5, odd]
    with pytest.raises(DataError, match=f"x.jsonl line {1 if first else 6}: ") as refused:
        read(write, rows)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_columns_are_mapped_to_every_part_of_a_prompt(write, name):
    record = {"persona": "s", "story": "c", "q": "Which?", "more": "i", "w": "red", "x": "blue", "gold": "B"}
    content = (
        [record, record | {"gold": "A"}]
        if name.endswith("jsonl")
        else (
            ",".join(record)
            + "\n"
            + ",".join(record.values())
            + "\n"
            + ",".join(record.values()).replace("B", "A")
            + "\n"
        )
    )
    columns = {
        "system": "persona",
        "context": "story",
        "question": "q",
        "input": "more",
        "choices": "w, x",
        "answer": "gold",
    }
    data = read_files([write(name, content)], columns=columns)
    prompt = f"{INTRO}c\n\nWhich?\n\ni\nA. red\nB. blue\nAnswer:"
    assert turns(data.parts[0][0]) == [("system", "s"), ("user", prompt), ("assistant", "B")]
    assert data.notes == ()
    assert data.fields["choices"] == "w, x"


def test_a_mapping_reaches_into_objects_and_can_leave_a_part_out(write):
    row = {
        "question": {"stem": "Which?", "choices": [{"text": "x", "label": "1"}, {"text": "y", "label": "2"}]},
        "answerKey": "2",
        "context": "c",
    }
    with pytest.raises(DataError, match="line 1: unknown layout|'question' is an object; say with task.columns"):
        read(write, row)
    columns = {"question": "question.stem", "choices": "question.choices", "context": ""}
    data = read(write, row, columns=columns)
    assert data.parts[0][0].reference == "B"
    assert data.parts[0][0].question == f"{INTRO}Which?\nA. x\nB. y\nAnswer:"
    assert data.notes == ("x.jsonl: the field 'context' is not used",)
    open_ended = read(write, [MC | {"answer": "apple"}], columns={"choices": ""})
    assert (open_ended.format, open_ended.parts[0][0].reference) == ("gsm8k", "apple")


def test_a_format_that_was_asked_for_drops_nothing(write):
    with pytest.raises(DataError, match="format gsm8k has no choices, and 'choices' holds some"):
        read(write, MC, format="gsm8k")
    with pytest.raises(DataError, match="format mmlu needs choices"):
        read(write, QA, format="mmlu")
    with pytest.raises(DataError, match="there is no field messages"):
        read(write, QA, format="chat_jsonl")
    assert read(write, MC, format="mmlu").format == "mmlu"


TABLES = {
    "commas": "question,A,B,C,D,answer\nWhich is a fruit?,apple,stone,iron,glass,A\n",
    "semicolons": "question;A;B;C;D;answer\nWhich is a fruit?;apple;stone;iron;glass;A\n",
    "tabs": "Question\tA\tB\tC\tD\tAnswer\nWhich is a fruit?\tapple\tstone\tiron\tglass\tA\n",
    "the answer first": "question,answer,A,B,C,D\nWhich is a fruit?,A,apple,stone,iron,glass\n",
    "a list in a cell": 'question,choices,answer\nWhich is a fruit?,"[""apple"", ""stone"", ""iron"", ""glass""]",A\n',
    "a list as Python writes it": "question,choices,answer\n"
    "Which is a fruit?,\"['apple', 'stone', 'iron', 'glass']\",A\n",
    "no header, semicolons": "Which is a fruit?;apple;stone;iron;glass;A\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_multiple_choice_with_and_without_a_header(write, name):
    format, (example,) = read_examples(write("x.csv", b"\xef\xbb\xbf" + TABLES[name].encode()))
    assert (format, example.question, example.reference) == ("mmlu", INTRO + LETTERED, "A")


def test_tables_with_a_header_are_read_by_its_names(write):
    data = read(write, "instruction,input,output,score\nTranslate,the cat,le chat,1\n", "x.csv")
    assert turns(data.parts[0][0]) == PROMPTS["Alpaca"][1]
    assert data.notes == ("x.csv: the field 'score' is not used",)


def test_a_large_cell_is_read(write):
    long = "word " * 60_000
    _, (example,) = read_examples(write("x.csv", f'question,answer\n"{long}",x\n'))
    assert example.question == long
    _, (example,) = read_examples(write("y.csv", f'"{long}",a,b,c,d,A\n'))
    assert long.strip() in example.question


def test_texts_in_json_lines_are_plain_text(write):
    data = read(write, [{"text": f"Line {i}.", "id": i} for i in range(9)])
    assert data.format == "text"
    assert "".join(e.text for e in data.parts[0]) == "\n\n".join(f"Line {i}." for i in range(9))


def test_files_of_a_folder_are_understood_together(write, tmp_path):
    rows = [{"question": f"q{i}", "options": TEXTS, "answer": i % 4} for i in range(40)]
    write("d/train.jsonl", rows)
    write("d/test.jsonl", [row | {"question": "t", "answer": 2} for row in rows[:1]])  # alone it might count from 1
    task = load_task(TaskSpec(source=str(tmp_path / "d")))
    assert task.split("test")[0].reference == "C"
    alone = TaskSpec(source=str(tmp_path / "d/train.jsonl"), test_source=str(tmp_path / "d/test.jsonl"))
    assert load_task(alone).split("test")[0].reference == "C"


def test_what_systems_leave_in_a_folder_is_no_data(write, tmp_path):
    side = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X"
    for name in (
        "._train.jsonl",
        "._test.jsonl",
        "~$test.csv",
        ".DS_Store",
        "__MACOSX/._train.jsonl",
        ".git/train.jsonl",
    ):
        write(f"d/{name}", side)
    write("d/train.jsonl", [{"question": f"q{i}", "answer": "a"} for i in range(9)])
    write("d/test.jsonl", [{"question": f"t{i}", "answer": "a"} for i in range(3)])
    assert len(load_task(TaskSpec(source=str(tmp_path / "d"))).split("test")) == 3
    for name, said in (("._train.jsonl", "macOS side file"), ("~$test.csv", "lock file that an office program left")):
        with pytest.raises(DataError, match=said):
            read_examples(tmp_path / "d" / name)


def test_the_guess_for_a_person_to_check():
    assert guess(["instruction", "input", "output"]) == {
        "question": "instruction",
        "answer": "output",
        "input": "input",
    }
    assert guess(["problem", "solution", "answer"]) == {"question": "problem", "answer": "answer"}
    assert guess(["q", "A", "B", "C"]) == {"choices": "A,B,C"}
    assert guess([]) == {}


def test_the_word_for_a_missing_value_is_told(write):
    rows = "question,answer\n1?,a\n2?,nan\n"
    assert read(write, rows, "x.csv").notes == (
        "x.csv: 1 of 2 answers are the word for a missing value (the first in x.csv line 3); correct them if they were "
        "lost in a table",
    )


def test_names_of_fields_cannot_break_a_sentence(write):
    record = {"question": "q", "answer": "a", "x\ny": 1, "\ud800": 2, "z" * 500: 3}
    (note,) = read(write, [json.loads(json.dumps(record))]).notes
    note.encode()
    assert "\n" not in note
    assert len(note) < 200


def test_of_several_fields_that_fit_nowhere_the_first_is_named(write):
    lines = [{"question": "q", "answer": "a", "prompt": "p", "choice1": "c", "definition": "d"}]
    with pytest.raises(DataError, match="the field 'prompt' may belong to the prompt"):
        read_examples(write("a.jsonl", lines))
