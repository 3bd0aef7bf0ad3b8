"""Verdicts against enumeration in plain loops, by hand, and by simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.resampling import bounded_means, crossed_means, sign_flip_p
from paraknow_core.ops.statistics import (
    fewest_seeds,
    holm,
    paired_verdict,
    pooled_spread,
    seed_interval,
    smallest_detectable,
    spreads,
    verdicts,
)
from paraknow_core.ops.verdict import judge


def table(seeds, n, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (seeds, n))


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_sign_flips_are_counted_one_by_one(values):
    patterns = list(itertools.product((-1, 1), repeat=len(values)))
    far = sum(abs(sum(s * v for s, v in zip(p, values, strict=True))) >= abs(sum(values)) for p in patterns)
    assert sign_flip_p(np.array(values) / 7) == pytest.approx(far / len(patterns))


def test_sign_flips_are_those_of_scipy():
    from scipy.stats import permutation_test

    values = np.random.default_rng(1).normal(0.4, 1, 11)
    theirs = permutation_test((values,), np.mean, permutation_type="samples", n_resamples=2**11)
    assert sign_flip_p(values) == pytest.approx(theirs.pvalue)
    assert sign_flip_p(np.ones(32)) == 2 / 2**32
    assert sign_flip_p(np.ones(33)) < 0.001  # random patterns from here on


def test_the_crossed_bootstrap_is_the_plain_loop():
    scores = table(3, 4)
    generator = np.random.default_rng(7)
    examples = generator.integers(4, size=(50, 4))
    seeds = generator.integers(3, size=(50, 3))
    means = [
        sum(scores[s, i] for s in drawn for i in chosen) / 12 for drawn, chosen in zip(seeds, examples, strict=True)
    ]
    found = crossed_means(np.stack([scores, 2 * scores]), np.random.default_rng(7), 50)
    assert found[:, 0] == pytest.approx(np.array(means))
    assert found[:, 1] == pytest.approx(2 * np.array(means))


def test_the_bound_of_right_and_wrong_is_clopper_and_pearsons():
    from scipy.stats import binomtest

    _, above = bounded_means(np.array([[1.0] * 3 + [0.0] * 17]), np.random.default_rng(0), 40_000)
    assert np.quantile(above, 0.975) == pytest.approx(binomtest(3, 20).proportion_ci(0.95).high, abs=0.005)
    below, _ = bounded_means(np.array([[1.0] * 4 + [0.0] * 96]), np.random.default_rng(0), 40_000)
    assert (below <= 0).mean() == pytest.approx(1 / 16, abs=0.005)  # McNemar's, one-sided: 4 of 4


def test_student_by_hand():
    # Seeds' means 1 to 6, no noise of examples: mean 3.5, sd 1.8708, t(5) 2.5706 and 2.0150.
    means = np.arange(1.0, 7.0)
    result = paired_verdict(np.tile(means[:, None], 9), np.zeros((6, 9)), 6)
    assert (result.low, result.high) == pytest.approx((3.5 - 2.5706 * 0.76376, 3.5 + 2.5706 * 0.76376), abs=1e-3)
    ends = (result.equivalence_low, result.equivalence_high)
    assert ends == pytest.approx((3.5 - 2.0150 * 0.76376, 3.5 + 2.0150 * 0.76376), abs=1e-3)
    assert (result.p_value, result.verdict) == (2 / 64, "better")
    assert result.within_margin  # sure, and of no matter
    assert (result.seeds, result.n, result.difference) == (6, 9, 3.5)
    from scipy.stats import ttest_1samp

    assert result.p_interval == pytest.approx(ttest_1samp(means, 0).pvalue, rel=1e-3)


def test_equivalence_is_two_one_sided_tests():
    from scipy.stats import ttest_1samp

    for trial in range(20):
        means = np.random.default_rng(trial).normal(0.2, 1, 8)
        result = paired_verdict(np.tile(means[:, None], 5), np.zeros((8, 5)), 1.0)
        below = ttest_1samp(means, 1.0, alternative="less").pvalue
        above = ttest_1samp(means, -1.0, alternative="greater").pvalue
        assert result.within_margin == (max(below, above) < 0.05)


@given(arrays(float, (6, 5), elements=st.integers(2, 9)), arrays(float, (6, 5), elements=st.integers(2, 9)))
@settings(max_examples=15, deadline=None)
def test_swapping_arms_turns_the_verdict_and_a_shift_changes_nothing(a, b):
    first, second = paired_verdict(a, b, 0.5), paired_verdict(b, a, 0.5)
    turned = {"better": "worse", "worse": "better"}
    assert second.verdict == turned.get(first.verdict, first.verdict)
    assert (second.difference, second.p_value) == pytest.approx((-first.difference, first.p_value))
    if first.low is None:
        assert not (a - b).any() and first.verdict == "undecided"
        return
    assert first.low <= first.difference <= first.high
    assert first.low <= first.equivalence_low <= first.equivalence_high <= first.high
    assert (second.low, second.high) == pytest.approx((-first.high, -first.low))
    shifted, scaled = paired_verdict(a + 20, b + 20, 0.5), paired_verdict(4 * a + 80, 4 * b + 80, 2)
    assert shifted.low == pytest.approx(paired_verdict(a + 40, b + 40, 0.5).low)
    assert (scaled.low, scaled.high) == pytest.approx((4 * shifted.low, 4 * shifted.high))
    assert scaled.smallest_detectable == pytest.approx(4 * shifted.smallest_detectable)
    assert scaled.verdict == shifted.verdict


@pytest.mark.parametrize(("seeds", "word"), [(1, "undecided"), (5, "undecided"), (6, "better")])
def test_fewer_than_six_seeds_are_undecided(seeds, word):
    result = paired_verdict(table(seeds, 40, shift=9), np.zeros((seeds, 40)), 1)
    assert result.verdict == word
    assert (result.smallest_detectable is None) == (seeds < 6)
    assert result.p_value == 2 / 2**seeds
    assert paired_verdict(np.full((seeds, 40), 0.5), np.full((seeds, 40), 0.5), 0.3).verdict in (
        "undecided",
        "equivalent",
    )


def test_one_row_is_one_seed():
    assert paired_verdict([1.0, 2, 4], [1, 1, 1], 1) == paired_verdict([[1.0, 2, 4]], [[1, 1, 1]], 1)


def test_scores_that_are_all_alike():
    same = np.tile([1.0, 0.0], (6, 10))
    few = paired_verdict(same, same, 0.1)
    assert (few.difference, few.p_value, few.verdict) == (0, 1, "undecided")
    assert few.equivalence_high == pytest.approx(1 - 0.05 ** (1 / 20), abs=0.005)  # Clopper and Pearson's bound
    many = np.tile([1.0, 0.0], (6, 100))
    assert paired_verdict(many, many, 0.1).verdict == "equivalent"
    assert paired_verdict(many[:5], many[:5], 0.1).verdict == "undecided"
    nats = paired_verdict(same + 3, same + 3, 0.1)
    assert (nats.low, nats.high, nats.smallest_detectable, nats.verdict) == (None, None, None, "undecided")
    constant = paired_verdict(np.full((6, 50), 2.5), np.full((6, 50), 2.0), 0.1)
    assert (constant.verdict, constant.low, constant.smallest_detectable) == ("better", 0.5, 0)


def test_two_examples_right_in_every_seed_are_no_proof():
    assert paired_verdict(np.ones((8, 2)), np.zeros((8, 2)), 0.1).verdict == "undecided"


def test_seeds_that_repeat_each_other_are_no_proof():
    """Eight copies of one seed: the sign-flip test rejects whatever the examples were; the interval does not."""
    wrong = 0
    for trial in range(60):
        one = np.random.default_rng(trial).normal(0, 1, 12)
        result = paired_verdict(np.tile(one, (8, 1)), np.zeros((8, 12)), 0.1)
        assert result.p_value < 0.01
        wrong += result.verdict in ("better", "worse")
    assert wrong <= 8


def test_holm_over_arms_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    base = table(8, 60)
    arms = {"good": base + 1 + 0.1 * table(8, 60, 1), "same": base + 0.1 * table(8, 60, 2)}
    found = verdicts(arms, base, 0.2)
    alone = [
        paired_verdict(arm, base, 0.2, spread=pooled_spread([base, *arms.values()], paired=True))
        for arm in arms.values()
    ]
    by_hand = holm([max(each.p_value, each.p_interval) for each in alone])
    assert [each.p_adjusted for each in found.values()] == pytest.approx(by_hand)
    assert [each.verdict for each in found.values()] == ["better", "equivalent"]
    assert found["good"].smallest_detectable > alone[0].smallest_detectable
    six = verdicts({name: arm[:6] for name, arm in arms.items()}, base[:6], 0.2)
    assert six["good"].verdict == "undecided" and six["good"].p_adjusted == 2 * 2 / 64
    assert [fewest_seeds(count) for count in (1, 2, 3, 4, 6, 10)] == [6, 7, 7, 8, 8, 9]
    assert verdicts({}, base, 0.2) == {}


def test_pooled_spread_by_hand_and_where_two_seeds_alone_know_nothing():
    assert pooled_spread([[1.0, 3.0], [2.0, 6.0, 4.0]]) == (pytest.approx(math.sqrt((2 + 8) / 3)), 3)
    low, high = seed_interval([1.0, 3.0], (1.0, 20))
    assert (low, high) == pytest.approx((2 - 2.08596 / math.sqrt(2), 2 + 2.08596 / math.sqrt(2)), abs=1e-4)
    # Two arms: the spread of their differences, as it is.
    a, b = table(5, 30, 1), table(5, 30, 2)
    sd, freedom = pooled_spread([a, b], paired=True)
    assert (sd, freedom) == (pytest.approx((a - b).mean(axis=1).std(ddof=1)), 4)
    arms = [table(5, 30, seed) + np.arange(5)[:, None] for seed in range(6)]  # what seeds share cancels
    assert pooled_spread(arms, paired=True)[0] < 0.5 < pooled_spread(arms)[0]
    assert pooled_spread(arms, paired=True)[1] == 20


def test_spreads_are_found_again():
    generator = np.random.default_rng(0)
    scores = 2 * generator.normal(size=(40, 1)) + 3 * generator.normal(size=(1, 400)) + generator.normal(size=(40, 400))
    found = spreads(scores, np.zeros_like(scores))
    assert (found.seed, found.example, found.rest) == pytest.approx((2, 3, 1), rel=0.2)
    assert smallest_detectable(5, 100, 1, 1) is None
    assert smallest_detectable(6, 100, 1, 0) > smallest_detectable(10, 100, 1, 0) > smallest_detectable(20, 100, 1, 0)
    # Six seeds must all have one sign: 0.8^(1/6) is the normal distribution's value at 1.79.
    assert smallest_detectable(6, 100, 1, 0) == pytest.approx(1.79, rel=0.05)
    assert smallest_detectable(6, 1000, 0, 1) == pytest.approx(2.8 / math.sqrt(1000), rel=0.05)
    assert smallest_detectable(6, 100, 1, 0, comparisons=2) is None


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (NumericError, lambda: paired_verdict([[1, math.nan]], [[1, 2]], 1)),
        (NumericError, lambda: paired_verdict([[1.0]], [[1.0]], 1)),
        (NumericError, lambda: paired_verdict([[1, 2]], [[1, 2]], 0)),
        (NumericError, lambda: paired_verdict([[1, 2]], [[1, 2]], math.nan)),
        (ShapeError, lambda: paired_verdict([[1, 2]], [[1, 2], [1, 2]], 1)),
        (ShapeError, lambda: paired_verdict([[[1, 2]]], [[[1, 2]]], 1)),
        (ShapeError, lambda: paired_verdict([], [], 1)),
        (ShapeError, lambda: verdicts({"x": [[1, 2]]}, [[1, 2, 3]], 1)),
        (NumericError, lambda: pooled_spread([[1.0], [2.0]])),
        (ShapeError, lambda: pooled_spread([[1.0, 2.0], [2.0]], paired=True)),
        (NumericError, lambda: smallest_detectable(6, 1, 1, 1)),
    ],
)
def test_refusals_are_one_sentence(error, call):
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value) and str(caught.value).count(";") >= 1


def situation(kind, seeds, n, effect, studies, seed):
    """Make studies with an effect: (studies, seeds, n) of both arms."""
    generator = np.random.default_rng(seed)
    shape = (studies, seeds, n)
    if kind == "right or wrong":
        a, b, turned = (generator.random(shape) for _ in range(3))
        return ((a < 0.4) | (turned < effect / 0.6)) * 1.0, (b < 0.4) * 1.0
    of_seeds, of_examples, rest = {"seeds": (0.1, 0, 0.3), "examples": (0, 1, 0.1), "all": (0.1, 1, 1)}[kind]
    noise = of_seeds * generator.normal(size=(studies, seeds, 1)) + of_examples * generator.normal(size=(studies, 1, n))
    return noise + rest * generator.normal(size=shape) + effect, np.zeros(shape)


def rates(kind, seeds, n, studies, margin):
    """Return how often studies say a false "better or worse", a false "equivalent", and find what they promise."""
    none = judge(*situation(kind, seeds, n, 0, studies, 1), margin)
    at_margin = judge(*situation(kind, seeds, n, margin, studies, 2), margin)
    promised = float(np.median([each.smallest_detectable for each in none]))
    found = judge(*situation(kind, seeds, n, promised, studies, 3), margin)
    shares = [(none, ("better", "worse")), (at_margin, ("equivalent",)), (found, ("better",))]
    return [sum(each.verdict in words for each in judged) / len(judged) for judged, words in shares]


@pytest.mark.parametrize("kind", ["seeds", "examples", "all", "right or wrong"])
def test_false_words_are_rare_and_power_is_as_promised(kind):
    false, equivalent, power = rates(kind, 6, 40, 120, 0.25)
    assert false <= 0.11 and equivalent <= 0.11  # 5 % of 120, and three standard errors
    assert 0.66 <= power <= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["seeds", "examples", "all", "right or wrong"])
@pytest.mark.parametrize(("seeds", "n"), [(6, 10), (8, 200), (20, 30)])
def test_false_words_are_rare_in_more_situations(kind, seeds, n):
    false, equivalent, power = rates(kind, seeds, n, 600, 0.25)
    assert false <= 0.075 and equivalent <= 0.075
    assert 0.66 <= power <= 0.92
