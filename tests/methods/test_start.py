"""Injection and export for every family and mode, against PEFT and the untouched student."""

from itertools import product

import pytest
import torch

from paraknow_core.adapters.export import check_export, export_adapter, step0_identity
from paraknow_core.adapters.inject import check_rank, host_factors, hosts
from paraknow_core.catalogue import METHODS
from paraknow_core.errors import ShapeError
from paraknow_core.files.json_file import read_json
from paraknow_core.methods import method
from paraknow_core.methods.base import MethodInputs
from paraknow_core.methods.mapping import map_layers
from paraknow_core.methods.plan import plan_transfer
from paraknow_core.methods.seeking.blocks import extract_blocks
from paraknow_core.methods.start import start_adapter
from paraknow_core.models.modules import logical_weight
from paraknow_core.sensitivity.measure import sensitivity
from tests.marking import mostly_slow
from tests.tiny_models import FAMILIES

STUDENTS = [(family, {}) for family in FAMILIES] + [
    ("llama", {"tie_word_embeddings": True}),
    ("gpt_neox", {"tie_word_embeddings": True}),
    ("phi", {"tie_word_embeddings": True}),  # its output layer has a bias
]


def start(context, folder, name=None):
    chosen = method(name or context.spec.method)
    modules = [m for m in context.student.anatomy.modules if m.role in context.spec.extraction.roles]
    store = plan = None
    if chosen.needs_teacher:
        store = sensitivity(context)
        plan = plan_transfer(context, map_layers(context.spec.mapping, context, store))
    student = context.student.load()
    chosen.learn(MethodInputs(context, dict(student.named_parameters()), store, plan, student))
    return start_adapter(context, chosen, store, plan, folder, student), modules


def samples(context, count=3):
    return context.encode(context.task.split("test")[:count], context.student)


