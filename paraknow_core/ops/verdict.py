"""Better, worse, equivalent or undecided: what paired scores of several seeds allow to say. Needs numpy and scipy.

Scores are a table of seeds and examples, the same in both arms. A difference has two sources of chance: the seeds
(data order, initialisation) and the choice of examples. The question is whether a *method* is better, so both count,
and a word is said only if it holds against both:

- an exact sign-flip test over the seeds' mean differences (no assumption but symmetry);
- an interval that is the widest of three: a crossed bootstrap over seeds and examples; Student's t of seeds and of
  examples together; and, where scores are right or wrong, an exact bound for examples that were not seen.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.resampling import bounded_means, crossed_means, sign_flip_p

BETTER, WORSE, EQUIVALENT, UNDECIDED = WORDS = ("better", "worse", "equivalent", "undecided")
LEVEL = 0.05
POWER = 0.8
_DRAWS = 2000  # simulated studies behind a smallest detectable effect
_SUBSETS = 1023  # of the seeds, at most, in each of them

Spread = tuple[float, int]  # standard deviation over seeds, and its degrees of freedom


@dataclass(frozen=True)
class Verdict:
    """What can be said about the difference of two arms.

    Attributes:
        difference: mean of a - b, in the scores' own unit, as all that follows.
        low, high: 95 % interval; None where nothing bounds it: scores that are all alike, of no known range.
        p_value: two-sided, of the exact sign-flip test over seeds.
        smallest_detectable: the effect that a study like this one finds in 80 % of cases, at 5 % two-sided; None where
            no effect is large enough: too few seeds.
        verdict: "better", "worse", "equivalent" or "undecided".
        seeds, n: how many seeds, and examples of each.
        equivalence_low, equivalence_high: 90 % interval, which has to lie within the margin for "equivalent".
        margin: what was declared beforehand not to matter.
        p_interval: two-sided, at which the interval reaches zero; 1 where there is none.
        p_adjusted: the larger p-value, adjusted for the number of comparisons; None outside a family.
        comparisons: how many comparisons the family has.
        method: what was done, in words.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float
    smallest_detectable: float | None
    verdict: str
    seeds: int
    n: int
    equivalence_low: float | None
    equivalence_high: float | None
    margin: float
    p_interval: float
    p_adjusted: float | None
    comparisons: int
    method: str

    @property
    def within_margin(self) -> bool:
        """Whether the 90 % interval lies inside the margin: a difference, if any, that does not matter."""
        low, high = self.equivalence_low, self.equivalence_high
        return low is not None and high is not None and -self.margin < low and high < self.margin


def fewest_seeds(comparisons: int = 1) -> int:
    """Return with how many seeds a sign-flip test can reach 5 % two-sided: 6, more where Holm corrects for several."""
    return math.ceil(math.log2(2 * comparisons / LEVEL))


def paired_verdict(
    a: ArrayLike, b: ArrayLike, margin: float, *, spread: Spread | None = None, comparisons: int = 1
) -> Verdict:
    """Judge whether arm a is better than arm b.

    Args:
        a, b: (seeds, examples), or (examples,) of one seed: the same seeds and the same examples in the same order;
            higher is better.
        margin: differences below it do not matter; in the scores' unit, above 0, declared before the scores are seen.
        spread: standard deviation of seeds' mean differences and its degrees of freedom, pooled over the arms of a
            study (`pooled_spread(..., paired=True)`). An arm that spreads more than the pool speaks for itself.
        comparisons: size of the family that this one belongs to, for the smallest detectable effect alone.

    Returns:
        "better" or "worse" if the sign-flip test and the interval both reject no difference at 5 %; else "equivalent"
        if the 90 % interval lies inside the margin (two one-sided tests at 5 %); else "undecided". Fewer than 6 seeds
        are always undecided. A sure difference that does not matter is better or worse: see `within_margin`.

    Raises:
        ShapeError: different shapes, or not one or two dimensions; NumericError: fewer than two examples, NaN or
            infinity, a margin not above 0.

    Note:
        False "better or worse" and false "equivalent" at most 5 %: `python -m benchmarks.verdict`. Where examples are
        few, the t interval rests on normal means; a rare outcome (one seed in ten diverges) that no seed showed is
        beyond any test.
    """
    first, second = _table(a), _table(b)
    if first.shape != second.shape:
        raise ShapeError(
            f"verdict: {_shape(first)} against {_shape(second)}; the same seeds and examples are needed in both arms; "
            "keep those that both have"
        )
    return judge(first[None], second[None], margin, spread=spread, comparisons=comparisons)[0]


