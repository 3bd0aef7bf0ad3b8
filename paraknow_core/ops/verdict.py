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

import numpy as np
from numpy.typing import ArrayLike

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.detectable import LEVEL, Gain, Spread, expected, fewest_seeds, smallest, t_exceeded, variances
from paraknow_core.ops.resampling import bounded_means, crossed_means, sign_flip_p

BETTER, WORSE, EQUIVALENT, UNDECIDED = WORDS = ("better", "worse", "equivalent", "undecided")


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
    parts = variances(tables)
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
        own = expected(seeds, n, parts, k, spread)
        gain = Gain.of(a[k], b[k]) if exact[k] else None
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
            smallest_detectable=None if unbounded else smallest(seeds, n, own, freedom[k], comparisons, gain),
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

    def half(level: np.ndarray | float) -> np.ndarray:
        return np.sqrt(t_exceeded(level / 2, freedom) ** 2 * of_seeds + t_exceeded(level / 2, n - 1) ** 2 * of_examples)

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
    means = _seed_means(scores_by_seed)
    half = float(t_exceeded((1 - level) / 2, spread[1])) * spread[0] / math.sqrt(len(means))
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
    of = variances(table[None])
    seed, example = (max(0.0, float(own[0] - of.rest[0])) for own in (of.seeds, of.examples))
    return Spreads(math.sqrt(seed * seeds), math.sqrt(example * n), math.sqrt(float(of.rest[0]) * seeds * n))


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
