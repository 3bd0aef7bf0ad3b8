"""Presets: valid in both sizes on any base, within their budget, and with the paper's values where they belong."""

import math
from itertools import product

import pytest

from paraknow_core import catalogue
from paraknow_core.errors import SpecError
from paraknow_core.spec import RunSpec
from paraknow_core.studies.presets import PRESETS, find_preset, marks_of
from paraknow_core.studies.same import computes
from paraknow_core.studies.study import arms_of, groups_of, rates_of, scored_cells, tuning_cells

SIZES = ("full", "pocket")
SCORED_SECONDS, TUNING_SECONDS = 4.0, 2.7  # of a pocket-size run of the bundled models, one after another
OWN = RunSpec().with_changes(
    {
        "teacher.source": "/models/large",
        "student.source": "org/small",
        "task.source": "/data/questions.jsonl",
        "task.sizes.test": 1319,
        "finetuning.learning_rate": 2e-4,
        "factorisation.rank": 8,
        "sensitivity.samples": 16,
    }
)
BASES = {"bundled": None, "kin": RunSpec(student={"source": "bundled:kin"}), "own": OWN}


def runs_of(study):
    """Return how many different runs there are: scored, and of tuning."""
    scored = {computes(cell.spec) for cell in scored_cells(study)}
    return len(scored), len({computes(cell.spec) for cell in tuning_cells(study)})


@pytest.mark.parametrize(("name", "size", "base"), product(PRESETS, SIZES, BASES))
def test_every_preset_is_a_study_of_any_base(name, size, base):
    study = PRESETS[name].make(BASES[base], size)
    assert study.preset == name and study.question == PRESETS[name].asks
    assert study.against == "default_lora"
    assert len(study.seeds) >= 6 and study.margin > 0
    # Enough seeds for the word "better" after Holm's correction: a preset that cannot say it is none.
    assert 2 * (len(arms_of(study)) - 1) / 2 ** len(study.seeds) <= 0.05
    assert (study.tuning is None) == (name == "learning_rates")
    assert study.base.task.sizes.validation and study.base.finetuning.validations
    given = BASES[base] or RunSpec()
    assert (study.base.teacher, study.base.student) == (given.teacher, given.student)
    assert study.base.task.source == given.task.source and study.base.until == "evaluation"
    if base == "own":
        assert study.base.factorisation.rank == 8 and study.base.sensitivity.samples == 16
        assert study.base.finetuning.learning_rate == 2e-4
        assert size == "pocket" or study.base.task.sizes.test == 1319


@pytest.mark.parametrize("name", PRESETS)
def test_pocket_size_ends_within_ten_minutes_and_is_smaller(name):
    scored, tuning = runs_of(PRESETS[name].make(None, "pocket"))
    assert scored * SCORED_SECONDS + tuning * TUNING_SECONDS < 600
    full_scored, full_tuning = runs_of(PRESETS[name].make(None, "full"))
    assert scored + tuning < full_scored + full_tuning
    assert PRESETS[name].pocket_limits.endswith("undecided.")


def test_presets_hold_what_the_catalogue_offers():
    def values(name, factor):
        return PRESETS[name].make(None, "full").factors[factor]

    assert values("structure", "extraction.structure") == catalogue.offered(catalogue.STRUCTURES)
    assert set(values("layers", "mapping.strategy")) == set(catalogue.STRATEGIES) - {"manual"}
    assert values("injection_modes", "injection.mode") == tuple(catalogue.MODES)
    assert values("seed_samples", "sensitivity.samples") == (1, 2, 4, 8, 16, 32, 64, 128)
    assert PRESETS["controls"].make(None, "full").arms == tuple(catalogue.ARMS)
    trained = PRESETS["learning_rates"].make(None, "full").arms
    assert set(catalogue.ARMS) - set(trained) == {"zero_step"}
    tasks = values("task_transfer", "task.source")
    assert len(tasks) == 4 and values("task_transfer", "sensitivity.task") == tasks


