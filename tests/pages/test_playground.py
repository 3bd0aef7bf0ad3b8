"""Playground: who can answer, loading and freeing, answers in every state, links that lead nowhere."""

import pytest
import streamlit as st

from paraknow_core.errors import DataError
from paraknow_core.files.json_file import append_line, open_lines, write_json
from paraknow_core.spec import RunSpec
from paraknow_core.workbench.draft import load_draft, save_draft
from paraknow_core.workbench.playground import protocol
from paraknow_core.workbench.playground.protocol import Asked, Slot, Turn
from tests.pages import fabricate
from tests.pages.conftest import button, select, words

OWNER = ["here", 1.0]


@pytest.fixture
def living(monkeypatch):
    """Make the test itself the process that holds weights."""
    monkeypatch.setattr(protocol, "_owner", lambda _place: OWNER)


def prompt(app):
    """The field of the prompt, None while there is none."""
    return next((area for area in app.text_area if area.label == "Prompt"), None)


def hold(place, slot: Slot, state: str = "loaded", **facts) -> None:
    facts = {"bytes": 4_000_000, "parameters": 1_000_000, "process": OWNER, "state": state, **facts}
    write_json(protocol.folder(place) / "models" / f"{slot.key}.json", facts)


def wishes(place) -> list[tuple[str, str]]:
    from paraknow_core.files.json_file import read_json

    found = [read_json(path) for path in sorted((protocol.folder(place) / "commands").glob("*.json"))]
    return [(wish["do"], wish["slot"]["source"] if wish["slot"] else wish["id"]) for wish in found]


def answer(place, slot: Slot, *lines: dict, name: str = "20260101-120000-0123abcd", process=OWNER) -> str:
    """Write a generation as the process would."""
    asked = Asked(slots=[slot], turns=[Turn(content="3 + 4?")])
    folder = protocol.folder(place) / "generations" / name
    write_json(folder / "request.json", asked.model_dump(mode="json"))
    file = open_lines(folder / "lines.jsonl")
    append_line(file, {"process": process})
    append_line(file, {"slot": slot.key, "event": "start", "prompt": "<|user|>\n3 + 4?", "prompt_tokens": 9})
    for line in lines:
        append_line(file, {"slot": slot.key, **line})
    return name


TOKEN = {"text": "<b>7", "p": 0.07, "top": [["7", 0.9], ["<i>8", 0.07]]}
END = {"event": "end", "reason": "end", "error": "", "score": 1.0, "per_second": 21.0}


def test_first_visit_chooses_teacher_and_student_looks_and_offers_to_load(place, open_app):
    app = open_app("playground")
    assert app.title[0].value == "Playground"
    assert ("look", "bundled:teacher") in wishes(place)
    assert ("look", "bundled:stranger") in wishes(place)
    assert button(app, "Generate").disabled
    assert prompt(app).value  # an example of the task, with its reference
    assert "Reference: " in words(app)
    count = len(wishes(place))
    app.run()
    assert len(wishes(place)) == count  # a page that is drawn again asks once


def full(*_args, **_options):
    raise OSError(28, "No space left on device", "/somewhere/commands")


def test_a_full_disk_is_a_sentence_and_the_page_stays(place, open_app, living, monkeypatch):
    for source in ("bundled:teacher", "bundled:stranger"):
        hold(place, Slot(source=source))
    app = open_app("playground")
    monkeypatch.setattr("paraknow_core.workbench.inbox.write_json", full)
    for label in ("Generate", "Free all", "Free"):
        button(app, label).click().run()
        assert not app.exception, (label, app.exception)
        assert "commands cannot be written or read (No space left on device)" in words(app)
        assert prompt(app)
    assert "generation" not in app.query_params


def test_a_full_disk_at_the_first_look_is_a_sentence(place, open_app, monkeypatch):
    monkeypatch.setattr("paraknow_core.workbench.inbox.write_json", full)
    assert "No space left on device" in words(open_app("playground"))


def test_finished_runs_with_an_adapter_take_the_last_columns(place, open_app):
    fabricate.run(place, "failed")
    for method in ("default_lora", "seeking"):
        run = fabricate.run(place, "done", {"method": method})
        run.file("adapter").mkdir()
    fabricate.run(place, "done", {"method": "pissa"})  # its adapter was removed
    app = open_app("playground")
    assert [s.value != "" for s in app.selectbox if s.label.startswith("Column")] == [True] * 4
    text = words(app)
    assert "default LoRA" in text
    assert "seeking (the method)" in text
    assert "PiSSA" not in text


