"""Models & task: choosing, waiting, comparing, refusing; a task and its uploads; seed samples; what a run will take."""

import json
import re
import time
from pathlib import Path

import pytest

from pages._ui.frame import asking
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.workbench import uploads
from paraknow_core.workbench.access import DEMO_VARIABLE
from paraknow_core.workbench.desk.questions import desk_folder
from paraknow_core.workbench.draft import load_draft, save_draft
from tests.pages import fabricate
from tests.pages.conftest import answer_desk, button, select, words

SMALL = {"task.sizes.train": 40, "task.sizes.validation": 4, "task.sizes.test": 10, "sensitivity.samples": 4}


@pytest.fixture
def open_part(place, open_app):
    """Open the page at one of its parts, with changes of the draft, every question answered."""

    def opened(part: str = "models", changes: dict | None = None, answer: bool = True):
        draft = load_draft(place)
        save_draft(place, draft.with_spec(draft.spec.with_changes(SMALL | (changes or {}))))
        app = open_app("models")
        app.query_params["part"] = part
        app.run()
        assert not app.exception, app.exception
        if answer:
            answer_desk(place, app)
        return app

    return opened


def spec(place):
    return load_draft(place).spec


def answered(place, kind: str, value: dict) -> None:
    """Answer the open questions of one kind with this."""
    for question in (desk_folder(place) / "questions").glob("*.json"):
        if read_json(question)["kind"] == kind:
            write_json(desk_folder(place) / question.stem / "answer.json", {"value": value})
            question.unlink()


def control(app, label):
    return next(c for c in app.get("button_group") if c.label == label)


def test_while_the_desk_works_a_line_says_so(open_part):
    app = open_part(answer=False)
    assert app.title[0].value == "Models & task"
    assert "Reading the teacher's config and headers …" in words(app)
    assert "Reading the student's config and headers …" in words(app)
    assert not app.error


def test_two_models_stand_side_by_side_before_a_weight_is_loaded(open_part):
    app = open_part()
    said = words(app)
    assert ">Teacher: teacher</th>" in said
    assert ">Student: stranger</th>" in said
    assert "3.0 M (2,951,616)" in said
    assert "1.0 M (1,000,576)" in said
    assert "≠" in said
    assert "Of 29 student modules: **29** cut" in said
    assert "a window of 128 x 128 is cut from 192 x 192" in said
    assert "the same 1,536 tokens with the same ids" in said
    figure = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert {trace["text"] for trace in figure["data"] if trace.get("text")} >= {"q", "gate"}
    assert len(app.dataframe[0].value) == 29
    assert {b.proto.label for b in app.get("download_button")} >= {"Parameters as CSV", "Compatibility as CSV"}


def test_a_model_is_chosen_and_its_compatibility_follows(place, open_part):
    app = open_part()
    app.selectbox(key="models.bundled.student").set_value("bundled:kin").run()
    answer_desk(place, app)
    assert spec(place).student.source == "bundled:kin"
    assert not app.error


def test_the_switch_alone_changes_nothing_and_a_folder_is_typed(place, open_part, tmp_path):
    app = open_part()
    control(app, "From").set_value("folder").run()
    assert spec(place).teacher.source == "bundled:teacher"
    (tmp_path / "<i>not a model").mkdir()
    folder = str(tmp_path / "<i>not a model")
    app.text_input(key="models.folder.teacher").set_value(folder).run()
    answer_desk(place, app)
    assert spec(place).teacher.source == folder
    assert f"{folder}: has no config.json" in words(app)
    assert "<i>not" not in "".join(e.proto.body for e in app.get("html"))
    assert "What fits where" not in words(app)
    app.text_input(key="models.folder.teacher").set_value("   ").run()
    assert spec(place).teacher.source == folder


def test_a_hub_model_is_written_with_its_revision(place, open_part):
    app = open_part(answer=False)
    control(app, "From").set_value("hub").run()
    app.text_input(key="models.hub.teacher").set_value("some/model").run()
    app.text_input(key="models.revision.teacher").set_value("v2").run()
    assert (spec(place).teacher.source, spec(place).teacher.revision) == ("some/model", "v2")
    app.text_input(key="models.revision.teacher").set_value("").run()
    assert spec(place).teacher.revision is None


