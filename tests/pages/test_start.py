"""Start: empty, with runs in every state, and the one click."""

import pytest

from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import CANCELLED, end
from tests.pages import fabricate
from tests.pages.conftest import button, words


def test_empty_workspace_says_what_will_appear_and_how(open_app):
    app = open_app()
    assert app.title[0].value == "ParaKnow workbench"
    assert "Runs will be listed here" in app.info[0].value
    assert "no run active" in words(app)


@pytest.mark.parametrize("state", ["queued", "running", "stopping", "stopped", "done", "failed", "lost"])
def test_a_run_in_each_state_is_listed_with_its_word(place, open_app, state):
    fabricate.store(place)
    fabricate.run(place, state)
    text = words(open_app())
    assert f">{state}</span>" in text
    assert ("41.0 ± 5.6 % (n = 300)" in text) == (state == "done")


def test_named_runs_are_told_apart_by_arm_and_seed(place, open_app):
    for method, seed in (("seeking", 0), ("default_lora", 1)):
        fabricate.run(place, "done", {"name": "rank 8", "method": method, "seed": seed})
    labels = [link.proto.label for link in open_app().get("page_link") if "run=" in link.proto.query_string]
    assert set(labels) == {"rank 8 · seeking, seed 0", "rank 8 · default LoRA, seed 1"}


def test_a_run_taken_out_of_the_queue_says_so_and_a_resumed_one_counts_its_attempt(place, open_app):
    waiting = fabricate.run(place, "queued")
    end(waiting, "stopped", CANCELLED)
    assert "taken out of the queue" in words(open_app())
    assert ">taken out of the queue</span>" in words(open_app("train", waiting.id))
    again = fabricate.run(place, "running")
    write_json(again.file("status.json"), read_json(again.file("status.json")) | {"attempt": 2})
    assert " in this attempt</span>" in words(open_app("train", again.id))


def test_damaged_and_hostile_folders_do_not_break_the_page(place, open_app):
    fabricate.run(place, "done", {"name": "[x](http://e) <b>b</b> :red[y]"})
    broken = fabricate.run(place, "failed")
    broken.file("spec.yaml").write_text("rnak: 3\n")
    torn = fabricate.run(place, "done")
    torn.file("result.json").write_text('{"scores": [')
    (place.runs / "no-spec").mkdir()
    app = open_app()
    assert "unknown key 'rnak'" in words(app)
    links = [link for link in app.get("page_link") if "run=" in link.proto.query_string]
    assert len(links) == 3
    assert any(r"\[x\]" in link.proto.label for link in app.get("page_link"))


def test_try_it_now_submits_a_sensitivity_run_of_the_bundled_pair_and_leads_there(place, open_app, submitted):
    app = open_app()
    button(app, "Try it now").click().run()
    assert not app.exception
    [[run_id]] = submitted
    spec = RunFolder(place.runs / run_id).spec()
    assert (spec.until, spec.teacher.source, spec.task.source) == (
        "sensitivity",
        "bundled:teacher",
        "bundled:word_problems",
    )
    assert app.title[0].value == "Sensitivity"
    assert app.query_params["run"] in (run_id, [run_id])


def test_a_workspace_that_cannot_be_written_is_a_sentence(place, open_app, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(place.root))

    monkeypatch.setattr("paraknow_core.runs.lifecycle.create_run", refuse)
    app = open_app()
    button(app, "Try it now").click().run()
    assert not app.exception
    assert "Permission denied" in words(app)
