"""Addresses, drafts and pasted texts made to break a page: each is a sentence, and the page goes on working."""

import json
from itertools import product
from types import SimpleNamespace

import pytest

from pages._ui.frame import router
from pages._ui.task import upload
from pages._ui.train import live as train_live
from paraknow_core.engines import queue, queue_service
from paraknow_core.engines.service import Service
from paraknow_core.engines.workers import Pool
from paraknow_core.errors import DataError
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.runs.folder import list_runs
from paraknow_core.spec import RunSpec
from paraknow_core.workbench import draft as drafts
from tests.marking import mostly_slow
from tests.pages import fabricate
from tests.pages.conftest import button, words

PAGES = tuple(file for file, _, _ in router.PAGES)
HOSTILE = (
    "../../etc/passwd",
    "\0",
    "x" * 5000,
    "<script>alert(1)</script>",
    "%00",
    ".",
    "..",
    "a/b",
    "[x](http://y)",
    "١",
)


KEYS = ("run", "lesson", "preset", "generation", "study")
OWN = (("compare", "run"), ("train", "run"), ("lessons", "lesson"), ("mapping", "preset"), ("playground", "generation"))


@pytest.mark.parametrize(
    ("page", "key"), mostly_slow(product(PAGES, KEYS), *OWN, ("start", "study"), ("models", "run"))
)
def test_every_page_survives_every_address(place, open_app, page, key):
    app = open_app()
    for value in HOSTILE:
        app.query_params[key] = value
        app.switch_page(f"pages/{page}.py").run()
        assert not app.exception, (page, key, value, app.exception)
        assert app.title


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        '"x"',
        '{"spec": 3}',
        '{"spec": {"teacher": {"source": ""}}}',
        "[" * 100_000,
        '{"arms": ["x"]}',
        '{"seeds": 1e9}',
        "\x00\xff",
        '{"spec": {"name": "' + "x" * 500 + '"}}',
    ],
)
def test_a_damaged_draft_file_starts_from_the_defaults_and_can_be_written_again(place, open_app, content):
    (place.root / drafts.FILE).write_text(content)
    app = open_app("train")
    assert "draft</span> defaults" in words(app)
    next(n for n in app.number_input if n.label == "Rank r").set_value(4).run()
    assert not app.exception
    assert drafts.load_draft(place).spec.factorisation.rank == 4


def test_a_desk_that_does_not_stay_is_said_while_a_page_waits(place, open_app, monkeypatch):
    folder = Service(place, "desk").folder
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("Traceback\n  File\nImportError: no such thing\n")
    assert "no such thing" not in words(open_app("models"))  # it may only be starting
    monkeypatch.setattr("pages._ui.frame.asking.GONE_S", -1.0)
    assert "ImportError: no such thing" in words(open_app("models"))


def test_a_draft_that_is_a_folder_is_a_sentence(place, open_app):
    (place.root / drafts.FILE).mkdir()
    app = open_app("train")
    next(n for n in app.number_input if n.label == "Rank r").set_value(4).run()
    assert not app.exception
    app.run()
    assert not app.exception


def test_two_windows_see_each_others_changes_and_lose_none(place, open_app):
    one, two = open_app("train"), open_app("train")
    rank = lambda app: next(n for n in app.number_input if n.label == "Rank r")  # noqa: E731
    rank(one).set_value(4).run()
    two.run()
    assert rank(two).value == 4
    next(n for n in two.number_input if n.label == "Epochs").set_value(7.0).run()
    one.run()
    kept = drafts.load_draft(place).spec
    assert (kept.factorisation.rank, kept.finetuning.epochs) == (4, 7.0)
    assert rank(one).value == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b]", "unknown key"),
        ("[" * 90_000, "nested far beyond"),
        ("teacher: {source: hf_abcdefghijklmnopqrstuvwxyz}", "password or a token"),
        ("rnak: 3", "unknown key 'rnak'"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
        ("   ", "nothing was pasted"),
    ],
)
def test_a_pasted_spec_that_is_bad_is_named_and_changes_nothing(place, open_app, text, message):
    app = open_app()
    next(area for area in app.text_area if area.label == "Import YAML").set_value(text)
    button(app, "Import").click().run()
    assert not app.exception
    assert message in words(app)
    assert drafts.load_draft(place).spec == RunSpec()


