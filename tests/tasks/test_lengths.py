"""Models whose rotary tables change with a text's length: every row counts as alone, and a text as without a cache."""

import pytest
import torch

from paraknow_core.models.load import load_model
from paraknow_core.models.rotary import lengths_matter, tables_of_their_own
from paraknow_core.models.source import resolve_model
from paraknow_core.tasks.generation import generate
from paraknow_core.tasks.likelihood import Row, label_row, log_probabilities
from paraknow_core.tasks.templates import Encoded
from paraknow_core.training.batches import Collator
from paraknow_core.training.loop import mean_loss
from paraknow_core.training.losses import Losses
from tests.tasks.test_generation import plain_loop
from tests.tiny_models import build_tiny

SWITCH = 20  # tokens
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 6.0, 9.0, 12.0],
    "original_max_position_embeddings": SWITCH,
    "factor": 4.0,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
KINDS = {
    "longrope phi3": ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": SWITCH}),
    "longrope llama": ("llama", {"rope_parameters": LONG}),
    "dynamic llama": ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": SWITCH}),
    "dynamic qwen2": ("qwen2", {"rope_parameters": DYNAMIC, "max_position_embeddings": SWITCH}),
    "dynamic gpt_neox": (
        "gpt_neox",
        {"rope_parameters": {**DYNAMIC, "partial_rotary_factor": 1.0}, "max_position_embeddings": SWITCH},
    ),
    "dynamic in one kind of layers": (
        "gemma3_text",
        {
            "rope_parameters": {
                "full_attention": {**DYNAMIC, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            "layer_types": ["full_attention", "sliding_attention"],
            "max_position_embeddings": SWITCH,
            "sliding_window": 64,
        },
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return name of a kind -> model, with weights large enough that another table gives other tokens."""
    built = {}

    def get(name):
        if name not in built:
            family, options = KINDS[name]
            model = load_model(resolve_model(str(build_tiny(family, tmp_path_factory.mktemp("model"), **options))))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() > 1:
                        parameter.mul_(6)
            built[name] = model
        return built[name]

    return get


def tokens(count, seed=0):
    return torch.randint(3, 259, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


LENGTHS = (5, 15, 19, 20, 21, 40, 33, 8)


def rows():
    entries = [tokens(count, count) for count in LENGTHS]
    return [Row(str(len(t)), tuple(t), (tuple((i, t[i + 1]) for i in range(len(t) - 1)),)) for t in entries]


def alone(model, row):
    """Sum a row's log-probabilities, in a fresh forward pass of it alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.tokens]), use_cache=False).logits[0].double()
    return sum(float(logits[at].log_softmax(-1)[token]) for at, token in row.asked[0])


@pytest.mark.parametrize("name", KINDS)
def test_a_rows_number_does_not_depend_on_what_is_beside_or_before_it(name, models):
    model = models(name)
    assert lengths_matter(model)
    wanted = [alone(model, row) for row in rows()]
    assert wanted == [alone(model, row) for row in reversed(rows())][::-1]  # nor on what was computed before
    for size in (1, 3, 8):
        found = [total for (total,) in log_probabilities(model, rows(), size)]
        assert found == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_an_answer_that_grows_into_another_table_is_that_of_a_model_without_a_cache(name, models):
    model = models(name)
    prompts = [tokens(count, count) for count in (4, 15, 18, 20, 25)]
    wanted = [plain_loop(model, prompt, 8, 64, set())[0] for prompt in prompts]
    assert [
        list(answer.tokens) for answer in generate(model, prompts, max_new_tokens=8, limit=64, ends=set())
    ] == wanted
    ends = {wanted[0][3], wanted[2][6]}  # rows leave the batch at different times
    wanted = [answer[: next((at for at, token in enumerate(answer) if token in ends), 8)] for answer in wanted]
    for size in (1, 5):
        made = []
        for start in range(0, len(prompts), size):
            made += generate(model, prompts[start : start + size], max_new_tokens=8, limit=64, ends=ends)
        assert [list(answer.tokens) for answer in made] == wanted


def test_longrope_answers_are_those_of_transformers(models):
    model = models("longrope phi3")
    prompts = [tokens(14, seed) for seed in range(4)]
    made = generate(model, prompts, max_new_tokens=16, limit=64, ends=set())
    for prompt, answer in zip(prompts, made, strict=True):
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, 14).long(),
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert list(answer.tokens) == out[0, 14:].tolist()


@pytest.mark.parametrize("name", KINDS)
def test_losses_of_training_do_not_depend_on_the_micro_batch(name, models):
    model = models(name)
    encoded = [Encoded(str(n), tuple(t := tokens(n, n)), (-100, *t[1:]), 1) for n in LENGTHS]
    nats = -sum(alone(model, label_row(entry)) for entry in encoded)
    expected = nats / sum(len(entry.labels) - 1 for entry in encoded)
    for size in (1, 3, 8):
        assert mean_loss(Losses(model), Collator(0, model), encoded, size) == pytest.approx(expected, rel=1e-5)


def test_most_models_are_left_as_they_are(tiny):
    model, _ = tiny("llama")
    assert tables_of_their_own(model) == [] and not lengths_matter(model)
    assert "position_ids" not in Collator(0, model)([Encoded("a", (1, 2), (-100, 2), 1)])