def verdicts(
    a_by_arm: Mapping[str, ArrayLike], b: ArrayLike, margin: float, *, pooled: bool = True
) -> dict[str, Verdict]:
    """Judge several arms against one, as a family: the chance of any false "better" or "worse" is at most 5 %.

    Args:
        a_by_arm: (seeds, examples) of each arm, all of one shape.
        b: of the arm that they are compared with.
        margin: as in `paired_verdict`.
        pooled: the spread of seeds is pooled over the arms.

    Returns:
        One verdict an arm, in the same order. "better" and "worse" rest on p-values adjusted by Holm; with several arms
        more than 6 seeds are needed to reach them (`fewest_seeds`). "equivalent" is each arm's own: it is not adjusted.

    Raises:
        As `paired_verdict`.
    """
    base = _table(b)
    tables = {name: _table(a) for name, a in a_by_arm.items()}
    for name, table in tables.items():
        if table.shape != base.shape:
            raise ShapeError(
                f"verdict: arm '{name}' has {_shape(table)} against {_shape(base)}; the same seeds and examples are "
                "needed in all arms; keep those that all have"
            )
    if not tables:
        return {}
    several = pooled and len(tables) > 1 and len(base) > 1
    spread = pooled_spread([base, *tables.values()], paired=True) if several else None
    stack = np.stack(list(tables.values()))
    found = judge(stack, np.broadcast_to(base, stack.shape), margin, spread=spread, comparisons=len(tables))
    return dict(zip(tables, adjust(found), strict=True))


def adjust(family: Sequence[Verdict], declared: int = 0) -> list[Verdict]:
    """Return the verdicts of a family with p-values adjusted by Holm, and the words that then follow.

    Args:
        family: the comparisons that can be judged.
        declared: how many there will be: those that are not there yet count as well, so that words do not depend on
            which arm is done first.
    """
    size = max(declared, len(family))
    adjusted = holm([*(max(each.p_value, each.p_interval) for each in family), *[1.0] * (size - len(family))])
    return [within_family(each, p, size) for each, p in zip(family, adjusted[: len(family)], strict=True)]


def within_family(result: Verdict, p_adjusted: float | None, comparisons: int) -> Verdict:
    """Return a verdict as one of several comparisons, with its p-value in their family and the word that follows."""
    adjusted = replace(result, p_adjusted=p_adjusted, comparisons=comparisons)
    return replace(adjusted, verdict=_word(adjusted))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for the number of comparisons, so that the chance of any false alarm stays at the level.

    Args:
        p_values: one a comparison; None where a comparison gives none: it is not counted.

    Returns:
        The adjusted values in the same order, each at most 1 and at least the one given.

    Raises:
        NumericError: a value outside 0 to 1.

    Source:
        Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    given = [(p, place) for place, p in enumerate(p_values) if p is not None]
    if any(not 0 <= p <= 1 for p, _ in given):
        raise NumericError("Holm: a p-value is not between 0 and 1; check the tests that gave them")
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(sorted(given)):
        largest = max(largest, min(1.0, (len(given) - rank) * p))
        adjusted[place] = largest
    return adjusted


