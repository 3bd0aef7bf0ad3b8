"""A workspace with a hostile name, and engines whose runs are real processes that load no model."""

import os
import sys
from contextlib import suppress

import psutil
import pytest

from paraknow_core.engines.service import Service
from paraknow_core.errors import RunError
from paraknow_core.files.json_file import write_json
from paraknow_core.paths import Workspace
from paraknow_core.runs.folder import list_runs
from paraknow_core.runs.lifecycle import ask_to_stop
from tests.conftest import ROOT
from tests.engines.clusters import RayCluster, SlurmCluster

PYTHON = sys.executable


@pytest.fixture
def place(tmp_path) -> Workspace:
    return Workspace(tmp_path / "a folder with spaces; $(touch hacked) 'quotes'")


@pytest.fixture
def little_slurm(worker, slurm_commands):
    """Let the engine's jobs be executed by `slow_worker.py`, on a small cluster."""
    return slurm_commands


@pytest.fixture
def slurm_commands(tmp_path, monkeypatch):
    """Put SLURM's commands on PATH, of a cluster that executes one job at a time; ended after the test."""
    cluster = SlurmCluster(tmp_path / "cluster", PYTHON)
    monkeypatch.setenv("PATH", f"{cluster.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("paraknow_core.engines.slurm.POLL_S", 0.1)
    monkeypatch.setattr("paraknow_core.engines.slurm.LAG_S", 0.5)
    monkeypatch.setattr("paraknow_core.engines.slurm.UNKNOWN_S", 1)
    yield cluster
    cluster.end()


@pytest.fixture(scope="session")
def little_ray():
    """Start a Ray cluster of one node with one core, on this machine alone."""
    with RayCluster() as cluster:
        cluster.add(cpus=1)
        yield cluster


@pytest.fixture
def worker(place, tmp_path, monkeypatch):
    """Let engines start `slow_worker.py` in place of the pipeline, one run at a time; all is ended after the test."""
    write_json(place.settings_file, {"workers": 1})  # JSON is YAML, too
    script = tmp_path / "worker"
    script.write_text(f"#!{sys.executable}\n{(ROOT / 'tests' / 'slow_worker.py').read_text()}")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("paraknow_core.engines.service.RESTART_AFTER_S", 0.5)
    yield
    for name in ("queue", "ray"):
        Service(place, name).stop(wait_s=10)
    for run in list_runs(place):
        with suppress(RunError):
            ask_to_stop(run)
    for process in psutil.process_iter(["cmdline"]):
        if str(script) in (process.info["cmdline"] or []):
            with suppress(psutil.NoSuchProcess):  # a worker without an owner ends by itself
                process.kill()
