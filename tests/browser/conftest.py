"""A real server and a real Chromium: `site(workspace)` serves the app, `page` is an empty browser window."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from paraknow_core.engines.service import Service
from paraknow_core.paths import WORKSPACE_VARIABLE, Workspace
from paraknow_core.workbench.launcher import end_server

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = Path(__file__).parent / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Streamlit's front end drops what it takes for stale when reruns follow one another faster than it draws, and is then
# sent changes of what it dropped (streamlit issue 16708): the page goes blank. It is not ours to mend, and rare.
FRONT_END_CRASHES = ("Bad delta path index", "cannot be called on an ElementNode")
_crashes: list[str] = []
PATIENCE_MS = 240_000  # models are loaded and trained behind the page, on whatever machine this is


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test once more if, and only if, Streamlit's own front end crashed in it; it says so.

    pytest-rerunfailures decides by the test's own error, and that never is the page's.
    """
    if "page" not in getattr(item, "fixturenames", ()):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    _crashes.clear()
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if _crashes and any(report.failed for report in reports):
        print(f"{item.nodeid}: once more, the front end has crashed: {_crashes[0]}", file=sys.stderr)
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium or Chrome; without one the test is skipped, except in CI, where it must be there."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium or Chrome found; CI must have one (apt-get install chromium)")
        pytest.skip("no Chromium or Chrome found; `apt-get install chromium` brings one")
    sync_api = pytest.importorskip("playwright.sync_api")
    sync_api.expect.set_options(timeout=60_000)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


def _leaves(url: str) -> bool:
    """Tell whether an address is not of this machine: the pages ask nobody else for anything."""
    return url.startswith(("http", "ws")) and urllib.parse.urlsplit(url).hostname not in ("127.0.0.1", "localhost")


@pytest.fixture
def page(browser) -> Iterator:
    """A window of 1280 x 900; an exception in the page's own scripts, or a request to elsewhere, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("pageerror", lambda error: _crashes.extend(c for c in FRONT_END_CRASHES if c in str(error)))
    page.on("request", lambda request: broken.append(request.url) if _leaves(request.url) else None)
    yield page
    context.close()
    assert not broken


@pytest.fixture
def place(tmp_path) -> Workspace:
    """An empty workspace; one thread, because tests share their machine."""
    (tmp_path / "settings.yaml").write_text("threads: 1\noffline: true\ncheckpoint_seconds: 0\n")
    return Workspace(tmp_path)


def start_server(place: Workspace) -> tuple[str, subprocess.Popen]:
    """Start a server for a workspace; return its address and its process, which the caller ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (place.root / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "streamlit",
                "run",
                "app.py",
                "--server.port",
                str(port),
                "--server.headless",
                "true",
            ],
            cwd=ROOT,
            env={**os.environ, WORKSPACE_VARIABLE: str(place.root), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{port}"
    _wait_until_up(address, server)
    return address, server


def stop_server(server: subprocess.Popen) -> None:
    """End a server as the launcher does."""
    end_server(server)


@pytest.fixture
def site(place) -> Iterator[str]:
    """Start a server for the workspace and return its address; it is ended after the test."""
    address, server = start_server(place)
    yield address
    stop_server(server)
    end_helpers(place)


def end_helpers(place: Workspace) -> None:
    """End the processes that the pages have started."""
    for name in ("queue", "playground", "desk"):
        Service(place, name).stop(wait_s=20)


def _wait_until_up(address: str, server: subprocess.Popen, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, "the server ended at once"
            time.sleep(0.2)
    raise AssertionError(f"no answer from the server in {seconds} s")