def judge(
    a: np.ndarray, b: np.ndarray, margin: float, *, spread: Spread | None = None, comparisons: int = 1
) -> list[Verdict]:
    """Judge many pairs of tables at once, each as `paired_verdict` does by itself.

    Args:
        a, b: (pairs, seeds, examples), finite.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise NumericError(
            f"verdict: margin {margin}; a number above 0 is needed, in the scores' unit; 0.01 is one point of a share"
        )
    tables = a - b
    _, seeds, n = tables.shape
    if n < 2:
        raise NumericError("verdict: 1 example; at least two are needed to see a spread; test on more examples")
    means = tables.mean(axis=2)
    parts = _variances(tables)
    difference = means.mean(axis=1)
    counted = (np.isin(a, (0, 1)) & np.isin(b, (0, 1))).all(axis=(1, 2))
    in_range = np.minimum(a, b).min(axis=(1, 2)) >= 0
    in_range &= np.maximum(a, b).max(axis=(1, 2)) <= 1
    exact = counted | (in_range & ((tables == 0).mean(axis=(1, 2)) > 0.5))
    alike = ~tables.any(axis=(1, 2))
    seed_variance, freedom = _seed_variance(parts.seeds, seeds, spread)
    intervals = [_student(difference, seed_variance, freedom, parts.examples, n)]
    draws = crossed_means(tables, np.random.default_rng(0))
    intervals.append(_percentiles(draws, draws))
    if exact.any():
        below, above = bounded_means(tables[exact].mean(axis=1), np.random.default_rng(0))
        bounded = np.tile([[np.inf], [-np.inf], [np.inf], [-np.inf], [0.0]], len(tables))
        bounded[:, exact] = _percentiles(below, above)
        intervals.append(bounded)
    every = np.stack(intervals)  # (ways, 5, pairs)
    low, ninety_low = every[:, [0, 2]].min(0)
    high, ninety_high, p_interval = every[:, [1, 3, 4]].max(0)
    ways = ["Student t over seeds and examples", "crossed bootstrap", "exact bound over examples"]
    widest = (every[:, 1] - every[:, 0]).argmax(0)
    found = []
    for k in range(len(tables)):
        unbounded = bool(alike[k] and not exact[k])
        ends = (None,) * 4 if unbounded else tuple(map(float, (low[k], high[k], ninety_low[k], ninety_high[k])))
        own = _Variances(*_expected(seeds, n, parts, k, spread))
        gain = _Gain.of(a[k], b[k]) if exact[k] else None
        how = "nothing bounds scores that are all alike" if unbounded else f"interval: {ways[widest[k]]}"
        if spread is None and seeds == 1:
            how += ", of one seed: how others would differ is not in it"
        if spread is not None:
            how += f", spread of seeds pooled ({spread[1]} degrees of freedom)"
        result = Verdict(
            difference=float(difference[k]),
            low=ends[0],
            high=ends[1],
            p_value=sign_flip_p(means[k]),
            smallest_detectable=None if unbounded else _smallest(seeds, n, own, freedom[k], comparisons, gain),
            verdict=UNDECIDED,
            seeds=seeds,
            n=n,
            equivalence_low=ends[2],
            equivalence_high=ends[3],
            margin=float(margin),
            p_interval=1.0 if unbounded else float(p_interval[k]),
            p_adjusted=None,
            comparisons=comparisons,
            method=f"exact sign flips over seeds; {how}",
        )
        found.append(replace(result, verdict=_word(result)))
    return found


def _word(result: Verdict) -> str:
    if result.seeds < fewest_seeds() or result.low is None or result.high is None:
        return UNDECIDED
    p = max(result.p_value, result.p_interval) if result.p_adjusted is None else result.p_adjusted
    if p <= LEVEL and not result.low <= 0 <= result.high:
        return BETTER if result.difference > 0 else WORSE
    return EQUIVALENT if result.within_margin else UNDECIDED


@dataclass(frozen=True)
class _Variances:
    """Squared standard errors of a table's mean, or of many: from seeds' means, from examples' means, from the rest.

    In expectation, with s, e and r the variances of seeds, examples and the rest: seeds = s/S + r/(Sn),
    examples = e/n + r/(Sn), rest = r/(Sn).
    """

    seeds: Any
    examples: Any
    rest: Any


def _variances(tables: np.ndarray) -> _Variances:
    _, seeds, n = tables.shape
    by_seed, by_example = tables.mean(axis=2), tables.mean(axis=1)
    of_examples = by_example.var(axis=1, ddof=1) / n
    if seeds == 1:
        return _Variances(np.zeros(len(tables)), of_examples, np.zeros(len(tables)))
    residual = tables - by_seed[:, :, None] - by_example[:, None] + by_example.mean(axis=1)[:, None, None]
    of_rest = (residual**2).sum(axis=(1, 2)) / ((seeds - 1) * (n - 1)) / (seeds * n)
    return _Variances(by_seed.var(axis=1, ddof=1) / seeds, of_examples, of_rest)


def _seed_variance(own: np.ndarray, seeds: int, spread: Spread | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared standard error from seeds and its degrees of freedom; 1 where there is one seed, of 0."""
    freedom = np.full(len(own), max(1, seeds - 1))
    if spread is None:
        return own, freedom
    pooled = spread[0] ** 2 / seeds
    return np.maximum(own, pooled), np.where(own > pooled, freedom, spread[1])