def test_the_hubs_cache_is_offered_with_commits(place, open_part):
    app = open_part()
    control(app, "From").set_value("cache").run()
    commit = "c" * 40
    found = {
        "models": [
            {
                "name": "some/model",
                "bytes": 5e9,
                "weights": True,
                "config": True,
                "revisions": [{"commit": commit, "refs": ["main"]}],
            }
        ],
        "datasets": [],
    }
    answered(place, "hub_cache", found)
    app.run()
    app.selectbox(key="models.cache.teacher").select_index(0).run()
    assert (spec(place).teacher.source, spec(place).teacher.revision) == ("some/model", commit)
    assert not app.exception


def test_a_long_name_is_said_in_short(place, open_part):
    app = open_part(changes={"teacher.source": "x" * 3000})
    assert any("x" * 80 + "…" in e.value.replace("\\", "") for e in app.error)
    assert max(len(e.value) for e in app.error) < 600


def test_a_task_is_shown_as_a_model_reads_it(place, open_part):
    app = open_part("task")
    said = words(app)
    assert "<b>40</b>train" in said
    assert "No prompt of validation or test also occurs in train" in said
    tokens = next(e.proto.body for e in app.get("html") if 'data-testid="tokens"' in e.proto.body)
    assert tokens.count('class="pk-learnt') > 3
    assert 'pk-special" title="token 1, id 1, given">&lt;s&gt;</i>' in tokens
    assert "none is cut at 512 (the model's context)" in said
    button(app, "Next").click().run()
    answer_desk(place, app)
    assert "word_problems/train/1" in words(app)
    app.number_input(key="task.view.index.widget").set_value(40).run()
    answer_desk(place, app)
    assert "word_problems/train/39" in words(app)
    assert button(app, "Next").disabled


def test_another_limit_needs_no_new_answer_and_marks_what_is_cut(place, open_part):
    app = open_part("task")
    answers = len(list(desk_folder(place).iterdir()))
    app.number_input(key="field:task.max_length").set_value(30).run()
    assert len(list(desk_folder(place).iterdir())) == answers
    assert not list((desk_folder(place) / "questions").iterdir())
    said = words(app)
    assert "40 of 40 are cut at 30 (the max length)" in said
    assert "a run would refuse" in said
    tokens = next(e.proto.body for e in app.get("html") if 'data-testid="tokens"' in e.proto.body)
    assert tokens.count('class="pk-cut') == 47 - 30
    assert any("Nothing of the answer is left" in warning.value for warning in app.warning)


def test_what_is_too_long_can_be_left_out(place, open_part):
    app = open_part("task", {"task.max_length": 30})
    select(app, "Too long").set_value("leave_out").run()
    answer_desk(place, app)
    assert spec(place).task.too_long == "leave_out"
    assert "a run would leave them out" in words(app)
    assert any("a run would leave this example out" in warning.value for warning in app.warning)


def test_examples_without_a_limit_can_all_be_taken(place, open_part):
    app = open_part("task")
    app.number_input(key="field:task.sizes.test").set_value(None).run()
    answer_desk(place, app)
    assert spec(place).task.sizes.test is None
    assert "<b>500</b>test" in words(app)


def test_a_task_that_cannot_be_read_is_a_sentence(place, open_part, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"question": "a", "answer": "b"}\nnot json\n')
    app = open_part("task", {"task.source": str(file)})
    assert "bad.jsonl line 2: is not JSON" in app.error[0].value.replace("\\", "")
    assert not app.get("plotly_chart")
    file.write_text('{"question": "a", "answer": "b"}\n' * 30)
    app.run()
    answer_desk(place, app)
    assert any("also occur" in warning.value for warning in app.warning) or "nothing is left" in words(app)


def test_a_hub_data_set_that_cannot_be_reached_is_one_sentence(place, open_part):
    (place.root / "settings.yaml").write_text("offline: true\n")
    app = open_part("task", {"task.source": "hub:some/data"})
    assert len(app.error) == 1
    assert "not in the local cache" in app.error[0].value


