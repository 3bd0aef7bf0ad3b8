"""Small clusters on this machine: that of `slurm_cluster.py`, which can be told what happens, and one of Ray."""

import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT
from tests.engines import slurm_cluster
from tests.engines.following import until

PYTHON = sys.executable  # tests put another one in its place


class SlurmCluster:
    """SLURM's commands in a folder, to be put on PATH."""

    def __init__(self, folder: Path, python: str, slots: int = 1) -> None:
        """Args: folder, a new one; python, which executes the commands; slots, how many jobs go on at a time."""
        self.folder = folder
        folder.mkdir()
        text = f"#!{python}\n{(ROOT / 'tests' / 'engines' / 'slurm_cluster.py').read_text()}"
        for name in slurm_cluster.COMMANDS:
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "slots").write_text(str(slots))

    def tell(self, job: str, what: str) -> None:
        """Have this happen to a job that goes on, such as NODE_FAIL."""
        (self.folder / f"{job}.do").write_text(what)

    def calls(self, name: str = "") -> list[str]:
        """Return the commands that were called, those of this name."""
        file = self.folder / "calls"
        return [line for line in file.read_text().splitlines() if line.startswith(name)] if file.exists() else []

    def end(self) -> None:
        """End every job, and wait until the last one is gone."""
        (self.folder / "stop").write_text("")
        until(lambda: not any('"RUNNING"' in path.read_text() for path in self.folder.glob("*.json")))
        time.sleep(0.1)


class RayCluster:
    """A real cluster: a head without cores, and nodes that are added and killed. It listens on loopback alone.

    Its files lie in a new folder of a short name, because the path of a socket may have 107 bytes.
    """

    def __enter__(self) -> "RayCluster":
        self.folder = Path(tempfile.mkdtemp(prefix="r"))
        self._patch = pytest.MonkeyPatch()
        for name, value in {
            "RAY_TMPDIR": str(self.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else 127.0.0.1 becomes this machine's address in its network
            "PARAKNOW_NODE_FOLDER": str(self.folder / "nodes"),
            "PYTHONPATH": str(ROOT),  # of `slow_worker.py`
        }.items():
            self._patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        try:
            self.add(cpus=0)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()
        self._patch.undo()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        return self._cluster.address

    def add(self, cpus: int) -> Any:
        """Add a node and return it."""
        options = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20, "include_dashboard": False}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "executable", PYTHON)
            return self._cluster.add_node(num_cpus=cpus, **options)

    def kill(self, node: Any) -> None:
        """Kill the processes of a node, as if its machine were gone."""
        self._cluster.remove_node(node, allow_graceful=False)

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the cluster, and what they have started."""
        here = str(self.folder)
        found = [p for p in psutil.process_iter(["cmdline", "environ"]) if p.pid != os.getpid()]
        return [
            process
            for process in found
            if any(here in part for part in process.info["cmdline"] or [])
            or (process.info["environ"] or {}).get("RAY_TMPDIR") == here
        ]


def listening(processes: list[psutil.Process]) -> set[str]:
    """Return the addresses at which processes listen."""
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            ends = process.net_connections("inet")
            found |= {end.laddr.ip for end in ends if end.status == psutil.CONN_LISTEN or (not end.raddr and end.laddr)}
    return found
