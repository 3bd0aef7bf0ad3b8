"""Logical weights must be what the model's own forward pass computes with."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from paraknow_core.errors import ModelError
from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.load import parameters_of
from paraknow_core.models.modules import LogicalModule, RowBlocks, add_product_, logical_weight
from paraknow_core.models.source import resolve_model
from tests.tiny_models import FAMILIES, build_tiny

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def spy_attention(seen: list):
    """Return an attention function that records the queries, keys and values it is given."""

    def attention(module, query, key, value, mask, scaling=None, dropout=0.0, **kwargs):
        seen.append((query.detach(), key.detach(), value.detach()))
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        weights = torch.softmax(query @ key.transpose(-1, -2) * (scaling or 1.0), -1)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    return attention


def record(model) -> tuple[dict, list]:
    """Run the model on one prompt; return module path -> (input, output) and the (q, k, v) of each layer."""
    seen, flows, hooks = [], {}, []
    ALL_ATTENTION_FUNCTIONS.register("spy", spy_attention(seen))
    model.set_attn_implementation("spy")
    for name, module in model.named_modules():
        keep = lambda module, args, output, name=name: flows.__setitem__(name, (args[0] if args else None, output))  # noqa: E731
        hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 70, 80, 90, 100]]))
    for hook in hooks:
        hook.remove()
    return flows, seen


def apply(model, module: LogicalModule, inputs: torch.Tensor) -> torch.Tensor:
    """Apply one logical module, with its own part of the bias, to the host's inputs."""
    host = model.get_submodule(module.host)
    output = inputs @ logical_weight(host.weight, module).T
    bias = getattr(host, "bias", None)
    if bias is None:
        return output
    rows = range(len(bias)) if module.rows is None else brute_rows(module.rows)
    return output + bias[list(rows)]


def brute_rows(rows: RowBlocks) -> list[int]:
    return [rows.offset + i * rows.stride + j for i in range(rows.count) for j in range(rows.block)]


@pytest.mark.parametrize("family", FAMILIES)
def test_logical_weights_reproduce_the_forward_pass(family, tiny):
    folder = tiny(family)
    anatomy = read_anatomy(resolve_model(str(folder)))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    flows, attention = record(model)
    for layer in range(anatomy.num_hidden_layers):
        part = {module.role: module for module in anatomy.layer(layer)}
        with torch.no_grad():
            check_attention(model, part, flows, attention[layer], family)
            check_ffn(model, part, flows, anatomy.activation)


def check_attention(model, part, flows, seen, family) -> None:
    host = model.get_submodule(part["q"].host.rsplit(".", 1)[0])
    scale = host.scaling if family == "opt" else 1.0  # OPT scales its queries before attention
    for role, tensor in zip("qkv", seen, strict=True):
        flat = apply(model, part[role], flows[part[role].host][0])
        assert tensor.shape[1] == part[role].heads and tensor.shape[3] == part[role].head_size
        heads = flat.unflatten(-1, (part[role].heads, part[role].head_size)).transpose(1, 2)
        norm = getattr(host, f"{role}_norm", None)
        heads = heads if norm is None else norm(heads)
        # The first position is not rotated, so there queries and keys are what the weights give.
        last = tensor.shape[2] if role == "v" else 1
        torch.testing.assert_close(heads[:, :, :last] * (scale if role == "q" else 1), tensor[:, :, :last], **CLOSE)
    inputs, output = flows[part["o"].host]
    torch.testing.assert_close(apply(model, part["o"], inputs), output, **CLOSE)


