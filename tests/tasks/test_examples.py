"""Loading tasks from every kind of local source."""

import subprocess
import sys

import pytest

from paraknow_core.demo.tasks import TASKS
from paraknow_core.errors import DataError
from paraknow_core.spec import SensitivitySpec, SplitSizes, TaskSpec
from paraknow_core.tasks.examples import list_tasks, load_task
from paraknow_core.tasks.sources import settle_dev, split_of
from tests.tasks.conftest import ask, chat


def lines(start, stop, **more):
    return [chat(f"question {i}", f"answer {i}", **more) for i in range(start, stop)]


def load(path, **options):
    return load_task(TaskSpec(source=str(path), **options))


def sizes(task):
    return {name: len(part) for name, part in task.splits.items()}


@pytest.mark.parametrize("name", TASKS)
def test_bundled_tasks(name):
    task = load_task(TaskSpec(source=f"bundled:{name}"))
    assert sizes(task) == {"train": 1000, "validation": 100, "test": 300}
    assert task.scorers[0] == TASKS[name].scorer
    assert (task.name, task.max_new_tokens, task.warnings) == (name, TASKS[name].max_new_tokens, ())
    assert len(task.seed_samples(SensitivitySpec())) == 32
    assert all(example.choices for example in task.split("test")) == (name == "multiple_choice")


def test_list_tasks():
    listed = list_tasks()
    assert [entry["name"] for entry in listed] == list(TASKS)
    assert listed[0]["scorers"] == ["number_match", "exact_match"]
    assert listed[0]["source"] == "bundled:word_problems"


def test_one_file_is_shuffled_once(write):
    path = write("one.jsonl", lines(0, 100))
    task = load(path)
    assert sizes(task) == {"train": 60, "validation": 10, "test": 30}
    assert task.splits == load(path).splits != load(path, split_seed=1).splits
    assert task.scorers == ("exact_match", "rouge_l")
    assert (task.name, task.max_new_tokens) == ("one", 256)


def test_options_of_the_spec_win(write):
    task = load(
        write("one.jsonl", lines(0, 30)),
        max_new_tokens=5,
        scorers=("rouge_l",),
        template="plain",
        max_length=77,
        sizes=SplitSizes(train=4, validation=0, test=2),
    )
    assert (task.max_new_tokens, task.scorers, task.template, task.max_length) == (5, ("rouge_l",), "plain", 77)
    assert sizes(task) == {"train": 4, "validation": 0, "test": 2}


def test_test_source_and_what_it_shares_with_train(write):
    train, test = write("a.jsonl", lines(0, 40)), write("b.jsonl", lines(38, 44))
    task = load(train, test_source=str(test), sizes=SplitSizes(validation=0))
    assert sizes(task) == {"train": 38, "validation": 0, "test": 6}
    assert task.warnings == ("2 training examples also occur in test; they were left out of train",)
    near = write("c.jsonl", [chat("Question  3", "another answer")])
    assert "prompts also occur in train" in load(train, test_source=str(near)).warnings[0]


def test_train_only_keeps_the_file_as_it_is(write):
    path = write("one.jsonl", lines(0, 16))
    task = load_task(TaskSpec(source=str(path)), train_only=True)
    assert sizes(task) == {"train": 16, "validation": 0, "test": 0}
    assert task.split("train")[0].question == "question 0"


def test_folder_with_files_of_splits(write, tmp_path):
    write("f/my_train.jsonl", lines(0, 20))
    write("f/test.jsonl", lines(20, 25))
    write("f/README.txt", "not data")
    assert sizes(load(tmp_path / "f")) == {"train": 18, "validation": 2, "test": 5}
    write("f/dev.jsonl", lines(30, 33))
    assert sizes(load(tmp_path / "f")) == {"train": 20, "validation": 3, "test": 5}
    write("f/val.jsonl", lines(40, 44))
    task = load(tmp_path / "f")
    assert sizes(task) == {"train": 20, "validation": 4, "test": 5}
    assert "'dev' (3 examples) is not used" in task.warnings[0]


def test_folder_without_test_uses_validation(write, tmp_path):
    write("f/train.jsonl", lines(0, 20))
    write("f/validation.jsonl", lines(20, 24))
    task = load(tmp_path / "f")
    assert sizes(task) == {"train": 18, "validation": 2, "test": 4}
    assert "validation part is used as test" in task.warnings[0]


