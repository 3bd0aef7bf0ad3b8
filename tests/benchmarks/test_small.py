"""Every benchmark runs at its small size and keeps its promises where they do not depend on the machine's mood."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def run(name, folder) -> dict:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--small", "--out", str(folder)]
    # One thread: with several, a busy machine makes each wait for the others.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "ratio" in done.stdout or name in ("streaming", "scaling", "pages", "verdict", "instrument")
    return json.loads((folder / f"{name}_small.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    return run("window", tmp_path_factory.mktemp("window"))


def test_window_finds_the_same_and_is_faster(window):
    sliding = [row for row in window["rows"] if row["way"].startswith("sliding")]
    assert len(sliding) == 2
    for row in window["rows"]:
        assert row["same_window"]
        assert row["sum_over_plain"] == pytest.approx(1)
        if row["way"] == "Python loop, torch table":
            assert row["ratio"] > 20
    assert all(row["first_of_ties"] == 1 for row in sliding)


def test_window_results_name_no_machine(window):
    assert {"cpu", "cores", "threads", "torch"} <= set(window["machine"])
    import platform

    assert platform.node() not in json.dumps(window)


def test_svd_is_as_accurate_as_it_says(tmp_path):
    rows = run("svd", tmp_path)["rows"]
    own = [row for row in rows if row["way"] == "truncated_svd"]
    assert len(own) == 2
    for row in own:
        assert row["excess_error"] <= row["estimate"] + 1e-6
        assert row["excess_error"] < 1e-4


def test_kernels_are_measured_in_both_ways(tmp_path):
    rows = run("kernels", tmp_path)["rows"]
    assert len(rows) == 14 and [row["way"] == "own" for row in rows] == [True, False] * 7
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in rows)


def test_extraction_measures_every_matrix_of_a_layer_and_their_sum(tmp_path):
    rows = run("extraction", tmp_path)["rows"]
    own = [row for row in rows if row["way"] == "ours"]
    assert len(own) == 9  # three shapes and the layer, in two spectra, and the method itself
    for part in (own[:4], own[4:]):
        assert sum(row["seconds"] for row in part[:3]) == pytest.approx(part[3]["seconds"])
    assert all(row["seconds"] > 0 for row in rows)


def test_finetuning_ends_where_the_bare_loop_ends(tmp_path):
    rows = run("finetuning", tmp_path)["rows"]
    assert [row["way"] for row in rows] == ["bare PEFT loop", "the project's stage", "bare, split alike"]
    assert [row["last_loss"] for row in rows] == pytest.approx([rows[0]["last_loss"]] * 3, rel=1e-3)
    assert rows[1]["padding"] < rows[0]["padding"]
    assert all(row["tokens_per_s"] > 0 and 0 < row["padding"] < 0.5 for row in rows)


def test_shared_prompts_give_what_whole_rows_give(tmp_path):
    rows = run("shared_prompts", tmp_path)["rows"]
    assert [row["way"] for row in rows] == ["whole rows", "shared"] * 5
    for whole, shared in zip(rows[::2], rows[1::2], strict=True):
        assert (shared["difference"] or 0) < 1e-6 and shared["moved"] == 0
        assert (shared["read"] < whole["read"]) == (whole["case"] not in ("4 letters", "24 tokens written"))
        assert shared["read"] <= whole["read"]


def test_shared_runs_measure_the_sensitivity_once(tmp_path):
    shared, empty = run("shared_runs", tmp_path)["rows"]
    assert (shared["way"], empty["way"]) == ("shared caches", "empty caches")
    assert shared["sensitivity"] > 0
    for row in (shared, empty):
        assert row["seconds"] == pytest.approx(row["finetuning"] + row["sensitivity"] + row["rest"])
        assert min(row["finetuning"], row["rest"]) > 0


def test_workers_come_to_the_numbers_of_cold_processes(tmp_path):
    rows = run("engines", tmp_path)["rows"]
    assert [row["way"] for row in rows] == ["cold processes", "warm workers"]
    assert all(row["equal"] for row in rows)


def test_overhead_is_told_beside_its_floors(tmp_path):
    rows = run("overhead", tmp_path)["rows"]
    assert [row["case"] for row in rows] == ["rest"] * 3 + ["evaluation", "cold start"]
    assert all(0 < row["share"] < 1 for row in rows[:3])
    for row in rows[3:]:
        assert row["floor"] > 0 and row["ratio"] == pytest.approx(row["cpu_seconds"] / row["floor"])


def test_streaming_measures_the_same_in_every_way(tmp_path):
    rows = {row["way"]: row for row in run("streaming", tmp_path)["rows"]}
    assert set(rows) == {"streamed", "resident", "published"}
    for row in rows.values():
        assert row["total"] == pytest.approx(rows["published"]["total"], rel=1e-5)
    if sys.platform == "linux":
        assert 0 < rows["streamed"]["memory"] < rows["resident"]["memory"]
        assert rows["streamed"]["memory"] < rows["streamed"]["bound"]


def test_scaling_doubles_one_thing_at_a_time(tmp_path):
    rows = run("scaling", tmp_path)["rows"]
    assert [row["case"] for row in rows] == ["base", "2x layers", "2x width", "2x samples"]
    assert rows[3]["arithmetic"] == pytest.approx(1)


def test_verdicts_are_rarely_false(tmp_path):
    rows = run("verdict", tmp_path)["rows"]
    assert len(rows) == 10
    for row in rows:
        assert row["false_better_or_worse"] <= 0.12 and row["false_equivalent"] <= 0.12  # of 100
        assert row["power"] is None or row["power"] > 0.5


def test_pages_are_drawn_and_clicked(tmp_path):
    from tests.browser.conftest import BROWSERS

    if not any(shutil.which(name) for name in BROWSERS):
        pytest.skip("no Chromium or Chrome found")
    rows = {(row["case"], row["what"]): row for row in run("pages", tmp_path)["rows"]}
    assert rows["Start", "first heatmap"]["holds"]
    for what in ("rerun", "click on the map"):
        assert 0 < rows["Sensitivity", what]["median"] < 20  # the machine may be busy; that it is measured is tested
    assert rows["Train, live", "memory over 0.1 min"]["resident"] > 0


def test_the_instrument_counts_claims_of_every_case(tmp_path, monkeypatch):
    monkeypatch.setenv("PARAKNOW_WORKSPACE", str(tmp_path / "workspace"))
    rows = run("instrument", tmp_path)["rows"]
    content = [row for row in rows if row["claim"] == "teacher content claimed"]
    cases = [(case, seeds) for case in ("planted", "stranger", "untrained") for seeds in (6, 8)]
    assert [(row["case"], row["seeds"]) for row in content] == cases
    assert all(row["low"] <= row["share"] <= row["high"] and row["studies"] == 2 for row in rows)


def test_sharded_training_ends_at_the_same_loss_in_each_process(tmp_path):
    rows = run("sharded", tmp_path)["rows"]
    assert [row["way"] for row in rows] == ["alone", "process 1 of 2", "process 2 of 2"]
    assert [row["last_loss"] for row in rows] == pytest.approx([rows[0]["last_loss"]] * 3, rel=1e-5)
    assert all(row["in_training_mb"] > row["student_mb"] > 0 for row in rows)


def test_packed_runs_have_the_losses_of_runs_alone_and_take_what_was_said(tmp_path):
    rows = run("packed", tmp_path)["rows"]
    assert [row["way"] for row in rows] == ["in turn", "packed", "memory"]
    assert abs(rows[2]["took"] / rows[2]["said"] - 1) < 0.15
    assert rows[1]["difference"] < 1e-5
    assert rows[1]["ratio"] == rows[1]["tokens_per_s"] / rows[0]["tokens_per_s"]
