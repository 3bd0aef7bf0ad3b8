"""The spec of a study: which runs follow from it, and what is refused, in one sentence that names the key."""

import pytest

from paraknow_core import catalogue
from paraknow_core.errors import SpecError
from paraknow_core.spec import RunSpec
from paraknow_core.studies.study import (
    StudySpec,
    arms_of,
    groups_of,
    parse_study,
    parse_study_yaml,
    rates_of,
    scored_cells,
    spec_of,
    tuning_cells,
)


def test_groups_are_arms_at_points_and_cells_go_seed_by_seed():
    study = StudySpec(arms=("default_lora", "seeking"), factors={"factorisation.rank": (4, 8)}, seeds=(3, 5))
    assert [group.key for group in groups_of(study)] == [
        "default_lora factorisation.rank=4",
        "default_lora factorisation.rank=8",
        "seeking factorisation.rank=4",
        "seeking factorisation.rank=8",
    ]
    cells = list(scored_cells(study))
    assert [cell.seed for cell in cells] == [3] * 4 + [5] * 4
    assert [cell.spec.factorisation.rank for cell in cells] == [4, 8] * 4
    for cell in cells:
        assert cell.spec.seed == cell.spec.extraction.seed == cell.spec.mapping.seed == cell.seed
        assert cell.spec == spec_of(study, cell.group, cell.seed)
    assert len({cell.key for cell in cells}) == len(cells)


@pytest.mark.parametrize("name", catalogue.ARMS)
def test_cells_are_the_specs_that_validation_gives(name):
    """Runs of a group differ from its first in what is known to be valid, and are not validated again."""
    study = StudySpec(arms=(name,), against=name, tuning={}, seeds=(0, 4))
    group = groups_of(study)[0]
    for cell in [*tuning_cells(study), *scored_cells(study, {group.key: 1e-3})]:
        tuning = cell.purpose == "tuning"
        assert cell.spec == spec_of(study, group, cell.seed, cell.rate, tuning=tuning)
        assert cell.spec == RunSpec.model_validate(cell.spec.model_dump())


@pytest.mark.parametrize("name", ["untrained_teacher", "self_block", "seeking"])
def test_arms_with_another_teacher_keep_the_judge(name):
    """Who judges where nobody is named is the teacher: that of the base, or scores would differ by their judge."""
    base = {"task": {"source": "bundled:open_writing"}}
    study = parse_study({"arms": [name], "against": name, "base": base})
    spec = spec_of(study, groups_of(study)[0], 1)
    assert (spec.task.judge or spec.teacher) == study.base.teacher
    assert (spec.task.judge is None) == (name == "seeking")
    study = parse_study({"arms": [name], "against": name})
    assert spec_of(study, groups_of(study)[0], 1).task.judge is None


def test_an_arm_of_its_own_changes_an_arm_of_the_catalogue():
    study = parse_study(
        {"arms": ["default_lora", {"name": "cold", "arm": "seeking", "changes": {"mapping.strategy": "last"}}]}
    )
    arm = arms_of(study)[1]
    assert (arm.name, arm.label) == ("cold", "cold")
    spec = spec_of(study, groups_of(study)[1], 0)
    assert (spec.method, spec.mapping.strategy) == ("seeking", "last")


def test_grids_start_lower_for_starts_that_are_not_zero():
    study = StudySpec(arms=("default_lora", "pissa", "seeking"), tuning={"points": 5})
    middle = {group.arm.name: rates_of(study, group)[2] for group in groups_of(study)}
    own = RunSpec().finetuning.learning_rate
    assert middle["default_lora"] == pytest.approx(own)
    assert middle["pissa"] == pytest.approx(own / 10)
    assert own / 10 <= middle["seeking"] < own / 2
    given = StudySpec(arms=("default_lora", "pissa"), tuning={"points": 3, "centres": {"pissa": 2e-3}})
    assert rates_of(given, groups_of(given)[1])[1] == pytest.approx(2e-3)
    for_all = StudySpec(arms=("default_lora", "pissa"), tuning={"points": 3, "centre": 1e-3})
    assert all(rates_of(for_all, group)[1] == pytest.approx(1e-3) for group in groups_of(for_all))


def test_rates_are_a_quarter_of_a_decade_apart():
    study = StudySpec(tuning={"points": 9, "centre": 2e-4})
    rates = rates_of(study, groups_of(study)[0])
    assert rates[0] == pytest.approx(2e-5) and rates[8] == pytest.approx(2e-3)
    assert all(b / a == pytest.approx(10**0.25, rel=1e-3) for a, b in zip(rates, rates[1:], strict=False))


