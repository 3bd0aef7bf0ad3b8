"""The arms that ask the student about the seed samples, inside a student: against PEFT, and where PEFT differs."""

import json

import pytest
import torch
from peft import EvaConfig, LoraConfig, LoraGAConfig, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga

from paraknow_core.adapters.inject import host_factors
from paraknow_core.catalogue import METHODS
from paraknow_core.context import Work
from paraknow_core.errors import DataError, ShapeError
from paraknow_core.methods import collected, method, seed_samples, stages
from paraknow_core.methods.base import MethodInputs
from paraknow_core.models.modules import logical_weight
from paraknow_core.ops import initialisation
from paraknow_core.ops.initialisation import input_directions
from paraknow_core.runs.folder import RunFolder
from paraknow_core.training.preparation import check_examples, refuse_unfit
from tests.methods.test_start import start

ASKING = tuple(name for name, row in METHODS.items() if row.reads_samples)
RANK, SCALING = 4, 1.5


def factors(model, host):
    return (factor.detach() for factor in host_factors(model.base_model.model.get_submodule(host)))


def base(model, host):
    return model.base_model.model.get_submodule(host).get_base_layer().weight.detach()


def config(modules, name, **options):
    hosts = [module.host for module in modules]
    return LoraConfig(r=RANK, lora_alpha=6, target_modules=hosts, init_lora_weights=name, **options)


def run(model, samples, labels=False):
    for sample in samples:
        ids = torch.tensor([sample.input_ids])
        targets = {"labels": torch.tensor([sample.labels])} if labels else {}
        yield model(input_ids=ids, **targets)


def samples_of(context):
    return context.encode(context.seed_samples, context.student)


