"""The study draft as people edit it: factors as changes of a study, costs in words, files that are imported."""

import pytest

from paraknow_core.catalogue import MANUAL, STRATEGIES, STRUCTURES, offered
from paraknow_core.errors import SpecError
from paraknow_core.paths import Workspace
from paraknow_core.spec import RunSpec
from paraknow_core.studies.presets import PRESETS
from paraknow_core.studies.study import RATE, StudySpec, parse_study
from paraknow_core.workbench.views import study_draft as drafted
from tests.pages import studied


def changed(study: StudySpec, change: dict) -> StudySpec:
    return parse_study({**study.model_dump(mode="json"), **change})


@pytest.mark.parametrize("key", drafted.FACTORS)
def test_every_factor_can_be_varied_over_all_that_is_offered(key):
    study = changed(StudySpec(), drafted.vary(StudySpec(), key))
    assert len(study.factors[key]) == len(drafted.FACTORS[key].values(study.base)) > 1
    options, ticked = drafted.choices_of(drafted.FACTORS[key], study)
    assert ticked == options and len({drafted.choice_text(choice) for choice in options}) == len(options)
    assert changed(study, drafted.with_factor(study, key, [])).factors == {}


def test_a_value_that_is_not_offered_stays_ticked():
    study = studied.spec(factors={"factorisation.rank": [3, 8], "extraction.origin": [["q", "v"]]})
    assert 3 in drafted.choices_of(drafted.FACTORS["factorisation.rank"], study)[0]
    assert drafted.choices_of(drafted.FACTORS["extraction.origin"], study)[1] == ["q+v"]
    assert changed(study, drafted.vary(study, "factorisation.rank")).factors["factorisation.rank"][-1] == 3


def test_varying_the_method_keeps_arms_that_are_there():
    study = studied.spec(arms=["default_lora", "permuted", {"name": "mine", "changes": {"factorisation.rank": 4}}])
    names = [arm if isinstance(arm, str) else arm.name for arm in changed(study, drafted.vary(study, "method")).arms]
    assert {"seeking", "pissa", "permuted", "mine"} <= set(names)


def test_without_the_arm_to_judge_against_another_one_takes_its_place():
    change = drafted.with_arms(studied.spec(), ["seeking", "pissa"])
    assert change["against"] == "seeking"
    with pytest.raises(SpecError, match="keep at least one"):
        drafted.with_arms(studied.spec(), [])


def test_seeds_grow_from_those_that_are_there():
    study = studied.spec(seeds=[3, 1])
    assert drafted.seeds_from(study, 4) == [3, 1, 4, 5]
    assert drafted.seeds_from(study, 1) == [3]


def test_the_margin_is_in_points_of_a_share_and_else_in_the_scorers_unit():
    assert drafted.shown_margin(studied.spec(margin=0.015)) == 1.5
    assert drafted.margin_of(studied.spec(), 1.5) == pytest.approx(0.015)
    perplexity = studied.spec(scorer="perplexity", margin=0.2)
    assert drafted.shown_margin(perplexity) == drafted.margin_of(perplexity, 0.2) == 0.2


def test_cost_says_runs_sharing_and_what_cannot_be_seen(tmp_path):
    study = studied.spec(tuning={"points": 3})
    found = drafted.cost(Workspace(tmp_path), study)
    words = drafted.cost_words(found)
    assert f"{found.runs} runs, {found.tuning_runs} of them to choose learning rates" in words
    assert "points (with 6 seeds" in drafted.detectable_words(found, study)
    few = studied.spec(seeds=[0, 1])
    assert "nothing can be more than undecided; take at least 6 seeds" in drafted.detectable_words(
        drafted.cost(Workspace(tmp_path), few), few
    )


@pytest.mark.parametrize(("text", "own"), [("arms: [default_lora]", False), ("base: {seed: 1}", True)])
def test_an_imported_study_has_a_base_of_its_own_or_not(text, own):
    assert drafted.imported(text)[1] is own


def test_what_is_offered_is_the_catalogues():
    base = RunSpec()
    assert set(drafted.FACTORS["extraction.structure"].values(base)) == set(offered(STRUCTURES))
    assert set(drafted.FACTORS["mapping.strategy"].values(base)) == set(STRATEGIES) - {MANUAL}
    rates = drafted.FACTORS[RATE].values(base)
    assert base.finetuning.learning_rate in rates and rates == sorted(rates)


def test_cards_are_worked_out_bit_by_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(drafted, "SOON_S", -1.0)
    assert drafted.costs_in_short(Workspace(tmp_path), "pocket", RunSpec()) == {}
    monkeypatch.setattr(drafted, "SOON_S", 60.0)
    costs = drafted.costs_in_short(Workspace(tmp_path), "pocket", RunSpec())
    assert list(costs) == list(PRESETS) and all("runs" in words for words in costs.values())
    monkeypatch.setattr(drafted, "SOON_S", -1.0)
    assert drafted.costs_in_short(Workspace(tmp_path), "pocket", RunSpec()) == costs


def test_size_counts_every_cell():
    assert studied.spec(tuning={"points": 3, "seeds": [0, 1]}).runs == 4 * (6 + 3 * 2)
