"""What visitors may touch: everything on one's own machine, little when it is opened up."""

import pytest

from paraknow_core.access import ADDRESS_VARIABLE, DEMO_VARIABLE, ROOTS_VARIABLE, access
from paraknow_core.errors import DataError
from paraknow_core.paths import Workspace
from paraknow_core.spec import RunSpec


@pytest.fixture
def place(tmp_path) -> Workspace:
    return Workspace(tmp_path / "cache")


def test_on_loopback_everything_may_be_named(place):
    free = access(place)
    assert not free.restricted
    free.check_source("/etc/passwd")


def test_an_open_server_reads_only_allowed_folders(place, tmp_path, monkeypatch):
    allowed = tmp_path / "models"
    (allowed / "one").mkdir(parents=True)
    monkeypatch.setenv(ROOTS_VARIABLE, str(allowed))
    opened = access(place, "0.0.0.0")
    assert opened.open_to == "0.0.0.0"
    for source in ("bundled:teacher", "owner/name", "hub:owner/name", str(allowed / "one"), str(place.uploads / "x")):
        opened.check_source(source)
    link = allowed / "link"
    link.symlink_to("/etc")
    for source in ("/etc/passwd", "../x/y/z", f"{allowed}/../other", str(link / "passwd"), "~root/x", "plain"):
        with pytest.raises(DataError, match="outside the folders"):
            opened.check_source(source)


def test_a_hub_data_set_with_the_name_of_a_folder_here_is_a_path(place, tmp_path, monkeypatch):
    (tmp_path / "priv" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    opened = access(place, "0.0.0.0")
    opened.check_source("hub:other/data")
    with pytest.raises(DataError, match="outside the folders"):
        opened.check_source("hub:priv/data")


def test_what_a_draft_names_already_does_not_keep_the_rest_from_being_changed(place):
    opened = access(place, "0.0.0.0")
    before = RunSpec().with_changes({"teacher.source": "/one", "student.source": "/two"})
    opened.check_spec(before.with_changes({"teacher.source": "bundled:teacher"}), before)
    with pytest.raises(DataError, match="outside the folders"):
        opened.check_spec(before.with_changes({"teacher.source": "/three"}), before)


def test_helpers_know_the_address_from_the_environment(place, monkeypatch):
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    assert not access(place).restricted
    for address in ("0.0.0.0", ""):
        monkeypatch.setenv(ADDRESS_VARIABLE, address)
        assert access(place).restricted


def test_an_empty_address_means_every_address(place):
    assert access(place, "").open_to


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher.source": "owner/name"}, "teacher: 'owner/name' given; in demo mode only bundled"),
        ({"task.test_source": "/data/x.jsonl"}, "task.test_source"),
        ({"finetuning.epochs": 6}, "at most 5"),
        ({"task.sizes.train": None}, "task.sizes.train"),
        ({"sensitivity.samples": 65}, "at most 64"),
    ],
)
def test_demo_mode_is_bundled_and_small(place, monkeypatch, changes, message):
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    demo = access(place)
    demo.check_spec(RunSpec())
    with pytest.raises(DataError, match=message):
        demo.check_spec(RunSpec().with_changes(changes))


def test_what_cannot_be_a_path_is_refused_without_a_traceback(place, tmp_path):
    opened = access(place, "0.0.0.0")
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for source in ("a\0b", "/" + "x" * 5000, "x" * 5000 + "/y", "~nobody-here/x", str(circle), "", " "):
        with pytest.raises(DataError, match="outside the folders"):
            opened.check_source(source)


def test_demo_mode_refuses_uploads_deletes_and_long_queues(place, monkeypatch):
    free = access(place)
    free.check_upload()
    free.check_delete()
    free.check_amount(1000, 1000)
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    demo = access(place)
    demo.check_amount(12, 12)
    for refused in (demo.check_upload, demo.check_delete, lambda: demo.check_amount(20, 5)):
        with pytest.raises(DataError, match="in demo mode"):
            refused()


@pytest.mark.parametrize(
    "changes",
    [{"task.sizes.validation": None}, {"task.max_new_tokens": 4000}, {"finetuning.batch_size": 4096},
     {"finetuning.validations": 500}],
)  # fmt: skip
def test_demo_mode_limits_whatever_costs_time(place, monkeypatch, changes):
    monkeypatch.setenv(DEMO_VARIABLE, "1")
    with pytest.raises(DataError, match="at most"):
        access(place).check_spec(RunSpec().with_changes(changes))