def test_runs_that_are_alike_have_labels_of_their_own_and_the_control_is_the_transfers(place, open_app):
    transfer = fabricate.run(place, "done", {"method": "seeking"})
    like = [fabricate.run(place, "done", {"method": "default_lora"}) for _ in range(2)]
    other = fabricate.run(place, "done", {"method": "default_lora", "seed": 1})
    for number, run in enumerate((transfer, *like, other)):
        run.file("adapter").mkdir()
        run.path.rename(place.runs / f"20260101-00000{number}-a{number}a{number}")
    app = open_app("playground")
    box = select(app, "Column 3")
    assert len(set(box.options)) == len(box.options)
    assert [label[:29] for label in box.options if "seed 0" in label and "default" in label] == [
        "default LoRA, seed 0 · a2a2 ·",
        "default LoRA, seed 0 · a1a1 ·",
    ]
    assert box.value == Slot(source="bundled:stranger", run="20260101-000002-a2a2").key
    assert "default LoRA, seed 0 · a2a2" in words(app)
    assert "45 steps" in words(app)
    box.set_value(Slot(source="bundled:stranger", run="20260101-000001-a1a1").key).run()
    assert "default LoRA, seed 0 · a1a1" in words(app)
    assert "default LoRA, seed 0 · a2a2" not in words(app)


def test_a_run_in_the_address_takes_a_column(place, open_app):
    for name in ("first", "second", "third"):
        fabricate.run(place, "done", {"name": name}).file("adapter").mkdir()
    wanted = fabricate.run(place, "done", {"name": "wanted", "method": "olora"})
    wanted.file("adapter").mkdir()
    wanted.path.rename(place.runs / "20000101-000000-wanted")
    app = open_app("playground", "20000101-000000-wanted")
    assert "wanted" in words(app)


def test_load_and_free_leave_wishes_and_say_the_memory(place, open_app, living):
    for source in ("bundled:teacher", "bundled:stranger"):
        hold(place, Slot(source=source), "free")
    app = open_app("playground")
    assert "needs 4 MB" in words(app)
    button(app, "Load all (8 MB)").click().run()
    assert {wish for wish in wishes(place) if wish[0] == "load"} == {
        ("load", "bundled:teacher"),
        ("load", "bundled:stranger"),
    }
    hold(place, Slot(source="bundled:teacher"), "loaded", shared=1_000_000)
    app.run()
    assert "takes 4 MB (1 MB shared)" in words(app)
    button(app, "Free").click().run()
    assert ("free", "bundled:teacher") in wishes(place)


def test_generate_asks_those_who_are_loaded_with_the_tasks_turns_and_reference(place, open_app, living):
    hold(place, Slot(source="bundled:teacher"))
    hold(place, Slot(source="bundled:stranger"), "free")
    app = open_app("playground")
    button(app, "Generate").click().run()
    assert not app.exception
    [name] = [wish[1] for wish in wishes(place) if wish[0] == "generate"]
    asked = protocol.generation(place, name).asked
    assert [slot.source for slot in asked.slots] == ["bundled:teacher"]
    assert (asked.template, asked.scorer, asked.temperature) == ("tulu", "number_match", 0.0)
    assert asked.turns[0].content == prompt(app).value
    assert "####" in asked.reference
    assert app.query_params["generation"] in (name, [name])


def test_an_own_prompt_has_no_reference_and_an_empty_one_is_refused(place, open_app, living):
    hold(place, Slot(source="bundled:teacher"))
    app = open_app("playground")
    prompt(app).set_value("   ").run()
    button(app, "Generate").click().run()
    assert "the prompt is empty" in words(app)
    prompt(app).set_value("What now?").run()
    assert "there is no reference answer" in words(app)
    select(app, "Next token").set_value("sampled").run()
    button(app, "Generate").click().run()
    [name] = [wish[1] for wish in wishes(place) if wish[0] == "generate"]
    asked = protocol.generation(place, name).asked
    assert (asked.reference, asked.scorer, asked.turns[0].content) == (None, "", "What now?")
    assert (asked.temperature, asked.top_p) == (0.8, 0.95)


def test_a_refused_prompt_does_not_stand_beside_old_errors(place, open_app, living):
    slot = Slot(source="bundled:teacher")
    hold(place, slot)
    app = open_with(open_app, place, answer(place, slot, {"event": "end", "reason": "failed", "error": "too long"}))
    assert "too long" in words(app)
    prompt(app).set_value("   ").run()
    button(app, "Generate").click().run()
    assert "the prompt is empty" in words(app)
    assert "too long" not in words(app)


