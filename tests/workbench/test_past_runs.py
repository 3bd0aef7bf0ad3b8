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


NOWHERE = {"student.source": "/nowhere"}


def test_without_the_models_every_stage_is_scaled_by_what_it_grows_with():
    # Earlier: 3 epochs of 1,000 examples in 60 s, 300 test examples in 30 s. Now: 1 epoch of 500, 100 test examples.
    changes = NOWHERE | {"finetuning.epochs": 1, "task.sizes.train": 500, "task.sizes.test": 100}
    found = estimate(RunSpec().with_changes(changes), [past(NOWHERE)])
    assert found.seconds == pytest.approx(4 + 60 * 500 / 3000 + 10, rel=0.01)
    assert (found.disk, found.memory, found.runs) == (1000, 7e8, 1)
    steps = NOWHERE | {"factorisation.rank": 4, "finetuning.max_steps": 10}
    found = estimate(RunSpec().with_changes(steps), [past(NOWHERE)])
    assert found.disk == 250
    assert found.seconds == pytest.approx(4 + 60 * 640 / 3000 + 30, rel=0.01)


def test_every_stage_is_scaled_by_what_the_shapes_say_of_both_runs(monkeypatch):
    monkeypatch.setattr(past_runs, "_rates", lambda: Rates(5e10, 1e10, 1e9))
    before = {"task.sizes": {"train": 600, "validation": 20, "test": 300}}
    changes = before | {"factorisation.rank": 4, "finetuning.epochs": 1, "task.sizes.test": 100}
    spec, earlier = RunSpec().with_changes(changes), past(before)
    one, two = (past_runs._guess(each).stages for each in (earlier.spec, spec))
    took = {"prepare": 0.2, "injection": 2 - 1.0 * 0.8 / 1.9, "fine-tuning": 60.0, "export": 1.0}
    took["evaluation"] = 30 - 0.2 * 0.8 / 1.9
    start = 0.8 / 1.9 * (1.9 + 1.0 + 0.2)  # that much of it was the start of its process
    seconds = start + sum(took[name] * two[name].seconds / one[name].seconds for name in took)
    found = estimate(spec, [earlier])
    assert (found.seconds, found.start) == (pytest.approx(seconds), pytest.approx(start))
    assert found.seconds < 0.6 * estimate(earlier.spec, [earlier]).seconds
    both = estimate(spec, [earlier, past(before, tuning=80.0), past(before, tuning=100.0)])
    assert both.seconds - found.seconds == pytest.approx(20 * two["fine-tuning"].seconds / one["fine-tuning"].seconds)


def test_the_memory_is_that_of_earlier_runs_and_what_the_shapes_say_to_both(monkeypatch):
    monkeypatch.setattr(past_runs, "_rates", lambda: Rates(5e10, 1e10, 1e9))
    spec = RunSpec().with_changes({"finetuning.micro_batch_size": 64})
    more = past_runs._guess(spec).memory - past_runs._guess(RunSpec()).memory
    assert more > 1e8
    assert estimate(spec, [past()]).memory == 7e8 + more


def test_a_run_that_found_more_to_do_than_others_says_so_of_its_kind_alone():
    timings = past().result["timings"] | {"references": 12.0}
    scored = Past(RunSpec(), past().result | {"timings": timings}, 1000)
    assert estimate(RunSpec(), [scored]).seconds == pytest.approx(estimate(RunSpec(), [past()]).seconds)
    other = RunSpec().with_changes({"task.sizes.test": 200})
    without = estimate(other, [past()]).seconds
    with_references = estimate(other, [scored]).seconds
    assert 4 < with_references - without < 12  # scored anew, on two thirds of the examples
    assert estimate(other.with_changes({"references": []}), [scored]).seconds == pytest.approx(without)


def test_more_examples_than_there_are_do_not_count():
    def trained(train, got):
        spec, earlier = RunSpec().with_changes({"task.sizes.train": train}), past({"task.sizes.train": 5000}, got=got)
        return past_runs.trained_examples(spec, past_runs._sizes(spec, earlier))

    assert trained(4000, 1000) == 3000
    assert trained(None, 1000) == 3000
    assert trained(4000, 5000) == 12000
    assert past_runs.trained_examples(RunSpec().with_changes({"task.sizes.train": 4000}), {"train": 4000}) == 12000


def test_a_measured_teacher_costs_nothing_and_a_new_one_is_measured_once_for_all_seeds(monkeypatch):
    assert past_runs.sensitivity_seconds(RunSpec(), [past()]) == 0
    spec = RunSpec().with_changes({"sensitivity.samples": 64})
    assert past_runs.sensitivity_seconds(spec, [past()]) == pytest.approx(16)
    assert past_runs.sensitivity_seconds(spec.with_changes({"method": "pissa"}), [past()]) == 0
    one = estimate(spec, [past()]).seconds - 16
    monkeypatch.setattr(past_runs, "past_runs", lambda *_: [past()])
    specs = [spec, spec.with_changes({"method": "default_lora"})]
    several = of_specs(specs * 3, [])
    assert several.seconds == pytest.approx(6 * one + 16, rel=0.01)
    assert several.disk == pytest.approx(6 * estimate(spec, [past()]).disk, rel=0.01)


def test_a_result_without_timings_or_scores_is_no_error():
    broken = Past(RunSpec(), {"timings": None, "scores": []}, 0)
    found = estimate(RunSpec(), [broken])
    assert found.seconds == found.start > 0
    assert of_specs([RunSpec()], []) is None


