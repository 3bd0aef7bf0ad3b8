"""What a study has found, read from runs that were executed by a known rule."""

import json

import numpy
import pytest

from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.ops.verdict import pooled_spread, verdicts
from paraknow_core.studies.folder import StudyFolder
from paraknow_core.studies.outcome import outcome
from paraknow_core.studies.study import StudySpec
from tests.studies.conducting import BEST_RATE, EXAMPLES, Fake, conducted


def run_study(place, fake=None, **fields) -> StudyFolder:
    folder = StudyFolder.create(place, StudySpec(**{"arms": ("default_lora", "seeking", "pissa")} | fields))
    conducted(folder, fake or Fake())
    return folder


def table(folder, arm) -> numpy.ndarray:
    runs = [cell.run for cell in folder.cells() if cell.cell.group.arm.name == arm and cell.cell.purpose == "test"]
    records = [sorted((p["id"], p["score"]) for p in run.predictions()) for run in runs]
    return numpy.array([[score for _, score in own] for own in records])


def test_scores_spread_and_verdicts_are_those_of_the_records(place):
    folder = run_study(place, seeds=tuple(range(8)))
    found = outcome(folder)
    tables = {arm: table(folder, arm) for arm in ("default_lora", "seeking", "pissa")}
    assert {group.arm: group.value for group in found.groups} == pytest.approx(
        {arm: own.mean() for arm, own in tables.items()}
    )
    assert found.spread == pytest.approx(pooled_spread(list(tables.values())))
    base = tables.pop("default_lora")
    expected = verdicts(tables, base, 0.01)
    for group in found.groups[1:]:
        own, wanted = vars(group.verdict), vars(expected[group.arm])
        assert own == {key: pytest.approx(v) if isinstance(v, float) else v for key, v in wanted.items()}
        assert (group.n, group.unit, len(group.seeds)) == (EXAMPLES, "share", 8)
        assert group.low < group.value < group.high
    assert found.groups[0].verdict is None
    assert found.groups[1].verdict.verdict == "better"
    assert found.smallest_detectable == max(each.smallest_detectable for each in expected.values())
    assert found.references["student"]["value"] == 0.1


def test_an_unfinished_study_says_what_it_has(place):
    folder = StudyFolder.create(place, StudySpec(arms=("default_lora", "seeking")))
    empty = outcome(folder)
    assert [group.value for group in empty.groups] == [None, None]
    assert set(empty.groups[0].states.values()) == {"waiting"}
    conducted(folder, Fake(fails=lambda spec: spec.seed > 1 or (spec.method, spec.seed) == ("seeking", 1)))
    found = outcome(folder)
    assert [list(group.seeds) for group in found.groups] == [[0, 1], [0]]
    assert found.groups[1].verdict.seeds == 1
    assert found.groups[1].verdict.verdict == "undecided"
    assert "9 runs failed" in " ".join(found.warnings)
    json.dumps(found.data(), allow_nan=False)


def test_verdicts_are_made_at_each_point_of_the_factors(place):
    folder = run_study(place, arms=("default_lora", "seeking"), factors={"factorisation.rank": (4, 8)}, seeds=(0, 1))
    found = outcome(folder)
    assert [bool(group.verdict) for group in found.groups] == [False, False, True, True]
    assert {group.verdict.comparisons for group in found.groups[2:]} == {1}
    assert all(group.equal for group in found.groups)  # at each rank both arms have as many parameters
    assert [group.budget["parameters"] for group in found.groups] == [4000, 8000, 4000, 8000]


def test_values_of_a_factor_are_judged_within_each_arm_against_the_base_runs(place):
    folder = run_study(
        place, arms=("default_lora", "seeking"), factors={"factorisation.rank": (4, 16, 8)}, seeds=tuple(range(7))
    )
    found = outcome(folder)
    assert [(c.arm, c.label, c.against_label) for c in found.contrasts] == [
        ("default_lora", "rank 4, default LoRA", "rank 16"),
        ("default_lora", "rank 8, default LoRA", "rank 16"),
        ("seeking", "rank 4, seeking (the method)", "rank 16"),
        ("seeking", "rank 8, seeking (the method)", "rank 16"),
    ]
    tables = {}
    for cell in folder.cells():
        key = (cell.cell.group.arm.name, cell.cell.group.point["factorisation.rank"])
        own = sorted((record["id"], record["score"]) for record in cell.run.predictions())
        tables.setdefault(key, []).append([score for _, score in own])
    for arm in ("default_lora", "seeking"):
        own = {rank: numpy.array(tables[arm, rank]) for rank in (4, 8)}
        expected = verdicts(own, numpy.array(tables[arm, 16]), 0.01)
        for contrast, rank in zip([c for c in found.contrasts if c.arm == arm], (4, 8), strict=True):
            assert contrast.verdict.difference == pytest.approx(expected[rank].difference)
            assert contrast.verdict.verdict == expected[rank].verdict
            assert contrast.verdict.comparisons == 2
            assert "parameters" in contrast.note
    json.dumps(found.data(), allow_nan=False)