def test_folder_of_subfolders_takes_subjects_in_turns(write, tmp_path):
    for split in ("dev", "val", "test"):
        for subject in ("art", "law"):
            write(f"m/{split}/{subject}_{split}.csv", "".join(f"{split} {subject} {i}?,1,2,3,4,B\n" for i in range(3)))
    task = load(tmp_path / "m", sizes=SplitSizes(test=4))
    assert sizes(task) == {"train": 6, "validation": 6, "test": 4}
    assert [e.id for e in task.split("test")] == ["art_test:1", "law_test:1", "art_test:2", "law_test:2"]
    assert (task.scorers, task.max_new_tokens) == (("multiple_choice",), 8)


def test_text_is_split_by_position(write):
    body = "\n\n".join(f"Paragraph {i} " + "word " * 40 for i in range(200))
    task = load(write("t.txt", body), sizes=SplitSizes(train=None, validation=None, test=None))
    joined = "".join(e.text for part in task.splits.values() for e in part)
    assert joined == body
    assert task.is_text and task.scorers == ("perplexity",)
    assert 0.03 < sum(len(e.text) for e in task.split("test")) / len(body) < 0.05


def test_refusals(write, tmp_path):
    good = write("g.jsonl", lines(0, 9))
    write("empty/notes.md", "x")
    write("mixed/train.jsonl", lines(0, 9))
    write("mixed/test.txt", "hello")
    write("no_train/test.jsonl", lines(0, 9))
    write("no_train/validation.jsonl", lines(0, 9))
    text = write("t.txt", "some text\n\n" * 300)
    cases = [
        ({"source": "bundled:nothing"}, "no bundled task 'nothing'; choose from word_problems"),
        ({"source": str(tmp_path / "none")}, "does not exist; give bundled:NAME"),
        ({"source": str(tmp_path / "empty")}, "no file or sub-folder named train"),
        ({"source": str(tmp_path / "mixed")}, "keep one format"),
        ({"source": str(tmp_path / "no_train")}, "but no train part"),
        ({"source": str(good), "columns": {"question": "q"}}, "task.columns.question is 'q', which is not a column"),
        ({"source": str(good), "columns": {"prompt": "messages"}}, "unknown key 'prompt'; known keys are question"),
        ({"source": str(text), "columns": {"text": "x"}}, "a .txt file is plain text without columns"),
        ({"columns": {"question": "q"}}, "task.columns: a bundled task has no columns to map"),
        ({"source": str(good), "subset": "main"}, "task.subset: only a hub"),
        ({"source": str(good), "format": "hub"}, "write hub:OWNER/NAME as source"),
        ({"source": str(good), "test_source": str(text)}, "task.test_source: is text, but the source is chat_jsonl"),
        ({"source": str(good), "scorers": ("multiple_choice",)}, "multiple_choice needs choices"),
        ({"source": str(text), "scorers": ("exact_match",)}, "plain text is scored by perplexity"),
        ({"source": str(write("one.jsonl", lines(0, 1)))}, "nothing is left for the test split"),
        (
            {"source": str(good), "test_source": str(good)},
            "task g.jsonl: nothing is left for the train split, as all 8",
        ),
    ]
    for options, sentence in cases:
        with pytest.raises(DataError) as error:
            load_task(TaskSpec(**options))
        assert sentence in str(error.value)


def test_number_match_needs_numbers(write):
    path = write("w.jsonl", [chat(f"q{i}", "no digits") for i in range(9)])
    with pytest.raises(DataError, match="holds no number; use exact_match"):
        load(path, scorers=("number_match",))
    marked = write("n.jsonl", [chat(f"q{i}", f"so\n#### {i}") for i in range(9)])
    assert load(marked).scorers == ("number_match",)


@pytest.mark.parametrize("answer", ["#### 3 or 4", "#### 3-5", "#### 10:30", "#### 1.234"])
def test_a_reference_in_doubt_is_refused_by_its_line(write, answer):
    rows = [chat(f"How many in group {i}?", f"so\n#### {i}") for i in range(30)]
    rows[6] = chat("How many?", answer)
    with pytest.raises(DataError, match="n.jsonl line 7: its answer "):
        load(write("n.jsonl", rows), scorers=("number_match",))


def test_a_file_with_one_odd_way_of_writing_is_scored_by_its_numbers(write):
    for answer in ("#### \u20ac4", "#### **4**", "#### 1 234", "#### 3/4", "#### \u22124"):
        rows = [chat(f"q{i}", f"so\n#### {i}") for i in range(9)] + [chat("q", f"so\n{answer}")]
        assert load(write("n.jsonl", rows)).scorers == ("number_match",)


MARKED = [{"question": f"q{i}", "answer": f"so\n#### {i}"} for i in range(40)]


