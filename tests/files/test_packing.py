"""What a run hands out is what lies in its folder: no link is followed, and no name leads outside when unpacked."""

import io
import os
import stat
import zipfile

import pytest

from paraknow_core.errors import RunError
from paraknow_core.files.packing import adapter_zip, is_linked, open_inside, pack, read_inside, refuse_links, safe_name


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "adapter").mkdir(parents=True)
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        (folder / "adapter" / name).write_text(name)
    (folder / "result.json").write_text("{}")
    return folder


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md", "secret"):
        (folder / name).write_text("not the run's")
    return folder


def replace_folder(run, target):
    for file in (run / "adapter").iterdir():
        file.unlink()
    (run / "adapter").rmdir()
    (run / "adapter").symlink_to(target)


def names(data: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return archive.namelist()


def test_a_plain_run_is_packed_with_usual_rights(run):
    buffer = io.BytesIO()
    wanted = ["result.json", "adapter/README.md", "missing.json"]
    assert pack(run, wanted, buffer, "id", compress=True) == (["result.json", "adapter/README.md"], [])
    with zipfile.ZipFile(buffer) as archive:
        assert archive.namelist() == ["id/result.json", "id/adapter/README.md"]
        assert archive.read("id/result.json") == b"{}"
        assert {stat.S_IMODE(entry.external_attr >> 16) for entry in archive.infolist()} == {0o644}
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_DEFLATED}
    assert names(adapter_zip(run, "adapter")) == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/README.md",
    ]


@pytest.mark.parametrize("target", ["outside", "inside", "/etc", "nowhere"])
def test_a_linked_adapter_folder_is_left_out_and_refused(run, outside, target):
    kept = run / "kept"
    kept.mkdir()
    (kept / "adapter_config.json").write_text("its own, but behind a link")
    where = {"outside": outside, "inside": kept, "nowhere": run / "gone"}.get(target, target)
    replace_folder(run, where)
    wanted = ["result.json", "adapter/adapter_config.json", "adapter/hostname", "adapter/passwd"]
    inside, left_out = pack(run, wanted, io.BytesIO())
    assert inside == ["result.json"]
    assert left_out == wanted[1:]
    with pytest.raises(RunError, match=r"has no adapter/ of its own: adapter/adapter_config\.json is a link"):
        adapter_zip(run, "adapter")
    with pytest.raises(RunError, match="is a link"):
        refuse_links(run, wanted)


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "result.json"])
def test_a_linked_file_is_left_out_and_refused(run, outside, name):
    (run / name).unlink()
    (run / name).symlink_to(os.path.relpath(outside / "secret", (run / name).parent))
    assert pack(run, ["result.json", name], io.BytesIO())[1]
    assert is_linked(run, name)
    assert open_inside(run, name) is None
    with pytest.raises(RunError, match="of its own; what a link leads to is not handed out"):
        read_inside(run, name)


def test_a_linked_run_folder_is_refused(run, tmp_path):
    (tmp_path / "other").symlink_to(run)
    with pytest.raises(RunError, match="is a link"):
        adapter_zip(tmp_path / "other", "adapter")


@pytest.mark.parametrize(
    "name", ["../outside/secret", "/etc/passwd", "adapter/../../outside/secret", "", ".", "adapter"]
)
def test_names_that_lead_elsewhere_or_to_no_file_open_nothing(run, outside, name):
    assert open_inside(run, name) is None


def test_a_pipe_is_not_waited_for(run):
    os.mkfifo(run / "events.jsonl")
    assert open_inside(run, "events.jsonl") is None


@pytest.mark.parametrize("text", ["../../evil", "..", "a\\..\\b", "/etc", "a\nb", "…"])
def test_a_run_s_name_becomes_a_safe_folder_in_the_zip(run, text):
    buffer = io.BytesIO()
    pack(run, ["result.json"], buffer, text)
    [name] = names(buffer.getvalue())
    first, _, rest = name.partition("/")
    assert rest == "result.json"
    assert first == safe_name(text)
    assert first.strip(".") and not set(first) & set("/\\\n\0")


def test_a_file_from_before_1980_is_packed(run):
    os.utime(run / "result.json", (0, 0))
    assert pack(run, ["result.json"], io.BytesIO())[0] == ["result.json"]
