"""Lessons: sentences and verdicts follow from the numbers, and turn with them."""

import json

import pytest

from paraknow_core.errors import DataError, ParaknowError
from paraknow_core.files.json_file import read_json, write_json
from paraknow_core.paths import Workspace
from paraknow_core.studies.lessons import LESSONS
from paraknow_core.studies.lessons.base import mean_and_interval, rank_correlation
from tests.studies.lessons.outcomes import finish, sensitivity


@pytest.fixture
def place(tmp_path) -> Workspace:
    return Workspace(tmp_path)


def explain(place, number: int, runs=None):
    lesson = LESSONS[number - 1]
    return lesson.explain(place, runs or finish(place, lesson))


def test_lessons_are_numbered_and_their_options_and_costs_are_small():
    assert [one.number for one in LESSONS] == [1, 2, 3, 4, 5]
    for one in LESSONS:
        assert 0 < one.seconds < 240
        assert len(one.options) >= 3
        assert len({spec.model_copy(update={"name": ""}).model_dump_json() for spec in one.specs.values()}) == len(
            one.specs
        )
        assert one.as_study().preset == one.study


def test_lessons_fit_into_demo_mode(place, monkeypatch):
    from paraknow_core.workbench.access import DEMO_LIMITS, DEMO_VARIABLE, access

    monkeypatch.setenv(DEMO_VARIABLE, "1")
    for one in LESSONS:
        for spec in one.specs.values():
            access(place).check_spec(spec)
        assert len(one.specs) <= DEMO_LIMITS["waiting"]


@pytest.mark.parametrize(("number", "right"), [(1, "alike"), (2, "submatrix"), (3, "kin"), (4, "1"), (5, "start")])
def test_the_numbers_decide(place, number, right):
    made = explain(place, number)
    if number == 4:
        assert made.right in LESSONS[3].options
    else:
        assert made.right == right
    assert made.right in LESSONS[number - 1].options
    assert all(panel.rows for panel in made.panels)
    assert made.why.endswith(".")


def test_lesson_1_turns_when_the_tasks_do_not_differ(place):
    runs = finish(place, LESSONS[0])
    for number, run in enumerate(runs.values()):
        sensitivity(place, run.result()["sensitivity"]["key"], 0.05, 100 + number, tilt=0.0)
    assert explain(place, 1, runs).right == "same"
    for label, run in runs.items():
        sensitivity(place, run.result()["sensitivity"]["key"], 0.01, 3, tilt=60.0 if "choice" in label else 0.0)
    assert explain(place, 1, runs).right in ("alike", "other")


def test_lesson_2_says_that_it_makes_no_difference_when_all_score_alike(place):
    runs = finish(place, LESSONS[1])
    for run in runs.values():
        lines = [{"scorer": "number_match", "id": f"test/{i}", "score": float(i < 20)} for i in range(60)]
        run.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = run.result()
        result["scores"][0]["value"] = 20 / 60
        write_json(run.file("result.json"), result)
    made = explain(place, 2, runs)
    assert made.right == "none"
    assert "No difference was found: +0.0 points" in " ".join(made.sentences)


def test_lesson_2_compares_what_is_caught_with_what_scores(place):
    words = " ".join(explain(place, 2).sentences)
    assert "Most sensitivity is held by single weights by S: 95 %" in words
    assert "Yet sub-matrix has the better score" in words


