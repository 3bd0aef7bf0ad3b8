"""The causal check on real tiny runs: its edits against weights that PEFT itself merged."""

import pytest
import torch

from paraknow_core.context import Context
from paraknow_core.errors import RunError
from paraknow_core.files.json_file import read_object
from paraknow_core.models.load import parameters_of
from paraknow_core.models.modules import logical_weight
from paraknow_core.paths import workspace
from paraknow_core.pipeline import execute
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.settings import Settings
from paraknow_core.training import causal
from tests.marking import mostly_slow

SETTINGS = Settings(threads=1)
TRAINING = {
    "finetuning.batch_size": 10,
    "finetuning.epochs": 1,
    "finetuning.learning_rate": 0.01,
    "finetuning.validations": 0,
    "task.sizes.test": 4,
    "references": [],
}


@pytest.fixture
def trained(make_context, tiny, tmp_path):
    """Return a maker of finished tiny runs: family, dotted changes."""
    place = workspace(tmp_path)

    def make(family="llama", **changes):
        context = make_context(tiny(family), {**TRAINING, **changes})
        run = create_run(place, context.spec)
        execute(run, place, SETTINGS)
        return Context(context.spec, SETTINGS, place), run

    return make


def test_every_layer_is_edited_and_the_check_is_kept(trained):
    context, run = trained(method="seeking")
    result = causal.causal_check(context, run, examples=3)
    layers = [unit["layer"] for unit in result["units"] if unit["layer"] is not None]
    assert layers == list(range(context.student.anatomy.num_hidden_layers))
    assert (result["examples"], result["by"]) == (3, "layer")
    for unit in result["units"]:
        assert unit["norm"] > 0
        assert unit["sensitivity"] > 0
        for edit in causal.EDITS:
            effect = unit[edit]["nats"]
            assert effect["low"] <= effect["mean"] <= effect["high"]
    assert any(unit["without"]["nats"]["mean"] != 0 for unit in result["units"])
    assert read_object(run.file(causal.file_of("layer"))) == result
    context.student.load = None  # a kept check loads nothing
    assert causal.causal_check(context, run, examples=3) == result


def test_a_method_without_a_teacher_has_effects_alone(trained):
    context, run = trained(method="default_lora")
    result = causal.causal_check(context, run, by="module", examples=2)
    assert result["agreement"] == {}
    assert {unit["sensitivity"] for unit in result["units"]} == {None}
    assert [unit["role"] for unit in result["units"]].count("down") == context.student.anatomy.num_hidden_layers


def test_a_run_that_changed_nothing_is_refused(trained):
    context, run = trained(method="seeking", **{"finetuning.max_steps": 0})
    with pytest.raises(RunError, match="no change to swap"):
        causal.causal_check(context, run)


def test_what_would_take_too_much_is_refused_before_the_student_is_loaded(trained, monkeypatch):
    context, run = trained(method="full_finetuning")
    context.student.load = None
    monkeypatch.setattr("paraknow_core.memory.available_bytes", lambda: 1000)
    with pytest.raises(RunError, match="editing its .* weights here takes about .* more memory"):
        causal.causal_check(context, run)
    monkeypatch.setattr(causal, "MOST_WHOLE", 100)
    with pytest.raises(RunError, match="trained .* weights themselves, and random twins .* more than 100 would"):
        causal.causal_check(context, run)


@pytest.mark.parametrize("family", mostly_slow(["llama", "gpt2", "phi3"], "phi3"))
def test_edits_leave_all_other_weights_as_trained(trained, family):
    """Weights merged by PEFT are the truth: an edit of one module changes that module, and is taken back."""
    from peft import PeftModel

    from paraknow_core.adapters.saved import saved_changes

    context, run = trained(family, method="seeking")
    anatomy = context.student.anatomy
    changes = list(saved_changes(run.path, anatomy))
    bench = causal._Bench(context, changes, context.task.split("test")[:2], 1)
    model = PeftModel.from_pretrained(context.student.load(), str(run.file("adapter"))).merge_and_unload()
    merged = parameters_of(model, anatomy)

    def weights(parameters):
        return {c.module.name: logical_weight(parameters[c.module.parameter].detach(), c.module) for c in changes}

    truth, chosen = weights(merged), next(c for c in changes if c.module.role == "v")
    seen = {}
    bench.measure = lambda: seen.update({name: w.clone() for name, w in weights(bench.parameters).items()})
    for edit in causal.EDITS:
        bench.edited([chosen], edit)
        for name, weight in seen.items():
            same = torch.allclose(weight, truth[name], atol=1e-5)
            assert same == (name != chosen.module.name), (edit, name)
        untouched = logical_weight(context.student.weights()[chosen.module.parameter], chosen.module).float()
        left = torch.linalg.svdvals(seen[chosen.module.name] - untouched)
        change = torch.linalg.svdvals(chosen.total[0] @ chosen.total[1])
        expected = change if edit == "twin" else torch.zeros_like(change)
        assert torch.allclose(left, expected, atol=1e-4)
    for name, weight in weights(bench.parameters).items():
        assert torch.allclose(weight, truth[name], atol=1e-5), name
