"""Files and folders are there whole or not at all, with usual rights."""

import multiprocessing
import os
import stat
import tempfile
import time

import pytest

from paraknow_core.files.atomic import build_folder, sweep, temporary_folder, usual_rights, write_atomic
from paraknow_core.files.json_file import open_lines, read_json, write_json


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_durable_folder_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events, real = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (events.append((tmp_path / "final").exists()), real(descriptor))
    )
    with build_folder(tmp_path / "final", durable=True) as building:
        (building / "inner").mkdir()
        (building / "inner" / "a").write_text("x")
    assert events.count(False) >= 3  # the file, its folder, the folder itself
    assert events[-1] is True  # and its name


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    final = tmp_path / "deep" / "final"
    with pytest.raises(KeyError), build_folder(final) as building:
        (building / "half").write_text("x")
        raise KeyError
    assert list(final.parent.iterdir()) == []
    with build_folder(final) as building:
        (building / "a").write_text("x")
        assert not final.exists()
    assert (final / "a").read_text() == "x"


def test_what_a_kill_left_of_a_folder_is_gone_after_the_next_attempt(tmp_path):
    final, old = tmp_path / "out[1]", time.time() - 3600
    with build_folder(final) as going_on:
        left, other = tmp_path / ".out[1].abcdefgh", tmp_path / ".out1.abcdefgh"
        for folder in (left, other):
            folder.mkdir()
        for folder in (left, other, going_on):
            os.utime(folder, (old, old))
        with build_folder(tmp_path / "out[1]"):
            assert not left.exists()
            assert other.exists()
            assert going_on.exists()  # somebody holds it


def _build(final, start):
    start.wait()
    with build_folder(final) as building:
        (building / "content").write_text("same")


def _hold_and_die(prefix):
    with temporary_folder(prefix) as folder:
        (folder / "meeting").touch()
        os._exit(9)


def test_what_a_kill_left_of_a_temporary_folder_goes_at_the_next_start_and_what_others_hold_stays(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        process = multiprocessing.get_context("fork").Process(target=_hold_and_die, args=("own-",))
        process.start()
        process.join(30)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "other-1").mkdir()
    assert len([*tmp_path.glob("own-*/meeting")]) == 2
    with temporary_folder("own-") as held:
        assert held.stat().st_mode & 0o777 == 0o700
        for path in tmp_path.iterdir():
            os.utime(path, (1, 1))
        with temporary_folder("own-") as second:
            names = {path.name for path in tmp_path.iterdir()}
            assert names == {held.name, second.name, "elsewhere", "own-link", "other-1"}
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "own-link", "other-1"}


def test_two_writers_of_one_folder_both_succeed(tmp_path):
    context = multiprocessing.get_context("fork")
    start, final = context.Barrier(4), tmp_path / "entry"
    workers = [context.Process(target=_build, args=(final, start)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert (final / "content").read_text() == "same"
    assert [p.name for p in tmp_path.iterdir()] == ["entry"]


def test_what_kills_have_left_is_swept_and_nothing_else(tmp_path):
    old = time.time() - 7200
    for name in (".deleted.one", ".store.abcd1234", ".hidden", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
        os.utime(tmp_path / name, (old, old))
    for name, age in ((".status.json.abcd1234", 7200), (".status.json.young123", 0), (".note", 7200)):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / ".deleted.link").symlink_to(tmp_path / "run")
    assert sweep(tmp_path) == [".deleted.one", ".status.json.abcd1234", ".store.abcd1234"]
    assert (tmp_path / "run" / "file").exists()
    assert sweep(tmp_path / "absent") == []


def test_a_folder_that_is_being_built_is_not_swept(tmp_path):
    with build_folder(tmp_path / "store") as building:
        os.utime(building, (time.time() - 7200,) * 2)
        assert sweep(tmp_path) == []


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)]
)
def test_what_is_written_has_the_rights_that_the_umask_leaves(umask, file, folder, tmp_path):
    numpy, safetensors = pytest.importorskip("numpy"), pytest.importorskip("safetensors.numpy")
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "whole.json", "{}")
        write_atomic(tmp_path / "whole.json", "[]")  # also where there was one
        os.close(open_lines(tmp_path / "lines.jsonl"))
        with build_folder(tmp_path / "built") as building:
            safetensors.save_file({"a": numpy.zeros(2)}, building / "a.safetensors")
            (building / "inner").mkdir()
            write_atomic(building / "inner" / "b.json", "{}")
        safetensors.save_file({"a": numpy.zeros(2)}, tmp_path / "alone.safetensors")
        usual_rights(tmp_path / "alone.safetensors")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_file()} == {file}, modes
    assert {mode for path, mode in modes.items() if path.is_dir()} == {folder}, modes


def test_rights_are_not_given_through_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o600)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(outside)
    usual_rights(tmp_path / "folder")
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600
