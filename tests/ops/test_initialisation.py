"""The starts of LoRA against the published formulas, in numpy and plain loops."""

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops import initialisation as ops
from paraknow_core.ops.svd import factorise

SHAPES = ((7, 5), (5, 7), (6, 6))
RANK, SCALING = 2, 1.5


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def product(b, a):
    """B @ A in plain loops."""
    rows, ranks, cols = len(b), len(a), len(a[0])
    return [[sum(float(b[i][k]) * float(a[k][j]) for k in range(ranks)) for j in range(cols)] for i in range(rows)]


def svd(matrix):
    u, s, vh = numpy.linalg.svd(numpy.array(matrix), full_matrices=False)
    return u, s, vh


def same_up_to_sign(found, expected):
    """Compare vectors, (count, size), each of which may point the other way."""
    for one, other in zip(found, expected, strict=True):
        sign = 1 if sum(float(x) * float(y) for x, y in zip(one, other, strict=True)) > 0 else -1
        numpy.testing.assert_allclose([sign * float(x) for x in one], [float(y) for y in other], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_milora_takes_the_smallest_values_and_their_root_on_both_sides(shape):
    weight = drawn(*shape)
    a, b = ops.minor_factors(weight, RANK, SCALING)
    u, s, vh = svd(weight)
    for k, last in enumerate(range(len(s) - RANK, len(s))):
        root = math.sqrt(s[last] / SCALING)
        same_up_to_sign([a[k]], [[root * x for x in vh[last]]])
        same_up_to_sign([b[:, k]], [[root * x for x in u[:, last]]])
    expected = [
        [sum(s[k] * u[i, k] * vh[k, j] for k in range(len(s) - RANK, len(s))) for j in range(shape[1])]
        for i in range(shape[0])
    ]
    numpy.testing.assert_allclose(SCALING * numpy.array(product(b, a)), expected, atol=1e-6)


def test_milora_is_pissa_of_the_inverse():
    """The last triplets of W are the first of its inverse, sides exchanged and values turned over."""
    weight = drawn(6, 6)
    a, b = ops.minor_factors(weight, RANK, 1.0)
    first = factorise(torch.linalg.inv(weight), RANK, "sqrt")
    torch.testing.assert_close(torch.linalg.pinv(b @ a), first.b @ first.a)


@pytest.mark.parametrize(("out_features", "in_features", "rank"), [(40, 30, 4), (9, 200, 8)])
def test_init_ab_draws_both_factors_as_linear_layers_are(out_features, in_features, rank):
    a, b = ops.uniform_factors(out_features, in_features, rank, torch.Generator().manual_seed(0))
    assert (a.shape, b.shape) == ((rank, in_features), (out_features, rank))
    for factor, fan_in in ((a, in_features), (b, rank)):
        bound = 1 / math.sqrt(fan_in)
        assert 0.9 * bound < factor.abs().max() < bound
        assert abs(factor.mean()) < 4 * bound / math.sqrt(3 * factor.numel())
        assert factor.var().item() == pytest.approx(bound**2 / 3, rel=0.25)


def test_the_product_of_init_ab_is_as_large_as_said():
    sizes = []
    for seed in range(60):
        a, b = ops.uniform_factors(18, 12, 4, torch.Generator().manual_seed(seed))
        sizes.append((b @ a).square().sum().item())
    assert numpy.mean(sizes) == pytest.approx(18 / 9, rel=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_lora_ga_takes_directions_of_the_gradient_and_none_of_its_size(shape):
    gradient = drawn(*shape)
    u, _, vh = svd(gradient)
    size = shape[0] ** 0.25 / math.sqrt(16)
    for scale in (1.0, 1e-6):
        a, b = ops.gradient_factors(scale * gradient, RANK)
        same_up_to_sign(a, [[size * x for x in vh[k]] for k in range(RANK)])
        same_up_to_sign(b.T, [[size * x for x in u[:, k]] for k in range(RANK, 2 * RANK)])


@pytest.mark.parametrize("shape", SHAPES)
def test_lora_one_is_a_step_down_the_gradient(shape):
    gradient = 1e-4 * drawn(*shape)
    a, b = ops.descent_factors(gradient, RANK)
    u, s, vh = svd(-gradient)
    below = math.sqrt(s[0] * 128)
    same_up_to_sign(a, [[math.sqrt(s[k]) / below * x for x in vh[k]] for k in range(RANK)])
    same_up_to_sign(b.T, [[math.sqrt(s[k]) / below * x for x in u[:, k]] for k in range(RANK)])
    found = numpy.array(product(b, a))
    down = sum(found[i, j] * float(gradient[i, j]) for i in range(shape[0]) for j in range(shape[1]))
    assert down == pytest.approx(-sum(s[k] ** 2 for k in range(RANK)) / (s[0] * 128))
    assert numpy.linalg.norm(found, 2) == pytest.approx(1 / 128)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("diagonal", [False, True])
def test_corda_weighs_with_the_inputs_and_takes_it_back(shape, diagonal):
    weight, inputs = drawn(*shape), drawn(9, shape[1], seed=1)
    size = shape[1]
    moments = [[sum(float(x[i] * x[j]) for x in inputs) / 9 for j in range(size)] for i in range(size)]
    if diagonal:
        moments = [[moments[i][j] if i == j else 0.0 for j in range(size)] for i in range(size)]
    given_moments = torch.tensor(moments, dtype=torch.float64)
    a, b = ops.weighted_factors(weight, given_moments.diagonal() if diagonal else given_moments, RANK, SCALING)
    damping = 0.01 * sum(moments[i][i] for i in range(size)) / size
    damped = numpy.array([[moments[i][j] + (damping if i == j else 0.0) for j in range(size)] for i in range(size)])
    u, s, vh = svd(product(weight, damped))
    back = numpy.array(product(vh, numpy.linalg.inv(damped)))
    same_up_to_sign(a, [[math.sqrt(s[k] / SCALING) * x for x in back[k]] for k in range(RANK)])
    same_up_to_sign(b.T, [[math.sqrt(s[k] / SCALING) * x for x in u[:, k]] for k in range(RANK)])
    whole = SCALING * numpy.array(product(*reversed(ops.weighted_factors(weight, given_moments, min(shape), SCALING))))
    numpy.testing.assert_allclose(whole, weight, atol=1e-6)  # all triplets are all of the weight


def test_eva_takes_the_directions_of_the_inputs_as_they_are():
    inputs = drawn(9, 6) + 3 * drawn(6, seed=2)  # not centred
    moments = inputs.T @ inputs / 9
    a, share = ops.input_directions(moments, RANK)
    _, s, vh = svd(inputs)
    same_up_to_sign(a, vh[:RANK])
    assert share == pytest.approx(sum(s[:RANK] ** 2) / sum(s**2))


def test_of_tokens_eva_takes_the_commonest_the_first_of_equals():
    counts = [0, 3, 1, 3, 5]
    a, share = ops.input_directions(torch.tensor(counts, dtype=torch.float64), 3)
    assert a.tolist() == [[0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]
    assert share == pytest.approx(11 / 12)


@settings(max_examples=25)
@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 2**16))
def test_shapes_and_what_does_not_fit(out_features, in_features, seed):
    matrix, moments = drawn(out_features, in_features, seed=seed), torch.eye(in_features).double()
    least = min(out_features, in_features)
    for take in (
        lambda rank: ops.minor_factors(matrix, rank, SCALING),
        lambda rank: ops.descent_factors(matrix, rank),
        lambda rank: ops.weighted_factors(matrix, moments, rank, SCALING),
        lambda rank: ops.gradient_factors(matrix, rank),
    ):
        a, b = take(1)
        assert (a.shape, b.shape) == ((1, in_features), (out_features, 1))
        with pytest.raises(ShapeError, match="rank"):
            take(least + 1)
    if least < 4:
        with pytest.raises(ShapeError, match=rf"rank 2 takes 4 directions .* choose 1 to {least // 2}"):
            ops.gradient_factors(matrix, 2)


def test_data_that_say_nothing_are_refused():
    nothing = torch.zeros(4, 4)
    for take in (
        lambda: ops.gradient_factors(nothing, 1),
        lambda: ops.descent_factors(nothing, 1),
        lambda: ops.weighted_factors(drawn(4, 4), nothing, 1, 1.0),
        lambda: ops.input_directions(nothing, 1),
    ):
        with pytest.raises(NumericError, match="zero"):
            take()
