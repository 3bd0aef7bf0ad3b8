"""What a study can see: the smallest effect that it finds in 80 % of cases, by the test that `verdict` makes.

Found by simulation of that test: seeds' means are normal, and of scores that are right or wrong the noise grows with
the effect. Needs numpy and scipy.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from paraknow_core.errors import NumericError

LEVEL = 0.05
POWER = 0.8
_DRAWS = 2000  # simulated studies behind a smallest detectable effect
_SUBSETS = 1023  # of the seeds, at most, in each of them

Spread = tuple[float, int]  # standard deviation over seeds, and its degrees of freedom


def fewest_seeds(comparisons: int = 1) -> int:
    """Return with how many seeds a sign-flip test can reach 5 % two-sided: 6, more where Holm corrects for several."""
    return math.ceil(math.log2(2 * comparisons / LEVEL))


@dataclass(frozen=True)
class Variances:
    """Squared standard errors of a table's mean, or of many: from seeds' means, from examples' means, from the rest.

    In expectation, with s, e and r the variances of seeds, examples and the rest: seeds = s/S + r/(Sn),
    examples = e/n + r/(Sn), rest = r/(Sn).
    """

    seeds: Any
    examples: Any
    rest: Any


def variances(tables: np.ndarray) -> Variances:
    """Take the differences of tables (tables, seeds, examples) apart: (tables,) each."""
    _, seeds, n = tables.shape
    by_seed, by_example = tables.mean(axis=2), tables.mean(axis=1)
    of_examples = by_example.var(axis=1, ddof=1) / n
    if seeds == 1:
        return Variances(np.zeros(len(tables)), of_examples, np.zeros(len(tables)))
    residual = tables - by_seed[:, :, None] - by_example[:, None] + by_example.mean(axis=1)[:, None, None]
    of_rest = (residual**2).sum(axis=(1, 2)) / ((seeds - 1) * (n - 1)) / (seeds * n)
    return Variances(by_seed.var(axis=1, ddof=1) / seeds, of_examples, of_rest)


def smallest_detectable(
    seeds: int, examples: int, sd_seed: float, sd_example: float, sd_rest: float = 0.0, *, comparisons: int = 1
) -> float | None:
    """Return the effect that a study would find in 80 % of cases with the test of `paired_verdict`.

    Args:
        seeds, examples: of the study.
        sd_seed: standard deviation over seeds of the difference that endless examples would show.
        sd_example: over examples, of the difference that endless seeds would show.
        sd_rest: what is left in a single score: for scores of right and wrong usually the largest part.
        comparisons: arms compared with the same one; Holm then asks for more.

    Returns:
        In the scores' unit; None where no effect is large enough, because there are too few seeds.

    Raises:
        NumericError: fewer than one seed or two examples, or a spread that is negative or not finite.
    """
    given = (sd_seed, sd_example, sd_rest)
    if seeds < 1 or examples < 2 or not all(math.isfinite(sd) and sd >= 0 for sd in given):
        raise NumericError(
            f"smallest detectable effect: {seeds} seeds, {examples} examples, spreads {given}; at least 1 seed, 2 "
            "examples and finite spreads from 0 on are needed"
        )
    rest = sd_rest**2 / (seeds * examples)
    variances = Variances(sd_seed**2 / seeds + rest, sd_example**2 / examples + rest, rest)
    return smallest(seeds, examples, variances, max(1, seeds - 1), comparisons)


def expected(seeds: int, n: int, parts: Variances, k: int, spread: Spread | None) -> Variances:
    """Return a table's squared standard errors made too small as often as too large: few seeds often see too little.

    Args:
        seeds, n: of the table.
        parts: of many tables; this is number k of them.
        spread: of seeds, pooled over a study; None: the table's own.
    """
    freedom = max(1, seeds - 1) if spread is None else spread[1]
    of_seeds = parts.seeds[k] if spread is None else spread[0] ** 2 / seeds
    return Variances(
        float(of_seeds * freedom / chi_squared_median(freedom)),
        float(parts.examples[k] * (n - 1) / chi_squared_median(n - 1)),
        float(parts.rest[k]),
    )


@dataclass(frozen=True)
class Gain:
    """How scores of right and wrong grow noisier with an effect, which a normal model does not know.

    Attributes:
        slope: what a difference adds to the mean square of a single difference, for each unit of its size.
        seen: the size of the difference that the table already has.
    """

    slope: float
    seen: float

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray) -> Self:
        """Return what the (seeds, examples) scores of two arms say of it."""
        rate = float(b.mean())
        within = float(b.var(axis=0, ddof=1).mean()) if len(b) > 1 else 0.0
        return cls(max(0.0, 1 - 2 * within / max(rate, 1 - rate)), abs(float(a.mean()) - rate))

    def added(self, effect: float) -> float:
        """Return by how much the mean square grows from the difference that is seen to an effect."""
        return max(0.0, self.slope * max(0.0, effect - self.seen) - effect**2 + self.seen**2)


def smallest(
    seeds: int, n: int, of: Variances, freedom: int, comparisons: int, gain: Gain | None = None
) -> float | None:
    """Return the effect that 80 % of simulated studies with these squared standard errors find.

    Args:
        of: of one table.
        freedom: degrees of freedom of the seeds' spread.
        comparisons: size of the family.
        gain: for scores of right and wrong, whose noise depends on the effect; they are at most 1.
    """
    if seeds < fewest_seeds(comparisons):
        return None
    if gain is None:
        return max(0.0, float(np.quantile(_thresholds(seeds, n, of, freedom, comparisons), POWER)))
    common, cell = max(0.0, of.examples - of.rest) * n, of.rest * n * seeds
    shared = common / (common + cell) if common + cell > 0 else 1.0
    low, high = 0.0, 1.0
    for _ in range(12):  # the effect that is as large as what its own noise lets detect
        middle = (low + high) / 2
        more = gain.added(middle) / n
        rest = more * (1 - shared) / seeds
        noisy = Variances(of.seeds + rest, of.examples + more * shared + rest, of.rest + rest)
        thresholds = _thresholds(seeds, n, noisy, freedom, comparisons, shared + (1 - shared) / seeds)
        low, high = (low, middle) if (thresholds <= middle).mean() >= POWER else (middle, high)
    return None if high == 1 else high


def _thresholds(
    seeds: int, n: int, of: Variances, freedom: int, comparisons: int, step: float | None = None
) -> np.ndarray:
    """Return, of each simulated study, the effect above which its sign-flip test and its interval both reject.

    Args:
        seeds, n, of, freedom, comparisons: as for `smallest`; means are normal.
        step: by how much one right answer more moves an example's mean over seeds, for the bound that counts one unseen
            example: 1 / seeds where seeds err apart, 1 where they err alike; None without that bound.
    """
    level = LEVEL / comparisons
    draws = _simulated(seeds, n, comparisons)
    z, t_seeds, t_examples = (_critical(level, df) for df in (math.inf, int(freedom), n - 1))
    spread = math.sqrt(of.seeds * seeds)
    # A pooled spread is steadier than the spread of one study's own seeds.
    from_seeds = of.seeds * (draws.variance if freedom == seeds - 1 else 1.0)
    from_examples = of.examples * draws.of_examples
    student = np.sqrt(t_seeds**2 * from_seeds + t_examples**2 * from_examples)
    fewer_seeds, fewer_examples = 1 - 1 / seeds, 1 - 1 / n
    own_seeds = of.seeds * draws.variance * fewer_seeds
    crossed = own_seeds + from_examples * fewer_examples + of.rest * fewer_seeds * fewer_examples
    half = np.maximum(student, z * np.sqrt(crossed))
    if step is not None:
        wide = n * n * from_examples + 1  # variance, in examples: the unseen one counts like an exponential of mean 1
        half = np.maximum(half, (1 + z * np.sqrt(wide) + (z * z - 1) / (3 * wide)) / n)  # Cornish and Fisher
        # Gains without a loss outweigh the unseen example, which counts 1, with probability 1 - (1 + step)^-gains.
        half = np.maximum(half, math.log(2 / level) * step / math.log1p(step) / n)
    common = math.sqrt(max(0.0, of.examples - of.rest)) * draws.common
    return np.maximum(spread * draws.sign_flip, half - spread * draws.mean) - common


def chi_squared_median(freedom: float) -> float:
    """Return the median of chi squared: `scipy.stats.chi2.median`, without half a second of imports; NaN for 0."""
    from scipy.special import gammaincinv

    return float(2 * gammaincinv(freedom / 2, 0.5))


def t_exceeded(probability: np.ndarray | float, freedom: np.ndarray | float) -> np.ndarray:
    """Return what Student's t exceeds with a probability: `scipy.stats.t.isf`, without half a second of imports.

    Args:
        probability: of the upper tail, between 0 and 1.
        freedom: degrees of freedom; NaN comes of 0.
    """
    from scipy.special import stdtrit

    return -stdtrit(freedom, probability)


@lru_cache(maxsize=256)
def _critical(level: float, freedom: float) -> float:
    return float(t_exceeded(level / 2, freedom))


@dataclass(frozen=True)
class _Simulated:
    """Studies with seeds' means of mean 0 and variance 1, (draws,) each.

    Attributes:
        mean, variance: of the seeds' means.
        sign_flip: the effect above which the sign-flip test rejects.
        common: shift of all seeds by the choice of examples, of variance 1.
        of_examples: estimate of the examples' variance, over its expectation.
    """

    mean: np.ndarray
    variance: np.ndarray
    sign_flip: np.ndarray
    common: np.ndarray
    of_examples: np.ndarray


@lru_cache(maxsize=32)
def _simulated(seeds: int, n: int, comparisons: int) -> _Simulated:
    """Simulate studies once; spreads only scale them.

    With an effect added, flipping a subset of the seeds makes the sum no smaller just when the subset's mean is at or
    below minus the effect. So the test rejects when few enough subset means are: its threshold is one of them.

    Source:
        Hartigan, Journal of the American Statistical Association 64 (1969), "Using subsample values as typical values".
    """
    generator = np.random.default_rng(0)
    means = generator.standard_normal((_DRAWS, seeds))
    if 2**seeds - 1 <= _SUBSETS:
        chosen = (np.arange(1, 2**seeds)[:, None] >> np.arange(seeds)) & 1
        place = math.floor(LEVEL / comparisons * 2 ** (seeds - 1)) - 1
    else:
        chosen = generator.integers(2, size=(_SUBSETS, seeds))
        chosen[chosen.sum(axis=1) == 0] = 1
        place = math.floor(LEVEL / comparisons / 2 * _SUBSETS)
    subset_means = means @ (chosen / chosen.sum(axis=1, keepdims=True)).T
    return _Simulated(
        means.mean(axis=1),
        means.var(axis=1, ddof=1),
        -np.partition(subset_means, place, axis=1)[:, place],
        generator.standard_normal(_DRAWS),
        generator.chisquare(n - 1, _DRAWS) / (n - 1),
    )
