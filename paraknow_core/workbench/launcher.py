"""Starts the browser workbench: Streamlit as a child process that listens where it was told and nowhere else.

`python -m paraknow_core.workbench.launcher` is that child: Streamlit, and a watch on the pipe its parent holds open.
"""

import errno
import ipaddress
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from paraknow_core.errors import RunError
from paraknow_core.files.atomic import sweep
from paraknow_core.paths import PROJECT_ROOT, WORKSPACE_VARIABLE, Workspace
from paraknow_core.workbench.access import ADDRESS_VARIABLE, DEMO_VARIABLE, HUB_VARIABLE, ROOTS_VARIABLE

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where this machine itself then finds the server
# No list of origins on a command line can be empty, but the one in .streamlit/config.toml is: nobody may direct the
# pages from around them. Streamlit's own list names every site of its cloud, which anybody can have.
UNSAFE_VARIABLES = ("STREAMLIT_CLIENT_ALLOWED_ORIGINS",)
START_S = 60.0  # how long a browser window waits for the server
# How long the server may take to end. It waits for every connection to close, and an open window that asks whether
# the server is back, over a connection accepted while it was closing, would keep it for ever (uvicorn 0.54).
GRACE_S = 5.0


def launch(
    place: Workspace,
    host: str,
    port: int,
    *,
    open_browser: bool = True,
    demo: bool = False,
    roots: Sequence[Path] = (),
    hub: bool = False,
) -> int:
    """Serve the workbench until it is ended.

    Args:
        place: the workspace its pages read.
        host: a name or address of this machine; anything but loopback lets other people in.
        port: a free port.
        open_browser: open a window once the server answers.
        demo: a classroom: bundled models and small runs only; see `access`.
        roots: folders whose models and data people on other machines may name.
        hub: they may name hub ids, too, which are read with this machine's hub token.

    Returns:
        The server's exit code.

    Raises:
        RunError: the port is taken, the host is not of this machine, the server is not installed, or a root is no
            folder.
    """
    limits = limiting(demo, roots, hub)
    if not (PROJECT_ROOT / "app.py").exists():
        raise RunError(f"ui: there is no app.py in {PROJECT_ROOT}; start it from a checkout of the project")
    if find_spec("streamlit") is None:
        raise RunError("ui: streamlit is not installed here; run `make setup` and start with `make app`")
    address = check_address(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(banner(url, host, port, is_loopback(address)), file=sys.stderr, flush=True)
    if demo:
        print("Demo mode: bundled models and tasks, small runs; no uploads, no deletes.", file=sys.stderr, flush=True)
    threading.Thread(target=_sweep, args=(place,), daemon=True).start()
    own = {key: value for key, value in os.environ.items() if key not in UNSAFE_VARIABLES}
    environment = {**own, WORKSPACE_VARIABLE: str(place.root), ADDRESS_VARIABLE: host, **limits}
    child = subprocess.Popen(server_command(host, port), cwd=PROJECT_ROOT, env=environment, stdin=subprocess.PIPE)
    if open_browser and _has_screen():
        threading.Thread(target=_open_when_ready, args=(child, address, port, url), daemon=True).start()
    return _wait(child)


def _sweep(place: Workspace) -> None:
    """Remove what kills have left in the workspace, while the server starts."""
    folders = [place.root, *(entry for entry in place.root.glob("*") if entry.is_dir())]
    for folder in [*folders, *place.uploads.glob("*")]:
        sweep(folder)


def limiting(demo: bool, roots: Sequence[Path], hub: bool = False) -> dict[str, str]:
    """Return the environment that tells the pages what visitors may do.

    Raises:
        RunError: a root is no folder, or its name cannot be part of a list of folders.
    """
    for root in roots:
        if not root.expanduser().is_dir():
            raise RunError(f"ui: --root {root}: there is no such folder; give one that holds models or data")
        if os.pathsep in str(root):
            raise RunError(f"ui: --root {root}: has a '{os.pathsep}' in its name; rename it, or give its parent")
    folders = filter(None, [os.environ.get(ROOTS_VARIABLE), *(str(root.expanduser().resolve()) for root in roots)])
    variables = {ROOTS_VARIABLE: os.pathsep.join(folders), DEMO_VARIABLE: "1" * demo, HUB_VARIABLE: "1" * hub}
    return {name: value for name, value in variables.items() if value}


def server_command(host: str, port: int) -> list[str]:
    """Return the server's command line; what guards it is said here, whatever environment or home config say."""
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.enableXsrfProtection": "true",
        "server.enableCORS": "true",
        "server.fileWatcherType": "none",
        "server.enableAgentApi": "false",
        "browser.gatherUsageStats": "false",
        "global.developmentMode": "false",
    }
    # Only known names in the Host header, against DNS rebinding; behind a wildcard address any name may be right.
    names = ["*"] if host in WILDCARDS else list(dict.fromkeys([*LOCAL_NAMES, f"[{host}]" if ":" in host else host]))
    pairs = [*options.items(), *(("server.allowedHosts", name) for name in names)]
    flags = [part for key, value in pairs for part in (f"--{key}", str(value))]
    return [sys.executable, "-m", "paraknow_core.workbench.launcher", "run", str(PROJECT_ROOT / "server.py"), *flags]


