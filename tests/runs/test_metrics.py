"""Reading a run's metrics on: the same as reading all of them, whatever happens to the file."""

import io
import json
import random
import time

import numpy
import pandas
import pytest

from paraknow_core.figures.train import points
from paraknow_core.runs import metrics as curves
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.metrics import Metrics


def write(path, *records, mode="a"):
    with path.open(mode) as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def step(number, moment=0.0, **fields):
    return {"event": "metrics", "step": number, "time": 100.0 + (moment or number), **fields}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "events.jsonl"


def known(metrics, name):
    return metrics.refresh().array(name).tolist()


def test_reading_on_gives_what_reading_everything_gives(path, tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "AT_ONCE", 700)  # many readings, most of them ending inside a line
    chance = random.Random(1)
    metrics, last = Metrics(path), 0
    for _ in range(30):
        last = max(0, last - chance.choice([0, 0, 0, 7]))
        records = []
        for _ in range(chance.randrange(12)):
            last += 1
            records.append(step(last, loss=chance.random(), epoch=last / 9))
            if chance.random() < 0.3:
                records.append(step(last, validation_loss=chance.random()))
        write(path, *records, {"event": "saved", "step": last, "time": 1.0})
        if chance.random() < 0.5:
            metrics.refresh()
    while metrics.refresh().behind:
        continue
    whole = Metrics(path).refresh(everything=True)
    for name in curves.COLUMNS:
        numpy.testing.assert_array_equal(metrics.array(name), whole.array(name))
    truth = {r["step"]: r for r in RunFolder(tmp_path).metrics()}
    steps = metrics.array("step").astype(int).tolist()
    assert steps == list(range(1, last + 1))
    assert metrics.array("loss").tolist() == [truth[s]["loss"] for s in steps]
    assert metrics.saved_step == last


def test_a_torn_line_counts_when_it_is_whole_and_rubbish_never(path):
    metrics = Metrics(path)
    assert known(metrics, "step") == []
    line = json.dumps(step(1, loss=2.5))
    path.write_text(line[:20])
    assert known(metrics, "step") == []
    with path.open("a") as file:
        file.write(line[20:] + "\nnot json\n[1]\n" + '{"event": "metrics", "step": "x"}\n{"event": "metrics"}\n')
    assert known(metrics, "loss") == [2.5]


def test_the_plan_is_read_on_and_the_version_changes_with_every_reading(path):
    metrics = Metrics(path)
    assert (metrics.plan, metrics.planned) == ({}, 0.0)
    write(path, {"event": "plan", "time": 7.0, "plan": {"way": "resident"}})
    before = metrics.refresh().version
    assert (metrics.plan, metrics.planned) == ({"way": "resident"}, 7.0)
    assert metrics.refresh().version == before
    write(path, {"event": "plan", "time": 9.0, "plan": {"way": "streamed"}}, step(1))
    assert metrics.refresh().version != before
    assert (metrics.plan, metrics.planned) == ({"way": "streamed"}, 9.0)


def test_a_replaced_or_removed_file_is_read_anew(path):
    metrics = Metrics(path)
    write(path, step(1), step(2), step(3))
    assert known(metrics, "step") == [1, 2, 3]
    write(path, step(7), mode="w")
    assert known(metrics, "step") == [7]
    path.unlink()
    assert known(metrics, "step") == []


def test_a_resumed_run_replaces_what_it_repeats_and_its_clock_leaves_the_pause_out(path):
    metrics = Metrics(path)
    write(path, {"event": "started", "time": 95.0}, {"event": "stage", "stage": "fine-tuning", "time": 100.0})
    write(path, *(step(n, loss=n) for n in (1, 2, 3, 4)))
    assert known(metrics, "elapsed") == [1, 2, 3, 4]
    write(
        path,
        {"event": "started", "time": 5000.0, "attempt": 2},
        {"event": "stage", "stage": "fine-tuning", "time": 5010.0},
        step(3, 4912, loss=30),
    )
    assert known(metrics, "step") == [1, 2, 3]
    assert known(metrics, "loss") == [1, 2, 30]
    assert known(metrics, "elapsed") == [1, 2, 4]


def test_validation_at_step_zero_and_the_same_step_stays_one_row(path):
    metrics = Metrics(path)
    write(path, step(0, 0.5, validation_loss=3.0), step(1, validation_loss=2.0), step(1, loss=1.5, epoch=0.5))
    assert known(metrics, "validation_loss") == [3.0, 2.0]
    x, y = points(metrics, "validation_loss", "epoch")
    assert (x.tolist(), y.tolist()) == ([0.0, 0.5], [3.0, 2.0])
    assert metrics.latest("loss") == 1.5
    write(path, *(step(n, loss=1.0) for n in range(2, 200)))
    assert metrics.refresh().latest("validation_loss") == 2.0
    assert metrics.latest("grad_norm") is None


def test_speed_is_of_the_last_steps(path):
    metrics = Metrics(path)
    write(path, step(1))
    assert metrics.refresh().rate() is None
    write(path, *(step(n, 1 + 0.5 * n) for n in range(2, 80)))
    assert metrics.refresh().rate() == pytest.approx(2.0)


def test_a_hundred_thousand_steps_are_read_piece_by_piece_and_then_cost_next_to_nothing(path):
    write(path, *(step(n, loss=1 / n, grad_norm=1.0, learning_rate=3e-4, epoch=n / 9) for n in range(1, 100_001)))
    metrics, longest = Metrics(path), 0.0
    while True:
        began = time.process_time()
        metrics.refresh()
        longest = max(longest, time.process_time() - began)
        if not metrics.behind:
            break
    assert metrics.steps == 100_000
    assert longest < 0.5  # seconds of computing
    assert len(points(metrics, "loss", "step", 0.9)[0]) <= 2000
    write(path, step(100_001, loss=0.5))
    began = time.process_time()
    points(metrics.refresh(), "loss", "step", 0.9)
    assert time.process_time() - began < 0.3
    assert metrics.latest("loss") == 0.5
    assert sum(column.itemsize * len(column) for column in metrics.columns.values()) < 8e6


def test_the_csv_holds_every_step_of_every_run(tmp_path):
    for name, steps in (("one", 3), ("two", 2)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "events.jsonl", *(step(n, learning_rate=3e-7) for n in range(1, steps + 1)))
    text = curves.csv_of([("first, named", RunFolder(tmp_path / "one")), ("second", RunFolder(tmp_path / "two"))])
    table = pandas.read_csv(io.StringIO(text))
    assert table["step"].tolist() == [1, 2, 3, 1, 2]
    assert table["label"].unique().tolist() == ["first, named", "second"]
    assert table["learning_rate"].tolist() == [3e-7] * 5
