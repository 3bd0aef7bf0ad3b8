"""The strip on every page: one draft for all windows, specs that come in, and who can reach the server."""

import os
from dataclasses import asdict

import pytest
import streamlit as st

from paraknow_core.engines.queue import QueueEngine
from paraknow_core.engines.service import Service
from paraknow_core.files.json_file import write_json
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.runs.status import Status
from paraknow_core.spec import RunSpec
from paraknow_core.studies.lessons import PRESETS
from paraknow_core.workbench import reading
from paraknow_core.workbench.access import DEMO_VARIABLE
from paraknow_core.workbench.draft import FILE, load_draft
from tests.pages import compared, fabricate
from tests.pages.conftest import button, select, words


def paste(app, text: str):
    """Paste a text into Import YAML and press Import."""
    next(area for area in app.text_area if area.label == "Import YAML").set_value(text)
    button(app, "Import").click().run()
    assert not app.exception, app.exception
    return app


def test_a_pasted_spec_becomes_the_draft_and_survives_a_new_window(place, open_app):
    app = paste(open_app("train"), "factorisation: {rank: 8}\nseed: 3\n")
    assert "2 changes" in words(app)
    assert load_draft(place).spec == RunSpec().with_changes({"factorisation.rank": 8, "seed": 3})
    assert "2 changes" in words(open_app("sensitivity"))
    button(app, "Back to the defaults").click().run()
    assert "draft</span> defaults" in words(app)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing was pasted"),
        ("rnak: 3", "unknown key 'rnak'"),
        ("factorisation: {rank: '8'}", "factorisation.rank: '8' given"),
        ("a: [", "not valid YAML at line"),
        ("&a [*a, *a]", "imported spec"),
        ("x: &x [1,1,1]\ny: &y [*x,*x,*x]\nz: [*y,*y,*y]", "unknown key 'x'"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_bad_spec_is_named_and_changes_nothing(place, open_app, text, message):
    app = paste(open_app("train"), text)
    [said] = inside_the_menu(app, "error")
    assert message in said.replace("\\", "")
    assert [message in str(one.value).replace("\\", "") for one in app.error] == [True]  # and nowhere under the menu
    assert load_draft(place).spec == RunSpec()
    app.run()
    assert inside_the_menu(app, "error") == [said]  # until the next import
    paste(app, "seed: 3")
    assert not app.error


def test_an_import_says_what_it_changed_where_it_was_pasted(place, open_app):
    app = paste(open_app("train"), "factorisation: {rank: 8}\nseed: 3\n")
    assert inside_the_menu(app, "success")[0].replace("\\", "") == "Imported: it changes factorisation.rank, seed."
    paste(app, "factorisation: {rank: 8}\nseed: 3\n")
    assert "what the draft was already" in inside_the_menu(app, "success")[0]
    next(n for n in app.number_input if n.label == "Seed").set_value(5).run()
    assert not inside_the_menu(app, "success")  # the draft is another one by now
    paste(app, "seed: 3")
    button(app, "Back to the defaults").click().run()
    assert not inside_the_menu(app, "success")


def test_a_spec_that_may_not_be_imported_is_said_in_the_menu(place, open_app, monkeypatch):
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    app = paste(open_app("train"), "teacher: {source: /etc/secret}")
    assert "Demo mode" in inside_the_menu(app, "error")[0] or "demo" in inside_the_menu(app, "error")[0]
    assert len(app.error) == 1


@pytest.mark.parametrize("page", ["start", "train", "lessons"])
def test_what_an_address_asks_for_in_vain_is_named_with_what_there_is(place, open_app, page):
    app = open_app()
    app.query_params["preset"] = "nonsense"
    app.switch_page(f"pages/{page}.py").run()
    [said] = [one.value.replace("\\", "") for one in app.error]
    assert "preset 'nonsense': there is none of this name; known are " in said
    assert all(name in said for name in PRESETS)


@pytest.mark.parametrize(
    ("page", "name", "known"),
    [
        ("models", "part", "models, task, seeds, estimate"),
        ("lessons", "lesson", "1 to 5"),
        ("mapping", "run", "choose one from the list on Start"),
        ("train", "run", "choose one from the list on Start"),
        ("sensitivity", "run", "choose one from the list on Start"),
        ("sensitivity", "with", "choose one under Compare with"),
        ("compare", "run", "choose one from the list on Start"),
        ("compare", "study", "choose runs in the table"),
        ("compare", "view", "scores, curves, answers, lens, files"),
        ("compare", "base", "shown is"),
        ("compare", "scorer", "number_match, rouge_l"),
        ("compare", "paper", "hide, show"),
        ("playground", "run", "choose one from the list on Start"),
        ("playground", "generation", "generate them again"),
    ],
)
def test_every_parameter_that_names_nothing_is_said(place, open_app, page, name, known):
    compared.study(place, seeds=1)
    fabricate.store(place)
    fabricate.run(place, "done", {"until": "sensitivity"})
    app = open_app()
    app.query_params[name] = "nonsense"
    app.switch_page(f"pages/{page}.py").run()
    assert not app.exception, app.exception
    said = "\n".join(str(one.value) for one in app.error).replace("\\", "")
    assert known in said
    if name != "generation":
        assert "nonsense" in said


def inside_the_menu(app, kind: str) -> list[str]:
    """What stands in the menu of the spec, of one kind of message."""
    return [str(one.value) for block in app.get("popover") for one in block.get(kind)]


def test_two_windows_see_each_others_changes_and_keep_both(place, open_app):
    one, other = open_app("train"), open_app("train")
    paste(one, "seed: 7")
    other.run()
    assert "1 change<" in words(other)
    assert "changed in another window: seed" in other.toast[0].value
    paste(other, "seed: 7\nname: both")
    assert load_draft(place).spec.name == "both"


def test_a_damaged_draft_file_is_a_sentence_and_the_defaults(place, open_app):
    place.root.mkdir(exist_ok=True)
    (place.root / FILE).write_text('{"spec": {"seed": -1}}')
    app = open_app()
    assert "the draft starts from the defaults again" in words(app)
    assert "draft</span> defaults" in words(app)


def test_demo_mode_says_so_keeps_drafts_apart_and_refuses_what_is_typed(place, open_app, monkeypatch):
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    app = paste(open_app("train"), "teacher: {source: /etc}")
    assert "Demo mode" in words(app)
    assert "only bundled models" in words(app)
    paste(app, "seed: 7")
    assert "1 change<" in words(app)
    assert not (place.root / FILE).exists()
    assert "draft</span> defaults" in words(open_app("train"))


def test_every_page_brings_back_a_queue_that_somebody_needs(place, open_app, monkeypatch):
    started: list[str] = []
    monkeypatch.setattr(Service, "start", lambda self: started.append(self.name))
    open_app("compare")
    assert "queue" not in started
    QueueEngine(place).submit(create_run(place, RunSpec()))
    started.clear()
    open_app("compare")
    assert "queue" in started


def test_every_way_into_the_draft_refuses_what_visitors_may_not_use(place, open_app, monkeypatch):
    run = fabricate.run(place, "done", {"teacher.source": "/etc"})
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    models = {"bundled:teacher": "teacher", "bundled:stranger": "stranger", "owner/name": "typed"}
    monkeypatch.setattr("paraknow_core.workbench.offers.bundled_models", lambda: models)
    app = open_app("train", run.id)
    button(app, "Duplicate and tweak").click().run()
    assert "only bundled models" in words(app)
    assert "draft</span> defaults" in words(app)
    select(app, "Teacher").select("owner/name").run()
    assert "teacher: 'owner/name' given; in demo mode" in words(app)
    assert "draft</span> defaults" in words(app)


def test_a_server_that_others_can_reach_says_so_on_the_page(open_app, monkeypatch):
    before = st.get_option
    monkeypatch.setattr(st, "get_option", lambda key: "0.0.0.0" if key == "server.address" else before(key))
    text = words(open_app("train"))
    assert "Open to other machines (0.0.0.0)" in text
    assert "no password" in text


@pytest.mark.parametrize("page", ["train", "compare", "ablations"])
def test_a_draw_lists_all_runs_once_and_shows_what_has_changed_since_the_last(place, open_app, monkeypatch, page):
    for seed in range(3):
        fabricate.run(place, "done", {"seed": seed})
    waiting = fabricate.run(place, "queued", {"name": "patience"})
    QueueEngine(place).submit(waiting)
    monkeypatch.setattr("paraknow_core.workbench.views.study_draft.SOON_S", 60.0)  # nothing is left to the next draw
    app = open_app(page)
    assert "1 queued" in words(app)
    scans, named = [], []
    monkeypatch.setattr("os.scandir", lambda path, before=os.scandir: scans.append(str(path)) or before(path))
    monkeypatch.setattr(reading, "run_names", lambda *them, before=reading.run_names: named.append(1) or before(*them))
    app.run()
    assert (scans.count(str(place.runs)), len(named)) == (1, 0)
    QueueEngine(place).stop(waiting)
    write_json(waiting.file("status.json"), asdict(Status("stopped", "fine-tuning")))
    fabricate.run(place, "done", {"seed": 7})
    scans.clear()
    app.run()
    assert (scans.count(str(place.runs)), len(named)) == (1, page != "ablations")  # which names none but active ones
    assert "no run active" in words(app)
    assert not app.exception
