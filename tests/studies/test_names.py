"""The one name of a run: made from what differs, short, unique, the same wherever it is asked for."""

import itertools
import random

import pytest

from paraknow_core.spec import RunSpec
from paraknow_core.studies.names import Named, run_names


def named(number: int, own: str = "", **changes) -> Named:
    spec = RunSpec().with_changes({key.replace("__", "."): value for key, value in changes.items()})
    return Named(f"20250101-1200{number:02d}-seeking-{number:08x}", spec, own)


def names_of(*runs: Named) -> list[str]:
    found = run_names(runs)
    return [found[run.id] for run in runs]


def test_a_run_alone_is_named_by_method_and_seed():
    assert names_of(named(0)) == ["seeking, seed 0"]
    assert names_of(named(0), named(1, method="default_lora")) == ["seeking, seed 0", "default LoRA, seed 0"]


def test_runs_of_an_ablation_are_named_by_what_differs():
    grid = itertools.product(["all", "ffn"], [8, 16], [0, 1])
    runs = [
        named(n, extraction__origin=[origin], factorisation__rank=rank, factorisation__lora_alpha=rank, seed=seed)
        for n, (origin, rank, seed) in enumerate(grid)
    ]
    names = names_of(*runs)
    assert names[5] == "ffn only, r 8, seed 1"
    assert names[2] == "all modules, r 16, seed 0"
    assert len(set(names)) == 8
    random.Random(3).shuffle(runs)
    assert sorted(names_of(*runs)) == sorted(names)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"extraction__origin": ["q", "attention", "down"]}, "attention+down only, seed 0"),
        ({"extraction__structure": "row_column"}, "row/column, seed 0"),
        ({"injection__mode": "difference"}, "difference, seed 0"),
        ({"mapping__strategy": "top"}, "top layers, seed 0"),
        ({"finetuning__learning_rate": 0.001}, "lr 0.001, seed 0"),
        ({"finetuning__epochs": 2}, "2 epochs, seed 0"),
        ({"finetuning__max_steps": 50}, "50 steps, seed 0"),
        ({"finetuning__schedule": "cosine"}, "cosine schedule, seed 0"),
        ({"factorisation__lora_alpha": 32}, "alpha 32, seed 0"),
        ({"task__sizes__test": 40}, "test 40, seed 0"),
        ({"sensitivity__samples": 4}, "4 seed samples, seed 0"),
        ({"method": "pissa"}, "PiSSA, seed 0"),
    ],
)
def test_each_setting_has_its_few_words(change, name):
    assert names_of(named(0), named(1, **change))[1] == name


def test_what_a_run_does_not_read_is_not_in_its_name():
    default, other = named(0, method="default_lora"), named(1, extraction__structure="random")
    assert names_of(default, named(2), other) == [
        "default LoRA, seed 0",
        "seeking, submatrix, seed 0",
        "seeking, random weights, seed 0",
    ]
    measured = names_of(named(0, until="sensitivity"), named(1, until="sensitivity", sensitivity__samples=4))
    assert measured == ["sensitivity, 32 seed samples", "sensitivity, 4 seed samples"]
    assert names_of(named(0, until="extraction")) == ["extraction, seed 0"]


def test_names_are_short_whole_and_unique_whatever_the_settings():
    values = {
        "extraction__origin": [["all"], ["q", "k", "gate", "up", "embed"]],
        "extraction__structure": ["neuron", "random"],
        "injection__mode": ["residual", "difference"],
        "factorisation__rank": [8, 128],
        "finetuning__learning_rate": [3e-4, 1.23456e-5],
        "finetuning__schedule": ["linear", "cosine"],
        "mapping": [{"strategy": "manual", "layers": list(range(48))}, {"strategy": "last"}],
    }
    choices = itertools.product(*values.values())
    runs = [named(n, **dict(zip(values, choice, strict=True))) for n, choice in enumerate(choices)]
    names = names_of(*runs)
    assert len(set(names)) == len(names) == 128
    assert max(map(len, names)) <= 48
    for name in names:
        made = name.split(" · ")[0].split(", ")
        assert made[-1] == "seed 0"
        assert all("…" not in part for part in made)