def test_the_columns_of_a_hub_data_set_are_chosen_from_a_list(place, open_part):
    app = open_part("task", {"task.source": "hub:some/data"}, answer=False)
    found = {"splits": {"train": 9}, "columns": {"problem": "1 + 1?", "solution": "2"}}
    answered(place, "columns", found)
    answered(place, "hub_cache", {"models": [], "datasets": []})
    app.run()
    select(app, "Column: question").select("problem").run()
    select(app, "Column: answer").select("solution").run()
    assert spec(place).task.columns == {"question": "problem", "answer": "solution"}
    assert select(app, "Column: question").options[0] == "problem: 1 + 1?"


# --- uploads -------------------------------------------------------------------------------------------------------


def upload(place, app, name: str, content: bytes):
    """Choose a file in the uploader, as a browser would, and let the desk read it."""
    app.get("file_uploader")[0].upload(name, content, "text/plain").run()
    assert not app.exception, app.exception
    answer_desk(place, app)


@pytest.fixture
def uploading(place, open_part):
    app = open_part("task")
    control(app, "From").set_value("upload").run()
    return app


GOOD = b"".join(b'{"question": "%d + 1?", "answer": "#### %d"}\n' % (i, i + 1) for i in range(60))


def test_an_upload_becomes_the_task_under_a_generated_name(place, uploading):
    upload(place, uploading, "../../<b>mine</b>.jsonl", GOOD)
    source = spec(place).task.source
    assert source.startswith(str(place.uploads / "upload-"))
    assert sorted(f.suffix for f in place.uploads.iterdir()) == [".json", ".jsonl"]
    assert "mine" not in source
    said = words(uploading)
    assert "&lt;b&gt;mine&lt;/b&gt;.jsonl" in said
    assert "<b>mine" not in said
    assert "60 examples" in select(uploading, "Uploaded before").options[0]


def test_an_upload_has_its_users_name_on_every_page(place, uploading):
    upload(place, uploading, "my sums.jsonl", GOOD)
    source = spec(place).task.source
    fabricate.run(place, "done", {"task.source": source})
    fabricate.run(place, "queued", {"task.source": source})
    fabricate.store(place)
    totals = place.sensitivity / fabricate.KEY / "sensitivity.json"
    totals.write_text(totals.read_text().replace("word_problems", Path(source).name))
    for page in ("start", "sensitivity", "mapping", "train", "compare"):
        uploading.switch_page(f"pages/{page}.py").run()
        answer_desk(place, uploading)
        labels = [option for box in uploading.selectbox for option in box.options]
        charts = [chart.proto.spec for chart in uploading.get("plotly_chart")]
        tables = [str(table.value) for table in uploading.dataframe]
        shown = "\n".join([words(uploading), *(box.label for box in uploading.expander), *labels, *charts, *tables])
        assert "my sums.jsonl" in shown.replace("\\", ""), page
        visible = re.sub(r'title="[^"]*"', "", shown.replace("\\", ""))
        assert "upload-" not in visible.replace(source, ""), page


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", GOOD + b'{"question": oops\n', "a.jsonl line 61: is not JSON"),
        ("a.jsonl", b"", "a.jsonl: is empty"),
        ("a.txt", b"\x89PNG\0\0", "a.txt: is not text"),
        ("a.csv", b",".join([b""] * 400_000) + b"\n", "400,000 columns"),
        ("a.jsonl", "café".encode("latin-1"), "is not UTF-8"),
    ],
)
def test_a_broken_upload_is_one_sentence_and_leaves_nothing(place, uploading, name, content, said):
    before = spec(place).task
    upload(place, uploading, name, content)
    assert len(uploading.error) == 1
    assert said in uploading.error[0].value.replace("\\", "")
    assert not list(place.uploads.iterdir())
    assert spec(place).task == before


