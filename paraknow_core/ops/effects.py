"""Does one number a unit predict the effect that an edit of the unit has? Pure functions of arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.statistics import bootstrap_interval, rank_correlation

LEAST = 5  # units; with fewer, resampling them mostly gives ties, and an interval says nothing
_RESAMPLES = 2000


@dataclass(frozen=True)
class RankAgreement:
    """Spearman's rank correlation over units.

    Attributes:
        rho: None where there are fewer than three units, or one side is constant.
        low, high: 95 % interval; None with fewer than `LEAST` units.
        units: how many were compared.
    """

    rho: float | None
    low: float | None
    high: float | None
    units: int


def mean_effects(effects: ArrayLike) -> list[tuple[float, float, float]]:
    """Return mean and 95 % bootstrap interval over examples of each unit's effect.

    Args:
        effects: (units, examples).
    """
    return [(float(row.mean()), *bootstrap_interval(row)) for row in _table(effects)]


def rank_agreement(predictor: ArrayLike, effects: ArrayLike, seed: int = 0) -> RankAgreement:
    """Return the rank correlation of a predictor with the mean effect, over units.

    Args:
        predictor: (units,) such as the sensitivity of what a layer received.
        effects: (units, examples), the effect of editing a unit on each example.
        seed: of the resampling.

    Returns:
        Spearman's rho with a percentile interval: examples and units are resampled independently, because another test
        split would give other effects, and another model other units.

    Raises:
        ShapeError: another number of units; NumericError: NaN or infinity.
    """
    table, ranks = _table(effects), np.asarray(predictor, dtype=np.float64)
    if ranks.shape != table.shape[:1]:
        raise ShapeError(
            f"rank agreement: {ranks.size} predictions for {len(table)} units; one a unit is needed; leave units "
            "without one out"
        )
    units, examples = table.shape
    rho = rank_correlation(ranks, table.mean(1)).spearman
    if rho is None or units < LEAST:
        return RankAgreement(rho, None, None, units)
    generator = np.random.default_rng(seed)
    chosen = generator.integers(units, size=(_RESAMPLES, units))
    weights = generator.multinomial(examples, np.full(examples, 1 / examples), size=_RESAMPLES)
    draws = _spearman(ranks[chosen], np.take_along_axis(weights @ table.T, chosen, axis=1))
    low, high = np.quantile(draws, [0.025, 0.975])
    return RankAgreement(rho, float(low), float(high), units)


def _spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Spearman's rho of each pair of rows, without those in which one side is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(side, axis=1) - (side.shape[1] + 1) / 2 for side in (first, second))
    sizes = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return (a * b).sum(1)[sizes > 0] / sizes[sizes > 0]


def _table(effects: ArrayLike) -> np.ndarray:
    table = np.asarray(effects, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ShapeError(
            f"effects: shape {table.shape}; (units, examples) with at least one of each is needed; check that the "
            "examples were scored"
        )
    if not np.isfinite(table).all():
        raise NumericError("effects: a value is NaN or infinite; finite scores are needed; look for a failed example")
    return table
