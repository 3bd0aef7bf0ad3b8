"""Where runs are executed: what a person chooses reaches the settings, and one line says what will happen."""

from dataclasses import replace

import pytest

from paraknow_core.engines import choice
from paraknow_core.engines.choice import Machine
from paraknow_core.errors import DataError, RunError, SpecError
from paraknow_core.paths import Workspace
from paraknow_core.settings import EngineName, load_settings
from paraknow_core.spec import RunSpec
from paraknow_core.workbench import execution
from paraknow_core.workbench.access import Access
from tests.pages import studied

HERE = Access(demo=False, open_to="", roots=())
SPECS = [RunSpec(seed=seed) for seed in range(4)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls, settings: Machine(2, 64e9)))
    return Workspace(tmp_path)


def choose(place, engine, **values):
    execution.choose_engine(place, HERE, engine, values)
    return load_settings(place)


def test_every_engine_can_be_chosen_and_every_field_is_a_setting(place):
    assert set(execution.PLACES) == set(EngineName.__args__)
    for name, one in execution.PLACES.items():
        values = execution.values_of(load_settings(place), name)
        assert list(values) == list(one.fields or {})
        assert all(execution.help_of(name, key) for key in values)


def test_a_choice_is_written_and_shown_again(place):
    values = {
        "partition": " long ",
        "account": "",
        "time": "2:00:00",
        "memory": None,
        "options": "--gres=gpu:1 --qos='a b'",
    }
    settings = choose(place, "slurm", **values)
    assert (settings.engine, settings.slurm.partition, settings.slurm.account) == ("slurm", "long", None)
    assert settings.slurm.options == ("--gres=gpu:1", "--qos=a b")
    assert execution.values_of(settings, "slurm")["options"] == "--gres=gpu:1 '--qos=a b'"
    assert choose(place, "queue").slurm.partition == "long"  # kept for the next time


def test_what_is_refused_is_not_written(place, monkeypatch):
    with pytest.raises(SpecError, match="slurm.time"):
        choose(place, "slurm", time="soon")
    with pytest.raises(SpecError, match="options.*quot"):
        choose(place, "slurm", options="--comment='late")
    for access in (replace(HERE, demo=True), replace(HERE, open_to="0.0.0.0")):
        with pytest.raises(DataError, match="only be changed on this machine"):
            execution.choose_engine(place, access, "queue", {})
    monkeypatch.setitem(execution.PLACES, "abacus", execution.Place("Abacus", ""))
    with pytest.raises(RunError, match="abacus"):
        choose(place, "abacus")
    assert not place.settings_file.exists()


def test_one_line_says_what_a_start_does(place):
    said = lambda **how: execution.choice_of(place, SPECS, **how).sentence  # noqa: E731
    assert said().startswith("4 runs by 2 workers of 1 thread each, about")
    choose(place, "local")  # one process for all runs of a start
    assert "one after the other" in said() and "workers" not in said()
    choose(place, "ray" if choice.elsewhere(load_settings(place)) else "slurm", partition="long")
    assert said().startswith("4 runs by SLURM, partition long; here, one after the other, about")
    assert said(study=True) == said()


def test_packs_are_for_studies_and_for_the_queue(place, monkeypatch):
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls, settings: Machine(2, 64e9, gpu=True)))
    assert execution.choice_of(place, SPECS, study=True).packs
    assert any(len(pack) > 1 for pack in execution.choice_of(place, SPECS).packs)
    choose(place, "local")  # one process for all, one after the other
    assert not any(len(pack) > 1 for pack in execution.choice_of(place, SPECS).packs)


def test_a_study_says_how_long_it_will_take_before_and_after_its_first_run(place):
    folder = studied.study(place, "running", of_cell=lambda cell: "running" if cell.seed == 0 else "")
    status, cells = folder.status(), folder.cells()
    assert execution.left_of_study(folder, status, cells).startswith("about ")
    measured = replace(status, stage="test", message="test run 2 of 9, a, about 1 m 20 s left; b, about 1 m 05 s left")
    assert execution.left_of_study(folder, measured, cells) == "about 1 m 05 s left"
    choose(place, "slurm", partition="long")
    going = len({one.run.id for one in cells if one.state == "running"})
    assert execution.left_of_study(folder, status, cells).endswith(f"left if {going} go on at a time")
