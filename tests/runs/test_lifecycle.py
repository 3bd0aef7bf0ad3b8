"""Changes of a run's state from outside the run; what engines make of them is in tests/engines."""

import shutil

import pytest

from paraknow_core.errors import RunError
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.processes import held
from paraknow_core.runs.writer import RunWriter
from paraknow_core.spec import RunSpec


@pytest.fixture
def run(tmp_path):
    return lifecycle.create_run(Workspace(tmp_path), RunSpec(name="a run"))


def test_a_folder_that_is_gone_is_not_made_anew(run):
    shutil.rmtree(run.path)
    with pytest.raises(FileNotFoundError), RunWriter(run):
        pass
    lifecycle.give_up(run, RunError("it could not begin"))
    assert not run.path.exists()


def test_a_lock_that_is_a_link_is_as_held_as_its_end(run, tmp_path):
    end = tmp_path / "elsewhere"
    run.file("lock").symlink_to(end)
    with held(run.file("lock")) as alone:
        assert alone
    with held(end) as alone, held(run.file("lock")) as also:
        assert alone and not also
    with pytest.raises(RunError, match="'lock' cannot be locked"), RunWriter(run):
        pass