def set_right(run, right: int, n: int = 60) -> None:
    """Let a run answer the first examples correctly."""
    lines = [{"scorer": "number_match", "id": f"test/{i}", "score": float(i < right)} for i in range(n)]
    run.file("predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run.result()
    result["scores"][0] |= {"value": right / n, "n": n}
    write_json(run.file("result.json"), result)


@pytest.mark.parametrize(
    ("rights", "right", "words"),
    [
        ((80, 79, 10, 5), "", "that it makes a difference is clear"),
        ((30, 28, 26, 20), "", "Sub-matrix against single weights at random, the last: +10.0 points"),
        ((24, 23, 22, 18), "", "are not told apart"),
        ((30, 30, 30, 30), "none", "no two structures differ by 10 points or more"),
        ((30, 29, 30, 28), "none", "no two structures differ by 10 points or more"),
        ((80, 40, 39, 38), "submatrix", "of the nearest by +40.0 points"),
    ],
)
def test_lesson_2_calls_a_tie_of_the_best_two_no_finding(place, rights, right, words):
    runs = finish(place, LESSONS[1])
    for run, many in zip(runs.values(), (20, *rights), strict=True):  # default LoRA is the first
        set_right(run, many, 100)
    made = explain(place, 2, runs)
    assert made.right == right
    assert words in made.why


@pytest.mark.parametrize(
    ("kin", "stranger", "right"),
    [
        (25, 24, ""),  # intervals that hold 10 points and more
        (30, 25, ""),  # kin gains clearly, stranger perhaps: the two gains are not told apart
        (21, 20, "neither"),
        (21, 5, "neither"),  # a loss is no gain either
        (40, 20, "kin"),
        (20, 40, "stranger"),
        (40, 40, "both"),
    ],
)
def test_lesson_3_says_who_gains_only_where_the_runs_decide_it(place, kin, stranger, right):
    runs = finish(place, LESSONS[2])
    for label, run in runs.items():
        set_right(run, 20 if "LoRA" in label else kin if label.startswith("kin") else stranger)
    made = explain(place, 3, runs)
    assert made.right == right
    assert right == "both" or "kin's gain minus stranger's" in made.why


def test_lesson_4_needs_as_many_samples_as_the_noise_says(place):
    runs = finish(place, LESSONS[3])
    assert "agree to" in explain(place, 4, runs).sentences[0]
    for number, run in enumerate(runs.values()):
        sensitivity(place, run.result()["sensitivity"]["key"], 3.0, number)
    assert explain(place, 4, runs).right == "more"
    for run in runs.values():
        sensitivity(place, run.result()["sensitivity"]["key"], 0.0, 0)
    made = explain(place, 4, runs)
    assert made.right == "1"
    assert "Every draw of every size chose the same 4 layers (2, 3, 4, 5)" in " ".join(made.sentences)


def test_lesson_5_turns_with_the_losses(place):
    runs = finish(place, LESSONS[4])

    def set_loss(values: dict) -> None:
        for run in runs.values():
            spec, result = run.spec(), read_json(run.file("result.json"))
            result["training"]["last_validation_loss"] = values[spec.method] + 0.001 * ((3 * spec.seed) % 4)
            write_json(run.file("result.json"), result)

    set_loss({"seeking": 0.1, "random_offset": 0.2, "pissa": 0.2, "default_lora": 0.2})
    assert explain(place, 5, runs).right == "teacher"
    set_loss({"seeking": 0.3, "random_offset": 0.2, "pissa": 0.2, "default_lora": 0.2})
    assert explain(place, 5, runs).right == "nothing"
    for run in runs.values():  # seeds that disagree decide nothing
        result, spec = run.result(), run.spec()
        result["training"]["last_validation_loss"] = 0.2 + (0.1 * (spec.seed - 1) if spec.method == "seeking" else 0.0)
        write_json(run.file("result.json"), result)
    made = explain(place, 5, runs)
    assert made.right == ""
    assert "neither shown nor ruled out" in made.why


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_what_is_missing_is_a_sentence(place, number):
    lesson = LESSONS[number - 1]
    runs = finish(place, lesson)
    write_json(next(iter(runs.values())).file("result.json"), {})
    with pytest.raises(ParaknowError):
        lesson.explain(place, runs)


def test_rank_correlation_by_hand_and_its_refusals():
    # Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 * 4 / (4 * 15) = 0.6
    first, second = dict(zip("abcd", (1, 2, 3, 4), strict=True)), dict(zip("abcd", (20, 10, 40, 30), strict=True))
    assert rank_correlation(first, second) == pytest.approx(0.6)
    with pytest.raises(DataError, match="fewer than three"):
        rank_correlation({"a": 1}, {"a": 2})
    with pytest.raises(DataError, match="same sensitivity"):
        rank_correlation(dict.fromkeys("abcd", 1.0), second)


def test_one_value_has_no_interval():
    assert mean_and_interval([2.0]) == (2.0, None, None)
    mean, low, high = mean_and_interval([1.0, 3.0])
    assert (mean, round(high - mean, 3), round(mean - low, 3)) == (2.0, 12.706, 12.706)
