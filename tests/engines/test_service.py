"""Helping processes end with the last process that has asked for one, and not before."""

import subprocess
import sys
import time

import psutil
import pytest

from paraknow_core.engines import service as services
from paraknow_core.engines.service import Service
from paraknow_core.files.json_file import write_json
from paraknow_core.runs.processes import process_identity
from tests.conftest import ROOT

ASK = """
import sys
from paraknow_core.paths import workspace
from paraknow_core.engines.service import Service
for name in sys.argv[1:]:
    Service(workspace(), name).start()
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def user():
    """Return the process that uses a service: it lives until its standard input is closed."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield child
    child.kill()
    child.wait()


@pytest.fixture(autouse=True)
def started(monkeypatch):
    monkeypatch.setenv(services.STARTED_VARIABLE, "1")


def register(service: Service, pid: int) -> None:
    write_json(service.folder.parent / "users" / f"{pid}.json", process_identity(pid))


def test_a_service_is_left_alone_once_its_last_user_is_gone(workspace, user, monkeypatch):
    monkeypatch.setattr(services, "LOOK_S", -1.0)
    monkeypatch.setattr(services, "GONE_S", 0.0)
    service = Service(workspace, "desk")
    register(service, user.pid)
    assert not service.left_alone
    user.kill()
    user.wait()
    service.left_alone  # noqa: B018 - the first look only notes since when
    assert service.left_alone
    monkeypatch.delenv(services.STARTED_VARIABLE)
    service.left_alone  # noqa: B018
    assert not service.left_alone  # who started it by hand ends it by hand


def test_a_server_that_comes_back_in_time_keeps_it(workspace, user, monkeypatch):
    monkeypatch.setattr(services, "LOOK_S", -1.0)
    monkeypatch.setattr(services, "GONE_S", 60.0)
    service = Service(workspace, "desk")
    write_json(service.folder.parent / "users" / "1.json", {**process_identity(user.pid), "process_started": 0.5})
    assert not service.left_alone
    register(service, user.pid)
    monkeypatch.setattr(services, "GONE_S", 0.0)
    assert not service.left_alone


@pytest.mark.parametrize("names", [("desk", "queue"), pytest.param(("playground",), marks=pytest.mark.slow)])
def test_they_end_soon_after_the_process_that_started_them(names, workspace):
    command = [sys.executable, "-c", ASK, *names]
    page = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert page.stdout is not None
    assert page.stdout.readline() == b"started\n"
    deadline = time.monotonic() + 120  # torch may have to be loaded first
    helpers: dict[str, psutil.Process] = {}
    while len(helpers) < len(names) and time.monotonic() < deadline:  # between fork and exec they have other names
        for process in psutil.process_iter(["cmdline"]):
            *_, serve, name = ["", "", *(process.info["cmdline"] or [])]
            if serve == "serve" and process.environ().get("PARAKNOW_WORKSPACE") == str(workspace.root):
                helpers[name] = process
        time.sleep(0.02)
    assert helpers.keys() == set(names)
    page.communicate()
    for name, helper in helpers.items():
        while helper.is_running() and helper.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not helper.is_running() or helper.status() == psutil.STATUS_ZOMBIE
        assert not Service(workspace, name).alive()
