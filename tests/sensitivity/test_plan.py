"""Which way a sensitivity is measured, and what it is said to take."""

import pytest

from paraknow_core.errors import RunError
from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.source import resolve_model
from paraknow_core.sensitivity.plan import Rates, Sizes, _streamed_memory, plan_sensitivity, sizes_of
from tests.tiny_models import build_tiny

RATES = Rates(1e11, 1e10, 1e9)
# hidden, intermediate, layers, key-value width, vocabulary
LLAMAS = {
    "1.1B": (2048, 5632, 22, 2048, 32000),
    "7B": (4096, 11008, 32, 4096, 32000),
    "13B": (5120, 13824, 40, 5120, 32000),
    "70B": (8192, 28672, 80, 1024, 32000),
}


def llama(name):
    hidden, inner, depth, key_value, vocabulary = LLAMAS[name]
    layer = 2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * inner
    embedding = vocabulary * hidden
    return Sizes(
        depth * layer + 2 * embedding,
        depth * layer,
        layer,
        hidden * inner,
        embedding,
        hidden,
        hidden,
        inner,
        depth,
        (7 * depth + 2) * 4 * (256 * 256 + 2 * inner),
    )


@pytest.mark.parametrize(("name", "most"), [("1.1B", None), ("7B", 3.5e9), ("13B", 5e9), ("70B", 12e9)])
def test_a_layer_is_all_that_has_to_fit(name, most):
    size = llama(name)
    need = 0.3e9 + _streamed_memory(size, 4, 4, [128] * 4)  # with what Python and its libraries take
    largest = max(size.largest_in_layer, size.vocabulary)
    assert need <= 1.25 * (8 * size.largest_layer + 4 * largest) + 0.5e9
    assert most is None or need <= most


@pytest.fixture(scope="module")
def anatomy(tmp_path_factory):
    folder = build_tiny("llama", tmp_path_factory.mktemp("m") / "m")
    return read_anatomy(resolve_model(str(folder), None, offline=True))


def plan(anatomy, budget, **options):
    defaults = {"device": "cpu", "dtype": "float32", "base": 0, "rates": RATES}
    return plan_sensitivity(anatomy, [30, 20], 25, budget=budget, **defaults | options)


def test_the_budget_decides_and_the_reason_is_said(anatomy):
    whole, layers = (plan(anatomy, 10**12).needs[way].memory for way in ("resident", "streamed"))
    assert layers < whole
    chosen = plan(anatomy, 10**12)
    assert (chosen.way, chosen.need) == ("resident", chosen.needs["resident"])
    tight = plan(anatomy, (layers + whole) // 2)
    assert tight.way == "streamed"
    assert tight.reason.startswith("the whole teacher would take ")
    with pytest.raises(RunError, match="memory budget: 10 MB given, but .* even one layer at a time"):
        plan(anatomy, 10**7)
    with pytest.raises(RunError, match="as a whole needs"):
        plan(anatomy, 10**7, way="resident")
    assert plan(anatomy, 10**12, way="streamed").reason == "asked for"


def test_keeping_everything_takes_disk(anatomy):
    kept, reduced = (plan(anatomy, 10**12, way="streamed", full=full).need for full in (True, False))
    assert kept.disk - reduced.disk == 4 * anatomy.parameters
    assert kept.seconds > reduced.seconds


def test_weights_in_their_own_format_are_used_from_the_file(anatomy):
    same, converted = (_streamed_memory(llama("7B"), 4, c, [128]) for c in (0, 4))
    assert converted - same == pytest.approx(1.15 * 4 * llama("7B").largest_layer)


def test_counts_are_those_of_the_anatomy(anatomy):
    size = sizes_of(anatomy)
    assert size.all == anatomy.parameters
    assert size.layers == sum(m.shape[0] * m.shape[1] for m in anatomy.modules if m.layer is not None)
    assert size.largest_layer * anatomy.num_hidden_layers == size.layers
    assert (size.hidden_size, size.embedding_size, size.num_hidden_layers) == (32, 32, 2)


def test_finding_memory_takes_time(anatomy):
    slow = Rates(1e11, 1e10, 1e9, fresh=1e3)
    swift, waiting = (plan(anatomy, 10**12, rates=rates).needs["resident"].seconds for rates in (RATES, slow))
    assert waiting - swift == pytest.approx(8 * anatomy.parameters / 1e3)
