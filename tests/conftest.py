"""Fixtures for all tests: a workspace of their own and the command line as a real process."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from paraknow_core.paths import WORKSPACE_VARIABLE, Workspace

pytest_plugins = ["tests.tiny_pairs"]

ROOT = Path(__file__).resolve().parents[1]

# Set before any test imports a library that reads them at import: no test asks a hub, none phones home.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: with more, each waits for the others' threads


def pytest_collection_finish() -> None:
    """Leave what is loaded by now out of every later search for garbage: it is large, and some code asks for many."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk():
    """Files are read back from memory, and no test survives a power cut; a wrong descriptor is an error as before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session", autouse=True)
def the_machine_is_measured_in_a_moment():
    """Half a second before each sensitivity says how long it will take, which no test of tiny models waits for."""
    with pytest.MonkeyPatch.context() as patch:
        if "torch" in sys.modules:  # else it would be loaded for tests that do without
            patch.setattr("paraknow_core.ops.speed._SECONDS", 0.01)
        yield


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """Return an empty workspace in a temporary folder; child processes use it too."""
    monkeypatch.setenv(WORKSPACE_VARIABLE, str(tmp_path / "workspace"))
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def run_cli(workspace) -> Callable[..., subprocess.CompletedProcess]:
    """Return `run_cli(*arguments, timeout=120, **options)`: the command line as a process, its output as text."""

    def run(*arguments: object, timeout: float = 120, **options: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "paraknow_core", *map(str, arguments)],
            cwd=ROOT,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
            **options,
        )

    return run