def test_a_run_until_training_is_not_scored_and_says_how_long_training_takes():
    spec = RunSpec().with_changes({"until": "training"})
    whole, tuning = estimate(RunSpec(), [past()]), estimate(spec, [past()])
    assert whole.seconds - tuning.seconds == pytest.approx(30 + 1, abs=0.1)  # evaluation, export
    trained = Past(spec, {"timings": {"prepare": 1.0, "fine-tuning": 90.0}, "task": {"sizes": {"train": 1000}}}, 1000)
    assert estimate(spec, [trained]).seconds == pytest.approx(1 + 90, rel=0.05)  # injection is as slow as the rest
    both = estimate(RunSpec(), [trained, past()]).seconds
    assert both == pytest.approx(4 + (90 + 60) / 2 + 30, rel=0.05)


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
    changes = ({}, {"factorisation.rank": 64}, {"method": "full_finetuning"})
    training = [RunSpec().with_changes({"until": "training"} | change) for change in changes]
    small, large, full = estimate_runs(training, Workspace(tmp_path))
    assert small.disk < large.disk
    assert small.memory < large.memory < full.memory
    assert small.seconds < large.seconds
    whole = estimate_runs([RunSpec()], Workspace(tmp_path))[0]
    assert small.disk < whole.disk
    assert small.seconds < whole.seconds


def test_a_forecast_knows_how_many_processes_share_a_training(tmp_path, monkeypatch):
    place = Workspace(tmp_path)
    monkeypatch.setattr(past_runs, "_rates", lambda: Rates(5e10, 1e10, 1e9))
    monkeypatch.setattr(past_runs, "usable_cores", lambda: 4)
    spec = RunSpec(method="default_lora").with_changes({"finetuning.epochs": 30})  # so long that starting counts little
    (alone,), (two,) = estimate_runs([spec], place), estimate_runs([spec], place, processes=2)
    assert alone.in_all == 0
    assert two.seconds < alone.seconds
    assert two.memory < two.in_all
    write_json(place.settings_file, {"processes": 2})
    assert estimate_runs([spec], place) == [two]
    assert estimate_runs([spec], place, processes=1) == [alone]
    write_json(place.settings_file, {"processes": "many"})
    assert estimate_runs([spec], place) == [alone]
    started = spec.with_changes({"until": "extraction"})
    assert estimate_runs([started], place, processes=2) == estimate_runs([started], place, processes=1)
    monkeypatch.setattr(past_runs, "usable_cores", lambda: 1)
    assert estimate_runs([spec], place, processes=2)[0].seconds > alone.seconds  # they take turns


def test_an_earlier_run_tells_what_it_takes_by_another_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(past_runs, "_rates", lambda: Rates(5e10, 1e10, 1e9))
    one, two, spec = past(), past(tuning=45.0), RunSpec()
    two.result["training"] = {"processes": 2}
    assert estimate(spec, [one, two], 2).seconds == estimate(spec, [two], 2).seconds  # as many know best
    assert estimate(spec, [one, two]).seconds == estimate(spec, [one]).seconds
    alone, shared = (past_runs._guess(spec, count).stages["fine-tuning"].seconds for count in (1, 2))
    there = estimate(spec, [one], 2)
    assert there.seconds - estimate(spec, [one]).seconds == pytest.approx(60 * (shared / alone - 1))
    assert (estimate(spec, [one]).in_all, there.in_all > 7e8) == (0, True)
    monkeypatch.setattr(past_runs, "past_runs", lambda *_: [two])
    assert of_specs([spec], [], processes=2).seconds == pytest.approx(estimate(spec, [two], 2).seconds)
    assert of_specs([spec], [], processes=2).in_all > 7e8
    elsewhere = RunSpec().with_changes({"student.source": str(tmp_path / "nowhere")})
    assert estimate(elsewhere, [past({"student.source": str(tmp_path / "nowhere")})], 2).in_all == 0


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
    stages = {name: 3 * need.seconds for name, need in past_runs._guess(RunSpec()).stages.items()}
    write_json(run.file("result.json"), run.result() | {"budget": {"steps": 3}, "timings": stages})
    slow = estimate_runs([spec], place)[0]
    assert slow.seconds - slow.start == pytest.approx(3 * (plain.seconds - plain.start), rel=0.05)
    assert (slow.disk, slow.runs) == (plain.disk, 0)
    assert slow.start == plain.start == own.start  # it began with all libraries loaded, and says nothing of a start
    assert past_runs.start_of(RunSpec(), {"timings": {"prepare": 4.0}}) == pytest.approx(2 * 3.1)


def test_a_guess_counts_the_cores_that_the_run_will_take(monkeypatch):
    monkeypatch.setattr(past_runs, "_rates", lambda: Rates(1e9, 1e10, 1e9))  # so slow that products are all that counts
    seconds = {}
    for threads in (1, 4):
        monkeypatch.setattr(past_runs, "threads_of_spec", lambda _spec, threads=threads: threads)
        seconds[threads] = past_runs._guess(RunSpec(method="default_lora")).stages["fine-tuning"].seconds
    assert 2 < seconds[1] / seconds[4] < 4


def test_rates_are_those_of_one_core_in_its_own_time(monkeypatch):
    monkeypatch.setattr(past_runs.time, "thread_time", lambda clock=iter(range(1000)): next(clock))
    rates = past_runs._rates.__wrapped__()  # a second for 200 products, and one for a sum
    assert (rates.flops, rates.bytes) == (200 * 2 * 64**3, 2 * 4 * 2**20)


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
