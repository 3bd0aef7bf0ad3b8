"""The browser workbench's launcher: where it listens, what it says, and how it ends. Uses the real server."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest

from paraknow_core.errors import RunError
from paraknow_core.paths import PROJECT_ROOT
from paraknow_core.workbench.access import DEMO_VARIABLE, HUB_VARIABLE, ROOTS_VARIABLE
from paraknow_core.workbench.launcher import banner, check_address, end_server, is_loopback, limiting, server_command


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_free_port_is_accepted_and_left_free(free_port):
    assert check_address("127.0.0.1", free_port) == "127.0.0.1"
    assert check_address("localhost", free_port) in ("127.0.0.1", "::1")


def test_a_taken_port_is_refused_with_the_next_step(free_port):
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port))
        other.listen()
        with pytest.raises(RunError, match=rf"port {free_port} is in use.*--port {free_port + 1}"):
            check_address("127.0.0.1", free_port)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.5", False),
        ("fe80::1%eth0", False),
    ],
)
def test_only_loopback_counts_as_this_machine_only(address, expected):
    assert is_loopback(address) is expected


def test_the_banner_says_who_can_reach_it():
    assert "this machine only" in banner("http://127.0.0.1:1", "127.0.0.1", 1, True)
    opened = banner("http://0.0.0.0:8501", "0.0.0.0", 8501, False)
    assert "no password" in opened
    assert "ssh -L 8501" in opened


def test_what_guards_the_server_is_on_its_command_line():
    command = server_command("127.0.0.1", 8502)
    flags = dict(zip(command[5::2], command[6::2], strict=True))
    assert flags["--server.address"] == "127.0.0.1"
    assert flags["--server.port"] == "8502"
    assert flags["--server.enableXsrfProtection"] == flags["--server.enableCORS"] == "true"
    assert flags["--browser.gatherUsageStats"] == "false"


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1", "[::1]"]),
        ("10.0.0.5", ["localhost", "127.0.0.1", "[::1]", "10.0.0.5"]),
        ("0.0.0.0", ["*"]),
    ],
)
def test_only_known_host_names_are_answered(host, names):
    command = server_command(host, 8502)
    given = [value for flag, value in zip(command, command[1:], strict=False) if flag == "--server.allowedHosts"]
    assert given == names


def answers(port: int, seconds: float = 120.0) -> bool:
    """Wait until the server says that it is well."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2) as reply:
                return reply.status == 200
        except OSError:
            time.sleep(0.2)
    return False


