"""The hooks of a method: when they are called, and what a run does with what they return."""

import pytest
import torch

from paraknow_core.adapters.update import Update
from paraknow_core.catalogue import METHODS
from paraknow_core.context import Work
from paraknow_core.files.json_file import read_json
from paraknow_core.methods import method, stages, wanted
from paraknow_core.methods.base import Method
from paraknow_core.methods.start import start_adapter
from paraknow_core.runs.folder import RunFolder


class Constant(Method):
    """Every hook, on one module: a learned constant in both factors."""

    trains = ("B",)

    def __init__(self):
        super().__init__(METHODS["default_lora"])
        self.calls, self.value = [], 0.0

    def learn(self, inputs):
        self.calls.append("learn")
        self.value = inputs.scaling

    def start(self, inputs):
        self.calls.append("start")
        module = next(m for m in inputs.context.student_modules if m.role == "down")
        rank = inputs.context.spec.factorisation.rank
        a, b = torch.full((rank, module.shape[1]), self.value), torch.full((module.shape[0], rank), self.value)
        yield Update(module, a, b, False, {"value": self.value})

    def loss(self, inputs):
        self.calls.append("loss")
        return lambda model, batch, outputs: outputs


def test_a_run_calls_the_hooks_in_order_and_a_resumed_one_the_loss_alone(tiny, make_context, tmp_path):
    context = make_context(tiny("llama"))
    started = []
    for calls in (["learn", "start", "loss"], ["loss"]):
        work = Work(context, RunFolder(tmp_path), Constant())
        stages.learn(work)
        stages.extract(work)
        assert work.method.calls == calls
        assert work.started.loss(None, None, 7) == 7
        started.append(work.started)
    name = "model.layers.0.mlp.down_proj"
    assert read_json(tmp_path / "extraction.json")["modules"] == {name: {"value": 1.5}}
    for adapter in started:
        layer = adapter.peft_model.base_model.model.get_submodule(name)
        assert (layer.lora_A["default"].weight == 1.5).all()
        trained = [n for n, p in adapter.peft_model.named_parameters() if p.requires_grad]
        assert trained
        assert all("lora_B" in n or "lora_embedding_B" in n for n in trained)


def test_by_default_both_factors_are_trained_and_nothing_is_added(tiny, make_context, tmp_path):
    started = start_adapter(make_context(tiny("llama")), method("default_lora"), None, None, tmp_path)
    trained = {n for n, p in started.peft_model.named_parameters() if p.requires_grad}
    assert {n.rsplit("_", 1)[1][0] for n in trained} == {"A", "B"}
    assert started.loss is None


@pytest.mark.parametrize(
    ("changes", "structures"),
    [
        ({}, {"submatrix", "row_column"}),
        ({"method": "random_offset"}, {"submatrix", "row_column"}),
        ({"extraction.structure": "neuron"}, {"submatrix", "row_column", "neuron"}),
        ({"extraction.structure": "random"}, {"submatrix", "row_column"}),
        ({"method": "default_lora", "until": "sensitivity"}, {"submatrix", "row_column"}),
    ],
)
def test_all_arms_want_the_usual_structures_so_that_they_share_a_measurement(changes, structures, tiny, make_context):
    requests = wanted(make_context(tiny("phi3"), changes))
    assert {request.key.split()[0] for request in requests} == structures
    assert {request.role for request in requests} == {"q", "k", "v", "o", "gate", "up", "down", "embed", "head"}


def test_nothing_is_wanted_of_a_teacher_without_a_student(teacher, make_context):
    assert wanted(make_context(teacher, {"until": "sensitivity"})) == ()