def test_a_factor_that_an_arm_does_not_read_is_no_contrast_of_it(place):
    structures = {"extraction.structure": ("neuron", "row_column")}
    found = outcome(run_study(place, arms=("default_lora", "seeking"), factors=structures, seeds=(0, 1)))
    assert [(c.arm, c.label, c.against_label) for c in found.contrasts] == [
        ("seeking", "row column, seeking (the method)", "neuron")
    ]


def test_what_is_not_of_equal_budget_says_in_what(place):
    folder = run_study(place, arms=("default_lora", "zero_step"), seeds=(0,))
    found = {group.arm: group for group in outcome(folder).groups}
    assert found["default_lora"].equal and not found["default_lora"].note
    assert not found["zero_step"].equal
    assert found["zero_step"].note == "trains nothing; 0 times the steps; 0 times the tokens"


def test_an_arm_keeps_the_student_only_in_a_mode_that_does(place):
    folder = run_study(
        place, arms=("default_lora", "seeking"), factors={"injection.mode": ("residual", "difference")}, seeds=(0,)
    )
    assert [group.keeps_student for group in outcome(folder).groups] == [True, True, True, False]


def test_tuned_rates_curves_and_their_edges_are_told(place):
    folder = run_study(
        place,
        Fake(best=lambda spec: 1e-6 if spec.method == "seeking" else BEST_RATE),
        arms=("default_lora", "seeking"),
        tuning={"points": 3, "centre": BEST_RATE},
        seeds=(0,),
    )
    found = outcome(folder)
    assert [group.rate_at_edge for group in found.groups] == [False, True]
    assert [group.rate for group in found.groups] == list(folder.rates().values())
    assert any("lies at the low end of its grid (7 points)" in text for text in found.warnings)
    data = found.data()["curves"]["seeking"]
    assert data["edge"] == "low" and len(data["points"]) == 7


def test_a_rate_whose_run_failed_may_have_been_the_best_one_and_is_told(place):
    def fails(spec):
        return spec.until == "training" and spec.finetuning.learning_rate < BEST_RATE

    tuning = {"points": 5, "centre": BEST_RATE}
    found = outcome(run_study(place, Fake(fails), arms=("default_lora",), tuning=tuning, seeds=(0,)))
    assert any("runs of 2 learning rates failed" in text for text in found.warnings)


def test_an_edge_beyond_which_all_diverges_is_none(place):
    folder = run_study(
        place, Fake(best=lambda spec: 0.3), arms=("default_lora",), tuning={"points": 3, "centre": 0.3}, seeds=(0,)
    )
    curve = outcome(folder).curves["default_lora"]
    assert curve[-1].diverged and curve.chosen == pytest.approx(0.3)
    assert not outcome(folder).groups[0].rate_at_edge


def test_perplexity_is_judged_in_nats_and_less_is_better(place):
    folder = run_study(place, arms=("default_lora", "seeking"), seeds=(0, 1), scorer="perplexity")
    for cell in folder.cells():
        factor = 0.5 if cell.cell.group.arm.name == "seeking" else 1.0
        values = [factor * (2 + i / 10 + cell.cell.seed / 100) for i in range(20)]
        lines = [{"scorer": "perplexity", "id": str(i), "score": value} for i, value in enumerate(values)]
        cell.run.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = read_json(cell.run.file("result.json"))
        result["scores"] = [{"scorer": "perplexity", "unit": "ppl", "value": 10.0 * factor, "n": 20}]
        write_json(cell.run.file("result.json"), result)
    group = outcome(folder).groups[1]
    assert group.verdict.difference == pytest.approx(0.5 * (2 + 9.5 / 10 + 0.5 / 100))  # records are nats per token
    assert group.verdict_unit == "nats per token"


def test_a_spec_that_was_changed_after_the_start_is_told(place):
    folder = run_study(place, arms=("default_lora", "seeking"), seeds=(0,))
    text = folder.file("study.yaml").read_text()
    folder.file("study.yaml").write_text(text.replace("margin: 0.01", "margin: 0.3"))
    assert "changed since the study has started" in " ".join(outcome(folder).warnings)