def test_what_is_chosen_survives_a_page_switch_and_another_task_brings_another_example(place, open_app):
    app = open_app("playground")
    select(app, "Column 2").set_value(Slot(source="bundled:kin").key).run()
    prompt(app).set_value("my own words").run()
    app.switch_page("pages/start.py").run()
    app.switch_page("pages/playground.py").run()
    assert select(app, "Column 2").value == Slot(source="bundled:kin").key
    assert prompt(app).value == "my own words"
    from paraknow_core.spec import RunSpec
    from paraknow_core.workbench import draft as drafts

    drafts.save_draft(place, drafts.Draft(spec=RunSpec().with_changes({"task.source": "bundled:instructions"})))
    app.run()
    assert not app.exception
    assert prompt(app).value != "my own words"


def open_with(open_app, place, name: str):
    app = open_app()
    app.query_params["generation"] = name
    app.switch_page("pages/playground.py").run()
    assert not app.exception, app.exception
    return app


def test_a_finished_answer_shows_tokens_alternatives_prompt_and_score(place, open_app, living):
    slot = Slot(source="bundled:teacher")
    hold(place, slot)
    name = answer(place, slot, TOKEN, {"text": "", "end_mark": "</s>", "p": 0.99, "top": [["</s>", 0.99]]}, END)
    app = open_with(open_app, place, name)
    text = words(app)
    assert '<span class="pk-t pk-td" tabindex="0">&lt;b&gt;7' in text  # 7 %: the class below 20 %
    assert "2. &lt;i&gt;8  7.0 %" in text
    assert "⟨&lt;/s&gt;⟩" in text
    assert "1 token ·" in text
    assert "matches the reference" in text
    assert any("3 + 4?" in code.value for code in app.code)


def test_a_running_answer_can_be_stopped(place, open_app, living):
    slot = Slot(source="bundled:teacher")
    hold(place, slot)
    name = answer(place, slot, TOKEN)
    app = open_with(open_app, place, name)
    assert 'class="pk-caret"' in words(app)
    assert button(app, "Generate").disabled
    button(app, "Stop").click().run()
    assert (protocol.folder(place) / "generations" / name / "stop").exists()


def test_an_answer_whose_process_is_gone_is_said_to_be_cut_off_and_a_new_one_can_be_made(place, open_app):
    name = answer(place, Slot(source="bundled:teacher"), TOKEN)
    app = open_with(open_app, place, name)
    assert "the process that wrote them is gone" in words(app)
    assert 'class="pk-caret"' not in words(app)
    assert not [b for b in app.button if b.label == "Stop"]


def test_answers_are_not_shown_under_another_prompt(place, open_app, living):
    slot = Slot(source="bundled:teacher")
    hold(place, slot)
    app = open_with(open_app, place, answer(place, slot, TOKEN, END))
    assert prompt(app).value == "3 + 4?"  # a link brings the prompt along
    assert "matches the reference" in words(app)
    prompt(app).set_value("5 + 4?").run()
    assert "matches the reference" not in words(app)
    assert 'data-testid="answer"' not in words(app)
    assert "The answers to «3 + 4?» (template tulu) are not shown" in words(app)
    button(app, "Back to that prompt").click().run()
    assert prompt(app).value == "3 + 4?"
    assert 'data-testid="answer"' in words(app)
    select(app, "Template").set_value("plain").run()
    assert 'data-testid="answer"' not in words(app)
    select(app, "Template").set_value("tulu").run()
    assert 'data-testid="answer"' in words(app)
    select(app, next(s.label for s in app.selectbox if s.label.startswith("Example of"))).set_value(3).run()
    assert 'data-testid="answer"' not in words(app)
    assert not app.exception


def test_a_verdict_belongs_to_the_reference_under_the_prompt(place, open_app, living):
    slot = Slot(source="bundled:teacher")
    hold(place, slot)
    name = answer(place, slot, TOKEN, END)
    file = protocol.folder(place) / "generations" / name / "request.json"
    request = protocol.generation(place, name).asked.model_copy(update={"reference": "#### 7", "temperature": 0.7})
    write_json(file, request.model_dump(mode="json"))
    app = open_with(open_app, place, name)
    assert 'data-testid="answer"' in words(app)
    assert "there is no reference answer" in words(app)  # of another task than the draft's
    assert "matches the reference" not in words(app)
    assert select(app, "Next token").value == "sampled"


def test_generating_again_keeps_what_the_fields_say(place, open_app, living):
    hold(place, Slot(source="bundled:teacher"))
    app = open_app("playground")
    prompt(app).set_value("one").run()
    button(app, "Generate").click().run()
    first = app.query_params["generation"]
    prompt(app).set_value("two").run()
    assert prompt(app).value == "two"
    assert "The answers to «one»" in words(app)
    app.query_params["generation"] = answer(place, Slot(source="bundled:teacher"), TOKEN, END)
    app.run()
    assert prompt(app).value == "3 + 4?"  # the browser's Back and a pasted link: the fields follow the answers
    assert first


