"""Planted effects are found in their step, and noise is not claimed."""

import numpy as np
import pytest

from paraknow_core.errors import NumericError, RunError, ShapeError
from paraknow_core.studies.attribution import attribute

ARMS = ("default_lora", "spectrum_matched", "random_offset", "permuted", "untrained_teacher", "wrong_task", "seeking")
# Which arms have what: a planted effect raises all arms that do.
HAVE = {
    "scale": ("spectrum_matched", "random_offset", "permuted", "untrained_teacher", "wrong_task", "seeking"),
    "structure": ("random_offset", "permuted", "wrong_task", "seeking"),
    "teacher content": ("wrong_task", "seeking"),
    "task": ("seeking",),
}


def study(planted=(), seeds=8, n=100, seed=0, effect=0.4):
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(1, n)) + 0.3 * generator.normal(size=(seeds, 1))
    scores = {}
    for arm in ARMS:
        own = 0.2 * generator.normal(size=(1, n)) + 0.05 * generator.normal(size=(seeds, 1))
        scores[arm] = shared + own + 0.3 * generator.normal(size=(seeds, n))
        scores[arm] += effect * sum(arm in HAVE[name] for name in planted)
    return scores


def words(found):
    return {step.name: step.result.verdict for step in found.steps}


@pytest.mark.parametrize("name", HAVE)
def test_a_planted_effect_is_found_in_its_step_and_nowhere_else(name):
    found = attribute(study([name]), 0.2, unit="points")
    assert words(found) == {step: "better" if step == name else "equivalent" for step in HAVE}
    assert found.gain.result.verdict == "better"
    assert found.content == (name == "teacher content" or name == "task")  # both are in the own block alone
    assert ("The teacher's content counts:" in found.paragraph) == found.content
    assert f"{name[:1].upper()}{name[1:]} adds" in found.paragraph


def test_steps_add_up_to_the_gain():
    found = attribute(study(["scale", "task"]), 0.1)
    assert sum(step.result.difference for step in found.steps) == pytest.approx(found.gain.result.difference)
    assert [(step.arm, step.against) for step in found.steps] == [
        ("spectrum_matched", "default_lora"),
        ("permuted", "spectrum_matched"),
        ("wrong_task", "permuted"),
        ("seeking", "wrong_task"),
    ]
    assert found.missing == ()


def test_a_missing_arm_joins_two_steps_and_is_said():
    scores = study(["teacher content"])
    del scores["permuted"], scores["untrained_teacher"]
    found = attribute(scores, 0.2)
    assert words(found) == {"scale": "equivalent", "structure and teacher content": "better", "task": "equivalent"}
    assert sum(step.result.difference for step in found.steps) == pytest.approx(found.gain.result.difference)
    assert found.missing == ("permuted", "untrained_teacher")
    assert not found.content and "(no run of untrained teacher)" in found.paragraph
    assert found.paragraph.endswith("Not run: permuted, untrained teacher.")


def test_the_study_may_be_about_another_method():
    scores = study(["task"])
    scores["laten"] = scores.pop("seeking")
    assert attribute(scores, 0.2, method="laten").steps[-1].arm == "laten"
    assert attribute(scores, 0.2, method="laten").paragraph.startswith("Laten scores")


@pytest.mark.parametrize("planted", [["scale"], ["scale", "structure"]])
def test_scale_and_structure_are_not_taken_for_content(planted):
    """An untrained teacher has no structure: the trained one is better, and content still is not claimed."""
    scores = study(planted)
    found = attribute(scores, 0.2)
    checks = {step.name: step.result.verdict for step in found.checks}
    assert (checks["trained against untrained teacher"] == "better") == ("structure" in planted)
    assert not found.content and "is not shown" in found.paragraph


def test_noise_is_not_claimed():
    found = [attribute(study(seed=seed, n=40), 0.2) for seed in range(60)]
    claimed = sum(any(step.result.verdict in ("better", "worse") for step in each.steps) for each in found)
    assert claimed <= 7  # 5 % of 60, and three standard errors
    assert sum(each.content for each in found) <= 1
    for each in found:
        if each.gain.result.verdict != "better":
            assert "more than default LoRA (" not in each.paragraph


def test_few_seeds_claim_nothing():
    found = attribute(study(["scale", "teacher content"], seeds=5), 0.2)
    assert set(words(found).values()) == {"undecided"} and not found.content
    assert "is undecided" in found.paragraph and " adds " not in found.paragraph
    six = attribute(study(["teacher content"], seeds=6), 0.2)  # one question, not four: six seeds are enough
    assert six.content and words(six)["teacher content"] == "undecided"


def test_refusals():
    scores = study()
    with pytest.raises(RunError, match="no scores of default_lora"):
        attribute({"seeking": scores["seeking"]}, 0.1)
    with pytest.raises(ShapeError, match="permuted 7 x 100"):
        attribute(scores | {"permuted": scores["permuted"][:7]}, 0.1)
    with pytest.raises(NumericError):
        attribute(scores | {"permuted": scores["permuted"] * np.nan}, 0.1)
    only = attribute({name: scores[name] for name in ("default_lora", "seeking")}, 0.2)
    assert words(only) == {"scale, structure, teacher content and task": only.gain.result.verdict}
    assert only.checks == () and not only.content
    with pytest.raises(NumericError):
        attribute({name: scores[name] * np.nan for name in ("default_lora", "seeking")}, 0.2)