def test_a_gain_is_taken_apart_where_there_are_controls(place):
    arms = ("default_lora", "seeking", "spectrum_matched", "untrained_teacher", "wrong_task")
    folder = run_study(place, arms=arms, factors={"factorisation.rank": (4, 8)}, seeds=(0, 1))
    found = outcome(folder).attribution
    assert len(found) == 2
    assert [each.paragraph.partition(":")[0] for each in found] == ["rank 4", "rank 8"]
    for each in found:
        total = sum(step.result.difference for step in each.steps)
        assert total == pytest.approx(each.gain.result.difference)
    assert outcome(run_study(place, arms=arms[:2], seeds=(0, 1))).attribution == []


def rewritten(cell, unit, values, **result):
    """Give the run of a cell other scores, of another scorer where the unit is another."""
    scorer = "perplexity" if unit == "ppl" else "number_match"
    lines = [{"scorer": scorer, "id": str(i), "score": value} for i, value in enumerate(values)]
    cell.run.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    score = {"scorer": scorer, "unit": unit, "value": sum(values) / len(values), "n": len(values)}
    write_json(cell.run.file("result.json"), read_json(cell.run.file("result.json")) | {"scores": [score]} | result)


def test_spreads_of_seeds_are_pooled_over_the_groups_of_one_task(place):
    tasks = ("bundled:word_problems", "bundled:multiple_choice")
    folder = run_study(place, arms=("default_lora", "seeking"), factors={"task.source": tasks}, seeds=(0, 1, 2))
    for cell in folder.cells():
        if cell.cell.group.point["task.source"] == tasks[1]:
            rewritten(cell, "ppl", [50.0 + 10 * cell.cell.seed + i / 10 for i in range(20)])
    found = outcome(folder)
    assert found.spread is None
    shares = [group for group in found.groups if group.unit == "share"]
    assert len(shares) == 2 and all(group.high - group.low < 0.5 for group in shares)


def test_a_family_has_the_arms_that_were_declared(place):
    """A word that only the first arm that is done has, and that falls when the others are, would be none."""
    seeds = tuple(range(6))
    folder = run_study(place, Fake(fails=lambda spec: spec.method in ("pissa", "olora")), seeds=seeds)
    verdict = outcome(folder).groups[1].verdict
    assert (verdict.comparisons, verdict.verdict) == (2, "undecided")
    assert verdict.p_adjusted >= 2 * verdict.p_value
    assert "with 2 comparisons nothing can be better or worse; that needs 7" in " ".join(outcome(folder).warnings)


def test_a_gain_has_the_same_word_in_the_table_and_where_it_is_taken_apart(place):
    arms = ("default_lora", "seeking", "spectrum_matched", "untrained_teacher")
    found = outcome(run_study(place, arms=arms, seeds=tuple(range(6))))
    gain, listed = found.attribution[0].gain.result, found.groups[1].verdict
    assert (gain.p_adjusted, gain.comparisons, gain.verdict) == (listed.p_adjusted, 3, listed.verdict)
    assert gain.verdict == "undecided" and gain.difference == pytest.approx(listed.difference)


def test_runs_that_cannot_be_read_or_paired_or_had_other_data_are_told(place):
    folder = run_study(place, arms=("default_lora", "seeking"), seeds=(0, 1))
    first, second, third, _ = folder.cells()
    rewritten(first, "share", [0.0, 1.0], fingerprints={"train": "a", "test": "c"})
    rewritten(second, "share", [0.0, 1.0], scores=[])
    rewritten(third, "share", [0.0, 1.0], fingerprints={"train": "b", "test": "c"})
    told = " ".join(outcome(folder).warnings)
    assert "word_problems: its train examples were not the same in all runs" in told
    assert f"run {second.run.id} is left out" in told


def test_an_arm_that_is_the_method_itself_is_not_judged_and_tells_nothing_apart(place):
    arms = ("default_lora", "spectrum_matched", "permuted", "wrong_task", "random_offset", "seeking")
    alike = {"teacher": {"source": "bundled:stranger"}}
    found = outcome(run_study(place, arms=arms, base=alike, seeds=(0, 1)))
    same = {group.arm: group for group in found.groups if group.vacuous}
    assert list(same) == ["wrong_task", "random_offset"]
    assert all(group.verdict is None and group.value is not None for group in same.values())
    assert {group.verdict.comparisons for group in found.groups if group.verdict} == {3}
    (attribution,) = found.attribution
    assert attribution.alike == ("wrong_task", "random_offset") and attribution.missing == ("untrained_teacher",)
    assert [step.name for step in attribution.steps] == ["scale", "structure", "teacher content and task"]
    assert "where they cannot differ from it: wrong task, random offset." in attribution.paragraph


def test_nothing_is_judged_against_what_is_the_same_runs(place):
    alike = {"teacher": {"source": "bundled:stranger"}}
    found = outcome(
        run_study(place, arms=("random_offset", "seeking", "pissa"), base=alike, against="random_offset", seeds=(0, 1))
    )
    assert [group.verdict is None for group in found.groups] == [True, True, False]