def updates(context, name):
    student = context.student.load()
    inputs = MethodInputs(context, dict(student.named_parameters()), student=student)
    chosen = method(name)
    chosen.learn(inputs)
    return {update.module.name: update for update in chosen.start(inputs)}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_corda_is_that_of_peft(family, tiny, make_context, tmp_path):
    context = make_context(tiny(family), {"method": "corda", "extraction.origin": ["o", "down"]})
    started, modules = start(context, tmp_path)
    theirs = context.student.load()
    options = config(modules, "corda", corda_config=CordaConfig(corda_method="ipm"), fan_in_fan_out=family == "gpt2")
    preprocess_corda(theirs, options, lambda: list(run(theirs, samples_of(context))))
    theirs = get_peft_model(theirs, options)
    for module in modules:
        (a, b), (their_a, their_b) = factors(started.peft_model, module.host), factors(theirs, module.host)
        signs = (b * their_b).sum(0).sign()
        torch.testing.assert_close(b * signs, their_b, rtol=1e-2, atol=1e-4)
        torch.testing.assert_close(a * signs[:, None], their_a, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(base(started.peft_model, module.host), base(theirs, module.host), rtol=0, atol=1e-4)


def test_eva_is_that_of_peft_but_for_the_mean(tiny, make_context):
    """PEFT takes principal components: it takes the mean of the inputs off, which the paper's formula does not."""
    context = make_context(tiny("llama"), {"extraction.origin": ["o", "down"], "sensitivity.samples": 1})
    (sample,), modules = samples_of(context), context.student_modules
    model, means, ours = context.student.load(), {}, updates(context, "eva")
    for module in modules:
        keep = lambda _, x, host=module.host: means.__setitem__(host, x[0][0].double().mean(0))  # noqa: E731
        model.get_submodule(module.host).register_forward_pre_hook(keep)
    list(run(model, [sample]))
    moments = collected.input_moments(model, [module.host for module in modules], [sample])
    options = config(modules, "eva", eva_config=EvaConfig(rho=1, use_label_mask=False, tau=0.999))
    theirs = get_peft_model(context.student.load(), options, low_cpu_mem_usage=True)
    batch = {"input_ids": torch.tensor([sample.input_ids]), "attention_mask": torch.ones(1, len(sample.input_ids))}
    plain = {"prepare_model_inputs_fn": None, "prepare_layer_inputs_fn": None}
    initialize_lora_eva_weights(theirs, [batch], **plain, show_progress_bar=False)
    apart = []
    for module in modules:
        their_a, their_b = factors(theirs, module.host)
        mean = means[module.host]
        centred, _ = input_directions(moments[module.host] / len(sample.input_ids) - mean.outer(mean), RANK)
        assert (centred @ their_a.double().T).svd().S.min() > 0.99  # one space
        a = ours[module.name].a
        assert torch.equal(ours[module.name].b, their_b)
        torch.testing.assert_close(a @ a.T, torch.eye(RANK), atol=1e-5, rtol=0)
        apart.append((a @ their_a.T).svd().S.min().item())
        largest = moments[module.host].trace() * ours[module.name].record["captured_inputs"]
        assert (a.double() @ moments[module.host] @ a.double().T).trace().item() == pytest.approx(largest.item())
    assert min(apart) < 0.9


def test_lora_ga_is_not_that_of_peft(tiny, make_context):
    """The directions are the same, their sizes are not: PEFT multiplies B with singular values and leaves A alone."""
    context = make_context(tiny("llama"), {"extraction.origin": ["o", "down"]})
    modules, samples, ours = context.student_modules, samples_of(context), updates(context, "lora_ga")
    theirs = context.student.load()
    options = config(modules, "lora_ga", lora_ga_config=LoraGAConfig())
    preprocess_loraga(theirs, options, lambda: [out.loss.backward() for out in run(theirs, samples, labels=True)])
    values = {m.name: torch.linalg.svdvals(theirs.get_submodule(m.host)._peft_loraga_grad) for m in modules}
    theirs = get_peft_model(theirs, options)
    for module in modules:
        their_a, their_b = factors(theirs, module.host)
        update, of_gradient, size = ours[module.name], values[module.name], module.shape[0] ** 0.25 / 4
        for a, other in zip(update.a, their_a, strict=True):
            assert abs(torch.dot(a / size, other)) == pytest.approx(1, abs=1e-3)
        for b, other, value in zip(update.b.T, their_b.T, of_gradient[RANK : 2 * RANK], strict=True):
            assert abs(torch.dot(b / size, other / (value * size))) == pytest.approx(1, abs=1e-3)
        assert (update.b @ update.a).norm() > 3 * (their_b @ their_a).norm()
        assert update.record["gradient_norm"] == pytest.approx(of_gradient.norm().item(), rel=1e-4)


@pytest.mark.parametrize("family", ["phi3", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("name", ASKING)
def test_each_part_of_a_fused_or_transposed_weight_starts_from_its_own(name, family, tiny, make_context):
    context = make_context(tiny(family), {"method": name})
    model, samples, ours = context.student.load(), samples_of(context), updates(context, name)
    hosts = {module.host for module in context.student_modules}
    moments = collected.input_moments(model, hosts, samples, scaled=name == "corda")
    for out in run(model, samples, labels=True):
        (out.loss / len(samples)).backward()
    assert set(ours) == {module.name for module in context.student_modules}
    for module in context.student_modules:
        parameter = model.get_parameter(module.parameter)
        weight, gradient = (logical_weight(whole, module) for whole in (parameter.detach(), parameter.grad))
        if module.role == "embed":
            weight, gradient = weight.T, gradient.T
        if name == "eva":
            b, a = torch.zeros(len(weight), RANK).double(), input_directions(moments[module.host], RANK)[0]
        else:
            a, b = {
                "lora_ga": lambda: initialisation.gradient_factors(gradient, RANK),  # noqa: B023
                "lora_one": lambda: initialisation.descent_factors(gradient, RANK),  # noqa: B023
                "corda": lambda: initialisation.weighted_factors(weight, moments[module.host], RANK, SCALING),  # noqa: B023
            }[name]()
        update = ours[module.name]
        torch.testing.assert_close(update.b @ update.a, (b @ a).float(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(update.a.T @ update.a, (a.T @ a).float(), rtol=1e-3, atol=1e-5)
        assert update.subtract == (name in ("lora_ga", "corda"))
        assert update.record["seed_samples"] == len(samples)


@pytest.mark.parametrize("name", [*ASKING, "milora", "init_ab"])
def test_as_many_parameters_are_trained_as_in_default_lora(name, tiny, make_context, tmp_path):
    def trained(method_name):
        context = make_context(tiny("gpt2"), {"method": method_name})
        model = start(context, tmp_path / method_name)[0].peft_model
        return {key: p.shape for key, p in model.named_parameters() if p.requires_grad}

    assert trained(name) == trained("default_lora")
    assert not METHODS[name].budget_note


@pytest.mark.parametrize("name", ASKING)
def test_little_memory_takes_more_passes_and_changes_nothing(name, tiny, make_context, monkeypatch):
    context = make_context(tiny("llama"), {"method": name})
    at_once = updates(context, name)
    passes = []
    collect = "input_moments" if "activations" in METHODS[name].needs else "mean_gradients"
    counted = getattr(seed_samples, collect)
    monkeypatch.setattr(seed_samples, "free_room", lambda settings, device: 0)
    monkeypatch.setattr(seed_samples, collect, lambda *a, **k: passes.append(a) or counted(*a, **k))
    one_by_one = updates(context, name)
    assert len(passes) == len(one_by_one) == len(context.student_modules)
    for module, update in at_once.items():
        assert torch.equal(update.a, one_by_one[module].a), module
        assert torch.equal(update.b, one_by_one[module].b), module


def test_what_the_samples_say_nothing_of_starts_by_default_and_says_so(tiny, make_context, tmp_path):
    from tests.tiny_models import build_tiny, edit_weights

    dead = build_tiny("llama", tmp_path / "dead")
    name = "model.layers.0.self_attn.o_proj"
    v = "model.layers.0.self_attn.v_proj"
    edit_weights(dead, lambda w: w | {f"{v}.{kind}": 0 * w[f"{v}.{kind}"] for kind in ("weight", "bias")})
    for method_name, reason in (("corda", "its inputs are zero"), ("lora_ga", "its gradient is zero")):
        update = updates(make_context(str(dead)), method_name)[name]
        assert update.record["start"] == f"default: {reason}"
        assert update.a.any()
        assert not update.b.any()
        assert not update.subtract


def test_an_embedding_reads_tokens(tiny, make_context):
    context = make_context(tiny("llama"), {"extraction.origin": ["embed"]})
    (update,) = updates(context, "eva").values()
    counts = torch.zeros(update.module.shape[0])
    for sample in samples_of(context):
        for token in sample.input_ids:
            counts[token] += 1
    commonest = update.a.argmax(1)
    assert sorted(counts[commonest].tolist()) == sorted(counts.tolist())[-RANK:]
    assert (update.a.sum(1) == 1).all()


@pytest.mark.parametrize("name", [*ASKING, "milora", "init_ab"])
def test_a_resumed_run_reads_the_factors_back(name, tiny, make_context, tmp_path, monkeypatch):
    context = make_context(tiny("gpt_neox"), {"method": name})
    models = []
    for _ in range(2):
        work = Work(context, RunFolder(tmp_path), method(name))
        stages.learn(work)
        stages.extract(work)
        models.append(work.started.peft_model)
        monkeypatch.setattr(type(work.method), "learn", None)  # not called again
        monkeypatch.setattr(type(work.method), "start", None)
    for (key, first), (_, second) in zip(*(model.named_parameters() for model in models), strict=True):
        assert torch.equal(first, second), key


def test_init_ab_draws_by_seed_and_name_and_not_in_turn(tiny, make_context):
    def drawn(**changes):
        return updates(make_context(tiny("llama"), {key.replace("_", "."): v for key, v in changes.items()}), "init_ab")

    everything, alone, other = drawn(), drawn(extraction_origin=["down"]), drawn(seed=1)
    for name, update in alone.items():
        assert torch.equal(update.a, everything[name].a)
        assert torch.equal(update.b, everything[name].b)
        assert not torch.equal(update.a, other[name].a)
    layers = [update.a for name, update in alone.items()]
    assert not torch.equal(layers[0], layers[1])


def test_a_rank_without_room_for_twice_its_directions_is_refused_at_once(tiny, make_context, tmp_path):
    changes = {"method": "lora_ga", "factorisation.rank": 12}  # k and v of 16 rows
    context = make_context(tiny("llama"), changes)
    with pytest.raises(
        ShapeError, match=r"rank 12 does not fit .*, of which this method takes 24 directions; .* 1 to 8"
    ):
        refuse_unfit(Work(context, RunFolder(tmp_path), method("lora_ga")))
    refuse_unfit(Work(context, RunFolder(tmp_path), method("lora_one")))


def test_seed_samples_that_are_too_long_for_the_student_are_refused_or_left_out(tiny, make_context, tmp_path):
    file, numbers = tmp_path / "mixed.jsonl", [str(10 ** (n % 3 * 24) + n) for n in range(60)]
    file.write_text("\n".join(json.dumps({"question": number, "answer": number[-1]}) for number in numbers))
    changes = {"method": "eva", "until": "extraction", "task.source": str(file), "task.max_length": 512}
    changes["task.sizes"] = {"train": 40, "validation": 4, "test": 6}
    student = tiny("llama", max_position_embeddings=64)
    refused = make_context(student, changes | {"sensitivity.samples": 40})
    with pytest.raises(DataError, match=r"of the 40 seed samples are too long for the student"):
        check_examples(refused, needs_teacher=False)
    left = make_context(student, changes | {"task.too_long": "leave_out", "sensitivity.samples": 10})
    check_examples(left, needs_teacher=False)
    assert len(left.seed_samples) == 10
    assert left.left_out["train"] > 0
    assert updates(left, "eva")


def test_a_file_without_anything_to_learn_is_one_sentence(tiny, make_context, monkeypatch):
    context = make_context(tiny("llama"), {"method": "corda"})
    monkeypatch.setattr(type(context), "encode", lambda *_: [])
    with pytest.raises(DataError, match="no seed sample has a token to predict"):
        updates(context, "corda")
