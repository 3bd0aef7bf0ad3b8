"""The engine of a Ray cluster: runs are tasks with cores and GPUs; one whose node is lost goes on at another.

`ray/order.json` of the workspace names the runs that this engine has in hand, in their order. A helping process
(`ray_service.py`) speaks with the cluster and says in `ray/said.json` what people should know. Where a run is, its
folder says (`lifecycle.hold`).
"""

import importlib.util
import ipaddress
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from paraknow_core.engines.base import Engine, Standing
from paraknow_core.engines.ray_node import words_of
from paraknow_core.engines.service import Service
from paraknow_core.errors import Later, RunError
from paraknow_core.files import shapes
from paraknow_core.files.json_file import read_json, read_object, write_json
from paraknow_core.files.naming import is_there
from paraknow_core.paths import PROJECT_ROOT, Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.folder import RunFolder
from paraknow_core.settings import RaySettings

INSTALL = f"{sys.executable} -m pip install -r {PROJECT_ROOT / 'requirements-ray.txt'}"
DEFAULT = "127.0.0.1:6379"  # where `ray start --head` listens
START = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 ray start --head --node-ip-address=127.0.0.1"
TOGETHER = 256  # runs of a study that the cluster may have at a time; it starts as many as fit
LET_GO_S = 10.0  # how long the helping process may take to see that a run has ended
ANSWER_S = 3.0  # how long a cluster may take to answer
HARDER_S = 20.0  # how long the end of a run by force may take
_LOOK_S = 0.1
_ASKED = {
    "cpus": shapes.MAYBE_NUMBER,
    "gpus": shapes.MAYBE_NUMBER,
    "shared": shapes.FLAG,
    "end": shapes.FLAG,
    "settings": shapes.Each(None),
}
_SHAPE = {"address": shapes.TEXT, "runs": shapes.Each(_ASKED)}


@dataclass
class Order:
    """The address of the cluster, and what each run asks of it (`cpus`, `gpus`, `shared`), first come first.

    `end` of a run is true once it is to be ended by force; its `settings`, if it has any, win over the settings file.
    """

    address: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)


def folder_of(place: Workspace) -> Path:
    """Return the folder of what this engine has in hand."""
    return place.root / "ray"


def read(place: Workspace) -> Order:
    """Read the order; what is damaged is left out."""
    data, _ = shapes.fit(read_json(folder_of(place) / "order.json", {}), _SHAPE)
    data = {} if data is shapes.MISSING else data
    return Order(data.get("address", ""), data.get("runs", {}))


@contextmanager
def changing(place: Workspace) -> Iterator[Order]:
    """Lock the order and yield it; changes to it are written on leaving, unless there was an error."""
    folder = folder_of(place)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock", poll_interval=0.01):
        order = read(place)
        before = asdict(order)
        yield order
        if asdict(order) != before:
            write_json(folder / "order.json", asdict(order))


def require() -> None:
    """Refuse to go on without Ray.

    Raises:
        RunError: it is not installed; says how it is.
    """
    if importlib.util.find_spec("ray") is None:
        raise RunError(f"engine ray: Ray is not installed; `{INSTALL}` installs it")


def split(address: str) -> tuple[str, int]:
    """Return host and port of a cluster's address.

    Raises:
        RunError: it is none, or not of the form that Ray's own nodes use.
    """
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if "://" in address or not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise RunError(f"ray: address '{address[:80]}' given; host:port as `ray start` prints it is right, not a URL")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine and cannot be reached from another one."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(str(ip).partition("%")[0]).is_loopback for ip in found)


