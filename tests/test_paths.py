"""Safe writing: whole or not at all, and never outside."""

import multiprocessing
import os
import stat
import time

import pytest

from paraknow_core.errors import RunError
from paraknow_core.paths import (
    append_line,
    build_folder,
    contained,
    open_lines,
    read_json,
    read_lines,
    usual_rights,
    write_atomic,
    write_json,
)


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "../x", "/etc", "a/../.."])
def test_names_that_lead_outside_are_refused(tmp_path, name):
    with pytest.raises(RunError, match="plain name"):
        contained(tmp_path, name)


def test_contained_refuses_a_link_that_leads_outside(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path)
    with pytest.raises(RunError, match="plain name"):
        contained(tmp_path / "runs", "link")
    assert contained(tmp_path / "runs", "fine") == tmp_path / "runs" / "fine"


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


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_torn_json_reads_as_default(tmp_path):
    (tmp_path / "a.json").write_text('{"x": 1')
    assert read_json(tmp_path / "a.json", "default") == "default"


def test_lines_survive_a_torn_one(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": 2')  # killed while writing
    assert read_lines(path) == [{"n": 1}]
    descriptor = open_lines(path)
    append_line(descriptor, {"n": 3})
    with pytest.raises(ValueError, match="JSON"):
        append_line(descriptor, {"n": float("inf")})
    os.close(descriptor)
    assert read_lines(path) == [{"n": 1}, {"n": 3}]
    assert read_lines(tmp_path / "none") == []


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