def _student(
    difference: np.ndarray, of_seeds: np.ndarray, freedom: np.ndarray, of_examples: np.ndarray, n: int
) -> np.ndarray:
    """Return low, high, low and high of 90 %, and the p-value of a t interval with two sources of chance.

    Half its width is the root of t_seeds^2 * variance_seeds + t_examples^2 * variance_examples: whatever the ratio of
    the two, it covers at least as often as it says.

    Source:
        Banerjee, Sankhya 22 (1960), "On confidence interval for two-means problem based on separate estimates".
    """
    from scipy.stats import t

    def half(level: np.ndarray | float) -> np.ndarray:
        return np.sqrt(t.isf(level / 2, freedom) ** 2 * of_seeds + t.isf(level / 2, n - 1) ** 2 * of_examples)

    small, large = np.full_like(difference, -300.0), np.zeros_like(difference)  # p-value as its logarithm
    for _ in range(50):
        middle = (small + large) / 2
        wide = half(np.exp(middle)) >= np.abs(difference)
        small, large = np.where(wide, middle, small), np.where(wide, large, middle)
    narrow, wide = half(2 * LEVEL), half(LEVEL)
    ends = (difference - wide, difference + wide, difference - narrow, difference + narrow)
    return np.stack([*ends, np.where(difference == 0, 1.0, np.exp(large))])


def _percentiles(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Return low, high, low and high of 90 %, and the p-value (twice the share beyond zero) from draws."""
    low, ninety_low = np.quantile(below, [LEVEL / 2, LEVEL], axis=0)
    ninety_high, high = np.quantile(above, [1 - LEVEL, 1 - LEVEL / 2], axis=0)
    far = np.minimum((below <= 0).sum(axis=0), (above >= 0).sum(axis=0))
    return np.stack([low, high, ninety_low, ninety_high, np.minimum(1, 2 * (far + 1) / (len(below) + 1))])


def pooled_spread(tables: Sequence[ArrayLike], *, paired: bool = False) -> Spread:
    """Pool the spread of seeds over the arms of a study.

    Args:
        tables: of each arm (seeds, examples), or (seeds,) means.
        paired: gives the spread of the *difference* of two arms at the same seed, from what is left when each arm's and
            each seed's mean are taken out; all arms then have the same seeds in the same order.

    Returns:
        Standard deviation of a seed's mean score (or difference), and its degrees of freedom.

    Raises:
        NumericError: no arm has two seeds, or NaN; ShapeError: paired arms of different seeds.
    """
    means = [_seed_means(table) for table in tables]
    if paired:
        if len({len(own) for own in means}) != 1 or len(means) < 2:
            raise ShapeError(
                "pooled spread: paired arms need the same seeds, and there must be two; leave out seeds that one lacks"
            )
        table = np.stack(means)
        residual = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        freedom, squares = (len(table) - 1) * (table.shape[1] - 1), 2 * (residual**2).sum()
    else:
        freedom = sum(len(own) - 1 for own in means)
        squares = sum(((own - own.mean()) ** 2).sum() for own in means)
    if freedom < 1:
        raise NumericError(
            "pooled spread: no arm has two seeds; at least one arm with two is needed to see a spread; run more seeds"
        )
    return math.sqrt(squares / freedom), freedom


def seed_interval(scores_by_seed: ArrayLike, spread: Spread, level: float = 1 - LEVEL) -> tuple[float, float]:
    """Student t interval of an arm's mean over seeds, with a spread that was pooled over the arms of a study.

    Args:
        scores_by_seed: (seeds,) one mean a seed; one seed is enough.
        spread: from `pooled_spread`.
        level: coverage.
    """
    from scipy.stats import t

    means = _seed_means(scores_by_seed)
    half = float(t.isf((1 - level) / 2, spread[1])) * spread[0] / math.sqrt(len(means))
    return float(means.mean()) - half, float(means.mean()) + half


@dataclass(frozen=True)
class Spreads:
    """Standard deviations of a paired difference, in the scores' unit: of seeds, of examples, and of what is left."""

    seed: float
    example: float
    rest: float


def spreads(a: ArrayLike, b: ArrayLike) -> Spreads:
    """Take the difference of two arms apart into seeds, examples and the rest, for `smallest_detectable`.

    Args:
        a, b: (seeds, examples), two seeds at least.
    """
    table = _table(a) - _table(b)
    seeds, n = table.shape
    of = _variances(table[None])
    seed, example = (max(0.0, float(own[0] - of.rest[0])) for own in (of.seeds, of.examples))
    return Spreads(math.sqrt(seed * seeds), math.sqrt(example * n), math.sqrt(float(of.rest[0]) * seeds * n))


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
    variances = _Variances(sd_seed**2 / seeds + rest, sd_example**2 / examples + rest, rest)
    return _smallest(seeds, examples, variances, max(1, seeds - 1), comparisons)


def _expected(seeds: int, n: int, parts: _Variances, k: int, spread: Spread | None) -> tuple[float, float, float]:
    """Return squared standard errors that are too small as often as too large: few seeds often see too little."""
    from scipy.stats import chi2

    freedom = max(1, seeds - 1) if spread is None else spread[1]
    of_seeds = parts.seeds[k] if spread is None else spread[0] ** 2 / seeds
    return (
        float(of_seeds * freedom / chi2.median(freedom)),
        float(parts.examples[k] * (n - 1) / chi2.median(n - 1)),
        float(parts.rest[k]),
    )


@dataclass(frozen=True)
class _Gain:
    """How scores of right and wrong grow noisier with an effect, which a normal model does not know.

    Attributes:
        slope: what a difference adds to the mean square of a single difference, for each unit of its size.
        seen: the size of the difference that the table already has.
    """

    slope: float
    seen: float

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray) -> Self:
        rate = float(b.mean())
        within = float(b.var(axis=0, ddof=1).mean()) if len(b) > 1 else 0.0
        return cls(max(0.0, 1 - 2 * within / max(rate, 1 - rate)), abs(float(a.mean()) - rate))

    def added(self, effect: float) -> float:
        return max(0.0, self.slope * max(0.0, effect - self.seen) - effect**2 + self.seen**2)