def disturb(peft_model):
    """Stand in for training: move every factor."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if parameter.requires_grad and "lm_head" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))


EVERY_START = list(product(STUDENTS, METHODS))
QUICK_STARTS = [(student, name) for student, name in EVERY_START if name == "seeking" or student == STUDENTS[0]]


@pytest.mark.parametrize(("student", "name"), mostly_slow(EVERY_START, *QUICK_STARTS))
def test_step_0_identity_and_export_on_the_untouched_student(student, name, tiny, make_context, tmp_path):
    family, overrides = student
    context = make_context(tiny(family, **overrides), {"method": name})
    started, modules = start(context, tmp_path)
    identity = step0_identity(started.peft_model, context.student.load(), samples(context))
    assert identity["evaluation"]["passed"] == METHODS[name].keeps_student, identity
    assert identity["training"]["passed"] == METHODS[name].keeps_student, identity
    disturb(started.peft_model)
    moved = step0_identity(started.peft_model, context.student.load(), samples(context))
    assert not moved["evaluation"]["passed"]
    export_adapter(
        started.peft_model,
        started.initial,
        context.student.anatomy,
        modules,
        context.spec.factorisation,
        tmp_path / "adapter",
        "student",
        whole=method(name).row.whole,
    )
    check = check_export(started.peft_model, context.student.load(), tmp_path / "adapter", samples(context))
    assert check["passed"], check
    assert check["merges"], check


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt_neox", "gpt2"])
@pytest.mark.parametrize("mode", ["residual", "additive", "difference"])
def test_the_base_and_the_product_are_what_the_mode_says(family, mode, tiny, make_context, tmp_path):
    context = make_context(tiny(family), {"injection.mode": mode})
    started, modules = start(context, tmp_path)
    untouched = dict(context.student.load().named_parameters())
    inputs = MethodInputs(context, untouched, sensitivity(context), plan_transfer(context, started.layer_mapping))
    blocks = {block.student.name: block for block in extract_blocks(inputs)}
    rank, scaling = 4, 1.5
    assert blocks
    for host, parts in hosts(modules).items():
        layer = started.peft_model.base_model.model.get_submodule(host)
        a, b = (f.detach() for f in host_factors(layer))
        for index, module in enumerate(parts):
            product = scaling * (b @ a)
            product = product.T if module.role == "embed" else product
            base = logical_weight(layer.get_base_layer().weight.detach(), module)
            own = logical_weight(untouched[module.parameter].detach(), module)
            update = logical_weight(product.T if module.transposed else product, module)
            if module.name not in blocks:
                torch.testing.assert_close(base, own)
                continue
            target = blocks[module.name].weight
            if mode == "difference":
                target = (target - own) * blocks[module.name].received / scaling
            u, s, v = torch.linalg.svd(target, full_matrices=False)
            best = u[:, :rank] @ torch.diag(s[:rank]) @ v[:rank]
            torch.testing.assert_close(update, scaling * best, rtol=1e-3, atol=1e-5)
            expected_base = own - scaling * best if mode == "residual" else own
            torch.testing.assert_close(base, expected_base, rtol=1e-4, atol=1e-5)
            assert a.shape[0] == rank * len(parts), index


def test_a_resumed_start_is_bit_identical(tiny, make_context, tmp_path):
    context = make_context(tiny("gpt_neox"))
    first, _ = start(context, tmp_path)
    second, _ = start(context, tmp_path)
    for (name, a), (_, b) in zip(
        first.peft_model.named_parameters(), second.peft_model.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name
    assert first.layer_mapping == second.layer_mapping


def test_tied_factors_get_one_full_gradient(tiny, make_context, tmp_path):
    context = make_context(tiny("llama", tie_word_embeddings=True))
    started, modules = start(context, tmp_path)
    peft_model = started.peft_model
    embed = peft_model.base_model.model.get_input_embeddings()
    head = peft_model.base_model.model.get_output_embeddings()
    ids = torch.tensor([samples(context, 1)[0].input_ids])
    peft_model.eval()
    peft_model(input_ids=ids, labels=ids).loss.backward()
    a, b = host_factors(embed)
    assert all(factor.grad is None for factor in host_factors(head))
    # Numerically: move one entry of the shared storage, watch the loss.
    for factor, index in ((a, (1, 5)), (b, (2, 1))):
        step = 1e-2  # a smaller one shows little but the rounding of a float32 loss
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                factor[index] += sign * step
                losses.append(peft_model(input_ids=ids, labels=ids).loss.double().item())
                factor[index] -= sign * step
        assert factor.grad[index].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=0.01, abs=5e-5)
    assert any(m.role == "embed" for m in modules)


def test_pissa_and_olora_equal_peft(tiny, make_context, tmp_path):
    from peft import LoraConfig, get_peft_model

    for name in ("pissa", "olora"):
        context = make_context(tiny("llama"), {"method": name, "extraction.origin": ["q", "down"]})
        started, modules = start(context, tmp_path / name)
        config = LoraConfig(r=4, lora_alpha=6, target_modules=[m.host for m in modules], init_lora_weights=name)
        theirs = get_peft_model(context.student.load(), config)
        for module in modules:
            for model, store in ((started.peft_model, ours := {}), (theirs, other := {})):
                layer = model.base_model.model.get_submodule(module.host)
                a, b = host_factors(layer)
                store.update(base=layer.get_base_layer().weight, product=b @ a)
            torch.testing.assert_close(ours["product"], other["product"], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(ours["base"], other["base"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("structure", ["submatrix", "row_column", "neuron", "random", "even_slice"])
def test_structures_are_recorded(structure, tiny, make_context, tmp_path):
    context = make_context(tiny("llama"), {"extraction.structure": structure, "extraction.origin": ["ffn", "embed"]})
    start(context, tmp_path)
    record = read_json(tmp_path / "extraction.json")
    assert set(record["modules"]) == {m.name for m in context.student.anatomy.modules if m.group == "ffn"} | {
        "model.embed_tokens"
    }
    for entry in record["modules"].values():
        assert 0 <= entry["captured_mass"] <= 1
        assert entry["window_sum"] >= 0
        assert entry["shape"] == entry["student_shape"]
        assert len(entry["singular_values"]) == 4
        assert (entry["top_left"] is not None) == (structure == "submatrix")
        if structure == "neuron":  # the best that any choice of so many weights can capture
            assert entry["captured_mass"] >= entry["area_fraction"]


def test_a_larger_student_gets_the_block_placed_and_keeps_the_rest(tiny, make_context, tmp_path):
    student = tiny("llama", hidden_size=64, intermediate_size=96, num_hidden_layers=6)
    context = make_context(student, {"injection.mode": "difference"})
    started, _ = start(context, tmp_path)
    assert started.layer_mapping == [0, 1, 2, 3, None, None]
    record = read_json(tmp_path / "extraction.json")
    name = "model.layers.0.mlp.down_proj"
    assert record["modules"][name]["action"] == "place"
    assert record["modules"][name]["shape"] == [48, 80]
    layer = started.peft_model.base_model.model.get_submodule(name)
    a, b = (f.detach() for f in host_factors(layer))
    update = b @ a
    assert update[:48, :80].abs().max() > 1e-3
    assert update[48:].abs().max() < 1e-6
    assert update[:, 80:].abs().max() < 1e-6
    assert "model.layers.5.mlp.down_proj" in record["skipped"]


def test_only_shared_tokens_move(tiny, make_context, tmp_path):
    student = tiny("llama", extra_tokens=("alpha", "beta"))
    context = make_context(student, {"injection.mode": "difference", "extraction.origin": ["embedding"]})
    started, _ = start(context, tmp_path)
    layer = started.peft_model.base_model.model.get_input_embeddings()
    a, b = (f.detach() for f in host_factors(layer))
    update = (b @ a).T
    assert update.shape[0] == 261
    assert update[:259].abs().max() > 1e-3
    assert update[259:].abs().max() < 1e-6


def test_refusals_come_before_anything_costly(tiny, make_context):
    context = make_context(tiny("llama"))
    with pytest.raises(ShapeError, match=r"rank 99 does not fit .* choose 1 to"):
        check_rank(context.student.anatomy.modules, 99)
    with pytest.raises(ShapeError, match="no module of these roles"):
        check_rank([], 4)
    gate_only = make_context(tiny("gpt2"), {"extraction.origin": ["q"]})
    plan_transfer(gate_only).refuse_blocked()
