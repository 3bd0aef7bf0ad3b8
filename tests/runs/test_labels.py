"""What people say about a run: kept beside it, bounded, and never a way in for anything else."""

import json
import os
import zipfile

import pytest

from paraknow_core.cli import main
from paraknow_core.errors import RunError
from paraknow_core.paths import Workspace
from paraknow_core.runs.labels import FILE, MOST_NAME, MOST_NOTE, Label, add_study, label_of, set_label, studies_of
from tests.pages import fabricate


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_a_label_is_changed_part_by_part_and_leaves_nothing_when_empty(folder):
    assert label_of(folder) == Label()
    set_label(folder, name="  the   good\none ", starred=True)
    set_label(folder, note="first line\r\n\r\n\r\nsecond\tline \n")
    assert label_of(folder) == Label("the good one", "first line\n\nsecond line", True)
    set_label(folder, name="")
    assert label_of(folder) == Label("", "first line\n\nsecond line", True)
    assert set_label(folder, note="", starred=False) == Label()
    assert not list(folder.iterdir())


def test_a_label_is_bounded_and_refused_in_a_sentence(folder):
    set_label(folder, name="x" * MOST_NAME, note="y" * MOST_NOTE)
    with pytest.raises(RunError, match=r"name: 61 characters given; at most 60"):
        set_label(folder, name="x" * (MOST_NAME + 1))
    with pytest.raises(RunError, match=r"note: 2,001 characters given"):
        set_label(folder, note="y" * (MOST_NOTE + 1), starred=True)
    assert label_of(folder) == Label("x" * MOST_NAME, "y" * MOST_NOTE, False)


def test_signs_that_hide_or_turn_text_are_left_out(folder):
    name = set_label(folder, name="a\u202eb\x1b[31m\u200bc \u0646\u0645\u06cc\u200c\u062e").name
    assert name == "a b [31m c \u0646\u0645\u06cc\u200c\u062e"


def test_a_deleted_run_does_not_come_back_as_a_label(folder):
    folder.rmdir()
    with pytest.raises(RunError, match="is gone"):
        set_label(folder, name="x")
    assert not folder.exists()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"name": 3, "note": ["x"], "starred": "yes"}', '{"name": ' + "[" * 9000, " " * 70_000],
)
def test_a_damaged_label_says_nothing(folder, content):
    (folder / FILE).write_text(content)
    assert label_of(folder) == Label()
    assert set_label(folder, starred=True).starred


def test_what_somebody_wrote_into_the_file_is_cut_and_cleaned(folder):
    (folder / FILE).write_text(json.dumps({"name": "n" * 500 + "\n", "note": "\x00a" * 3000, "starred": 1}))
    found = label_of(folder)
    assert (len(found.name), len(found.note), found.starred) == (MOST_NAME, MOST_NOTE, False)


def test_links_pipes_and_folders_in_its_place_are_not_read(folder, tmp_path):
    (tmp_path / "private.json").write_text('{"note": "secret"}')
    (folder / FILE).symlink_to(tmp_path / "private.json")
    assert label_of(folder) == Label()
    set_label(folder, starred=True)
    assert (tmp_path / "private.json").read_text() == '{"note": "secret"}'
    (folder / FILE).unlink()
    os.mkfifo(folder / FILE)
    assert label_of(folder) == Label()


def test_the_command_line_gives_reads_lists_and_packs_it(tmp_path, capsys):
    def cli(*words: str) -> str:
        assert main(["--workspace", str(place.root), "runs", *words]) == 0
        return capsys.readouterr().out

    place = Workspace(tmp_path / "workspace")
    run, other = fabricate.run(place, "done"), fabricate.run(place, "done", {"seed": 1})
    before = run.file("spec.yaml").read_bytes()
    given = cli("label", run.id, "--name", "the good one", "--note", "lr was\nright", "--star")
    assert given == f"{run.id}: ★ the good one\nlr was\nright\n"
    listed = {record["id"]: record for record in json.loads(cli("list", "--json"))}
    assert [listed[run.id][key] for key in ("name", "note", "starred")] == ["the good one", "lr was\nright", True]
    assert [listed[other.id][key] for key in ("name", "note", "starred")] == ["seeking, seed 1", "", False]
    table = cli("list")
    assert "★ the good one" in table
    assert "seeking, seed 1" in table
    shown = cli("show", run.id)
    assert "name: ★ the good one" in shown
    assert "note: lr was\nnote: right\n" in shown
    cli("export", run.id, "--out", str(tmp_path / "run.zip"))
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        assert json.loads(archive.read(f"{run.id}/{FILE}"))["note"] == "lr was\nright"
    assert "seeking, seed 0" in cli("label", run.id, "--name", "", "--no-star")
    assert main(["--workspace", str(place.root), "runs", "label", run.id, "--name", "x" * 61]) == 2
    assert capsys.readouterr().err.startswith("name: 61 characters given")
    assert run.file("spec.yaml").read_bytes() == before


def test_no_label_keeps_a_token(tmp_path):
    for change in ({"name": "ghp_abcdefghijklmnopqrstuvwxyz"}, {"note": "see https://me:secret@hub.example/a"}):
        with pytest.raises(RunError, match="a password or a token") as refused:
            set_label(tmp_path, **change)
        assert "secret" not in str(refused.value) and "ghp_" not in str(refused.value)
    assert label_of(tmp_path) == Label()


def test_a_run_names_the_studies_that_it_answers_for(tmp_path):
    assert studies_of(tmp_path) == []
    for study in ("one", "two", "one"):
        add_study(tmp_path, study)
    assert studies_of(tmp_path) == ["one", "two"]
    for damaged in ("{", "[]", '{"studies": 5}', '{"studies": [5, null]}'):
        (tmp_path / "studies.json").write_text(damaged)
        assert studies_of(tmp_path) == []