def test_one_answer_of_another_form_is_named_and_the_file_keeps_its_scorer(write):
    rows = [*MARKED]
    rows[2] = {"question": "q2", "answer": "2 + 2 = 4, so 4 pens"}
    task = load(write("n.jsonl", rows))
    assert task.scorers == ("number_match",)
    (said,) = task.warnings
    assert said.startswith(
        "n.jsonl: in 1 of 40 answers the '#### NUMBER' of the others is missing or not plain (n.jsonl"
    )
    assert "(n.jsonl line 3)" in said
    rows[2] = {"question": "q2", "answer": "nobody knows"}
    with pytest.raises(DataError, match="n.jsonl line 3: its answer holds no number, while 39 of 40 answers end in"):
        load(write("n.jsonl", rows))
    assert load(write("n.jsonl", rows), scorers=("exact_match",)).scorers == ("exact_match",)
    assert load_task(TaskSpec(source=str(write("n.jsonl", rows))), train_only=True).scorers == ("number_match",)
    few = [{**row, "answer": row["answer"] if i < 10 else "words"} for i, row in enumerate(MARKED)]
    task = load(write("f.jsonl", few))
    assert task.scorers == ("exact_match", "rouge_l")
    assert task.warnings[0].startswith("f.jsonl: only 10 of 40 answers end in '#### NUMBER', so that all are scored as")
    with pytest.raises(DataError, match=r"f.jsonl line \d+: its answer holds no number; use exact_match"):
        load(write("f.jsonl", few), scorers=("number_match",))


def test_one_conversation_without_choices_is_named(write):
    rows = [chat(f"q{i}", "yes", choices=["yes", "no"]) for i in range(9)]
    assert load(write("c.jsonl", rows)).scorers == ("multiple_choice",)
    with pytest.raises(DataError, match="c.jsonl line 10: has no choices, which 9 of 10 examples have"):
        load(write("c.jsonl", [*rows, chat("q9", "yes")]))
    task = load(write("d.jsonl", [*rows[:2], *lines(0, 9)]))
    assert task.scorers == ("exact_match", "rouge_l")
    assert "only 2 of 11 examples have choices" in task.warnings[0]


def test_columns_of_files_and_of_a_second_file(write, tmp_path):
    rows = [{"ask": f"q{i}", "say": "a", "more": "m"} for i in range(20)]
    columns = {"question": "ask", "answer": "say", "input": "more"}
    task = load(write("a.jsonl", rows), columns=columns)
    assert task.split("train")[0].question.endswith("\n\nm")
    assert task.fields == {"question": "ask", "answer": "say", "input": "more"}
    test = write("b.csv", "ask,say,more\nt,a,x\n")
    assert load(tmp_path / "a.jsonl", columns=columns, test_source=str(test)).split("test")[0].question == "t\n\nx"
    test = write("c.jsonl", lines(0, 3))
    task = load(tmp_path / "a.jsonl", columns=columns, test_source=str(test))
    assert "c.jsonl: read by its own names of fields, as it has not all that task.columns names" in task.warnings
    test = write("d.jsonl", [{"wrong": 1}])
    with pytest.raises(DataError, match="d.jsonl: task.columns.question is 'ask', which is not a column"):
        load(tmp_path / "a.jsonl", columns=columns, test_source=str(test))


def test_an_upload_is_named_as_its_user_names_it_and_duplicates_are_the_reason(write):
    path = write("uploads/upload-2030-ab.jsonl", lines(0, 1) * 30)
    write("uploads/upload-2030-ab.json", '{"file": "upload-2030-ab.jsonl", "label": "my sums.jsonl"}')
    with pytest.raises(
        DataError, match="task my sums.jsonl: nothing is left for the train split, as all 18 .*duplicates"
    ):
        load(path)
    path.write_text('{"question": 1}')
    with pytest.raises(DataError, match="^my sums.jsonl line 1: unknown layout"):
        load(path)
    path.unlink()
    with pytest.raises(DataError, match="^task.source: the upload 'my sums.jsonl' is not there any more"):
        load(path)


def test_names_of_splits():
    found = {
        name: split_of(name) for name in ("train_2000", "anatomy_dev", "Test", "valid", "contest", "latest", "val")
    }
    assert found == {
        "train_2000": "train",
        "anatomy_dev": "dev",
        "Test": "test",
        "valid": "validation",
        "contest": None,
        "latest": None,
        "val": "validation",
    }
    one = (ask("q", "a"),)
    assert settle_dev({"dev": one, "validation": one})[0] == {"validation": one, "train": one}


def test_loading_needs_no_heavy_library():
    code = (
        "import sys; from paraknow_core.spec import TaskSpec; from paraknow_core.tasks.examples import load_task;"
        "import paraknow_core.tasks.templates, paraknow_core.tasks.scorers, paraknow_core.tasks.model_scores;"
        "load_task(TaskSpec()); print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