def test_damaged_run_folders_break_no_page(place, open_app):
    whole = fabricate.run(place, "done").result()
    for number, content in enumerate(
        (
            "[]",
            "3",
            '{"scores": 3}',
            '{"scores": [3, {"value": "x"}, {}]}',
            '{"sensitivity": {"key": "../.."}}',
            '{"revisions": 3, "references": [1]}',
            '{"scores": [{"value": 1e400}]}',
            '{"sensitivity": "x", "task": {"sizes": 3}}',
            json.dumps(
                {
                    **whole,
                    "references": [1],
                    "timings": {"prepare": "x"},
                    "step0": {"evaluation": "x"},
                    "export_check": 3,
                }
            ),
            json.dumps({**whole, "references": {"student": 3, "teacher": ["x"]}, "timings": [], "warnings": 3}),
        )
    ):
        run = fabricate.run(place, "done", {"name": f"damaged {number}"})
        run.file("result.json").write_text(content)
        run.file("adapter").mkdir()
    torn = fabricate.run(place, "done")
    torn.file("status.json").write_text(json.dumps({"state": 3, "heartbeat": "x"}))
    for number, content in enumerate(("[]", "3", '{"attempt": 1}', '{"host": 3, "pid": "x", "attempt": 1}')):
        for state in ("queued", "running"):
            run = fabricate.run(place, state, {"name": f"process {number}"})
            write_json(run.file("status.json"), {**read_json(run.file("status.json")), "attempt": 1})
            run.file("process.json").write_text(content)
        (place.root / "services" / "queue").mkdir(parents=True, exist_ok=True)
        (place.root / "services" / "queue" / "process.json").write_text(content)
        queue.ensure(place)
        queue_service.turn(place, Pool(place))
    for page in ("start", "playground", "lessons", "sensitivity", "compare", "train"):
        open_app(page if page != "start" else None)
    for run in list_runs(place):
        open_app("train", run.id)


def test_demo_mode_says_so_keeps_the_draft_private_and_refuses_typed_names(place, open_app, submitted, monkeypatch):
    monkeypatch.setenv("PARAKNOW_DEMO", "1")
    app = open_app("train")
    assert "Demo mode" in words(app)
    app.session_state["draft"] = drafts.Draft(spec=RunSpec().with_changes({"teacher.source": "/etc"}))
    app.run()
    button(app, "Start transfer").click().run()
    assert "in demo mode only bundled" in words(app)
    assert submitted == []
    assert not (place.root / drafts.FILE).exists()


def test_demo_mode_takes_no_more_runs_than_a_class_can_wait_for(place, open_app, submitted, monkeypatch):
    monkeypatch.setenv("PARAKNOW_DEMO", "1")
    for _ in range(24):
        fabricate.run(place, "running")
    app = open_app()
    button(app, "Try it now").click().run()
    assert "in demo mode at most 24" in words(app)
    assert submitted == []


def test_demo_mode_refuses_uploads_and_deletes_where_they_are_done(place, monkeypatch):
    run = fabricate.run(place, "done")
    monkeypatch.setenv("PARAKNOW_DEMO", "1")
    with pytest.raises(DataError, match="nothing can be deleted"):
        train_live._delete_for_good(run)
    assert run.path.exists()
    kept: dict = {}
    monkeypatch.setattr(upload.st, "session_state", kept)
    upload._take(SimpleNamespace(name="a.jsonl", getvalue=lambda: b"{}"))
    assert "nothing can be uploaded" in kept[upload.REFUSED]
    assert upload.PENDING not in kept
    assert not place.uploads.exists()
    with pytest.raises(DataError, match="nothing can be uploaded"):
        upload._work_on(place, {}, lambda _path: None)


def test_demo_mode_resumes_no_run_that_it_would_not_start(place, open_app, submitted, monkeypatch):
    large = fabricate.run(place, "stopped", {"finetuning.epochs": 50})
    small = fabricate.run(place, "stopped", {"task.sizes.train": 100, "task.sizes.test": 50})
    monkeypatch.setenv("PARAKNOW_DEMO", "1")
    app = open_app("train", large.id)
    button(app, "Resume").click().run()
    assert "finetuning.epochs: 50 given; in demo mode at most 5" in words(app)
    assert submitted == []
    button(open_app("train", small.id), "Resume").click().run()
    assert submitted == [[small.id]]
    for _ in range(24):
        fabricate.run(place, "running")
    app = open_app("train", small.id)
    button(app, "Resume").click().run()
    assert "in demo mode at most 24" in words(app)
    assert submitted == [[small.id]]


def test_a_server_without_its_guards_says_so(place, open_app, monkeypatch):
    import streamlit as st

    real = st.get_option
    monkeypatch.setattr(st, "get_option", lambda key: False if key == "server.enableXsrfProtection" else real(key))
    assert "server.enableXsrfProtection is switched off" in words(open_app())


def test_demo_limits_hold_for_pasted_specs_links_and_seeds(place, open_app, submitted, monkeypatch):
    monkeypatch.setenv("PARAKNOW_DEMO", "1")
    ids = ", ".join(f"'{number}'" for number in range(65))
    pasted = {
        "task: {source: ' ~/mine.jsonl'}": "only bundled",
        "task: {test_source: /etc/passwd}": "only bundled",
        f"sensitivity: {{selection: manual, ids: [{ids}]}}": "at most 64",
        "task: {sizes: {train: null}}": "at most 1000",
    }
    app = open_app()
    for text, said in pasted.items():
        next(area for area in app.text_area if area.label == "Import YAML").set_value(text)
        button(app, "Import").click().run()
        app.run()
        assert not app.exception
        assert said in words(app) or app.session_state["draft"].spec == RunSpec()
        assert app.session_state["draft"].spec == RunSpec()
    app = open_app("train")
    app.session_state["draft"] = drafts.Draft(seeds=9)
    app.run()
    button(app, "Start transfer").click().run()
    assert submitted == []
    assert "in demo mode at most 3" in words(app)