def test_nothing_is_tuned_that_is_not_trained():
    study = StudySpec(arms=("default_lora", "zero_step"), tuning={})
    assert [bool(rates_of(study, group)) for group in groups_of(study)] == [True, False]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "holds list, not a mapping"),
        ({"sedes": [1]}, "unknown key 'sedes'; known keys are against, arms"),
        ({"seeds": ["1"]}, "seeds.0: '1' given; input should be a valid integer"),
        ({"seeds": "0-5"}, "seeds: '0-5' given"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": [1, 1]}, "seeds: one is given twice"),
        ({"seeds": [-1]}, "seeds.0: -1 given"),
        ({"margin": "1"}, "margin: '1' given; input should be a valid number"),
        ({"margin": 0}, "margin: 0 given; input should be greater than 0"),
        ({"arms": ["default_lora", "x"]}, "arms.1: 'x' given; input should be 'seeking'"),
        (
            {"arms": ["default_lora", {"name": "a", "armx": "pissa"}]},
            "unknown key 'armx' under arms.1; known keys are arm",
        ),
        ({"arms": ["default_lora", 5]}, "arms.1: 5 given"),
        ({"arms": ["seeking"]}, "against: 'default_lora' is not among the arms seeking"),
        ({"arms": ["default_lora", "default_lora"]}, "arms: 'default_lora' is given twice"),
        ({"base": {"seedx": 1}}, "unknown key 'seedx' under base; known keys are extraction"),
        ({"base": {"finetuning": {"x": 1}}}, "unknown key 'x' under base.finetuning; known keys are batch_size"),
        ({"base": {"seed": "0"}}, "base.seed: '0' given"),
        ({"tuning": {"points": "5"}}, "tuning.points: '5' given"),
        ({"tuning": {"pointsx": 5}}, "unknown key 'pointsx' under tuning; known keys are centre"),
        ({"tuning": {"seeds": [0, 0]}}, "tuning.seeds: one is given twice"),
        ({"tuning": {"centres": {"nobody": 1e-3}}}, "tuning.centres: 'nobody' is no arm"),
        ({"tuning": {}, "base": {"finetuning": {"validations": 0}}}, "measures no validation loss"),
        ({"tuning": {}, "factors": {"task.sizes.validation": [8, 0]}}, "measures no validation loss"),
        ({"factors": {"extraction.structure": "neuron"}}, "factors.extraction.structure: 'neuron' given"),
        ({"factors": {"extraction.structure": ["neuronx"]}}, "'neuronx' given; input should be 'submatrix'"),
        ({"factors": {"extraction.x": [1]}}, "unknown key 'extraction.x'"),
        ({"factors": {"seed": [1]}}, "factors: 'seed' follows the seed of a run"),
        ({"factors": {"until": ["training"]}}, "factors: 'until' is set by the study itself"),
        ({"factors": {"factorisation.rank": [8, 8]}}, "factors: 'factorisation.rank' has a value twice"),
        ({"factors": {"factorisation.rank": []}}, "factors: 'factorisation.rank' has no values"),
        ({"factors": {"factorisation.rank": list(range(1, 1001))}}, "5,000 groups"),
        ({"factors": {"task.subset": [None, "None"]}}, "factors: 'task.subset' has a value twice"),
        ({"factors": {"method": ["pissa", "eva"]}}, "factors: 'method' is what arm 'seeking' sets"),
        ({"arms": ["default_lora", "self_block"], "factors": {"teacher.source": ["a", "b"]}}, "arm 'self_block' sets"),
        ({"arms": ["default_lora", "difference"], "factors": {"injection.mode": ["residual"]}}, "'difference' sets"),
        ({"factors": {"finetuning.learning_rate": [1e-3, 1e-4]}, "tuning": {}}, "is chosen by tuning"),
        ({"arms": ["default_lora", {"name": "seeking", "arm": "pissa"}]}, "arms: 'seeking' is the name of another arm"),
        ({"seeds": list(range(1000)), "factors": {"factorisation.rank": list(range(1, 301))}}, "1,500,000 runs"),
        ({"scorer": "x"}, "scorer: 'x' given"),
        ({"scorer": "rouge_l", "base": {"task": {"scorers": ["number_match"]}}}, "'rouge_l' is none of 'seeking'"),
        (
            {"arms": ["default_lora", "wrong_task"], "wrong_task": "bundled:word_problems"},
            "in 'wrong_task': wrong_task: bundled:word_problems is the run's own task",
        ),
        (
            {
                "arms": ["default_lora", "self_block"],
                "base": {"mapping": {"strategy": "manual", "layers": [0, 1, 2, 3]}},
            },
            "mapping.strategy: 'self_block' takes the student's layers",
        ),
        (
            {
                "arms": ["default_lora", "wrong_task"],
                "base": {"sensitivity": {"selection": "manual", "ids": ["train-0"]}},
            },
            "sensitivity.selection: 'wrong_task' takes seed samples of another task",
        ),
        ({"hold": ["x"]}, "hold.0: 'x' given"),
        ({"version": 2}, "version: 2 given"),
        ({"name": "hf_abcdefghijklmnopqrstuvwxyzabcdefgh"}, "password or a token"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(data, words):
    with pytest.raises(SpecError) as refusal:
        parse_study(data, "study.yaml")
    text = str(refusal.value)
    assert text.startswith("study.yaml: ") and words in text
    assert "\n" not in text and len(text) < 700


def test_an_own_arm_may_list_what_is_of_its_own_teacher_or_task():
    layers, samples = {"strategy": "manual", "layers": [0, 1]}, {"selection": "manual", "ids": ["a"]}
    own = [
        {"name": "self", "arm": "self_block", "changes": {"mapping.layers": [1, 0]}},
        {"name": "wrong", "arm": "wrong_task", "changes": {"sensitivity.ids": ["b"]}},
    ]
    base = {"mapping": layers, "sensitivity": samples}
    assert len(parse_study({"arms": ["default_lora", *own], "base": base}).arms) == 3


def test_a_study_is_the_same_after_yaml():
    study = StudySpec(
        arms=("default_lora", {"name": "own", "arm": "seeking", "changes": {"injection.mode": "additive"}}),
        factors={"extraction.origin": (["attention"], ["ffn"])},
        tuning={"centres": {"own": 1e-3}},
    )
    again = parse_study_yaml(study.to_yaml())
    assert again.to_yaml() == study.to_yaml()
    assert [cell.spec for cell in scored_cells(again)] == [cell.spec for cell in scored_cells(study)]


def test_the_wrong_task_is_another_one_at_every_point():
    tasks = ("bundled:word_problems", "bundled:multiple_choice", "bundled:instructions")
    study = StudySpec(arms=("default_lora", "wrong_task"), factors={"task.source": tasks})
    for group in groups_of(study)[3:]:
        spec = spec_of(study, group, 0)
        assert spec.sensitivity.task not in (None, spec.task.source)