def test_names_that_are_alike_get_task_pair_or_id():
    runs = [named(0), named(1, task__source="bundled:instructions"), named(2), named(3, student__source="bundled:kin")]
    names = names_of(*runs)
    assert names[1] == "seeking, seed 0, instructions"
    assert names[3] == "seeking, seed 0, word problems, kin"
    assert names[0].endswith(" · 0000")
    assert names[2].endswith(" · 0002")


def test_a_name_of_the_users_own_wins():
    runs = [named(0, "my favourite"), named(1, seed=1), named(2, " twice "), named(3, "twice")]
    assert names_of(*runs) == ["my favourite", "seeking, seed 1", "twice · 0002", "twice · 0003"]
    assert names_of(named(0, "seeking, seed 1"), named(1, seed=1)) == [
        "seeking, seed 1 · 0000",
        "seeking, seed 1 · 0001",
    ]


def test_a_specs_name_stands_alone_where_it_is_enough():
    assert names_of(named(0, name="Lesson 2, rows and columns"), named(1)) == [
        "Lesson 2, rows and columns",
        "seeking, seed 0",
    ]
    shared = names_of(named(0, name="rank 8"), named(1, name="rank 8", method="default_lora", seed=1))
    assert shared == ["rank 8 · seeking, seed 0", "rank 8 · default LoRA, seed 1"]
    assert names_of(named(0, name="demo"), named(1, name="demo", seed=1)) == ["demo · seed 0", "demo · seed 1"]
    long = "a long name that somebody gave without thinking of tables"
    assert names_of(named(0, name=long)) == ["a long name that somebody gave without…"]
    assert names_of(named(0, name=long), named(1, name=long, seed=1))[1] == "a long name that somebody gave… · seed 1"


def test_hostile_names_stay_one_line_of_text():
    hostile = "a\nb\u202e\x1b[2J<b>"
    assert names_of(named(0, hostile), named(1, name=hostile)) == ["a b [2J<b> · 0000", "a b [2J<b> · 0001"]


def test_a_run_that_cannot_be_read_keeps_its_id():
    broken = Named("20250101-000000-x-00000000", None)
    assert run_names([broken]) == {broken.id: broken.id}
    assert run_names([Named(broken.id, None, "kept")]) == {broken.id: "kept"}


def test_a_long_name_keeps_the_settings_that_tell_most():
    grid = itertools.product(["all", "ffn"], [4, 8], ["seeking", "default_lora"])
    runs = [
        named(n, extraction__origin=[origin], factorisation__rank=rank, method=method)
        for n, (origin, rank, method) in enumerate(grid)
    ]
    names = names_of(*runs, named(99, factorisation__rank=4, extraction__structure="row_column"))
    assert names[0] == "seeking, all modules, r 4, seed 0"  # that all others are sub-matrices tells least
    assert names[8] == "seeking, all modules, row/column, seed 0"
    assert not [name for name in names if "·" in name]


def test_the_method_is_never_left_out_where_methods_differ():
    small = {"task__sizes__train": 48, "sensitivity__samples": 4, "finetuning__max_steps": 12}
    runs = [
        named(n, **small, extraction__origin=[o], finetuning__learning_rate=lr, method=m)
        for n, (o, lr, m) in enumerate(
            itertools.product(["attention", "ffn"], [1e-3, 1e-4], ["seeking", "default_lora"])
        )
    ]
    names = names_of(*runs, named(90), named(91, method="default_lora"))
    assert all(name.startswith(("seeking, ", "default LoRA, ")) for name in names)
    assert names_of(named(0), named(1, finetuning__max_steps=5))[0] == "by epochs, seed 0"
