"""What Ablations draws: factors as changes of a study, costs in words, progress and lines of the table of arms."""

from dataclasses import replace

import pytest

from paraknow_core.catalogue import MANUAL, STRATEGIES, STRUCTURES, offered
from paraknow_core.errors import RunError, SpecError
from paraknow_core.paths import Workspace
from paraknow_core.spec import RunSpec
from paraknow_core.studies.study import StudySpec, parse_study
from paraknow_core.workbench.views import ablations as view
from tests.pages import studied
from tests.studies import made


def changed(study: StudySpec, change: dict) -> StudySpec:
    return parse_study({**study.model_dump(mode="json"), **change})


@pytest.mark.parametrize("key", view.FACTORS)
def test_every_factor_can_be_varied_over_all_that_is_offered(key):
    study = changed(StudySpec(), view.vary(StudySpec(), key))
    assert len(study.factors[key]) == len(view.FACTORS[key].values(study.base)) > 1
    options, ticked = view.choices_of(view.FACTORS[key], study)
    assert ticked == options and len({view.choice_text(choice) for choice in options}) == len(options)
    assert changed(study, view.with_factor(study, key, [])).factors == {}


def test_what_is_offered_is_the_catalogues():
    base = RunSpec()
    assert set(view.FACTORS["extraction.structure"].values(base)) == set(offered(STRUCTURES))
    assert set(view.FACTORS["mapping.strategy"].values(base)) == set(STRATEGIES) - {MANUAL}
    rates = view.FACTORS[view.RATE].values(base)
    assert base.finetuning.learning_rate in rates and rates == sorted(rates)


def test_a_value_that_is_not_offered_stays_ticked():
    study = studied.spec(factors={"factorisation.rank": [3, 8], "extraction.origin": [["q", "v"]]})
    assert 3 in view.choices_of(view.FACTORS["factorisation.rank"], study)[0]
    assert view.choices_of(view.FACTORS["extraction.origin"], study)[1] == ["q+v"]
    assert changed(study, view.vary(study, "factorisation.rank")).factors["factorisation.rank"][-1] == 3


def test_varying_the_method_keeps_arms_that_are_there():
    study = studied.spec(arms=["default_lora", "permuted", {"name": "mine", "changes": {"factorisation.rank": 4}}])
    names = [arm if isinstance(arm, str) else arm.name for arm in changed(study, view.vary(study, "method")).arms]
    assert {"seeking", "pissa", "permuted", "mine"} <= set(names)


def test_without_the_arm_to_judge_against_another_one_takes_its_place():
    change = view.with_arms(studied.spec(), ["seeking", "pissa"])
    assert change["against"] == "seeking"
    with pytest.raises(SpecError, match="keep at least one"):
        view.with_arms(studied.spec(), [])


def test_seeds_grow_from_those_that_are_there():
    study = studied.spec(seeds=[3, 1])
    assert view.seeds_from(study, 4) == [3, 1, 4, 5]
    assert view.seeds_from(study, 1) == [3]


def test_the_margin_is_in_points_of_a_share_and_else_in_the_scorers_unit():
    assert view.shown_margin(studied.spec(margin=0.015)) == 1.5
    assert view.margin_of(studied.spec(), 1.5) == pytest.approx(0.015)
    perplexity = studied.spec(scorer="perplexity", margin=0.2)
    assert view.shown_margin(perplexity) == view.margin_of(perplexity, 0.2) == 0.2


def test_cost_says_runs_sharing_and_what_cannot_be_seen(tmp_path):
    study = studied.spec(tuning={"points": 3})
    found = view.cost(Workspace(tmp_path), study)
    words = view.cost_words(found)
    assert f"{found.runs} runs, {found.tuning_runs} of them to choose learning rates" in words
    assert "points (with 6 seeds" in view.detectable_words(found, study)
    few = studied.spec(seeds=[0, 1])
    assert "nothing can be more than undecided; take at least 6 seeds" in view.detectable_words(
        view.cost(Workspace(tmp_path), few), few
    )


def test_size_counts_every_cell():
    assert view.size_of(studied.spec(tuning={"points": 3, "seeds": [0, 1]})) == 4 * (6 + 3 * 2)


def test_cards_are_worked_out_bit_by_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(view, "SOON_S", -1.0)
    assert view.costs_in_short(Workspace(tmp_path), "pocket", RunSpec()) == {}
    monkeypatch.setattr(view, "SOON_S", 60.0)
    costs = view.costs_in_short(Workspace(tmp_path), "pocket", RunSpec())
    assert list(costs) == list(view.PRESETS) and all("runs" in words for words in costs.values())
    monkeypatch.setattr(view, "SOON_S", -1.0)
    assert view.costs_in_short(Workspace(tmp_path), "pocket", RunSpec()) == costs


def test_progress_and_the_table_of_a_partial_study(tmp_path):
    place = Workspace(tmp_path)
    states = {0: "done", 1: "done", 2: "failed"}
    folder = studied.study(place, "stopped", of_cell=lambda cell: states.get(cell.seed, ""))
    progress = view.progress(folder)
    assert progress.words() == "scored: 8 of 24 done, 4 failed"
    assert progress.fraction == pytest.approx(8 / 24)
    assert len(progress.failed) == 4 and "default LoRA, submatrix, seed 2" in progress.failed.values()
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
        view.records(folder)


@pytest.mark.parametrize(("text", "own"), [("arms: [default_lora]", False), ("base: {seed: 1}", True)])
def test_an_imported_study_has_a_base_of_its_own_or_not(text, own):
    assert view.imported(text)[1] is own


def test_an_arm_that_is_the_method_itself_says_so_in_place_of_a_verdict():
    same = replace(made.outcome(StudySpec(arms=("default_lora", "random_offset"))).groups[1], verdict=None)
    assert view.verdict_line(same, "default_lora") == "no seed in common yet"
    assert view.verdict_line(replace(same, vacuous="is the method itself here"), "default_lora").startswith("is the")
