"""Changes of a run's state from outside the run; what engines make of them is in tests/engines."""

import shutil

import pytest

from paraknow_core.errors import RunError
from paraknow_core.files.json_file import write_json
from paraknow_core.paths import Workspace
from paraknow_core.runs import lifecycle
from paraknow_core.runs.processes import held, this_process
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


GONE = 2**22 + 1  # no process has this number


@pytest.mark.parametrize(("to_stop", "state"), [(False, "lost"), (True, "stopped")])
def test_a_run_whose_process_is_gone_is_lost_unless_it_was_to_stop(run, to_stop, state):
    process = {**this_process(), "pid": GONE}
    lifecycle.claim(run, process, 0)
    if to_stop:
        run.file("stop").touch()
    assert run.status().state == state and not run.is_over
    assert not to_stop or run.status().message == lifecycle.CANCELLED
    write_json(run.file("status.json"), {"state": "running", "attempt": 1, **process})
    assert run.status().state == state and not run.is_over
    assert run.status().message.startswith(lifecycle.CUT_OFF if to_stop else "the process is gone")
    assert "no step was saved" in run.status().message
    lifecycle.hold(run, "slurm", job="7")
    lifecycle.lose(run, "its node was lost", job="7")
    assert (run.status().state, run.status().message) == (state, "its node was lost")
    assert lifecycle.requeue(run) == [1]
    assert run.status().state == "queued" and not run.file("stop").exists()
