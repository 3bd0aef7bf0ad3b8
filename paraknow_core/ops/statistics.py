"""Intervals and paired comparisons of scores. Needs numpy and scipy only, so that pages may use it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.detectable import fewest_seeds, smallest_detectable
from paraknow_core.ops.resampling import CHUNK, RESAMPLES, parts, random_sign_flip_p
from paraknow_core.ops.verdict import (
    Spreads,
    Verdict,
    holm,
    paired_verdict,
    pooled_spread,
    seed_interval,
    spreads,
    verdicts,
)

__all__ = [
    "Correlation",
    "PairedResult",
    "Spreads",
    "Verdict",
    "bootstrap_interval",
    "fewest_seeds",
    "holm",
    "mcnemar",
    "mean_interval",
    "paired_difference",
    "paired_over_seeds",
    "paired_verdict",
    "pooled_spread",
    "proportion_interval",
    "rank_correlation",
    "seed_interval",
    "smallest_detectable",
    "spreads",
    "verdicts",
]


@dataclass(frozen=True)
class Correlation:
    """Rank correlation of n pairs; None where there are too few pairs, or one side is constant."""

    spearman: float | None
    kendall: float | None
    n: int


@dataclass(frozen=True)
class PairedResult:
    """How two arms differ on the same examples.

    Attributes:
        difference: mean of a - b, in the scores' own unit.
        low, high: 95 % interval of the difference; None where nothing bounds it: scores that are all alike, of no known
            range.
        n: examples that were compared (per seed).
        p_value: two-sided, of no difference; None if the method gives none.
        method: what was done, in words.
    """

    difference: float
    low: float | None
    high: float | None
    n: int
    p_value: float | None
    method: str


def proportion_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion.

    Args:
        successes: how many of n examples count as right, 0 to n.
        level: coverage, between 0 and 1.

    Returns:
        (low, high), each 0 to 1. Unlike the normal interval it stays sensible near 0 and 1 and for small n.

    Raises:
        NumericError: n below 1, successes outside 0 to n, or a level outside (0, 1).
    """
    from scipy.stats import binomtest

    _require_level(level)
    if not (n >= 1 and 0 <= successes <= n):
        raise NumericError(
            f"proportion interval: {successes} of {n} examples; at least one example and 0 to n right ones are needed; "
            "check the counts"
        )
    interval = binomtest(int(successes), n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Student t interval of a mean, for a few independent values such as one score a seed.

    Raises:
        NumericError: fewer than two values (they have no spread), or NaN or infinity.
    """
    from scipy.special import stdtrit

    _require_level(level)
    data = _vector("mean interval", values)
    if len(data) < 2:
        raise NumericError(
            "mean interval: got one value; at least two are needed to see a spread; run more seeds, or give no interval"
        )
    half = stdtrit(len(data) - 1, (1 + level) / 2) * data.std(ddof=1) / math.sqrt(len(data))
    return float(data.mean() - half), float(data.mean() + half)


def bootstrap_interval(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    statistic: Callable[..., np.ndarray] = np.mean,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic, examples resampled with replacement.

    Args:
        values: one number an example.
        weights: one an example, such as its tokens; the statistic then is sum(values) / sum(weights).
        statistic: called with an array (resamples, n) and `axis`, as numpy's mean, median and std are.
        seed: of the resampling; the same seed gives the same interval.
        resamples: how many.
        level: coverage, between 0 and 1.

    Raises:
        NumericError: no value, NaN or infinity, or fewer than one resample; ShapeError: another number of weights.
    """
    _require_level(level)
    data = (_vector("bootstrap interval", values),) if weights is None else _pair("bootstrap", values, weights)
    if resamples < 1:
        raise NumericError(
            f"bootstrap interval: {resamples} resamples; at least 1 is needed; leave the default of 4000"
        )
    if weights is not None:
        statistic = _ratio_of_sums
    return _bootstrap(data, statistic, np.random.default_rng(seed), resamples, level)


def _ratio_of_sums(values: np.ndarray, weights: np.ndarray, axis: int = -1) -> np.ndarray:
    return values.sum(axis=axis) / weights.sum(axis=axis)


def _bootstrap(
    data: tuple[np.ndarray, ...],
    statistic: Callable[..., np.ndarray],
    generator: np.random.Generator,
    resamples: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return a percentile interval; several arrays are resampled together, example by example."""
    from scipy.stats import bootstrap

    n = len(data[0])
    if n == 1:  # scipy refuses what cannot vary
        value = float(statistic(*data, axis=-1))
        return value, value
    interval = bootstrap(
        data,
        statistic,
        n_resamples=resamples,
        batch=max(1, CHUNK // n),
        vectorized=True,
        paired=len(data) > 1,
        confidence_level=level,
        method="percentile",
        rng=generator,
    ).confidence_interval
    return float(interval.low), float(interval.high)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> Correlation:
    """Return Spearman's rho and Kendall's tau-b of pairs; pairs with a missing value are left out.

    Args:
        first, second: (n,) each; NaN is missing.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    there = np.isfinite(a) & np.isfinite(b)
    a, b = a[there], b[there]
    if len(a) < 3 or (a == a[0]).all() or (b == b[0]).all():
        return Correlation(None, None, len(a))
    from scipy.stats import kendalltau, spearmanr

    # Only the coefficients are used: the exact p-value of tau would take its time.
    return Correlation(float(spearmanr(a, b).statistic), float(kendalltau(a, b, method="asymptotic").statistic), len(a))


def paired_difference(a: ArrayLike, b: ArrayLike, seed: int = 0) -> PairedResult:
    """Compare two arms on the same examples.

    Args:
        a, b: (n,) scores of the same examples in the same order.
        seed: of the bootstrap.

    Returns:
        mean(a - b) with a bootstrap interval over examples, an exact one or none where no example differs. The p-value
        is McNemar's exact one when all scores are 0 or 1, else that of a sign-flip test.

    Raises:
        ShapeError: different lengths; NumericError: fewer than two examples, NaN or infinity.
    """
    first, second = _pair("paired difference", a, b)
    _require_spread(len(first))
    differences = first - second
    n = len(differences)
    generator = np.random.default_rng(seed)
    if not differences.any():
        return _all_alike(n, np.concatenate([first, second]), _examples(n))
    low, high = _bootstrap((differences,), np.mean, generator, RESAMPLES)
    if np.isin(np.concatenate([first, second]), (0.0, 1.0)).all():
        p_value, test = mcnemar(first, second), ", exact McNemar test"
    else:
        p_value, test = random_sign_flip_p(differences, generator), ", sign-flip test"
    return PairedResult(float(differences.mean()), low, high, n, p_value, f"{_examples(n)}, paired bootstrap{test}")


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided exact p-value that two arms are right equally often, from the examples on which they disagree.

    Args:
        a, b: (n,) of 0 and 1, the same examples in the same order.

    Raises:
        ShapeError: different lengths; NumericError: no example, or a score that is not 0 or 1.
    """
    from scipy.stats import binomtest

    first, second = _pair("McNemar test", a, b)
    if not np.isin(np.concatenate([first, second]), (0.0, 1.0)).all():
        raise NumericError("McNemar test: a score is not 0 or 1; only right or wrong can be counted; use the bootstrap")
    gained, lost = int((first > second).sum()), int((first < second).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def paired_over_seeds(a: Sequence[ArrayLike], b: Sequence[ArrayLike], seed: int = 0) -> PairedResult:
    """Compare two arms that were each run with several seeds on the same examples.

    Args:
        a, b: one (n,) array a seed; the same seeds in the same order, the same examples in the same order.
        seed: of the bootstrap.

    Returns:
        The mean difference with the wider of two intervals: a bootstrap that resamples seeds and, with them, examples;
        and Student's t over the seeds' mean differences. A bootstrap over three seeds sees too little spread, the t
        interval ignores the choice of examples; `method` says which one was the wider.

    Raises:
        ShapeError: no seed, or a different number of seeds or examples; NumericError: fewer than two examples, NaN or
            infinity.
    """
    if len(a) != len(b) or not len(a):
        raise ShapeError(
            f"paired comparison: {len(a)} seeds against {len(b)}; the same seeds, at least one, are needed in both "
            "arms; run the missing ones"
        )
    pairs = [_pair("paired comparison", first, second) for first, second in zip(a, b, strict=True)]
    sizes = {len(first) for first, _ in pairs}
    if len(sizes) > 1:
        raise ShapeError(
            f"paired comparison: seeds with {' and '.join(map(str, sorted(sizes)))} examples; every seed needs the "
            "same examples; compare runs of one task and split"
        )
    if len(pairs) == 1:
        return paired_difference(*pairs[0], seed=seed)
    _require_spread(len(pairs[0][0]))
    table = np.stack([first - second for first, second in pairs])
    if not table.any():
        n = len(pairs[0][0])
        return _all_alike(n, np.asarray(pairs), f"{len(pairs)} seeds, {_examples(n)}")
    return _over_seeds(table, seed)


def _over_seeds(table: np.ndarray, seed: int) -> PairedResult:
    """Compare from a (seeds, examples) table of differences."""
    from scipy.stats import ttest_1samp

    seeds, n = table.shape
    generator = np.random.default_rng(seed)
    draws = np.concatenate([_resampled_means(table, part, generator) for part in parts(RESAMPLES, n)])
    by_bootstrap = _percentiles(draws, 0.95)
    means = table.mean(axis=1)
    by_t = mean_interval(means)
    tested = ttest_1samp(means, 0.0).pvalue if means.std() > 0 else (1.0 if means[0] == 0 else 0.0)
    wider_t = by_t[1] - by_t[0] > by_bootstrap[1] - by_bootstrap[0]
    low, high = by_t if wider_t else by_bootstrap
    how = "t over seeds" if wider_t else "bootstrap over seeds and examples"
    # The larger p-value goes with the wider interval: neither source of chance may be left out.
    p_value = max(float(tested), _bootstrap_p(draws))
    return PairedResult(float(means.mean()), low, high, n, p_value, f"{seeds} seeds, {_examples(n)}, {how}")


def _resampled_means(table: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Draw seeds and examples with replacement; one draw of examples serves all seeds, which saw the same ones."""
    seeds, n = table.shape
    examples = generator.integers(n, size=(resamples, n))
    by_seed = np.stack([differences[examples].mean(axis=1) for differences in table], axis=1)
    return np.take_along_axis(by_seed, generator.integers(seeds, size=(resamples, seeds)), axis=1).mean(axis=1)


def _all_alike(n: int, scores: np.ndarray, what: str) -> PairedResult:
    """Result of n examples of which none differed: bounded where scores lie in 0 to 1, else without an interval.

    Resampling zeros gives an interval of no width, which would claim certainty. The exact (Clopper-Pearson) bound on
    the share of examples that differ is 1 - 0.025^(1/n), about 3.7 / n; each may count for either arm, by 1 at most.
    """
    if scores.min() < 0 or scores.max() > 1:
        return PairedResult(0.0, None, None, n, 1.0, f"{what}, all alike")
    bound = 1 - 0.025 ** (1 / n)
    return PairedResult(0.0, -bound, bound, n, 1.0, f"{what}, exact bound: all alike")


def _examples(n: int) -> str:
    return f"{n} example{'s' if n != 1 else ''}"


def _bootstrap_p(draws: np.ndarray) -> float:
    """Two-sided p-value: twice the share of resamples on the far side of zero, never below what they resolve."""
    far = min((draws <= 0).sum(), (draws >= 0).sum())
    return float(min(1.0, 2 * (far + 1) / (len(draws) + 1)))


def _percentiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _require_level(level: float) -> None:
    if not 0 < level < 1:
        raise NumericError(f"interval: level {level}; a share between 0 and 1 is needed; 0.95 is the usual one")


def _require_spread(n: int) -> None:
    if n < 2:
        raise NumericError(
            f"paired comparison: {_examples(n)}; at least two are needed to see a spread; test on more examples"
        )


def _vector(where: str, values: ArrayLike) -> np.ndarray:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0:
        raise NumericError(
            f"{where}: values of shape {data.shape}; a list of at least one number is needed; check that the run has "
            "scored examples"
        )
    if not np.isfinite(data).all():
        raise NumericError(
            f"{where}: {int((~np.isfinite(data)).sum())} of {data.size} values are NaN or infinite; finite scores are "
            "needed; look for a failed example"
        )
    return data


def _pair(where: str, a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = _vector(where, a), _vector(where, b)
    if len(first) != len(second):
        raise ShapeError(
            f"{where}: {len(first)} scores against {len(second)}; the same examples are needed in both arms; keep "
            "those that both have"
        )
    return first, second
