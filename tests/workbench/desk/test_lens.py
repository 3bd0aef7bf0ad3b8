"""The before/after lens on real tiny runs: against PEFT's own merge, weight by weight."""

import pytest
import torch

from paraknow_core.adapters.saved import saved_changes
from paraknow_core.context import Context
from paraknow_core.errors import ModelError, RunError
from paraknow_core.models.modules import logical_weight
from paraknow_core.paths import workspace
from paraknow_core.pipeline import execute
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.settings import Settings
from paraknow_core.workbench.desk.kinds import lens
from paraknow_core.workbench.desk.requests import AdapterChange, SensitivityChange

SETTINGS = Settings(threads=1)
TRAINING = {
    "finetuning.batch_size": 10,
    "finetuning.epochs": 1,
    "finetuning.learning_rate": 0.01,
    "finetuning.validations": 0,
    "task.sizes.test": 2,
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
        return place, run

    return make


def merged(place, run, folder):
    """The student with an adapter merged by PEFT itself, and the untouched one: logical weights by module."""
    from peft import PeftModel

    student = Context(run.spec(), SETTINGS, place).student
    found = []
    for name in (None, folder):
        model = student.load()
        if name:
            model = PeftModel.from_pretrained(model, str(run.file(name))).merge_and_unload()
        held = dict(model.named_parameters())
        found.append({m.name: logical_weight(held[m.parameter], m).detach().double() for m in student.anatomy.modules})
    return student.anatomy, *found


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"method": "seeking"}),
        ("phi3", {"method": "pissa"}),
        ("gpt2", {"method": "default_lora"}),
        ("llama", {"method": "seeking", "injection.mode": "additive"}),
    ],
    ids=["residual", "fused, residual", "transposed, default", "additive"],
)
def test_the_change_is_what_peft_merges(trained, family, changes):
    place, run = trained(family, **changes)
    anatomy, untouched, final = merged(place, run, "adapter")
    changed = {change.module.name: change for change in saved_changes(run.path, anatomy)}
    assert changed.keys() == untouched.keys()
    for name, change in changed.items():
        b, a = change.total
        product = (b @ a).double()
        product = product.T if change.module.role == "embed" else product
        torch.testing.assert_close(product, final[name] - untouched[name], atol=2e-5, rtol=1e-3)
    if changes.get("injection.mode") == "additive":
        _, _, injected = merged(place, run, "init_adapter")
        for name, change in changed.items():
            product = (change.trained[0] @ change.trained[1]).double()
            product = product.T if change.module.role == "embed" else product
            torch.testing.assert_close(product, final[name] - injected[name], atol=2e-5, rtol=1e-3)


def test_norms_and_overlaps_against_the_weights_in_full(trained):
    place, run = trained()
    anatomy, untouched, final = merged(place, run, "adapter")
    found = {m["module"]: m for m in lens.adapter_change(place, SETTINGS, AdapterChange(run=run.id))["modules"]}
    start = {c.module.name: c.first for c in saved_changes(run.path, anatomy)}
    for name, record in found.items():
        delta = final[name] - untouched[name]
        delta = delta.T if record["role"] == "embed" else delta
        assert record["weight"] == pytest.approx(untouched[name].norm().item(), rel=1e-5)
        assert record["change"] == pytest.approx(delta.norm().item(), rel=1e-3)
        b0, a0 = (factor.double() for factor in start[name])
        outputs, inputs = b0 @ torch.linalg.pinv(b0), torch.linalg.pinv(a0) @ a0
        whole = delta.square().sum()
        assert record["out_share"] == pytest.approx(((outputs @ delta).square().sum() / whole).item(), abs=1e-2)
        assert record["in_share"] == pytest.approx(((delta @ inputs).square().sum() / whole).item(), abs=1e-2)
        assert 0 < record["out_cosine"] <= 1
    q = found["model.layers.0.self_attn.q_proj"]
    assert q["in_chance"] == pytest.approx(4 / 32)


def test_default_lora_has_no_outputs_to_begin_with(trained):
    place, run = trained(method="default_lora")
    records = lens.adapter_change(place, SETTINGS, AdapterChange(run=run.id))["modules"]
    inside = [r for r in records if r["layer"] is not None]
    assert all(r["out_share"] is None and r["out_cosine"] is None and r["in_share"] is not None for r in inside)


def test_sensitivity_changes_with_the_adapter_only(trained):
    place, run = trained()
    found = lens.sensitivity_change(place, SETTINGS, SensitivityChange(run=run.id, samples=3))
    assert found["samples"] == 3
    assert found["loss_after"] < found["loss_before"]  # it was trained on these
    assert all(m["before"] > 0 and m["after"] > 0 and m["before"] != m["after"] for m in found["modules"])
    place, idle = trained(**{"finetuning.max_steps": 0})
    found = lens.sensitivity_change(place, SETTINGS, SensitivityChange(run=idle.id, samples=2))
    for module in found["modules"]:
        assert module["after"] == pytest.approx(module["before"], rel=1e-3)


def test_refusals_are_sentences(trained, tmp_path, monkeypatch):
    place, run = trained(method="default_lora")
    with pytest.raises(RunError, match="choose another one"):
        lens.adapter_change(place, SETTINGS, AdapterChange(run="20200101-gone"))
    with pytest.raises(RunError, match="plain name"):
        lens.adapter_change(place, SETTINGS, AdapterChange(run="../runs"))
    monkeypatch.setattr("paraknow_core.memory.available_bytes", lambda: 1000)
    with pytest.raises(RunError, match="more memory"):
        lens.sensitivity_change(place, SETTINGS, SensitivityChange(run=run.id, samples=3))
    weights = run.file("adapter") / "adapter_model.safetensors"
    weights.write_bytes(b"no")
    with pytest.raises(RunError, match="damaged"):
        lens.adapter_change(place, SETTINGS, AdapterChange(run=run.id))
    weights.unlink()
    with pytest.raises(RunError, match="has no adapter/"):
        lens.adapter_change(place, SETTINGS, AdapterChange(run=run.id))


def test_a_student_that_was_replaced_is_a_sentence(trained, tiny):
    place, run = trained(method="default_lora")
    text = run.file("spec.yaml").read_text()
    run.file("spec.yaml").write_text(text.replace(run.spec().student.source, tiny("llama", hidden_size=64)))
    with pytest.raises(ModelError, match="was replaced"):
        lens.adapter_change(place, SETTINGS, AdapterChange(run=run.id))
