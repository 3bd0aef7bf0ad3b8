"""What pages keep of files that they have read: a file that changes is read again."""

import json
import tomllib
from pathlib import Path

from paraknow_core.figures import train as charts
from paraknow_core.workbench import reading
from tests.pages import fabricate


def test_a_verdict_follows_the_answers_that_it_is_about(place):
    one, other = fabricate.run(place, value=0.6), fabricate.run(place, changes={"method": "default_lora"}, value=0.4)
    before = reading.verdict(one, other)
    ours, theirs = (run.file("predictions.jsonl") for run in (one, other))
    ours.write_text(theirs.read_text() + "\n")
    assert reading.verdict(one, other) != before


def test_windows_share_the_pictures_of_a_run_until_it_has_written_more(place, open_app, monkeypatch):
    run = fabricate.run(place, "running")
    drawn = []
    for name in ("loss", "metric"):
        before = getattr(charts, name)
        monkeypatch.setattr(charts, name, lambda *a, before=before, **k: drawn.append(1) or before(*a, **k))
    first = open_app("train", run.id)
    pictures = len(drawn)
    assert pictures == 5
    second = open_app("train", run.id)
    first.run()
    assert len(drawn) == pictures
    with run.file("events.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"event": "metrics", "step": 21, "loss": 0.5, "learning_rate": 1e-4}) + "\n")
    second.run()
    assert len(drawn) == 2 * pictures
    assert not second.exception
    next(s for s in second.slider if s.label == "Smoothing").set_value(0.2).run()
    assert len(drawn) > 2 * pictures


def test_no_full_garbage_collection_after_every_draw():
    root = Path(__file__).resolve().parents[2]
    assert tomllib.loads((root / ".streamlit/config.toml").read_text())["runner"]["postScriptGC"] is False
