"""Settings that are written for a person: valid ones only, and nothing else of the file is lost."""

import json

import pytest

from paraknow_core.errors import SpecError
from paraknow_core.paths import Workspace
from paraknow_core.settings import change_settings, load_settings

TEXT = """\
# of this machine
threads: 2  # the other cores are taken

engine: queue
# who pays
slurm:
  account: us
  # nights only
  time: '2:00:00'

# asked for on Monday
offline: true
"""


@pytest.fixture
def place(tmp_path):
    return Workspace(tmp_path)


def test_what_a_person_has_written_stays(place):
    place.settings_file.write_text(TEXT)
    change_settings(place, engine="slurm", slurm={"partition": "long", "time": None})
    text = place.settings_file.read_text()
    for line in ("# of this machine", "threads: 2  # the other cores are taken", "# asked for on Monday", "# who pays"):
        assert line in text
    settings = load_settings(place)
    assert (settings.engine, settings.threads, settings.offline) == ("slurm", 2, True)
    assert (settings.slurm.account, settings.slurm.partition, settings.slurm.time) == ("us", "long", None)
    change_settings(place, slurm={"account": None, "partition": None})
    assert "slurm:" not in place.settings_file.read_text()
    change_settings(place, engine="auto", slurm={"time": "90"})
    assert load_settings(place).slurm.time == "90"  # YAML would read a bare one as a number


@pytest.mark.parametrize("text", [None, "", json.dumps({"threads": 2}), "{threads: 2, engine: local}", "threads: 2"])
def test_every_form_of_the_file_is_changed(place, text):
    if text is not None:
        place.settings_file.write_text(text)
    before = load_settings(place)
    change_settings(place, engine="ray", ray={"address": "10.0.0.1:6379"})
    after = load_settings(place)
    assert after.model_dump() == {**before.model_dump(), "engine": "ray", "ray": after.ray.model_dump()}
    assert after.ray.address == "10.0.0.1:6379"


def test_a_bad_value_is_one_sentence_and_nothing_is_written(place):
    place.settings_file.write_text(TEXT)
    for changes in (
        {"engine": "abacus"},
        {"slurm": {"time": "soon"}},
        {"ray": {"gpus": -1}},
        {"ray": {"color": "red"}},
    ):
        with pytest.raises(SpecError, match="settings: '"):
            change_settings(place, **changes)
    assert place.settings_file.read_text() == TEXT
    place.settings_file.write_text("threads: many")
    with pytest.raises(SpecError, match="threads"):
        change_settings(place, engine="queue")
