"""A student whose frozen weights are in 4 bits."""

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from paraknow_core.adapters import quantise as quantisation
from paraknow_core.adapters.quantise import quantise
from paraknow_core.errors import ModelError
from paraknow_core.methods import method
from paraknow_core.methods.start import start_adapter
from paraknow_core.paths import workspace
from paraknow_core.pipeline import execute
from paraknow_core.runs.lifecycle import create_run
from paraknow_core.settings import Settings


def test_frozen_weights_are_rounded_and_everything_else_stays(make_context, tiny, tmp_path):
    context = make_context(tiny("llama", hidden_size=64, intermediate_size=128), {"method": "pissa"})
    model = start_adapter(context, method("pissa"), None, None, tmp_path).peft_model.eval()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        factors = {name: p.clone() for name, p in model.named_parameters() if "lora" in name}
        assert quantise(model) == 2 * 7
        after = model(input_ids=ids).logits
    change = ((after - before).norm() / before.norm()).item()
    assert 0 < change < 0.3
    for name, parameter in model.named_parameters():
        if "lora" in name:
            assert torch.equal(parameter, factors[name])
    kinds = {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert not any("lm_head" in name or "lora" in name for name in kinds)


def test_a_run_trains_and_says_that_the_export_is_of_another_precision(make_context, tiny, tmp_path):
    student = tiny("llama", hidden_size=64, intermediate_size=128)
    spec = make_context(
        student, {"finetuning.max_steps": 8, "finetuning.batch_size": 5, "finetuning.learning_rate": 0.01}
    ).spec
    run = create_run(workspace(tmp_path), spec)
    result = execute(run, workspace(tmp_path), Settings(threads=1, student_bits=4))
    assert result["student_bits"] == {"bits": 4, "weights": 14}
    assert result["training"]["last_loss"] < result["training"]["first_loss"]
    assert result["step0"]["evaluation"]["passed"]  # before the rounding
    assert any("train without student_bits" in warning for warning in result["warnings"])


def test_a_missing_package_is_one_sentence(make_context, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(quantisation, "find_spec", lambda _: None)
    run = create_run(workspace(tmp_path), make_context(tiny("llama")).spec)
    with pytest.raises(ModelError, match="student_bits: 4 bits need the package bitsandbytes; `pip install"):
        execute(run, workspace(tmp_path), Settings(threads=1, student_bits=4))
