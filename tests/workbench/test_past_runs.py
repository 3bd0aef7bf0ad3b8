"""Estimates from earlier runs, by hand."""

import subprocess
import sys

import pytest

from paraknow_core.files.json_file import write_json
from paraknow_core.files.remember import one_look
from paraknow_core.paths import PROJECT_ROOT, Workspace
from paraknow_core.sensitivity.plan import Rates
from paraknow_core.spec import RunSpec
from paraknow_core.workbench import past_runs, reading
from paraknow_core.workbench.past_runs import Past, estimate, estimate_runs, of_specs
from tests.pages import fabricate


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


def test_a_run_until_training_is_not_scored_and_says_how_long_training_takes():
    spec = RunSpec().with_changes({"until": "training"})
    assert estimate(spec, [past()]).seconds == pytest.approx(4 + 60)
    trained = Past(spec, {"timings": {"prepare": 1.0, "fine-tuning": 90.0}, "task": {"sizes": {"train": 1000}}}, 1000)
    assert estimate(spec, [trained]).seconds == pytest.approx(1 + 90)
    assert estimate(RunSpec(), [trained, past()]).seconds == pytest.approx((1 + 4) / 2 + (90 + 60) / 2 + 30)


def test_many_runs_are_estimated_at_once_and_share_a_measurement(tmp_path, monkeypatch):
    place = Workspace(tmp_path)
    monkeypatch.setattr(past_runs, "_rates", lambda: Rates(5e10, 1e10, 1e9))
    spec = RunSpec().with_changes({"sensitivity.samples": 64})
    specs = [spec.model_copy(update={"seed": seed}) for seed in range(3)]
    first, second, third = estimate_runs(specs, place)
    assert (first.runs, second) == (0, third)
    assert first.seconds > second.seconds > 0
    assert (first.disk, first.memory) == (second.disk, second.memory)
    fabricate.run(place, "done", {"sensitivity.samples": 32})
    first, second, third = estimate_runs(specs, place)
    assert first.seconds - second.seconds == pytest.approx(16.4)  # 64 samples; 8.2 s for 32 before
    assert (first.runs, second) == (1, third)
    assert estimate_runs(specs[:1], place) == [estimate_runs(specs, place)[0]]


def test_shapes_tell_what_an_earlier_run_of_another_size_does_not(tmp_path):
    fabricate.run(Workspace(tmp_path), "done")
    changes = ({}, {"factorisation.rank": 64}, {"method": "full_finetuning"}, {"until": "training"})
    small, large, full, tuning = estimate_runs([RunSpec().with_changes(c) for c in changes], Workspace(tmp_path))
    assert tuning.disk < small.disk < large.disk
    assert small.memory < large.memory < full.memory
    assert tuning.seconds < small.seconds


def test_a_model_that_is_not_there_has_no_estimate(tmp_path):
    spec = RunSpec().with_changes({"student.source": str(tmp_path / "nowhere")})
    assert estimate_runs([spec, spec], Workspace(tmp_path)) == [None, None]


def test_estimates_need_no_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from paraknow_core.paths import Workspace; "
        "from paraknow_core.spec import RunSpec; from paraknow_core.workbench.past_runs import estimate_runs; "
        f"assert estimate_runs([RunSpec()], Workspace(Path({str(tmp_path)!r})))[0]; "
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=True)


def test_a_guess_is_corrected_by_how_long_other_runs_took(tmp_path, monkeypatch):
    place = Workspace(tmp_path)
    monkeypatch.setattr(past_runs, "_rates", lambda: Rates(5e10, 1e10, 1e9))
    spec = RunSpec().with_changes({"task.source": "bundled:instructions"})
    plain, own = estimate_runs([spec, RunSpec()], place)
    run = fabricate.run(place, "done")
    result = run.result() | {"budget": {"steps": 3}, "timings": {"fine-tuning": 3 * own.seconds}}
    write_json(run.file("result.json"), result)
    slow = estimate_runs([spec], place)[0]
    assert (slow.seconds, slow.disk, slow.runs) == (pytest.approx(3 * plain.seconds), plain.disk, 0)


def test_a_guess_counts_the_cores_that_the_run_will_take(monkeypatch):
    monkeypatch.setattr(past_runs, "_rates", lambda: Rates(1e9, 1e10, 1e9))  # so slow that products are all that counts
    seconds = {}
    for threads in (1, 4):
        monkeypatch.setattr(past_runs, "threads_of_spec", lambda _spec, threads=threads: threads)
        seconds[threads] = past_runs._guess(RunSpec(method="default_lora"))[0].seconds
    assert 2 < seconds[1] / seconds[4] < 4


def test_rates_are_those_of_one_core_however_many_a_product_takes(monkeypatch):
    rates = {}
    for threads in (1, 2):
        monkeypatch.setattr(past_runs, "usable_cores", lambda threads=threads: threads)
        monkeypatch.setattr(past_runs.time, "thread_time", lambda clock=iter(range(1000)): next(clock))
        monkeypatch.setenv("OMP_NUM_THREADS", "")
        rates[threads] = past_runs._rates.__wrapped__()
    assert rates[1].flops == 2 * rates[2].flops == 2 * 512 * 256 * 1024
    assert rates[1].bytes == rates[2].bytes


def test_the_estimates_of_many_studies_walk_all_runs_once(tmp_path, monkeypatch):
    place = Workspace(tmp_path)
    for seed in range(4):
        fabricate.run(place, "done", {"seed": seed})
    walks = []
    monkeypatch.setattr(reading, "facts", lambda run, before=reading.facts: walks.append(run.id) or before(run))
    specs = [RunSpec().with_changes({"task.subset": name}) for name in ("a", "b", "c")]
    alone = [estimate_runs([spec], place)[0].runs for spec in (RunSpec(), *specs)]
    walks.clear()
    with one_look():
        assert [estimate_runs([spec], place)[0].runs for spec in (RunSpec(), *specs)] == alone == [4, 0, 0, 0]
    assert len(walks) == 8  # those like the first, and the newest, which say how slow this machine is
