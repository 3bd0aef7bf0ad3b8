"""A workspace of its own for every test, and the app opened as a person opens it: through app.py."""

from pathlib import Path

import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner
from streamlit.runtime.scriptrunner.script_cache import ScriptCache
from streamlit.testing.v1 import AppTest, app_test

from paraknow_core.engines.queue import QueueEngine
from paraknow_core.engines.service import Service
from paraknow_core.paths import WORKSPACE_VARIABLE, Workspace
from paraknow_core.workbench.access import ADDRESS_VARIABLE

APP = Path(__file__).resolve().parents[2] / "app.py"


@pytest.fixture(scope="session", autouse=True)
def what_every_app_finds():
    """Let each `AppTest` share what it would find anew: components in all installed packages, and compiled scripts."""
    found, scripts = manifest_scanner.scan_component_manifests(), ScriptCache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", lambda: found)
        patch.setattr(app_test, "ScriptCache", lambda: scripts)
        yield


@pytest.fixture
def place(tmp_path, monkeypatch) -> Workspace:
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(tmp_path))
    monkeypatch.setenv(ADDRESS_VARIABLE, "localhost")  # app.py sets it; afterwards it is again what it was
    monkeypatch.setattr(Service, "start", lambda _self: None)  # questions are answered by `answer_desk`, here
    monkeypatch.setattr("pages._ui.frame.asking.PATIENCE_S", 0.0)
    monkeypatch.setattr("pages._ui.frame.asking.BEFORE_START_S", 0.0)
    st.cache_data.clear()
    st.cache_resource.clear()
    return Workspace(tmp_path)


@pytest.fixture
def submitted(monkeypatch) -> list:
    """Runs that a page put into the queue; no process is started."""
    calls = []
    monkeypatch.setattr(QueueEngine, "submit", lambda _engine, *runs, **_: calls.append([run.id for run in runs]))
    return calls


@pytest.fixture
def open_app(place):
    """Open the app, optionally on a page and with `?run=`; every draw must be without an exception."""

    def opened(page: str | None = None, run: str | None = None) -> AppTest:
        app = AppTest.from_file(str(APP), default_timeout=30)
        if run is not None:
            app.query_params["run"] = run
        if page is not None:  # at once, as by a link: its address is its file's name
            app.switch_page(f"pages/{page}.py")
        app.run()
        assert not app.exception, app.exception
        return app

    return opened


def answer_desk(place: Workspace, app: AppTest | None = None) -> None:
    """Answer every open question as the desk process would, and draw the page again, until nothing is open."""
    from paraknow_core.workbench.desk import questions, serve

    for _ in range(20):
        open_questions = sorted((questions.desk_folder(place) / "questions").glob("*.json"))
        if not open_questions:
            return
        for question in open_questions:
            serve.answer_question(place, question)
        if app is not None:
            app.run()
            assert not app.exception, app.exception


def words(app: AppTest) -> str:
    """Everything readable on the page, as one text without Markdown's backslashes."""
    kinds = ("title", "subheader", "markdown", "caption", "error", "warning", "info")
    found = [element.value for kind in kinds for element in app.get(kind)]
    found += [element.proto.body for element in app.get("html")]
    return "\n".join(str(text) for text in found).replace("\\", "")


def button(app: AppTest, label: str):
    """The button with this label."""
    return next(b for b in app.button if b.label == label)


def select(app: AppTest, label: str):
    """The select box with this label."""
    return next(s for s in app.selectbox if s.label == label)