def test_an_upload_that_cannot_be_kept_is_a_sentence_and_is_tried_again(place, uploading, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(uploads, "write_json", full)
        upload(place, uploading, "mine.jsonl", GOOD)
        assert "No space left on device" in words(uploading)
    uploading.run()
    assert spec(place).task.source.startswith(str(place.uploads / "upload-"))
    assert not list(place.uploads.glob("waiting-*"))


def test_an_unknown_layout_is_mapped_by_its_fields(place, uploading):
    rows = b"".join(
        b'{"instruction": "say %d", "hint": "h%d", "output": %d, "answer": "x"}\n' % (i, i, i) for i in range(60)
    )
    upload(place, uploading, "mine.jsonl", rows)
    said = words(uploading).replace("\\", "")
    assert "mine.jsonl line 1: unknown layout with keys instruction, hint, output, answer ('answer', 'output'" in said
    assert select(uploading, "Question").value == "instruction"
    select(uploading, "Answer").select("output")
    select(uploading, "Context").select("hint")
    button(uploading, "Use these columns").click().run()
    answer_desk(place, uploading)
    source = Path(spec(place).task.source)
    assert source.name.startswith("upload-")
    assert not list(place.uploads.glob("waiting-*"))
    first = json.loads(source.read_text().splitlines()[0])["messages"]
    assert [turn["content"] for turn in first] == ["h0\n\nsay 0", "0"]
    said = words(uploading).replace("\\", "")
    assert "Read by its fields: question from instruction; answer from output; context from hint." in said
    assert "mine.jsonl: the field 'answer' is not used" in said


def test_what_was_read_from_which_field_is_shown_and_can_be_mapped_otherwise(place, uploading):
    rows = b"".join(b'{"instruction": "say %d", "input": "i", "output": %d, "level": 1}\n' % (i, i) for i in range(60))
    upload(place, uploading, "mine.jsonl", rows)
    said = words(uploading).replace("\\", "")
    assert "Read by its fields: question from instruction; answer from output; input from input." in said
    assert any("mine.jsonl: the field 'level' is not used" in w.value.replace("\\", "") for w in uploading.warning)
    next(toggle for toggle in uploading.toggle if toggle.label == "Map the fields by hand").set_value(True).run()
    answer_desk(place, uploading)
    assert select(uploading, "Column: question").proto.placeholder == "instruction"
    select(uploading, "Column: context").select("level").run()
    answer_desk(place, uploading)
    assert spec(place).task.columns == {"context": "level"}
    assert "context from level" in words(uploading)


def test_duplicates_are_the_reason_and_no_path_of_the_server_is_shown(place, uploading):
    upload(place, uploading, "mine.jsonl", b'{"question": "a", "answer": "b"}\n' * 60)
    said = words(uploading).replace("\\", "")
    assert "task mine.jsonl: nothing is left for the train split, as all" in said
    assert "duplicates" in said
    assert str(place.uploads) not in said


def test_what_a_closed_window_left_is_swept_and_extensions_are_checked(place):
    assert "the extension '.exe'" in uploads.keep(place, "a.exe", b"x")
    assert not place.uploads.exists()
    path = uploads.keep(place, "C:\\x\\a.CSV", b"x")
    assert path.suffix == ".csv"
    assert uploads.finished(place) == []
    import os

    uploads.sweep(place)
    assert path.exists()
    os.utime(path, (1, 1))
    uploads.sweep(place)
    assert not path.exists()


def test_demo_mode_offers_what_is_bundled_and_no_upload(place, open_part, monkeypatch):
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    app = open_part("models")
    assert not app.get("button_group")[1:]
    assert not app.text_input
    assert "bundled models only" in words(app)
    app = open_part("task")
    assert not app.get("file_uploader")
    assert "bundled tasks only" in words(app)
    assert select(app, "Bundled task").value == "bundled:word_problems"


# --- seed samples --------------------------------------------------------------------------------------------------


def test_the_first_seed_samples_are_listed_with_their_tokens(place, open_part):
    app = open_part("seeds")
    assert "4 seed samples, " in words(app)
    table = app.dataframe[0].value
    assert list(table["id"]) == [f"word_problems/train/{i}" for i in range(4)]
    assert (table["learnt"] > 0).all()
    control(app, "Selection").set_value("random").run()
    answer_desk(place, app)
    assert spec(place).sensitivity.selection == "random"
    assert list(app.dataframe[0].value["id"]) != list(table["id"])


def test_by_hand_starts_from_what_is_chosen(place, open_part):
    app = open_part("seeds")
    control(app, "Selection").set_value("manual").run()
    answer_desk(place, app)
    assert spec(place).sensitivity.ids == tuple(f"word_problems/train/{i}" for i in range(4))
    assert spec(place).sensitivity.samples == 4
    control(app, "Selection").set_value("first").run()
    assert spec(place).sensitivity.ids == ()
    assert not app.error


def test_words_that_no_example_has_are_a_sentence_and_change_nothing(place, open_part):
    app = open_part(
        "seeds",
        {"sensitivity.selection": "manual", "sensitivity.ids": ["word_problems/train/2"], "sensitivity.samples": 1},
    )
    find = next(field for field in app.text_input if field.label == "Find")
    find.set_value("no such words").run()
    assert not app.exception
    assert "Nothing found with" in words(app)
    find.set_value("").run()
    assert not app.exception
    assert "Nothing found with" not in words(app)
    assert spec(place).sensitivity.ids == ("word_problems/train/2",)


def test_masked_out_seed_samples_are_flagged(place, open_part):
    app = open_part("seeds", {"task.max_length": 30})
    assert any("have nothing to learn within 30 tokens" in w.value for w in app.warning)
    assert app.dataframe[0].value["note"].str.startswith("masked out").any()
    assert any("Raise the max length" in w.value for w in app.warning)


def test_where_the_models_context_is_the_limit_it_is_named(place, open_part, monkeypatch):
    monkeypatch.setattr("pages._ui.task.seeds.limit_of", lambda _: 30)
    said = "\n".join(w.value for w in open_part("seeds").warning)
    assert "within 30 tokens, the model's context" in said
    assert "Take a model with a longer context, or choose others" in said


def test_too_many_seed_samples_are_a_sentence(open_part):
    app = open_part("seeds", {"sensitivity.samples": 400})
    assert "400 seed samples asked for" in app.error[0].value


# --- what it will take ---------------------------------------------------------------------------------------------


def test_an_estimate_stands_before_any_run(open_part):
    app = open_part("estimate")
    said = words(app)
    assert "The teacher will be held in memory as a whole" in said
    assert "Measured values will stand here" in said
    assert "4 seed samples" in said
    assert "Nothing else runs meanwhile" in said
    table = next(e.proto.body for e in app.get("html") if 'data-testid="estimate"' in e.proto.body)
    assert table.count("<tr") == 6
    assert "×" not in table


def test_measured_values_stand_beside_it_with_their_ratio(place, open_part):
    run = fabricate.run(place, "done", SMALL)
    write_json(run.file("sensitivity.json"), {"measured": {"memory": 353_000_000, "seconds": 2.5}})
    app = open_part("estimate")
    table = next(e.proto.body for e in app.get("html") if 'data-testid="estimate"' in e.proto.body)
    assert "353 MB" in table
    assert "1 m 01 s" in table
    assert "712 MB" in table
    assert table.count("×") >= 6
    assert f"Measured: run {run.id}. The ratio is measured / estimated." in words(app)


def test_what_is_free_is_looked_at_again_after_some_minutes(place, open_part, monkeypatch):
    app = open_part("estimate")
    later = time.time() + asking.FREE_FOR_S
    monkeypatch.setattr(asking.time, "time", lambda: later)
    app.run()
    assert [read_json(q)["kind"] for q in (desk_folder(place) / "questions").glob("*.json")] == ["estimate"]


def test_a_run_with_other_settings_is_compared_with_its_own_estimate(place, open_part):
    fabricate.run(place, "done", SMALL | {"finetuning.epochs": 1, "factorisation.rank": 4})
    said = words(open_part("estimate"))
    assert "It differs from the draft in factorisation.rank, finetuning.epochs" in said
    assert "its ratio is to the estimate of its own settings" in said


def test_a_result_without_its_numbers_is_no_reason_to_fail(place, open_part):
    run = fabricate.run(place, "done", SMALL)
    write_json(run.file("result.json"), {"scores": [], "timings": "none"})
    write_json(run.file("sensitivity.json"), [1])
    app = open_part("estimate")
    assert not app.exception


def test_a_budget_that_is_too_small_is_a_sentence(place, open_part):
    (place.root / "settings.yaml").write_text("offline: true\nmemory_budget: 50MB\n")
    app = open_part("estimate")
    assert "memory budget: 50 MB given" in app.error[0].value.replace("\\", "")
    assert "Fine-tune" in words(app)
    assert any("may need" in warning.value for warning in app.warning) or "Measure sensitivity" not in words(app)


def test_an_unknown_part_of_the_address_is_the_first(open_part):
    app = open_part("no-such-part", answer=False)
    assert "Reading the teacher's config" in words(app)
