"""What is collected of a student's seed samples, against whole matrices of inputs and autograd's own gradients."""

import pytest
import torch

from paraknow_core.errors import NumericError
from paraknow_core.methods.collected import free_room, in_groups, input_moments, mean_gradients
from paraknow_core.settings import Settings

STUDENTS = [("llama", {}), ("gpt2", {}), ("phi3", {"tie_word_embeddings": True})]  # separate, transposed, fused


def encoded(context):
    return context.encode(context.seed_samples, context.student)


@pytest.fixture(params=STUDENTS, ids=lambda student: student[0])
def context(request, tiny, make_context):
    family, overrides = request.param
    return make_context(tiny(family, **overrides))


def inputs_of(model, hosts, sample):
    """Return the (tokens, in) inputs of each module for a sample; one-hot for an embedding."""
    seen = {}

    def keep(path):
        def hook(module, arguments):
            x = arguments[0][0]
            seen[path] = x if x.is_floating_point() else torch.nn.functional.one_hot(x, len(module.weight))

        return hook

    hooks = [model.get_submodule(path).register_forward_pre_hook(keep(path)) for path in hosts]
    with torch.no_grad():
        model(input_ids=torch.tensor([sample.input_ids]))
    for hook in hooks:
        hook.remove()
    return {path: x.double() for path, x in seen.items()}


@pytest.mark.parametrize("scaled", [False, True])
def test_moments_are_those_of_all_inputs(scaled, context):
    model, samples = context.student.load(), encoded(context)
    hosts = {module.host for module in context.student_modules}
    found = input_moments(model, hosts, samples, scaled=scaled)
    expected = dict.fromkeys(hosts, 0.0)
    for sample in samples:
        for path, x in inputs_of(model, hosts, sample).items():
            x = x / x.max().abs() if scaled else x
            expected[path] = expected[path] + x.T @ x / len(samples)
    assert found.keys() == hosts
    for path, moments in found.items():
        whole = moments.diag() if moments.ndim == 1 else moments
        assert moments.ndim == (1 if path == context.student.anatomy.modules[0].host else 2)
        torch.testing.assert_close(whole, expected[path], rtol=1e-9, atol=1e-12)
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_modules_that_read_the_same_share_a_sum(tiny, make_context):
    context = make_context(tiny("llama"))
    hosts = [f"model.layers.0.{name}" for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj")]
    q, k, o = input_moments(context.student.load(), hosts, encoded(context)).values()
    assert q is k
    assert q is not o


def test_gradients_are_the_mean_of_those_of_single_samples(context):
    model, samples = context.student.load(), encoded(context)
    names = {module.parameter for module in context.student_modules}
    found = mean_gradients(model, names, samples)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    for sample in samples:
        ids, labels = torch.tensor([sample.input_ids]), torch.tensor([sample.labels])
        logits = model(input_ids=ids).logits[0, :-1]
        answer = labels[0, 1:] != -100
        loss = -logits.log_softmax(-1)[answer].gather(1, labels[0, 1:][answer][:, None]).mean()
        (loss / len(samples)).backward()
    assert found.keys() == names
    for name, parameter in model.named_parameters():
        if name in names:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_a_loss_that_is_not_finite_is_the_students(tiny, make_context):
    context = make_context(tiny("llama"))
    model = context.student.load()
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(NumericError, match=r"seed sample 0: its loss is nan; .* the student's weights"):
        mean_gradients(model, ["lm_head.weight"], encoded(context))
    assert all(p.requires_grad for p in model.parameters())


def test_groups_fit_the_room_and_hold_one_at_least():
    sizes = {"a": 3, "b": 3, "c": 9, "d": 1, "e": 2}
    assert list(in_groups(sizes, 6)) == [["a", "b"], ["c"], ["d", "e"]]
    assert list(in_groups(sizes, 0)) == [[name] for name in sizes]
    assert list(in_groups(sizes, 99)) == [list(sizes)]


def test_the_room_follows_the_memory_budget():
    cpu = torch.device("cpu")
    assert free_room(Settings(memory_budget=1), cpu) == 0
    assert free_room(Settings(memory_budget=2**50), cpu) > 2**48
    assert free_room(Settings(), cpu) > 0
