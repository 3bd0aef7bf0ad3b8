"""What Ablations draws: how far studies are, and lines of the table of arms."""

from dataclasses import replace

import pytest

from paraknow_core.errors import RunError
from paraknow_core.paths import Workspace
from paraknow_core.studies.report import records_table
from paraknow_core.studies.study import StudySpec
from paraknow_core.workbench.views import ablations as view
from tests.pages import studied
from tests.studies import made


def test_progress_and_the_table_of_a_partial_study(tmp_path):
    place = Workspace(tmp_path)
    states = {0: "done", 1: "done", 2: "failed"}
    folder = studied.study(place, "stopped", of_cell=lambda cell: states.get(cell.seed, ""))
    progress = view.progress(folder)
    assert progress.words() == "scored: 8 of 24 done, 4 failed"
    assert progress.fraction == pytest.approx(8 / 24)
    assert len(progress.failed) == 4
    assert "default LoRA, submatrix, seed 2: task: file.jsonl line 3: not JSON; correct it" in progress.failed.values()
    outcome = view.result(progress)
    assert view.result(view.progress(folder)) is outcome  # nothing has ended since
    rows = view.arm_rows(outcome)
    assert [len(row) for row in rows] == [len(view.ARM_COLUMNS)] * 4
    assert rows[0][2] == "judged against" and rows[-1][2].endswith(": undecided")
    runs, compared = view.runs_of(outcome.groups[-1], outcome)
    assert set(runs) == {0, 1, 2} and len(compared) == 4
    assert {"group", "difference", "verdict", "learning rate"} <= set(view.flat_rows(outcome)[0])


def test_records_before_any_run_are_refused(tmp_path):
    folder = studied.study(Workspace(tmp_path), "stopped", of_cell=lambda cell: "")
    with pytest.raises(RunError, match="no run is done yet"):
        records_table(folder)


def test_an_arm_that_is_the_method_itself_says_so_in_place_of_a_verdict():
    same = replace(made.outcome(StudySpec(arms=("default_lora", "random_offset"))).groups[1], verdict=None)
    assert view.verdict_line(same, "default_lora") == "no seed in common yet"
    assert view.verdict_line(replace(same, vacuous="is the method itself here"), "default_lora").startswith("is the")
