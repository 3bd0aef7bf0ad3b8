"""What separates arms: paired differences, what stands in their way, and answers side by side."""

import json
import math
from dataclasses import replace

import pytest

from paraknow_core.errors import RunError
from paraknow_core.figures.compare import difference_forest
from paraknow_core.figures.report import html_report
from paraknow_core.ops.statistics import PairedResult
from paraknow_core.spec import RunSpec
from paraknow_core.studies import differences, scores
from paraknow_core.studies.arms import Arm
from paraknow_core.studies.differences import Contrast
from tests.pages import compared
from tests.studies import amend, groups_of


def test_differences_are_paired_adjusted_and_said(place):
    compared.study(place)
    found = groups_of(place)
    base = found[1]
    rows = {c.arm.label: c for c in differences.contrasts(found, base, "number_match")}
    assert set(rows) == {"seeking (the method)", "PiSSA"}
    method = rows["seeking (the method)"]
    shares = [{p["id"]: p["score"] for p in g.runs[0].predictions() if p["scorer"] == "number_match"} for g in found]
    assert method.result.n == compared.N
    assert shares[0].keys() == shares[1].keys()
    by_hand = [scores.score_of(run, "number_match")["value"] for g in found[:2] for run in g.runs]
    assert method.result.difference == pytest.approx(sum(by_hand[:3]) / 3 - sum(by_hand[3:]) / 3)
    assert method.p_adjusted == pytest.approx(min(1, 2 * method.result.p_value))  # the smaller of two
    assert method.says.startswith("+")
    assert "Holm-adjusted p" in method.says
    assert rows["PiSSA"].says.startswith("No difference was found: ")
    assert differences.contrasts(found, base, "rouge_l")[0].result.difference == pytest.approx(
        method.result.difference / 4
    )


def test_perplexities_are_paired_by_the_nats_of_each_example(place):
    for method, nats in (("seeking", 2.0), ("default_lora", 2.5)):
        run = compared.run(place, method)
        lines = [{"scorer": "perplexity", "id": f"t/{i}", "score": nats + 0.1 * (i % 3)} for i in range(30)]
        run.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        score = {"scorer": "perplexity", "value": math.exp(nats), "low": 1.0, "high": 20.0, "n": 30, "unit": "ppl"}
        run.file("result.json").write_text(json.dumps({**run.result(), "scores": [score]}))
    found = groups_of(place)
    [row] = differences.contrasts(found, found[1], "perplexity")
    assert row.result.difference == pytest.approx(-0.5)
    assert row.unit == "nats per token"
    assert row.says.startswith("-0.500 nats per token")
    assert any("lower is better" in part for part in row.cautions)


def test_nats_that_are_all_alike_have_no_interval_anywhere(place):
    for method in ("seeking", "default_lora"):
        run = compared.run(place, method)
        lines = [{"scorer": "perplexity", "id": f"t/{i}", "score": 2.0 + 0.1 * (i % 3)} for i in range(30)]
        run.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        score = {"scorer": "perplexity", "value": 8.2, "low": 1.0, "high": 20.0, "n": 30, "unit": "ppl"}
        run.file("result.json").write_text(json.dumps({**run.result(), "scores": [score]}))
    found = groups_of(place)
    [row] = differences.contrasts(found, found[1], "perplexity")
    assert (row.result.difference, row.result.low, row.result.high) == (0.0, None, None)
    assert row.says == "No difference was seen, and nothing bounds one (30 examples, all alike)."
    assert difference_forest([row]).data
    assert "<td class=n>none</td>" in html_report(found)


def test_what_stands_in_the_way_is_said(place):
    compared.run(place, "seeking", 0, 0.6, factorisation__rank=4)
    compared.run(place, "default_lora", 1, 0.4, n=40)
    found = groups_of(place)
    [row] = differences.contrasts(found, found[1], "number_match")
    words = "; ".join(row.cautions)
    for part in ("factorisation.rank also differs", "only 40 of 60 test examples", "are few", "no seed is shared"):
        assert part in words
    compared.run(place, "seeking", 1, 0.6, factorisation__rank=4)
    found = groups_of(place)
    [row] = differences.contrasts(found, found[1], "number_match")
    assert row.seeds == 1
    assert "only 1 of 2 seeds are in both arms" in row.cautions


