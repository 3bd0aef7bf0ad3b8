"""Rank agreement of a number a unit with the effect of editing it; random twins of low-rank changes."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.effects import LEAST, mean_effects, rank_agreement
from paraknow_core.ops.low_rank import random_twin


def test_rho_is_that_of_the_mean_effects_and_lies_in_its_interval():
    generator = np.random.default_rng(0)
    predictor = generator.normal(size=12)
    effects = predictor[:, None] + generator.normal(size=(12, 40))
    result = rank_agreement(predictor, effects)
    assert result.rho == pytest.approx(spearmanr(predictor, effects.mean(1)).statistic)
    assert result.low <= result.rho <= result.high
    assert result.low > 0.2
    assert result.units == 12


def test_without_a_relation_the_interval_holds_zero_in_most_trials():
    generator, held = np.random.default_rng(1), 0
    for trial in range(20):
        result = rank_agreement(generator.normal(size=20), generator.normal(size=(20, 30)), seed=trial)
        held += result.low <= 0 <= result.high
    assert held >= 17


def test_few_units_give_no_interval_and_equal_ones_no_rho():
    effects = np.arange(8.0).reshape(4, 2)
    assert len(effects) < LEAST
    assert rank_agreement([1, 2, 3, 4], effects) == rank_agreement([1, 2, 3, 4], effects, seed=5)
    assert (rank_agreement([1, 2, 3, 4], effects).rho, rank_agreement([1, 2, 3, 4], effects).low) == (1.0, None)
    assert rank_agreement([2, 2, 2, 2], effects).rho is None


@pytest.mark.parametrize(
    ("predictor", "effects", "error", "words"),
    [
        ([1, 2], [[0.0, 1.0]], ShapeError, "2 predictions for 1 units"),
        ([1], [0.0, 1.0], ShapeError, "(units, examples)"),
        ([1], [[0.0, float("nan")]], NumericError, "NaN"),
    ],
)
def test_what_cannot_be_ranked_is_refused_in_one_sentence(predictor, effects, error, words):
    with pytest.raises(error) as raised:
        rank_agreement(predictor, effects)
    assert words in str(raised.value)


def test_mean_effects_hold_the_mean():
    ((mean, low, high),) = mean_effects([[1.0, 2.0, 6.0]])
    assert (mean, low <= 3.0 <= high) == (3.0, True)


@pytest.mark.parametrize(("out", "rank", "columns"), [(9, 3, 7), (3, 5, 8), (4, 2, 2)])
def test_a_twin_has_the_same_singular_values_and_another_place(out, rank, columns):
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(out, rank, generator=generator), torch.randn(rank, columns, generator=generator)
    first, second = random_twin(b, a, generator)
    expected = torch.linalg.svdvals((b @ a).double())
    found = torch.linalg.svdvals(first @ second)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(first @ second, (b @ a).double(), atol=1e-2)


def test_twins_have_no_preferred_direction():
    generator = torch.Generator().manual_seed(3)
    b, a = torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([[2.0, 0.0]])
    draws = torch.stack([torch.matmul(*random_twin(b, a, generator)) for _ in range(800)])
    assert draws.mean(0).abs().max() < 0.12  # each entry has variance 4 / 6
    assert torch.allclose(draws.square().mean(0), torch.full((3, 2), 4 / 6, dtype=torch.float64), atol=0.1)