def test_rates_are_quarters_of_a_decade_apart_around_the_bases_own():
    rates = PRESETS["learning_rates"].make(OWN, "full").factors["finetuning.learning_rate"]
    assert 2e-4 in rates and max(rates) / min(rates) > 100
    steps = [math.log10(high / low) for low, high in zip(rates, rates[1:], strict=False)]
    assert steps == pytest.approx([0.25] * len(steps), abs=1e-3)
    study = PRESETS["controls"].make(OWN, "full")
    grid = rates_of(study, next(group for group in groups_of(study) if group.key == "default_lora"))
    assert len(grid) == 7 and grid[3] == 2e-4


def test_an_own_task_keeps_to_itself_and_meets_other_seed_samples():
    study = PRESETS["task_transfer"].make(OWN, "full")
    assert study.factors["task.source"] == (OWN.task.source,)
    assert study.factors["sensitivity.task"][0] == OWN.task.source and len(study.factors["sensitivity.task"]) == 5


def test_changes_reach_the_study_or_its_base():
    changes = {
        "seeds": [3, 4],
        "hold": ["steps", "parameters"],
        "factors.teacher.source": ["/m/a", "/m/b"],
        "student.source": "bundled:kin",
        "base.factorisation.rank": 4,
        "task.sizes.test": 50,
    }
    study = find_preset("initialisations").make(None, "pocket", changes)
    assert study.seeds == (3, 4) and study.hold == ("steps", "parameters")
    assert study.factors["teacher.source"] == ("/m/a", "/m/b")
    assert study.base.student.source == "bundled:kin" and study.base.factorisation.rank == 4
    assert study.base.task.sizes.test == 50 and study.base.task.sizes.train == 256


@pytest.mark.parametrize(
    ("name", "size", "changes", "said"),
    [
        ("figure9", "full", {}, "preset 'figure9' is unknown; choose from table1"),
        ("table1", "huge", {}, "size 'huge' is unknown; choose full or pocket"),
        ("table1", "full", {"rank": 4}, "unknown key 'rank'"),
        ("table1", "full", {"seeds": [1, 1]}, "one is given twice"),
        ("table1", "full", {"factorisation.rank": 0}, "factorisation.rank"),
    ],
)
def test_what_is_wrong_is_one_sentence(name, size, changes, said):
    with pytest.raises(SpecError, match=said) as error:
        find_preset(name).make(None, size, changes)
    assert "\n" not in str(error.value)


def test_marks_stand_at_their_groups():
    study = PRESETS["structure"].make()
    found = {key: [] for key in (group.key for group in groups_of(study))}
    for mark, key in marks_of(study):
        found[key].append(mark.value)
    assert found["seeking extraction.structure=submatrix"] == [28.22, 28.63]
    assert found["seeking extraction.structure=random"] == [27.07, 27.12]
    assert found["default_lora extraction.structure=neuron"] == [27.00]
    origin = [mark.value for mark, key in marks_of(PRESETS["origin"].make()) if key.startswith("seeking")]
    assert origin == [27.32, 27.52, 27.87, 28.23, 27.52, 27.92, 28.22, 28.63]


def test_a_benchmarks_value_belongs_to_its_task_and_scorer_alone():
    def values(study, key):
        return [mark.value for mark, group in marks_of(study) if group == key]

    pocket = PRESETS["table1"].make(None, "pocket")
    assert values(pocket, "seeking") == [18.73, 18.63, 25.30] and values(pocket, "student") == [4.70]
    assert values(PRESETS["table1"].make(OWN), "seeking") == []
    by_letters = PRESETS["table1"].make(None, "pocket", {"task.source": "bundled:instructions", "scorer": "rouge_l"})
    assert values(by_letters, "seeking") == [42.37, 43.08, 42.98]
    real = OWN.with_changes({"task.format": "gsm8k"})
    assert values(PRESETS["table1"].make(real), "default_lora") == [17.26, 23.38]
    full = PRESETS["table1"].make()
    assert values(full, "seeking task.source=bundled:multiple_choice") == [44.03, 45.20, 49.37]


def test_every_mark_of_a_preset_finds_a_group():
    for preset in PRESETS.values():
        found = [mark for mark, _ in marks_of(preset.make())]
        lacking = [mark for mark in preset.marks if mark not in found and mark.scorer != "rouge_l"]
        assert not lacking, preset.name
        assert all(mark.label in ("paper (LLaMA-1)", "paper (Llama-2)") for mark in preset.marks)
