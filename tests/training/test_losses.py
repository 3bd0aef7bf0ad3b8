"""The training loss against a slow twin, and the models whose loss is their own."""

import pytest
import torch

from paraknow_core.adapters.inject import inject
from paraknow_core.training.batches import Collator, supervised
from paraknow_core.training.losses import Losses
from tests.training.test_batches import examples

FAMILIES = ["llama", "gpt2", "gemma2", "phi3"]  # the third one squashes its logits


@pytest.fixture
def adapted(make_context, tiny):
    """Return `adapted(family)`: a student with an adapter on every module, the output layer among them."""

    def make(family):
        context = make_context(tiny(family), {})
        student, modules = context.student, context.student_modules
        return inject(student.load(), student.anatomy, modules, context.spec.factorisation, (), 0)

    return make


def _gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_all_logits(adapted, family):
    model = adapted(family).eval()
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _m, _a, out: seen.append(out.shape[:2]))
    batch = Collator(0, model)(examples()[:5])
    chosen = supervised(batch)
    share = Losses(model).share(batch, chosen.sum())
    found = _gradients(model, share)
    assert seen == [(1, int(chosen.sum()))]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    nats = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch["labels"][:, 1:].flatten())
    assert share.item() == pytest.approx(nats.item(), rel=1e-6)
    for name, gradient in _gradients(model, nats).items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)
    assert Losses(model).nats(batch).item() == pytest.approx(nats.item() * int(chosen.sum()), rel=1e-6)


def test_a_model_that_adds_the_loss_of_its_router_is_asked_for_it():
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=300, num_key_value_heads=2, num_local_experts=4, **sizes)
    model = MixtralForCausalLM(config).eval()
    batch = Collator(0, model)(examples()[:3])
    model.config.output_router_logits = True
    tokens, own = supervised(batch).sum(), model(**batch).loss.item()
    assert Losses(model).share(batch, tokens).item() == pytest.approx(own, rel=1e-6)
    model.config.output_router_logits = False
    alone = Losses(model).share(batch, tokens).item()
    assert alone == pytest.approx(model(**batch).loss.item(), rel=1e-6)
    assert alone < own - 1e-4


def test_a_pass_without_labels_loses_nothing(adapted):
    model = adapted("llama")
    batch = Collator(0, model)(examples()[:2])
    batch["labels"] = torch.full_like(batch["labels"], -100)
    share = Losses(model).share(batch, torch.tensor(7))
    assert share.item() == 0
    assert all(not gradient.any() for gradient in _gradients(model, share).values())