def has_token() -> bool:
    """Tell whether Ray, in this environment, asks for a token and has one."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return False
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    try:
        return bool(os.environ.get("RAY_AUTH_TOKEN", "").strip() or Path(file).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeError):
        return False


def refuse_open(address: str, host: str) -> None:
    """Refuse a cluster that other machines can reach without a token: whoever reaches it executes what he likes.

    Raises:
        RunError: says what to set.
    """
    if not is_loopback(host) and not has_token():
        raise RunError(
            f"ray: {address} can be reached from other machines, and without a token anybody there could execute code; "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH for every node and for this program (`ray get-auth-token "
            "--generate` makes a token), or use a cluster of this machine alone, at 127.0.0.1"
        )


def silence_of(address: str) -> str:
    """Return a sentence where nothing answers at an address of a cluster; empty where something does."""
    try:
        socket.create_connection(split(address), ANSWER_S).close()
    except OSError as error:
        why = error.strerror or str(error) or "no answer"
        return f"ray: nothing answers at {address} ({why}); start the cluster (`{START}`), or correct the address"
    return ""


class RayEngine(Engine):
    """Gives runs to a Ray cluster."""

    def __init__(self, place: Workspace, **changes: Any) -> None:
        """See `Engine`.

        Raises:
            RunError: Ray is not installed.
        """
        super().__init__(place, **changes)
        require()

    def asked(self) -> RaySettings:
        """Return what this engine asks of which cluster.

        Raises:
            RunError: the address is none, or the cluster would be open to other machines.
            SpecError: the settings are not valid.
        """
        asked = self.settings().ray
        address = os.environ.get("RAY_ADDRESS") or DEFAULT if asked.address in (None, "auto") else asked.address
        refuse_open(address, split(address)[0])
        return asked.model_copy(update={"address": address})

    def together(self) -> int:
        """Return as many as a cluster may have: see `Engine.together`. Refuses one that does not answer.

        Raises:
            RunError: the address is wrong, refused, or nothing answers there.
        """
        if silence := silence_of(str(self.asked().address)):
            raise RunError(silence)
        return TOGETHER

    def submit(self, *runs: RunFolder, first: bool = False) -> None:
        """Have the cluster execute runs as soon as it has room: see `Engine.submit`.

        Raises:
            RunError: also where the address is wrong or refused, or runs are at another cluster.
            Later: nothing answers.
        """
        del first  # Ray decides
        asked = self.asked()
        address = str(asked.address)
        if not Service(self.place, "ray").alive() and (silence := silence_of(address)):
            raise Later(silence)  # later on, runs wait for a cluster that is gone
        self._wait_until_let_go(*runs)
        with changing(self.place) as order:
            for run in runs:
                self._refuse(run, order)
                lifecycle.let_go(run)
            if order.runs and order.address != address:
                raise RunError(f"ray: runs are going on at {order.address}; wait for their end, or stop them first")
            lifecycle.requeue(*runs)
            order.address = address
            for run in runs:
                lifecycle.hold(run, "ray", address=address, moves=True)
                wants = {"cpus": asked.cpus, "gpus": asked.gpus, "shared": asked.shared, "end": False}
                order.runs[run.id] = wants | ({"settings": own} if (own := self.of_runs()) else {})
        Service(self.place, "ray").start()

    def _wait_until_let_go(self, *runs: RunFolder) -> None:
        """Wait until the helping process has seen that runs have ended."""
        deadline = time.monotonic() + LET_GO_S
        while time.monotonic() < deadline:
            order = read(self.place)
            if not any(run.id in order.runs and not run.status().active for run in runs):
                return
            Service(self.place, "ray").start()
            time.sleep(_LOOK_S)

    def _refuse(self, run: RunFolder, order: Order) -> None:
        if run.path.parent.resolve() != self.place.runs.resolve() or not is_there(run.path / "spec.yaml"):
            raise RunError(f"run {run.id}: lies outside the workspace; `run {run.path}` goes on with it here")
        state = run.status().state
        if run.id in order.runs:
            what = "moves to another node" if state == "lost" else f"is already {state}"
            raise RunError(f"run {run.id}: {what}; watch it, or stop it first")
        if state == "done":
            raise RunError(f"run {run.id}: is done; duplicate it to run it with other settings")

    def stop(self, run: RunFolder, grace_s: float | None = None) -> None:
        """Ask, and with a grace period have the cluster end its task: see `Engine.stop`."""
        if run.id in read(self.place).runs:
            Service(self.place, "ray").start()
            if run.status().state == "lost":  # it is on its way to another node
                self._end(run)
                return
        self.alive(run)  # lets go of one that nobody brings to another node
        if run.status().state != "stopped" or not self.alive(run):  # else it was asked: its save may still be carried
            lifecycle.ask_to_stop(run)
        if grace_s is not None and not self._over(run, grace_s):
            self._end(run)
            self._over(run, HARDER_S)

    def _end(self, run: RunFolder) -> None:
        with changing(self.place) as order:
            if run.id in order.runs:
                order.runs[run.id]["end"] = True

    def _over(self, run: RunFolder, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while self.alive(run):  # one that is silent looks stopped, and may still go on
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_S)
        return True

    def alive(self, run: RunFolder) -> bool:
        """Tell whether the cluster has a run in hand, also while it moves: see `Engine.alive`."""
        if run.id not in read(self.place).runs:
            if lifecycle.moves(run, run.status()):  # the order was damaged, or removed
                with changing(self.place) as order:
                    if run.id not in order.runs:
                        lifecycle.let_go(run)
            return super().alive(run)
        Service(self.place, "ray").start()  # it may have been killed
        return not run.is_over and not run.note().get("gone")

    def standing(self, run: RunFolder) -> Standing:
        """Say where a run stands, and what keeps the cluster from executing it: see `Engine.standing`."""
        order, note, status = read(self.place), run.note(), run.status()
        if run.id not in order.runs or run.is_over or note.get("gone"):
            return super().standing(run)
        Service(self.place, "ray").start()
        said = read_object(folder_of(self.place) / "said.json")
        messages = said.get("runs") if isinstance(said.get("runs"), dict) else {}
        message = str(messages.get(run.id) or said.get("message") or "")
        node = note.get("node") if isinstance(note.get("node"), dict) else None
        where = words_of(node) if node else ""
        if status.state in ("running", "stopping"):
            return Standing("working", where=where, message=message)
        if status.state == "stopped":
            return Standing("waiting", 0, where, message or f"{where or 'its node'} may still bring what it has saved")
        if status.state == "lost":
            return Standing("waiting", 0, where, message or f"{where or 'its node'} is gone; it goes on at another one")
        ahead = [name for name in list(order.runs)[: list(order.runs).index(run.id)] if self._waits(name)]
        return Standing("waiting", len(ahead), where, message)

    def _waits(self, name: str) -> bool:
        run = RunFolder(self.place.runs / name)
        return run.status().state == "queued" and not run.note().get("node")
