"""Estimates from earlier runs, by hand."""

import pytest

from paraknow_core.spec import RunSpec
from paraknow_core.workbench import past_runs
from paraknow_core.workbench.past_runs import Past, estimate, of_specs


def past(changes=None, tuning=60.0, evaluation=30.0, sensitivity=8.0, got=1000, tested=300, disk=1000) -> Past:
    timings = {
        "prepare": 1.0,
        "sensitivity": sensitivity,
        "injection": 2.0,
        "fine-tuning": tuning,
        "export": 1.0,
        "evaluation": evaluation,
    }
    result = {
        "timings": timings,
        "scores": [{"n": tested}],
        "task": {"sizes": {"train": got}},
        "peak_memory_bytes": 7e8,
    }
    return Past(RunSpec().with_changes(changes or {}), result, disk)


def test_every_stage_is_scaled_by_what_it_grows_with():
    # Earlier: 3 epochs of 1,000 examples in 60 s, 300 test examples in 30 s. Now: 1 epoch of 500, 100 test examples.
    spec = RunSpec().with_changes({"finetuning.epochs": 1, "task.sizes.train": 500, "task.sizes.test": 100})
    found = estimate(spec, [past()])
    assert found.seconds == pytest.approx(4 + 60 * 500 / 3000 + 10)
    assert (found.disk, found.memory, found.runs) == (1000, 7e8, 1)


def test_the_rank_scales_the_disk_and_steps_count_in_place_of_epochs():
    spec = RunSpec().with_changes({"factorisation.rank": 4, "finetuning.max_steps": 10})
    found = estimate(spec, [past()])
    assert found.disk == 250
    assert found.seconds == pytest.approx(4 + 60 * 640 / 3000 + 30)


def test_more_examples_than_there_are_do_not_count():
    all_there_are = past({"task.sizes.train": 5000}, got=1000)
    assert past_runs.trained_examples(RunSpec().with_changes({"task.sizes.train": 4000}), all_there_are) == 3000
    assert past_runs.trained_examples(RunSpec().with_changes({"task.sizes.train": None}), all_there_are) == 3000
    assert past_runs.trained_examples(RunSpec().with_changes({"task.sizes.train": 4000}), past()) == 12000


def test_a_measured_teacher_costs_nothing_and_a_new_one_is_measured_once_for_all_seeds(monkeypatch):
    assert past_runs.sensitivity_seconds(RunSpec(), [past()]) == 0
    spec = RunSpec().with_changes({"sensitivity.samples": 64})
    assert past_runs.sensitivity_seconds(spec, [past()]) == pytest.approx(16)
    assert past_runs.sensitivity_seconds(spec.with_changes({"method": "pissa"}), [past()]) == 0
    one = estimate(spec, [past()]).seconds - 16
    monkeypatch.setattr(past_runs, "past_runs", lambda *_: [past()])
    specs = [spec, spec.with_changes({"method": "default_lora"})]
    several = of_specs(specs * 3, [])
    assert several.seconds == pytest.approx(6 * one + 16)
    assert several.disk == 6000


def test_a_result_without_timings_or_scores_is_no_error():
    broken = Past(RunSpec(), {"timings": None, "scores": []}, 0)
    assert estimate(RunSpec(), [broken]).seconds == 0
    assert of_specs([RunSpec()], []) is None
