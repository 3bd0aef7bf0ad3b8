"""Processes that help the pages: at most one of a kind in a workspace, detached, started when first needed.

The folder `services/<name>/` of the workspace is the whole protocol: process.json names the process, log.txt holds its
output, a file `stop` asks it to end. `services/users/` names the processes that have asked for a service, the pages'
server above all. A service ends when the last of them has ended, and when nobody has needed it for a while.
"""

import ctypes
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
from filelock import Timeout

from paraknow_core.files.json_file import read_json, read_object, write_json
from paraknow_core.paths import Workspace
from paraknow_core.runs.processes import boot_id, is_alive, lock_file, start_detached, this_process

LOOK_S, GONE_S = 1.0, 4.0  # how often users are looked for, and how long none may be left: a server may start anew
STARTED_VARIABLE = "PARAKNOW_STARTED"  # set in a service that was started by `Service.start`, not by hand
RESTART_AFTER_S = 4.0  # a service that ends at once is not started again and again
STARTING_S = 20.0  # how long a launched process may take to write its process.json


def end_with(parent: int) -> None:
    """Inside a child process: end at once when its parent has ended, for whatever reason."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: also while a library holds the interpreter

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


class Service:
    """One helping process of a workspace. "Inside the process" marks the methods that are not for its users."""

    def __init__(self, place: Workspace, name: str) -> None:
        """Args: place, the workspace; name, `desk`, `queue` or `playground`, as `serve NAME` runs it."""
        self.place, self.name = place, name
        self.folder = place.root / "services" / name
        self._users = place.root / "services" / "users"
        self._looked, self._alone_since = -math.inf, None  # when users were looked for, and since when there are none

    def alive(self) -> bool:
        """Tell whether the process is running."""
        return is_alive(read_json(self.folder / "process.json"), lock=self.folder / "lock")

    @property
    def starting(self) -> bool:
        """True from the launch of the process until it is alive, at most for some seconds."""
        return not self.alive() and self._launched_ago() < STARTING_S

    def start(self) -> None:
        """Start the process unless it is running; returns at once. Its output goes to log.txt.

        Raises:
            OSError: the workspace cannot be written.
        """
        self._register()
        if self.alive() or self._launched_ago() < RESTART_AFTER_S:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "stop").unlink(missing_ok=True)
        (self.folder / "launched").write_text(json.dumps({"boot": boot_id(), "moment": time.monotonic()}))
        with (self.folder / "log.txt").open("wb") as log:
            start_detached(self.place, "serve", self.name, log=log, **{STARTED_VARIABLE: "1"})

    def _register(self) -> None:
        """Note once that this process needs services, and remove the files of dead processes."""
        file, identity = self._users / f"{os.getpid()}.json", this_process()
        if read_json(file) == identity:
            return
        for user in self._users.glob("*.json"):
            if not is_alive(read_json(user)):
                user.unlink(missing_ok=True)
        write_json(file, identity, durable=False)

    @property
    def left_alone(self) -> bool:
        """Inside the process: for some seconds now, no process that asked for a service has been alive."""
        if STARTED_VARIABLE not in os.environ:
            return False  # who started it by hand ends it by hand
        moment = time.monotonic()
        if moment - self._looked > LOOK_S:
            has_users = any(is_alive(read_json(file)) for file in self._users.glob("*.json"))
            self._looked, self._alone_since = moment, None if has_users else self._alone_since or moment
        return self._alone_since is not None and moment - self._alone_since > GONE_S

    def stop(self, wait_s: float = 0.0) -> None:
        """Ask the process to end; with a wait, kill it if it has not ended by then."""
        if not self.alive():
            return
        (self.folder / "stop").write_text("")
        deadline = time.monotonic() + wait_s
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        process = read_json(self.folder / "process.json")
        if wait_s and is_alive(process):  # on this host: the same number elsewhere is another process here
            with suppress(psutil.NoSuchProcess):
                psutil.Process(process["pid"]).kill()

    def last_error(self) -> str:
        """Return the last line of the log if the log ends with an error: why the process does not stay alive."""
        try:
            text = (self.folder / "log.txt").read_text(errors="replace").strip()
        except OSError:
            return ""
        return text.splitlines()[-1][:300] if "Error" in text[-2000:] else ""

    def _launched_ago(self) -> float:
        """Return the seconds since the process was launched, infinity if it never was; nobody can set this clock.

        If the moment of the launch is not of this start of the machine, the file's time counts, unless it lies ahead.
        """
        file = self.folder / "launched"
        launch = read_object(file)
        try:
            if launch.get("boot") == boot_id() is not None:
                ago = time.monotonic() - float(launch["moment"])
            else:
                ago = time.time() - file.stat().st_mtime
        except (OSError, KeyError, TypeError, ValueError):
            return math.inf
        return ago if ago >= 0 else math.inf

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """Inside the process: become the service; yields False if another process is that already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = lock_file(self.folder / "lock").acquire()
        except Timeout:
            yield False
            return
        with lock:
            write_json(self.folder / "process.json", this_process(), durable=False)
            try:
                yield True
            finally:
                (self.folder / "process.json").unlink(missing_ok=True)

    @property
    def asked_to_stop(self) -> bool:
        """Inside the process: True once somebody has asked it to end."""
        return (self.folder / "stop").exists()
