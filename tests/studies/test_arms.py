"""Which finished runs are one arm, what arms are called, and in which settings they differ."""

import json

from paraknow_core.runs.folder import list_runs
from paraknow_core.studies import same
from paraknow_core.studies.arms import settings_that_differ, suggest
from tests.pages import compared
from tests.studies import amend, groups_of


def test_runs_that_differ_in_their_seed_and_name_only_are_one_arm(place):
    runs = compared.study(place)
    found = groups_of(place)
    assert [(g.label, g.seeds) for g in found] == [
        ("seeking (the method)", (0, 1, 2)),
        ("default LoRA", (0, 1, 2)),
        ("PiSSA", (0, 1, 2)),
    ]
    assert [run.spec().seed for run in found[0].runs] == [0, 1, 2]
    assert {run.id for run in found[1].runs} == {run.id for run in runs["default_lora"]}


def test_arms_of_one_method_are_told_apart_by_what_separates_them(place):
    compared.run(place, "seeking", factorisation__rank=4)
    compared.run(place, "seeking", injection__mode="difference")
    compared.run(place, "default_lora", mapping__strategy="top")  # reads no mapping: the same arm as the next one
    compared.run(place, "default_lora", mapping__strategy="last")
    found = {g.label: g for g in groups_of(place)}
    assert set(found) == {
        "seeking (the method), rank 4, residual",
        "seeking (the method), rank 16, difference",
        "default LoRA",
    }
    assert found["default LoRA"].repeats == 1
    assert sorted(g.variant for g in found.values()) == [0, 0, 1]


def test_labels_stay_short_and_different(place):
    for number in range(3):
        compared.run(place, "seeking", student__source="/models/" + "x" * 300 + str(number))
    labels = [g.label for g in groups_of(place)]
    assert len(set(labels)) == 3
    assert max(map(len, labels)) <= 64


def test_an_older_spec_that_names_the_same_modules_otherwise_is_the_same_arm(place):
    odd, plain = compared.run(place, "seeking"), compared.run(place, "seeking", seed=1)
    text = odd.file("spec.yaml").read_text()
    odd.file("spec.yaml").write_text(text.replace("  - all\n", "  - all\n  - attention\n"))
    [arm] = groups_of(place)
    assert arm.runs == (odd, plain)
    assert suggest([(run, run.spec()) for run in (odd, plain)]) == [odd, plain]
    assert same.computes(odd.spec()) == same.computes(plain.spec().with_changes({"seed": 0}))


def test_a_file_that_changed_between_seeds_makes_another_arm(place):
    first, second = compared.run(place, "default_lora", 0), compared.run(place, "default_lora", 1)
    amend(first, fingerprints={"teacher": "1" * 64})
    amend(second, fingerprints={"teacher": "2" * 64})  # default LoRA reads no teacher
    [whole] = groups_of(place)
    assert whole.seeds == (0, 1)
    amend(second, fingerprints={"train": "c" * 64, "student": "d" * 64})
    assert {g.label for g in groups_of(place)} == {
        "default LoRA, student aaaaaa",
        "default LoRA, student dddddd, train cccccc",
    }
    for run in (first, second):  # older runs say nothing of their content
        run.file("result.json").write_text(json.dumps({**run.result(), "fingerprints": None}))
    assert [g.seeds for g in groups_of(place)] == [(0, 1)]


def test_settings_that_differ_leave_out_what_a_method_does_not_read(place):
    compared.run(place, "seeking", factorisation__rank=4)
    compared.run(place, "default_lora")
    found = settings_that_differ(groups_of(place))
    assert dict(found) == {"factorisation.rank": [4, 16], "method": ["seeking", "default_lora"]}


def test_the_suggestion_is_the_newest_run_with_all_that_ask_the_same(place):
    compared.run(place, "pissa", finetuning__epochs=9)
    runs = compared.study(place, seeds=2)
    known = [(run, run.spec()) for same in runs.values() for run in same]
    odd = [(run, run.spec()) for run in list_runs(place) if run.spec().finetuning.epochs == 9]
    assert {run.id for run in suggest([*known, *odd])} == {run.id for run, _ in known}
    assert suggest([]) == []