def serve_while_parent_lives(arguments: Sequence[str]) -> None:
    """Be the server: Streamlit with these arguments, until it ends or the process that holds standard input is gone.

    A launcher that is killed cannot pass anything on; the server would keep its port for nobody to find.
    """
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    sys.argv = ["streamlit", *arguments]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)


def _end_with_parent(pipe: int) -> None:
    """Wait until the other end of the pipe closes; then end this process as `end_server` would."""
    while os.read(pipe, 1024):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def check_address(host: str, port: int) -> str:
    """Return the numeric address of a host after making sure that the port can be listened on.

    Raises:
        RunError: the host is not of this machine, or the port is taken or not permitted.
    """
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise RunError(f"ui: host '{host}' is not known; give 127.0.0.1 or an address of this machine") from None
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(target)
            probe.listen()
        except PermissionError:
            raise RunError(f"ui: port {port} is not permitted; choose one above 1023, such as --port 8501") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise RunError(
                    f"ui: port {port} is in use, perhaps by a workbench that is running already; open "
                    f"http://{host}:{port}, or choose another with --port {port + 1 if port < 65535 else 8501}"
                ) from None
            raise RunError(f"ui: {host} is not an address of this machine; give 127.0.0.1 or one that is") from None
    return target[0]


def is_loopback(address: str) -> bool:
    """True if only this machine can reach the address."""
    return ipaddress.ip_address(address.split("%")[0]).is_loopback


def banner(url: str, host: str, port: int, loopback: bool) -> str:
    """Return what is printed before the server starts."""
    if loopback:
        return f"ParaKnow workbench: {url} (this machine only). Ctrl-C ends the pages; runs go on."
    line = "!" * 78
    return "\n".join(
        [
            line,
            f"ParaKnow workbench: {url}, open to other machines.",
            f"Everyone who can reach port {port} of this machine ({host}) can start and stop runs, read all results,",
            "and read model folders and data files that you may read. There is no password and no encryption.",
            f"Safer: leave --host out, and on the other machine run  ssh -L {port}:127.0.0.1:{port} THIS-MACHINE",
            line,
        ]
    )


def _has_screen() -> bool:
    """Without one, the standard library would open a text browser in this terminal."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _wait(child: subprocess.Popen) -> int:
    """Wait for the server, passing on SIGTERM, Ctrl-C and, unless it was to be ignored (`nohup`), a closed terminal.

    Returns:
        Its exit code, or 128 + the signal that ended it.
    """
    asked: list[int] = []

    def forward(number: int, _frame: object) -> None:
        asked.append(number)
        threading.Thread(target=end_server, args=(child, number), daemon=True).start()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code < 0:  # where force was needed, what counts is what was asked for
        return 128 + (asked[0] if asked else -code)
    return code


def end_server(child: subprocess.Popen, number: int = signal.SIGTERM, grace_s: float = GRACE_S) -> None:
    """Ask a server to end, and end it by force if it is still there after the grace.

    It holds nothing that is not in files, and what it has started lives on, so that nothing is lost by force.
    """
    if child.poll() is None:
        # Streamlit knows how to end at these two; at a hangup it would die where it stands.
        child.send_signal(number if number == signal.SIGINT else signal.SIGTERM)
    try:
        child.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _open_when_ready(child: subprocess.Popen, address: str, port: int, url: str) -> None:
    deadline = time.monotonic() + START_S
    # A wildcard address cannot be connected to everywhere; loopback then answers as well.
    target = WILDCARDS.get(address, address)
    while time.monotonic() < deadline and child.poll() is None:
        try:
            with socket.create_connection((target, port), timeout=1):
                webbrowser.open(url.replace(address, target))
                return
        except OSError:
            time.sleep(0.2)


if __name__ == "__main__":
    serve_while_parent_lives(sys.argv[1:])