@pytest.mark.skipif(not (PROJECT_ROOT / "app.py").exists(), reason="there is no app.py yet")
def test_it_listens_on_loopback_whatever_the_environment_says_and_ends_with_its_child(free_port, workspace):
    child = subprocess.Popen(
        [sys.executable, "-m", "paraknow_core", "ui", "--port", str(free_port), "--no-browser"],
        cwd=PROJECT_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "STREAMLIT_SERVER_ADDRESS": "0.0.0.0",
            "STREAMLIT_SERVER_PORT": "1",
            "STREAMLIT_CLIENT_ALLOWED_ORIGINS": "https://any.streamlit.app",
        },
    )
    try:
        assert answers(free_port)
        assert_nobody_may_frame_it(free_port)
        (server,) = psutil.Process(child.pid).children()
        listening = {c.laddr for c in server.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        assert {address.ip for address in listening} == {"127.0.0.1"}
        assert server.environ()["PARAKNOW_WORKSPACE"] == str(workspace.root)
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode in (0, 143)
    assert "this machine only" in errors
    assert "Traceback" not in errors
    assert not server.is_running()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_launcher_that_goes_takes_its_server_with_it(number, free_port, workspace):
    child = subprocess.Popen(
        [sys.executable, "-m", "paraknow_core", "ui", "--port", str(free_port), "--no-browser"],
        cwd=PROJECT_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert answers(free_port)
        (server,) = psutil.Process(child.pid).children()
        child.send_signal(number)
        child.wait(timeout=60)
        server.wait(timeout=60)  # None of its own accord or by force: it is gone
    finally:
        child.kill()
    assert check_address("127.0.0.1", free_port) == "127.0.0.1"


def assert_nobody_may_frame_it(port: int) -> None:
    """No site around the pages may direct them (say, where to send an upload), nor lay its own words over them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/host-config", timeout=20) as reply:
        told = json.load(reply)
    assert told["allowedOrigins"] == []
    assert not told["enableCustomParentMessages"] and not told["useExternalAuthToken"]
    for path in ("/", "/train", "/_stcore/health", "/no/such/page"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as reply:
            assert reply.headers["X-Frame-Options"] == "SAMEORIGIN"
            assert reply.headers["Content-Security-Policy"] == "frame-ancestors 'self'"


DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def test_a_server_that_does_not_end_when_asked_is_ended_by_force():
    child = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    end_server(child, grace_s=0.5)
    assert child.returncode == -signal.SIGKILL
    end_server(child)  # and a second time nothing happens


def test_an_end_by_force_is_told_as_the_signal_that_asked_for_it():
    program = (
        "import subprocess, sys\nfrom paraknow_core.workbench import launcher\n"
        "launcher.end_server.__defaults__ = (15, 0.5)\n"
        f"sys.exit(launcher._wait(subprocess.Popen([sys.executable, '-c', {DEAF!r}])))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=PROJECT_ROOT)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=30) == 128 + signal.SIGTERM


def test_demo_mode_and_roots_reach_the_pages_by_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(ROOTS_VARIABLE, raising=False)
    assert limiting(False, ()) == {}
    assert limiting(True, ()) == {DEMO_VARIABLE: "1"}
    assert limiting(False, (), hub=True) == {HUB_VARIABLE: "1"}
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    monkeypatch.setenv(ROOTS_VARIABLE, str(two))
    assert limiting(False, [one]) == {ROOTS_VARIABLE: f"{two}{os.pathsep}{one}"}
    with pytest.raises(RunError, match="no such folder"):
        limiting(False, [tmp_path / "three"])
    odd = tmp_path / f"a{os.pathsep}b"
    odd.mkdir()
    with pytest.raises(RunError, match="in its name"):
        limiting(False, [odd])


def test_demo_mode_is_said_and_reaches_the_server(free_port, workspace):
    child = subprocess.Popen(
        [sys.executable, "-m", "paraknow_core", "ui", "--demo", "--port", str(free_port), "--no-browser"],
        cwd=PROJECT_ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "STREAMLIT_SERVER_ENABLE_XSRF_PROTECTION": "false", "STREAMLIT_SERVER_ENABLE_CORS": "false"},
    )
    try:
        assert answers(free_port)
        (server,) = psutil.Process(child.pid).children()
        assert server.environ()[DEMO_VARIABLE] == "1"
        assert upgrade(free_port, "localhost") == 101
        assert upgrade(free_port, "evil.example") == 403  # whatever the environment says
        child.send_signal(signal.SIGTERM)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert "Demo mode" in errors


def upgrade(port: int, host: str) -> int:
    """Ask for the pages' connection as a web page of this host would, and return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(
        "GET",
        "/_stcore/stream",
        headers={
            "Host": host,
            "Origin": f"http://{host}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
        },
    )
    status = connection.getresponse().status
    connection.close()
    return status


def test_started_by_streamlit_itself_from_anywhere_it_is_guarded_as_well(free_port, workspace, tmp_path):
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "streamlit",
            "run",
            str(PROJECT_ROOT / "app.py"),
            "--server.port",
            str(free_port),
            "--server.headless",
            "true",
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert answers(free_port)
        listening = {
            c.laddr.ip for c in psutil.Process(child.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        assert upgrade(free_port, "evil.example") == 403
    finally:
        child.terminate()
        child.wait(30)
