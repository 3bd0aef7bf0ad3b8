"""What a study will take: counted against what it then does."""

from types import SimpleNamespace

import pytest

from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.source import resolve_model
from paraknow_core.models.untrained import named_untrained, place_of
from paraknow_core.runs.folder import list_runs
from paraknow_core.sensitivity.plan import sizes_of
from paraknow_core.studies.folder import StudyFolder
from paraknow_core.studies.preview import preview
from paraknow_core.studies.study import StudySpec
from tests.studies.conducting import BEST_RATE, Fake, conducted

FACTORS = {"extraction.structure": ("submatrix", "neuron")}


def takes(specs, place):
    return [SimpleNamespace(seconds=2.0, disk=100.0, start=0.0) for _ in specs]


def test_as_many_runs_are_told_as_are_run(place):
    study = StudySpec(
        arms=("default_lora", "seeking"), factors=FACTORS, seeds=(0, 1), tuning={"points": 3, "centre": BEST_RATE}
    )
    seen = preview(study, place, takes)
    fake, folder = Fake(), StudyFolder.create(place, study)
    conducted(folder, fake)
    assert seen.runs == len(fake.ran) == len(list_runs(place))
    assert seen.tuning_runs == sum(spec.until == "training" for spec in fake.ran) == 9
    assert seen.cells == 12 + 8
    assert (seen.seconds, seen.bytes) == (2.0 * seen.runs, 100.0 * seen.runs)
    assert seen.shared[0].startswith("5 runs computed once with others")
    assert seen.shared[1].startswith("1 measurement of a teacher's sensitivity for 10 runs")


def test_what_is_there_already_is_told(place):
    study = StudySpec(arms=("default_lora", "seeking"), seeds=(0, 1))
    assert preview(study, place).already == 0
    conducted(StudyFolder.create(place, study), Fake())
    again = preview(study, place, takes)
    assert (again.already, again.seconds, again.bytes) == (4, 0.0, 0.0)


def test_nothing_is_said_of_time_where_nothing_is_known(place):
    seen = preview(StudySpec(seeds=(0,)), place, lambda specs, _: [None] * len(specs))
    assert (seen.seconds, seen.bytes) == (None, None)


def test_more_seeds_see_smaller_effects_and_fewer_than_six_none(place):
    sizes = [preview(StudySpec(seeds=tuple(range(n))), place).smallest_detectable for n in (5, 10, 20)]
    assert sizes[0] is None
    assert sizes[1] > sizes[2] > 0
    assert "5 seeds: with fewer than 6" in " ".join(preview(StudySpec(seeds=tuple(range(5))), place).warnings)


def test_a_disk_that_is_too_small_is_told(place):
    seen = preview(
        StudySpec(seeds=(0,)), place, lambda specs, _: [SimpleNamespace(seconds=1, disk=1e18, start=0)] * len(specs)
    )
    assert any(text.startswith("disk: about") for text in seen.warnings)


@pytest.mark.parametrize("arm", ["full_finetuning", "zero_step"])
def test_an_arm_of_another_budget_is_told(place, arm):
    seen = preview(StudySpec(arms=("default_lora", arm)), place)
    assert any("not of equal budget" in text for text in seen.warnings)


def test_an_arm_that_a_pair_leaves_no_choice_is_told(place):
    arms = ("default_lora", "seeking", "random_mapping", "random_offset", "permuted")
    teachers = {"teacher.source": ("bundled:teacher", "bundled:stranger")}
    alike = {"teacher": {"source": "bundled:stranger"}}
    studies = [{}, {"base": alike}, {"factors": teachers}]
    said = [preview(StudySpec(arms=arms, **more), place).warnings for more in studies]
    none, all_points, one = [[text for text in warnings if "is the method itself" in text] for warnings in said]
    assert none == []
    assert [text.partition(":")[0] for text in all_points] == ["random layers", "random offset"]
    assert len(one) == 2 and all("stranger" in text for text in one)


def test_what_a_factor_sets_in_place_of_arms_is_told_in_true_words(place):
    own = {"name": "mine", "arm": "permuted"}
    study = StudySpec(
        arms=("default_lora", "permuted", own), factors={"injection.mode": ("residual", "additive")}, seeds=(0,)
    )
    seen = preview(study, place)
    assert "mode: the values that are varied go before the own ones of permuted block and mine" in seen.warnings
    assert seen.shared[:2] == [
        "1 run computed once with others: their arms do not read what is varied",
        "2 runs computed once with others: another arm asks for the same",
    ]


def test_untrained_teachers_and_what_is_measured_on_them_take_disk(place):
    study = StudySpec(arms=("seeking", "untrained_teacher"), against="seeking", seeds=(0, 1))
    source = resolve_model("bundled:teacher", None)
    anatomy = read_anatomy(source, tokenizer=False)
    one = anatomy.bytes + 4 * anatomy.parameters + sizes_of(anatomy).reductions
    assert preview(study, place, takes).bytes == 4 * 100.0 + 2 * one
    place_of(named_untrained(source, 0), 0, place.untrained).mkdir(parents=True)
    assert preview(study, place, takes).bytes == 4 * 100.0 + one