@pytest.mark.parametrize("linked", [None, 3, 1])
def test_default_lora_and_transfer_begin_with_one_seed(place, open_app, linked):
    runs = [
        fabricate.run(place, "done", {"method": method, "seed": seed})
        for method, seed in (("default_lora", 0), ("default_lora", 1), ("seeking", 0), ("seeking", 1), ("seeking", 2))
    ]
    for number, run in enumerate(runs):
        run.file("adapter").mkdir()
        run.path.rename(place.runs / f"20260101-00000{number}-a{number}a{number}")
    names = sorted(path.name for path in place.runs.iterdir())
    app = open_app("playground", names[linked] if linked is not None else None)
    label = lambda column: select(app, f"Column {column}").value  # noqa: E731
    keys = {Slot(source="bundled:stranger", run=name).key: name for name in names}
    assert [keys[label(3)], keys[label(4)]] == [names[1], names[3]]
    if linked is None:  # a link to another run brings its control along
        app.query_params["run"] = names[2]
        app.run()
        assert [keys[label(3)], keys[label(4)]] == [names[0], names[2]]


def test_a_failure_to_load_or_to_answer_is_a_sentence_with_a_way_on(place, open_app, living):
    slot = Slot(source="bundled:teacher")
    hold(place, slot, "failed", error="bundled:teacher: needs 9.0 GB of memory and 1.0 GB are free; free another")
    hold(place, Slot(source="bundled:stranger"), "free")
    name = answer(place, slot, {"event": "end", "reason": "failed", "error": "not loaded; load it and generate again"})
    app = open_with(open_app, place, name)
    text = words(app)
    assert "needs 9.0 GB" in text
    assert "load it and generate again" in text
    assert "waiting for its turn" not in text
    assert "failed" in [caption.value for caption in app.caption]


@pytest.mark.parametrize("name", ["../../etc", "x" * 5000, "20260101-120000-0123abcd", "<script>", "\0"])
def test_a_link_to_answers_that_are_not_there_is_a_sentence(place, open_app, name):
    assert "these answers are not kept" in words(open_with(open_app, place, name))


def test_a_damaged_generation_is_a_sentence(place, open_app):
    name = answer(place, Slot(source="bundled:teacher"), TOKEN)
    (protocol.folder(place) / "generations" / name / "request.json").write_text('{"slots": []}')
    assert "is damaged" in words(open_with(open_app, place, name))


def test_examples_of_another_task_come_from_the_desk(place, open_app, tmp_path):
    from paraknow_core.spec import RunSpec
    from paraknow_core.workbench import draft as drafts
    from tests.pages.conftest import answer_desk

    file = tmp_path / "sums.jsonl"
    line = '{"messages": [{"role": "user", "content": "%d + 1?"}, {"role": "assistant", "content": "#### %d"}]}\n'
    file.write_text("".join(line % (n, n + 1) for n in range(30)))
    drafts.save_draft(place, drafts.Draft(spec=RunSpec().with_changes({"task.source": str(file)})))
    app = open_app("playground")
    assert prompt(app) is None
    answer_desk(place, app)
    assert prompt(app).value.endswith("+ 1?")
    drafts.save_draft(place, drafts.Draft(spec=RunSpec().with_changes({"task.source": "/no/such/file.jsonl"})))
    app.run()
    answer_desk(place, app)
    assert not app.exception
    assert app.error


def test_demo_mode_keeps_answers_short(place, open_app, monkeypatch):
    monkeypatch.setenv("PARAKNOW_DEMO", "1")
    app = open_app("playground")
    assert next(n for n in app.number_input if n.label.startswith("New tokens")).max == 128


def test_nobody_looks_at_a_model_that_visitors_may_not_read(place, open_app, monkeypatch):
    spec = RunSpec().with_changes({"teacher.source": "/etc/secret"})
    save_draft(place, load_draft(place).with_spec(spec))
    before = st.get_option
    monkeypatch.setattr(st, "get_option", lambda key: "0.0.0.0" if key == "server.address" else before(key))
    app = open_app("playground")
    assert "/etc/secret" not in [source for _, source in wishes(place)]
    assert "outside the folders" in words(app)
    with pytest.raises(DataError, match="outside the folders"):
        protocol.begin(place, Asked(slots=[Slot(source="/etc/secret")], turns=[Turn(content="3 + 4?")]))