def _smallest(
    seeds: int, n: int, of: _Variances, freedom: int, comparisons: int, gain: _Gain | None = None
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
        noisy = _Variances(of.seeds + rest, of.examples + more * shared + rest, of.rest + rest)
        thresholds = _thresholds(seeds, n, noisy, freedom, comparisons, shared + (1 - shared) / seeds)
        low, high = (low, middle) if (thresholds <= middle).mean() >= POWER else (middle, high)
    return None if high == 1 else high


def _thresholds(
    seeds: int, n: int, of: _Variances, freedom: int, comparisons: int, step: float | None = None
) -> np.ndarray:
    """Return, of each simulated study, the effect above which its sign-flip test and its interval both reject.

    Args:
        seeds, n, of, freedom, comparisons: as for `_smallest`; means are normal.
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


@lru_cache(maxsize=256)
def _critical(level: float, freedom: float) -> float:
    from scipy.stats import t

    return float(t.isf(level / 2, freedom))


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


def _table(scores: ArrayLike) -> np.ndarray:
    data = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if data.ndim != 2 or data.size == 0:
        raise ShapeError(
            f"verdict: scores of shape {data.shape}; a table of seeds and examples is needed; give one row a seed"
        )
    return require_finite(data)


def _seed_means(scores: ArrayLike) -> np.ndarray:
    data = np.asarray(scores, dtype=np.float64)
    if data.ndim not in (1, 2) or data.size == 0:
        raise ShapeError(
            f"spread of seeds: scores of shape {data.shape}; one number or one row a seed is needed; check the arm"
        )
    return require_finite(data) if data.ndim == 1 else require_finite(data).mean(axis=1)


def require_finite(data: np.ndarray) -> np.ndarray:
    """Return scores as they are, or refuse NaN and infinity."""
    if not np.isfinite(data).all():
        raise NumericError(
            f"verdict: {int((~np.isfinite(data)).sum())} of {data.size} scores are NaN or infinite; finite scores are "
            "needed; look for a failed example"
        )
    return data


def _shape(table: np.ndarray) -> str:
    return f"{len(table)} seeds x {table.shape[1]} examples"