def test_content_and_machine_are_compared_over_all_seeds(place):
    runs = compared.study(place, seeds=2)
    found = groups_of(place)
    before = "; ".join(part for row in differences.contrasts(found, found[1], "number_match") for part in row.cautions)
    assert "not the same" not in before and "computed with" not in before
    for run in runs["seeking"]:
        amend(run, fingerprints={"train": "1" * 64}, machine={"device": "cuda", "dtype": "bfloat16"})
    for run in runs["default_lora"]:
        amend(run, fingerprints={"train": "2" * 64}, machine={"device": "cpu", "dtype": "float32"})
    found = groups_of(place)
    rows = differences.contrasts(found, found[1], "number_match")
    assert "the training examples are not the same" in rows[0].cautions
    assert "computed with another device and dtype, which may change numbers" in rows[0].cautions
    assert "not the same" not in "; ".join(rows[1].cautions)
    amend(runs["seeking"][1], machine={"device": "cpu", "dtype": "float32"})
    amend(runs["seeking"][0], machine={"device": "cpu", "dtype": "float32"})
    amend(runs["default_lora"][1], machine={"device": "mps"})  # only the second seed
    rows = differences.contrasts(groups_of(place), found[1], "number_match")
    assert "computed with another device, which may change numbers" in rows[0].cautions


def test_an_arm_that_shares_no_example_leaves_the_others_their_differences(place):
    runs = compared.study(place, seeds=1)
    rename_examples(runs["pissa"][0])
    found = groups_of(place)
    rows = {c.arm.label: c for c in differences.contrasts(found, found[1], "number_match")}
    assert "share no test example" in rows["PiSSA"].says
    assert rows["PiSSA"].result is None
    assert rows["seeking (the method)"].result.n == compared.N


def rename_examples(run):
    file = run.file("predictions.jsonl")
    file.write_text(file.read_text().replace('"test/', '"other/'))


def test_scores_come_with_their_seeds_and_the_untouched_models_once(place):
    compared.study(place, seeds=2)
    found = groups_of(place)
    rows = differences.score_rows(found, "rouge_l")
    assert [row["method"] for row in rows][:3] == ["seeking", "default_lora", "pissa"]
    assert [len(row["points"]) for row in rows[:3]] == [2, 2, 2]
    assert rows[0]["value"] == pytest.approx(sum(rows[0]["points"]) / 2)
    assert all(row["method"] == "student" for row in rows[3:])
    assert differences.scorers(found) == ["number_match", "rouge_l"]
    assert differences.scored_by(found, "perplexity") == []
    with pytest.raises(RunError, match="was not scored by perplexity"):
        differences.score_rows(found, "perplexity")


def test_answers_side_by_side_are_gained_lost_or_the_same():
    def record(name, score, output):
        return {"id": name, "scorer": "s", "score": score, "output": output, "prompt": "p", "reference": "r"}

    one = [record("a", 0, "x"), record("b", 1, "x"), record("c", 1, "x"), record("gone", 1, "x"), {"id": "a"}]
    other = [record("c", 1, "y"), record("b", 0, "y"), record("a", 1, None)]
    rows = differences.side_by_side(one, other, "s")
    assert [(row["id"], row["kind"]) for row in rows] == [("a", "gained"), ("b", "lost"), ("c", "same")]
    assert (rows[0]["output_a"], rows[0]["output_b"]) == ("x", "")
    assert [row["kind"] for row in differences.side_by_side(one, other, "s", lower_is_better=True)] == [
        "lost",
        "gained",
        "same",
    ]


def test_answers_to_another_example_of_the_same_id_do_not_stand_side_by_side():
    one = [{"id": str(i), "scorer": "s", "score": 0, "prompt": f"p{i}", "reference": "r"} for i in range(3)]
    other = [dict(one[0]), {**one[1], "prompt": "another"}, {"id": "2", "scorer": "s", "score": 1}]
    assert [row["id"] for row in differences.side_by_side(one, other, "s")] == ["0", "2"]


def test_published_gains_stand_only_beside_the_same_question(place):
    compared.study(place, seeds=1)
    found = groups_of(place)
    lora = next(g for g in found if g.method == "default_lora")
    pissa = next(g for g in found if g.method == "pissa")
    rows = differences.contrasts(found, lora, "number_match")
    assert differences.published(rows, lora, "number_match")[0] == ("seeking (the method)", "GSM8K, 13B → 7B", 1.47)
    assert differences.published(rows, pissa, "number_match") == []
    assert differences.published(rows, lora, "perplexity") == []


def test_an_interval_beside_zero_is_not_enough_after_several_comparisons():
    arm = Arm("k", "m", "seeking", 0, RunSpec(), (), ())
    result = PairedResult(0.3, 0.09, 0.51, 60, 0.03, "2 seeds")
    contrast = Contrast(arm, "share", 60, 2, result)
    [alone] = differences.adjust([contrast])
    assert alone.says.startswith("+30.0 points")
    first, other = differences.adjust([contrast, replace(contrast, result=replace(result, p_value=0.9))])
    assert first.p_adjusted == pytest.approx(0.06)
    assert first.says.startswith("Not told from chance: +30.0 points")
    assert "Holm-adjusted p = 0.060" in first.says
    assert other.p_adjusted == pytest.approx(0.9)
    assert first.result == result  # what is said of it changes nothing in it
