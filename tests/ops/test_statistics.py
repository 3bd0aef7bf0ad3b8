"""Intervals against known values, simulation and plain loops."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.detectable import chi_squared_median, t_exceeded
from paraknow_core.ops.statistics import (
    bootstrap_interval,
    holm,
    mcnemar,
    mean_interval,
    paired_difference,
    paired_over_seeds,
    proportion_interval,
    rank_correlation,
)
from paraknow_core.studies.words import says


def test_wilson_by_hand():
    # z^2 = 3.8415 at n = 10 and no success: the upper end is z^2 / (n + z^2).
    low, high = proportion_interval(0, 10)
    assert low == 0
    assert high == pytest.approx(3.8415 / 13.8415, abs=1e-4)
    z, p, n = 1.959963984540054, 0.8, 10
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n))
    assert proportion_interval(8, 10) == pytest.approx(expected)


def test_t_interval_by_hand():
    # Mean 2, standard deviation 1, t(0.975, 2) = 4.3027.
    assert mean_interval([1, 2, 3]) == pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-4)


def test_bootstrap_interval_is_near_the_normal_one_and_repeatable():
    values = np.random.default_rng(0).normal(3, 2, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert (low, high) == bootstrap_interval(values)
    assert (low, high) != bootstrap_interval(values, seed=1)
    median = bootstrap_interval(values, statistic=np.median)
    assert median[0] < np.median(values) < median[1]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_bootstrap_is_the_plain_loop(n, weighted):
    generator = np.random.default_rng(n)
    values, weights = generator.random(n), generator.integers(1, 9, n) if weighted else np.ones(n)
    drawn = np.random.default_rng(7).integers(n, size=(300, n)).tolist()
    means = [sum(values[i] for i in row) / sum(weights[i] for i in row) for row in drawn]
    found = bootstrap_interval(values, weights if weighted else None, seed=7, resamples=300)
    assert found == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


numbers = st.lists(st.floats(0, 9, width=16), min_size=3, max_size=12)


@given(numbers, st.randoms(use_true_random=False))
def test_rank_correlation_is_what_counting_pairs_and_ranks_gives(a, random):
    b = a[:]
    random.shuffle(b)
    found = rank_correlation(a, b)
    assert found.n == len(a)
    if len(set(a)) == 1:
        assert (found.spearman, found.kendall) == (None, None)
        return
    ranks = np.array([[sum(w < v for w in x) + (sum(w == v for w in x) - 1) / 2 for v in x] for x in (a, b)])
    assert found.spearman == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-9)
    signs = [[np.sign(v - w) for v in x for w in x] for x in (a, b)]
    assert found.kendall == pytest.approx(np.dot(*signs) / math.sqrt(np.dot(*signs[:1] * 2) * np.dot(*signs[1:] * 2)))


def test_rank_correlation_leaves_out_what_is_missing_and_says_so():
    assert rank_correlation([1, 2, 3, math.nan], [2, 4, 9, 1]).n == 3
    assert rank_correlation([1, 2], [2, 1]).spearman is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]).kendall is None


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_mcnemar_equals_counting_coin_tosses(pairs):
    a, b = zip(*pairs, strict=True)
    gained, lost = sum(x > y for x, y in pairs), sum(x < y for x, y in pairs)
    n = gained + lost
    as_unlikely = [k for k in range(n + 1) if math.comb(n, k) <= math.comb(n, gained)]
    assert mcnemar(a, b) == pytest.approx(sum(math.comb(n, k) for k in as_unlikely) / 2**n)


def test_paired_difference_by_hand():
    result = paired_difference([1, 1, 1, 0] * 25, [1, 0, 1, 0] * 25)
    assert result.difference == pytest.approx(0.25)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 100)
    assert (result.low, result.high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.02)
    assert result.n == 100
    assert result.p_value == pytest.approx(2 * 0.5**25)
    assert "McNemar" in result.method


def test_arms_that_never_differ_are_not_certain_to_be_equal():
    from scipy.stats import binomtest

    same = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    exact = binomtest(0, 8).proportion_ci(0.95, method="exact").high
    for result in (paired_difference(same, same), paired_over_seeds([same] * 3, [same] * 3)):
        assert (result.difference, result.p_value) == (0, 1)
        assert (result.low, result.high) == pytest.approx((-exact, exact))
        assert says(result).startswith("No difference was found: +0.0 points (95 % interval -36.9 to +36.9,")


def test_pairing_finds_what_separate_intervals_miss():
    generator = np.random.default_rng(0)
    base = generator.normal(0, 10, 200)
    result = paired_difference(base + 0.5 + generator.normal(0, 0.5, 200), base)
    assert result.low > 0.3
    assert result.p_value < 0.01
    assert "sign-flip" in result.method


def test_a_sign_flip_p_value_for_three_examples_cannot_be_small():
    # All eight sign patterns are equally likely; two of them give a mean as large.
    assert paired_difference([1.0, 2.0, 3.5], [0.0, 0.5, 1.0]).p_value == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("scores", ["binary", "real"])
def test_paired_intervals_cover(scores):
    generator = np.random.default_rng(5)
    covered, rejected, trials = 0, 0, 150
    for trial in range(trials):
        if scores == "binary":
            a, b = (generator.random((2, 80)) < 0.5).astype(float)
        else:
            a, b = generator.normal(size=(2, 80))
        result = paired_difference(a, b, seed=trial)
        covered += result.low <= 0 <= result.high
        rejected += result.p_value < 0.05
    assert covered / trials > 0.89
    assert rejected / trials < 0.11


def test_intervals_over_seeds_cover_when_seeds_differ():
    # Each seed shifts its whole arm: the spread over examples alone would be far too narrow.
    generator = np.random.default_rng(6)
    covered, claimed, trials = 0, 0, 80
    for trial in range(trials):
        a, b = ([generator.normal(shift, 1, 60) for shift in generator.normal(0, 0.5, 3)] for _ in range(2))
        result = paired_over_seeds(a, b, seed=trial)
        covered += result.low <= 0 <= result.high
        claimed += not says(result).startswith("No difference")
    assert covered / trials > 0.88
    assert claimed / trials < 0.1


def test_over_seeds_takes_the_wider_interval_and_says_which():
    generator = np.random.default_rng(7)
    base = [np.zeros(500)] * 3
    shifted = paired_over_seeds([np.full(500, shift) for shift in (0.1, 0.2, 0.3)], base)
    assert (shifted.low, shifted.high) == pytest.approx(mean_interval([0.1, 0.2, 0.3]))
    assert shifted.method == "3 seeds, 500 examples, t over seeds"
    examples = generator.normal(0.1, 1, 500)
    equal = paired_over_seeds([examples] * 3, base)
    assert "bootstrap" in equal.method
    assert equal.high - equal.low == pytest.approx(2 * 1.96 / math.sqrt(500), rel=0.1)
    assert equal.difference == pytest.approx(examples.mean())


def test_one_seed_is_a_paired_difference():
    a, b = np.arange(10.0), np.arange(10.0)[::-1]
    assert paired_over_seeds([a], [b]) == paired_difference(a, b)


@pytest.mark.parametrize(
    "call",
    [
        lambda: paired_difference([1, 2], [1, 2, 3]),
        lambda: bootstrap_interval([1, 2], [1, 2, 3]),
        lambda: paired_over_seeds([[1, 2]], [[1, 2], [1, 2]]),
        lambda: paired_over_seeds([], []),
        lambda: paired_over_seeds([[1, 2], [1, 2, 3]], [[1, 2], [1, 2, 3]]),
    ],
)
def test_scores_that_do_not_pair_are_refused(call):
    with pytest.raises(ShapeError):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: paired_difference([1, math.nan], [1, 2]),
        lambda: paired_difference([], []),
        lambda: paired_difference([1], [0]),
        lambda: paired_over_seeds([[1], [1]], [[0], [0]]),
        lambda: mean_interval([1]),
        lambda: mean_interval([1, math.inf]),
        lambda: bootstrap_interval([]),
        lambda: bootstrap_interval([1, 2], resamples=0),
        lambda: proportion_interval(3, 2),
        lambda: proportion_interval(0, 0),
        lambda: proportion_interval(1, 2, level=1),
        lambda: mcnemar([0.5, 1], [0, 1]),
    ],
)
def test_numbers_that_mean_nothing_are_refused(call):
    with pytest.raises(NumericError) as raised:
        call()
    assert str(raised.value).count(";") == 2


def test_works_without_torch():
    use = "import sys, paraknow_core.ops.statistics as s; s.paired_difference([1, 0], [0, 0])"
    code = f"{use}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_agrees_with_stepping_down_by_hand(values):
    found = holm(values)
    known = sorted((p, i) for i, p in enumerate(values) if p is not None)
    for place, value in enumerate(values):
        if value is None:
            assert found[place] is None
            continue
        before = [(len(known) - k) * p for k, (p, _) in enumerate(known) if (p, _) <= (value, place)]
        assert found[place] == pytest.approx(min(1.0, max(before)))


def test_holm_known_values_and_refusal():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    with pytest.raises(NumericError, match="between 0 and 1"):
        holm([1.5])


@pytest.mark.parametrize(
    "compared",
    [
        paired_difference([2.0, 3.5, 2.5], [2.0, 3.5, 2.5]),
        paired_over_seeds([[2.0, 3.5], [2.5, 3.0]], [[2.0, 3.5], [2.5, 3.0]]),
    ],
)
def test_alike_scores_outside_0_to_1_have_no_interval(compared):
    assert (compared.difference, compared.low, compared.high, compared.p_value) == (0.0, None, None, 1.0)
    assert says(compared, "nats per token").startswith("No difference was seen, and nothing bounds one (")


def test_alike_shares_keep_their_exact_bound():
    one = paired_difference([0.25, 1.0, 0.5], [0.25, 1.0, 0.5])
    assert (one.low, one.high) == pytest.approx((-(1 - 0.025 ** (1 / 3)), 1 - 0.025 ** (1 / 3)))


@pytest.mark.parametrize("freedom", [0, 1, 2.5, 7, 299, 1e6])
def test_quantiles_are_scipys_bit_for_bit(freedom):
    tails = np.array([1e-131, 1e-10, 0.005, 0.025, 0.25])
    assert np.array_equal(t_exceeded(tails, freedom), stats.t.isf(tails, freedom), equal_nan=True)
    assert np.array_equal(chi_squared_median(freedom), stats.chi2.median(freedom), equal_nan=True)
