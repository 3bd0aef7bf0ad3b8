"""Arms that are the method itself: where a pair leaves no choice, and where it does."""

import pytest

from paraknow_core.studies.study import StudySpec
from paraknow_core.studies.vacuous import vacuous

ARMS = ("default_lora", "seeking", "random_mapping", "random_offset", "least_sensitive", "wrong_task", "permuted")
STRANGER = {"teacher": {"source": "bundled:stranger"}}


def same(base, arms=ARMS, **more):
    return set(vacuous(StudySpec(arms=arms, base=base, **more)))


def test_nothing_is_where_the_teacher_is_larger():
    assert same({}) == set()


def test_all_that_choose_layers_or_blocks_are_where_there_is_no_choice():
    assert same(STRANGER) == {"random_mapping", "random_offset", "least_sensitive", "wrong_task"}
    words = vacuous(StudySpec(arms=ARMS, base=STRANGER))
    assert words["random_mapping"] == "is the method itself here, as the teacher has no more layers than the student"
    assert words["random_offset"] == "is the method itself here, as the teacher's weights are taken whole"
    assert words["wrong_task"].endswith("than the student and the teacher's weights are taken whole")


def test_layers_that_are_compared_on_the_seed_samples_are_a_choice():
    base = STRANGER | {"mapping": {"strategy": "cka"}}
    assert same(base) == {"random_offset", "least_sensitive"}


def test_samples_do_not_matter_where_nothing_reads_them():
    plain = {"mapping": {"strategy": "last"}, "extraction": {"structure": "even_slice"}}
    assert same(plain) == {"wrong_task"}


@pytest.mark.parametrize(("changes", "is_same"), [({}, True), ({"factorisation.rank": 4}, False)])
def test_an_own_arm_counts_by_what_it_changes(changes, is_same):
    own = {"name": "mine", "arm": "random_offset", "changes": changes}
    assert same(STRANGER, ("default_lora", "seeking", own)) == ({"mine"} if is_same else set())


def test_other_rates_are_other_runs():
    tuning = {"points": 3, "centres": {"random_offset": 1e-4}}
    assert same(STRANGER, ("default_lora", "random_offset", "least_sensitive"), tuning=tuning) == {"least_sensitive"}


def test_nothing_is_known_of_models_that_are_not_here():
    assert same({"teacher": {"source": "nobody/nothing"}}) == set()
