"""No page dies of one bad folder: every file of a run, and of what runs share, damaged in every way."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pages._ui.frame import router
from paraknow_core.engines import queue
from paraknow_core.errors import ParaknowError
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.runs.folder import RunFolder, find_run, list_runs
from paraknow_core.runs.lifecycle import delete
from paraknow_core.runs.status import STATES
from paraknow_core.runs.table import runs_table
from paraknow_core.studies import scores
from paraknow_core.workbench import reading, uploads
from tests.damage import DAMAGES, WRONG, damage, places, with_wrong
from tests.pages import fabricate
from tests.pages.conftest import words

PAGES = tuple(file for file, _, _ in router.PAGES)
FILES = (
    "spec.yaml",
    "status.json",
    "events.jsonl",
    "result.json",
    "extraction.json",
    "sensitivity.json",
    "predictions.jsonl",
    "partial.json",
    "log.txt",
    "process.json",
    "stop",
    "adapter",
    "checkpoints",
)


def damaged(place, file: str, states: tuple[str, ...] = ("done", "running")) -> list[RunFolder]:
    """Make a run for every kind of damage of one of its files."""
    made = []
    for kind in DAMAGES:
        for state in states:
            run = fabricate.run(place, state, {"name": kind})
            damage(run.file(file), kind)
            made.append(run)
    return made


def plain(value: Any) -> Iterator[Any]:
    """Yield every value inside plain data."""
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for one in inner:
        yield from plain(one)


def read_status_and_result(run: RunFolder) -> None:
    """Read what lists of runs show; none of it raises, and problems are sentences."""
    assert run.status().state in STATES
    one = reading.facts(run)
    assert (one.spec is None) <= bool(one.problem)
    assert "\n" not in one.problem and len(one.problem) < 500
    for score in one.scores:
        assert isinstance(score["scorer"], str) and math.isfinite(score["value"])


def read_everything(run: RunFolder) -> None:
    """Read all that a run folder says; none of it raises, and numbers are numbers of this world."""
    read_status_and_result(run)
    status = run.status()
    assert 0 <= status.fraction <= 1 and run.way_on(status.stage) and isinstance(run.log_tail(), str)
    found = [run.result() or {}, run.extraction(), run.measured(), run.predictions(), run.metrics(), run.events()]
    for value in plain(found):
        assert not isinstance(value, float) or math.isfinite(value)
        assert not isinstance(value, int) or abs(value) < 2**63
        assert not isinstance(value, str) or value.encode() is not None
    for prediction in run.predictions():
        assert isinstance(prediction["id"], str) and math.isfinite(prediction["score"])


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_of_a_run_is_read_without_an_error(place, file):
    for run in damaged(place, file):
        read_everything(run)
    assert len(list_runs(place)) == len(DAMAGES) * 2
    assert len(runs_table(list_runs(place))) == len(DAMAGES) * 2
    order = queue.read(place)
    for run in list_runs(place):
        queue.is_active(run, order)


@pytest.mark.parametrize("file", ["status.json", "result.json"])
@pytest.mark.parametrize("kind", [kind for kind in DAMAGES if kind != "no rights"])
def test_a_damaged_run_says_so_in_one_sentence_and_can_be_deleted(place, file, kind):
    run = fabricate.run(place, "done")
    damage(run.file(file), kind)
    problem = reading.facts(run).problem if file == "result.json" else run.status().message
    harmless = file == "result.json" and kind in ("empty object", "half a character")
    assert harmless or f"{file} is damaged" in problem
    assert harmless or problem.endswith("put back the file that it wrote")
    assert find_run(place, run.id) == run
    delete(run)
    assert list_runs(place) == []


@pytest.mark.parametrize("file", ["status.json", "result.json"])
def test_no_value_of_a_file_can_be_so_wrong_that_reading_it_fails(place, file):
    run, other = fabricate.run(place, "done"), fabricate.run(place, "done", {"method": "default_lora"})
    whole = read_json(run.file(file))
    for number, where in enumerate(places(whole)):
        for wrong in WRONG[number % 3 :: 3]:
            run.file(file).write_text(_dumped(with_wrong(whole, where, wrong)))
            read_status_and_result(run)
            if where[0] in ("scores", "references"):
                with suppress(ParaknowError):
                    scores.verdict(scores.compare({"a": [run], "b": [other]}, against="b"), "a", "b")


def _dumped(value: Any) -> str:
    return json.dumps(value)


@pytest.mark.parametrize("file", ["predictions.jsonl", "events.jsonl"])
def test_no_line_can_be_so_wrong_that_reading_it_fails(place, file):
    run = fabricate.run(place, "done")
    lines = run.file(file).read_text().splitlines()
    record = {
        "predictions.jsonl": {"scorer": "number_match", "id": "a", "score": 1.0, "prompt": "p", "detail": {"a": 1}},
        "events.jsonl": {"event": "metrics", "step": 3, "loss": 0.5, "time": 3.0, "epoch": 1.0},
    }[file]
    bad = [_dumped(with_wrong(record, where, wrong)) for where in places(record) for wrong in WRONG]
    bad += ["[]", "3", "null", "", "{", "\x00", "[" * 10_000]
    run.file(file).write_text("\n".join([*lines[:20], *bad, *lines[20:-1]]) + "\n")
    read_everything(run)
    assert len(run.metrics()) >= 45 and len(run.predictions()) >= 299


def everything_damaged(place) -> None:
    """Fill a workspace with every kind of damage of every file that pages read from it."""
    fabricate.store(place)
    fabricate.run(place, "done")
    for number, kind in enumerate(DAMAGES):
        file = FILES[number % len(FILES)]
        for one in dict.fromkeys((file, "result.json", "status.json", "spec.yaml")):
            for state in ("done", "running"):
                damage(fabricate.run(place, state, {"name": kind}).file(one), kind)
        key = f"{number:032x}"
        place.sensitivity.joinpath(key).mkdir(parents=True)
        damage(place.sensitivity / key / "sensitivity.json", kind)
        fabricate.run(place, "done", {"until": "sensitivity"}, key=key)
        place.uploads.mkdir(exist_ok=True)
        damage(place.uploads / f"note{number}.json", kind)
        damage(place.uploads / f"waiting-{number}.jsonl", kind)
        damage(place.root / f"odd{number}", kind)
    for name in (b"\xff\xfe", b"new\nline", "<b>ü".encode(), b"a b", b"x" * 200, b"%00", b"[a](b)"):
        folder = Path(os.fsdecode(os.fsencode(place.runs) + b"/" + name))
        folder.mkdir()
        (folder / "spec.yaml").write_text("name: odd\n")
        (folder / "status.json").write_text('{"state": "done"}')
    (place.runs / "file").touch()
    (place.runs / "link").symlink_to("nowhere")
    os.mkfifo(place.runs / "pipe")


@pytest.mark.slow
def test_no_page_dies_of_a_workspace_full_of_damage(place, open_app):
    everything_damaged(place)
    for page in PAGES:
        open_app(page if page != "start" else None)


def test_no_page_dies_of_a_few_damaged_runs(place, open_app):
    fabricate.store(place)
    fabricate.run(place, "done")
    for file, kind in (
        ("spec.yaml", "tag"),
        ("status.json", "pipe"),
        ("result.json", "NaN"),
        ("result.json", "folder"),
    ):
        damage(fabricate.run(place, "done", {"name": kind}).file(file), kind)
    for page in PAGES:
        open_app(page if page != "start" else None)
    for run in list_runs(place):
        app = open_app("train", run.id)
        assert reading.facts(run).problem[:60] in words(app)


def test_a_run_with_a_name_that_is_no_text_is_listed_opened_and_deleted(place, open_app):
    for name in (b"\xff\xfe", b"new\nline", b"plain"):
        folder = Path(os.fsdecode(os.fsencode(place.runs) + b"/" + name))
        folder.mkdir(parents=True)
        (folder / "spec.yaml").write_text("name: odd\n")
        write_json(folder / "status.json", {"state": "failed", "message": "x"})
    ids = [run.id for run in list_runs(place)]
    assert sorted(ids) == ["\\udcff\\udcfe", "new\\nline", "plain"]
    for name in ids:
        open_app("train", name)
        delete(find_run(place, name))
    assert list_runs(place) == []


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_saved_sensitivity_is_none(place, kind):
    folder = fabricate.store(place)
    run = fabricate.run(place, "done")
    assert reading.store_of(place, reading.facts(run)) is not None
    damage(folder / "sensitivity.json", kind)
    assert reading.store_of(place, reading.facts(run)) is None


def test_no_value_of_a_saved_sensitivity_can_be_so_wrong_that_a_page_dies(place):
    folder = fabricate.store(place, layers=1)
    run = fabricate.run(place, "done")
    whole, tick = read_json(folder / "sensitivity.json"), 0
    for number, where in enumerate(places(whole)):
        for wrong in WRONG[number % 4 :: 4]:
            (folder / "sensitivity.json").write_text(_dumped(with_wrong(whole, where, wrong)))
            os.utime(folder / "sensitivity.json", (tick := tick + 1, tick))
            store = reading.store_of(place, reading.facts(run))
            if store is not None:
                table = store.modules()
                assert table["sum"].dtype.kind in "fi" and table["rows"].dtype.kind == "i"
                assert all(math.isfinite(score) for score in store.layer_scores())


def test_damaged_notes_of_uploads_hide_no_other(place):
    place.uploads.mkdir()
    (place.uploads / "upload-a.jsonl").write_text("{}")
    write_json(place.uploads / "upload-a.json", {"file": "upload-a.jsonl", "label": "mine", "examples": 3})
    for number, kind in enumerate(DAMAGES):
        damage(place.uploads / f"upload-{number}.json", kind)
    for number, wrong in enumerate(WRONG):
        note = {"file": "upload-a.jsonl", "label": wrong, "examples": wrong, "format": wrong}
        (place.uploads / f"odd-{number}.json").write_text(_dumped(note))
    found = uploads.finished(place)
    assert len(found) == 1 + len(WRONG)
    for upload in found:
        assert upload.text.encode()