def check_ffn(model, part, flows, activation) -> None:
    inputs = flows[part["up"].host][0]
    inner = apply(model, part["up"], inputs)
    if "gate" in part:
        inner = ACT2FN[activation](apply(model, part["gate"], inputs)) * inner
    else:
        inner = ACT2FN[activation](inner)
    given, output = flows[part["down"].host]
    torch.testing.assert_close(inner.reshape(given.shape), given, **CLOSE)
    torch.testing.assert_close(apply(model, part["down"], given), output, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_and_parameters_match_the_loaded_model(family, tiny):
    folder = tiny(family)
    anatomy = read_anatomy(resolve_model(str(folder)))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    parameters = parameters_of(model, anatomy)
    ends = {m.role: parameters[m.parameter] for m in anatomy.modules if m.layer is None}
    assert ends["embed"] is model.get_input_embeddings().weight
    assert ends.get("head", ends["embed"]) is model.get_output_embeddings().weight
    assert ("head" in ends) != anatomy.tied
    assert anatomy.parameters == sum(parameter.numel() for parameter in model.parameters())
    names = {name for name, _ in model.named_parameters()}
    assert names == {m.parameter for m in anatomy.modules} | {o.name for o in anatomy.other}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_changes_its_own_rows_and_nothing_else(family, tiny):
    folder = tiny(family)
    anatomy = read_anatomy(resolve_model(str(folder)))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    parameters = parameters_of(model, anatomy)
    for module in (*anatomy.layer(1), *(m for m in anatomy.modules if m.layer is None)):
        before = {m.name: logical_weight(parameters[m.parameter], m).detach().clone() for m in anatomy.modules}
        b, a = torch.randn(module.shape[0], 2), torch.randn(2, module.shape[1])
        add_product_(parameters[module.parameter], module, b, a)
        delta = b @ a
        for other in anatomy.modules:
            expected = before[other.name] + (delta if other is module else 0)
            torch.testing.assert_close(logical_weight(parameters[other.parameter], other).detach(), expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_slices_agree_with_counting_rows(heads, parts, head, width, transposed):
    stored = torch.arange(float(heads * parts * head * width)).reshape(heads * parts * head, width)
    parameter = stored.T.contiguous() if transposed else stored
    for part in range(parts):
        rows = RowBlocks(part * head, head, parts * head, heads)
        module = LogicalModule("m", "q", "attention", 0, (rows.rows, width), "m.weight", "m", rows, transposed)
        expected = stored[brute_rows(rows)]
        assert torch.equal(logical_weight(parameter, module), expected)
        changed = parameter.clone()
        add_product_(changed, module, torch.ones(module.shape[0], 1), torch.ones(1, width))
        counted = stored.clone()
        counted[brute_rows(rows)] += 1
        assert torch.equal(changed.T if transposed else changed, counted)


def test_stacked_rows_and_transposed_storage_are_views_and_carry_gradients():
    parameter = torch.zeros(4, 9, requires_grad=True)
    module = LogicalModule("c.k", "k", "attention", 0, (3, 4), "c.weight", "c", RowBlocks(3, 3, 3, 1), True)
    weight = logical_weight(parameter, module)
    assert weight.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr()
    weight.sum().backward()
    assert parameter.grad.sum() == 12 and parameter.grad[:, 3:6].sum() == 12


def test_a_half_precision_parameter_is_updated_in_full_precision():
    parameter = torch.full((1, 1), 1.0, dtype=torch.bfloat16)
    module = LogicalModule("m", "o", "attention", 0, (1, 1), "m.weight", "m")
    more_than_half_a_step = torch.full((1, 1), 0.0078125 / 2 + 1e-4)
    add_product_(parameter, module, more_than_half_a_step, torch.ones(1, 1))
    assert parameter.item() == 1.0078125


def test_an_update_of_another_shape_is_refused():
    module = LogicalModule("m.q", "q", "attention", 0, (2, 3), "m.weight", "m")
    with pytest.raises(ModelError, match=r"m\.q: an update of shape \(3, 2\) does not fit \(2, 3\)"):
        add_product_(torch.zeros(2, 3), module, torch.zeros(3, 1), torch.zeros(1, 2))


def test_a_resized_model_is_refused(tiny, tmp_path):
    anatomy = read_anatomy(resolve_model(str(tiny("llama"))))
    other = AutoModelForCausalLM.from_pretrained(build_tiny("llama", tmp_path / "wide", intermediate_size=60))
    with pytest.raises(ModelError, match="gate_proj.weight has shape"):
        parameters_of(other, anatomy)
    other = AutoModelForCausalLM.from_pretrained(build_tiny("llama", tmp_path / "short", num_hidden_layers=1))
    with pytest.raises(ModelError, match="no parameter model.layers.1"):
        parameters_of(other, anatomy)
