"""Studies: arms that differ in one way, and comparisons whose numbers can be checked by hand."""

import json
from pathlib import Path

import numpy
import pytest

from paraknow_core.errors import RunError, ShapeError
from paraknow_core.runs.folder import RunFolder
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.spec import RunSpec
from paraknow_core.studies.scores import compare, difference, pooled, verdict
from paraknow_core.studies.spec import BASELINE_LABEL


@pytest.fixture
def finished(tmp_path):
    """Return a maker of finished runs: `finished({id: score}, scorer=..., value=...) -> RunFolder`."""
    count = iter(range(1000))

    def make(scores: dict[str, float], *, value: float | None = None, unit: str = "share") -> RunFolder:
        run = create_run(None, RunSpec(), Path(tmp_path / f"run{next(count)}"))
        lines = [{"scorer": "number_match", "id": i, "score": s} for i, s in scores.items()]
        lines.append({"scorer": "exact_match", "id": "q0", "score": 0.0})  # a second scorer does not mix in
        run.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        mean = sum(scores.values()) / len(scores) if value is None else value
        score = {"scorer": "number_match", "unit": unit, "value": mean, "low": 0.0, "high": 1.0, "n": len(scores)}
        others = [score | {"value": 0.125}, score | {"scorer": "exact_match"}]
        result = {"scores": [score], "references": {"student": others, "teacher": others}}
        run.file("result.json").write_text(json.dumps(result))
        return run

    return make


def answers(*scores: float) -> dict[str, float]:
    return {f"q{i}": float(score) for i, score in enumerate(scores)}


def lines_of(runs, **more):
    return {line.arm: line for line in compare(runs, **more)}


def test_the_difference_is_paired_by_example_whatever_their_order(finished):
    own = finished({"q3": 1.0, "q2": 1.0, "q1": 1.0, "q0": 0.0})
    base = finished(answers(0, 1, 0, 0))
    lines = lines_of({BASELINE_LABEL: [base], "seeking": [own]})
    assert list(lines) == ["untouched student", "untouched teacher", BASELINE_LABEL, "seeking"]
    result = lines["seeking"].difference
    assert result.difference == pytest.approx(0.5)  # (0 0 1 1): 0.75 - 0.25
    assert result.low <= 0.5 <= result.high
    assert lines["seeking"].row()["difference_low"] == result.low
    assert lines[BASELINE_LABEL].difference is None and lines[BASELINE_LABEL].row()["p_value"] is None
    assert lines["untouched student"].score["value"] == 0.125
    assert {line.score["scorer"] for line in lines.values()} == {"number_match"}


def test_examples_of_one_line_number_but_another_text_are_not_paired(finished):
    def with_text(run, texts):
        lines = [
            {**line, "prompt": texts[i] if i < len(texts) else "", "reference": "r"}
            for i, line in enumerate(run.predictions())
        ]
        run.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run

    own = with_text(finished(answers(1, 1, 1)), ["a", "b", "c"])
    base = with_text(finished(answers(0, 0, 1)), ["x", "b", "c"])
    assert difference([own], [base]).n == 2
    assert difference([own], [base]).difference == pytest.approx(0.5)
    assert difference([own], [finished(answers(0, 0, 1))]).n == 3  # records without texts pair by their ids
    with pytest.raises(RunError, match="share no test example"):
        difference([own], [with_text(finished(answers(0, 0, 1)), ["x", "y", "z"])])


def test_pairing_narrows_the_interval(finished):
    generator = numpy.random.default_rng(0)
    hard = generator.random(400) < 0.5
    better = hard | (generator.random(400) < 0.1)
    lines = compare({BASELINE_LABEL: [finished(answers(*hard))], "seeking": [finished(answers(*better))]})
    result = lines[-1].difference
    assert result.high - result.low < 0.5 * 4 * 0.5 / 400**0.5  # half of what two unpaired halves of 50 % would allow
    assert "points" in verdict(lines)
    assert not verdict(lines).startswith("seeking against default LoRA: No")


def test_equal_arms_are_said_to_be_equal(finished):
    runs = {BASELINE_LABEL: [finished(answers(0, 1))], "seeking": [finished(answers(0, 1))]}
    assert "No difference" in verdict(compare(runs))


def test_several_seeds_are_averaged_and_need_the_same_seeds(finished):
    base = [finished(answers(0, 0, 1, 0)), finished(answers(0, 1, 1, 0))]
    own = [finished(answers(1, 1, 1, 0)), finished(answers(1, 1, 1, 0))]
    lines = lines_of({BASELINE_LABEL: base, "seeking": own})
    score = lines[BASELINE_LABEL].score
    assert score["value"] == pytest.approx((0.25 + 0.5) / 2)
    assert lines["seeking"].difference.difference == pytest.approx(0.375)
    assert lines["seeking"].score["seeds"] == 2
    assert score["low"] <= 0.375 <= score["high"]
    with pytest.raises(ShapeError, match="1 seeds against 2"):
        compare({BASELINE_LABEL: base, "seeking": own[:1]})


def test_mean_interval_and_n_of_several_seeds_are_of_the_same_examples(finished):
    arm = pooled([finished(answers(0, 0, 1, 1, 1, 1)), finished(answers(0, 1))])
    assert (arm["value"], arm["n"]) == (0.25, 2)
    assert arm["low"] <= 0.25 <= arm["high"]


def test_seeds_that_share_no_example_have_a_mean_without_an_interval(finished):
    arm = pooled([finished({"a": 1.0, "b": 0.0}), finished({"c": 1.0})])
    assert arm["value"] == pytest.approx(0.75)
    assert (arm["low"], arm["high"], arm["n"]) == (None, None, None)


def test_a_score_that_is_no_average_is_not_paired(finished):
    runs = {
        BASELINE_LABEL: [finished(answers(3.0, 4.0), value=12.5, unit="ppl")],
        "seeking": [finished(answers(2.0, 3.0), value=9.1, unit="ppl")],
    }
    lines = compare(runs)
    assert all(line.difference is None for line in lines)
    assert "not paired" in verdict(lines)


def test_refusals_are_sentences(finished, tmp_path):
    with pytest.raises(RunError, match="not among the arms"):
        compare({"seeking": [finished(answers(1))]})
    empty = create_run(None, RunSpec(), tmp_path / "empty")
    with pytest.raises(RunError, match="has no scores"):
        compare({BASELINE_LABEL: [empty]})
    with pytest.raises(RunError, match="share no test example"):
        compare({BASELINE_LABEL: [finished({"a": 1.0})], "seeking": [finished({"b": 1.0})]})


def test_another_scorer_is_compared_when_asked(finished):
    runs = {BASELINE_LABEL: [finished(answers(0, 1))], "seeking": [finished(answers(1, 1))]}
    assert compare(runs)[-1].score["scorer"] == "number_match"
    with pytest.raises(RunError, match="was not scored by rouge_l"):
        compare(runs, scorer="rouge_l")
    for [run] in runs.values():
        result = run.result()
        result["scores"].append({**result["scores"][0], "scorer": "exact_match", "value": 0.75})
        run.file("result.json").write_text(json.dumps(result))
    lines = compare(runs, scorer="exact_match")
    assert {line.score["scorer"] for line in lines} == {"exact_match"}
    assert lines[-1].score["value"] == 0.75
    assert lines[-1].difference is None  # the mean of its records is another number
