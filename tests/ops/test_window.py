"""The window search against exact sums in plain loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops import chunks
from paraknow_core.ops.window import Window, best_window, random_window, sum_strips, window_sum
from tests.ops.matrices import FLOATS, exact_sum, matrices, with_size


def window_sums(score, height, width):
    return torch.cat(list(sum_strips(score, height, width)))


def brute_force(score, height, width) -> Window:
    best = None
    for row in range(score.shape[0] - height + 1):
        for col in range(score.shape[1] - width + 1):
            total = exact_sum(score[row : row + height, col : col + width])
            if best is None or total > best[0]:
                best = (total, Window(row, col, height, width))
    return best[1]


@given(with_size(matrices()))
def test_best_window_equals_the_loop(case):
    score, height, width = case
    assert best_window(score, height, width) == brute_force(score, height, width)


@given(with_size(matrices(tied=True)))
def test_ties_go_to_the_first_window_in_exact_arithmetic(case):
    score, height, width = case
    assert best_window(score, height, width) == brute_force(score, height, width)


@given(st.data())
def test_values_of_very_different_size_are_still_compared_exactly(data):
    rows, cols = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    value = st.builds(lambda m, e: m * 10.0**e, st.integers(-3, 3), st.integers(-40, 40))
    values = data.draw(st.lists(value, min_size=rows * cols, max_size=rows * cols))
    score = torch.tensor(values, dtype=torch.float64).reshape(rows, cols)
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(1, cols))
    assert best_window(score, height, width) == brute_force(score, height, width)


@given(st.data())
def test_near_ties_that_float64_ranks_wrongly_are_ranked_exactly(data):
    # Ones hide what is added to them: the order within 2^-44 is that of many tiny parts together.
    rows, cols = data.draw(st.integers(1, 4)), data.draw(st.integers(4, 8))
    value = st.builds(lambda m, e: m * 2.0**-e, st.integers(-7, 7), st.integers(44, 56)) | st.just(1.0)
    values = data.draw(st.lists(value, min_size=rows * cols, max_size=rows * cols))
    score = torch.tensor(values, dtype=torch.float64).reshape(rows, cols)
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(2, cols))
    assert best_window(score, height, width) == brute_force(score, height, width)


def test_many_small_parts_outweigh_one_that_rounds_up():
    # Rounded to multiples of the first quantum (2^-46 here) the right window leads; the parts below turn it round.
    part = 0.4 * 2.0**-46
    score = torch.tensor([[1.0, part, part, part, 0.0, 0.0, 1.0, 2.0**-46, 0.0, 0.0]], dtype=torch.float64)
    assert best_window(score, 1, 4) == brute_force(score, 1, 4) == Window(0, 0, 1, 4)


def test_a_difference_below_float64_rounding_decides():
    # 1 + 2^-60 is 1 in float64, so both windows look equal to any float64 table.
    score = torch.tensor([[1.0, 0.0, 0.0, 1.0, 2.0**-60]], dtype=torch.float64)
    assert window_sums(score, 1, 2)[0, 3] == window_sums(score, 1, 2)[0, 0]
    assert best_window(score, 1, 2) == Window(0, 3, 1, 2)


def test_the_running_sum_does_not_drift(monkeypatch):
    # One huge row passes through the running sum; what it rounds away must not decide between the rows below it.
    score = torch.full((40, 6), 1.0)
    score[3] = 1e9
    score[33, 4] += 2.0**-20
    monkeypatch.setattr(chunks, "_CPU_ELEMENTS", 18)
    assert best_window(-score, 2, 3) == brute_force(-score, 2, 3)
    assert best_window(score[4:], 3, 2) == brute_force(score[4:], 3, 2) == Window(27, 3, 3, 2)


@pytest.mark.parametrize("elements", [1, 7, 64])
@given(case=with_size(matrices(most=9)))
def test_the_chunk_size_changes_nothing(case, elements):
    score, height, width = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "_CPU_ELEMENTS", elements)
        assert best_window(score, height, width) == brute_force(score, height, width)


@given(with_size(matrices()))
def test_window_sums_equal_the_loop(case):
    score, height, width = case
    sums = window_sums(score, height, width)
    assert sums.dtype == torch.float64
    assert sums.shape == (score.shape[0] - height + 1, score.shape[1] - width + 1)
    allowed = 1e-13 * float(score.double().abs().sum())
    for row, col in torch.cartesian_prod(*(torch.arange(n) for n in sums.shape)).tolist():
        exact = exact_sum(score[row : row + height, col : col + width])
        assert abs(exact - sums[row, col].item()) <= allowed
        assert abs(exact - window_sum(score, Window(row, col, height, width))) <= allowed


def test_by_hand():
    score = torch.tensor([[1.0, 2.0, 0.0], [0.0, 5.0, 1.0], [9.0, 0.0, 0.0]])
    assert window_sums(score, 2, 2).tolist() == [[8.0, 8.0], [14.0, 6.0]]
    window = best_window(score, 2, 2)
    assert window == Window(1, 0, 2, 2)
    assert score[window.slices].tolist() == [[0.0, 5.0], [9.0, 0.0]]
    assert window.area == 4


def test_the_least_sensitive_block_is_the_best_of_the_negative():
    score = torch.tensor([[3.0, 1.0, 0.5, 4.0]])
    assert best_window(-score, 1, 2) == Window(0, 1, 1, 2)


def test_a_zero_score_gives_the_first_window():
    score = torch.zeros(4, 5)
    assert best_window(score, 2, 2) == Window(0, 0, 2, 2)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_score_is_left_as_it_was(dtype):
    score = torch.rand(9, 7).to(dtype)
    score[0] = score[1]
    before = score.clone()
    best_window(score, 3, 3)
    best_window(torch.ones_like(score), 3, 3)
    window_sums(score, 3, 3)
    assert torch.equal(score, before)


def test_views_and_gradients_are_accepted():
    score = torch.rand(8, 11, requires_grad=True)
    assert best_window(score.T, 4, 3) == brute_force(score.detach().T, 4, 3)
    assert best_window(score[::2, 1::3], 2, 2) == brute_force(score.detach()[::2, 1::3], 2, 2)


@pytest.mark.parametrize(("height", "width"), [(0, 1), (1, 0), (5, 1), (1, 7), (-1, 2)])
def test_a_window_that_does_not_fit_is_refused(height, width):
    with pytest.raises(ShapeError, match=r"does not fit a matrix of shape \(4, 6\); choose a height of 1 to 4"):
        best_window(torch.rand(4, 6), height, width)
    with pytest.raises(ShapeError):
        random_window((4, 6), height, width, torch.Generator())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [(0, 0), (5, 3), (2, 1)])
def test_nan_and_infinity_are_refused_wherever_they_are(bad, place):
    score = torch.rand(6, 4)
    score[place] = bad
    with pytest.raises(NumericError, match="NaN or infinity"):
        best_window(score, 3, 2)


def test_other_inputs_are_refused():
    with pytest.raises(ShapeError, match="a matrix"):
        best_window(torch.rand(4), 1, 1)
    with pytest.raises(ShapeError, match="at least one row"):
        best_window(torch.rand(0, 4), 1, 1)
    with pytest.raises(NumericError, match="int64"):
        best_window(torch.ones(2, 2, dtype=torch.int64), 1, 1)
    with pytest.raises(NumericError, match="too large"):
        best_window(torch.full((2, 2), 1e300, dtype=torch.float64), 1, 1)
    with pytest.raises(ShapeError, match=r"corner \(3, 0\).*row of 0 to 2"):
        window_sum(torch.rand(4, 4), Window(3, 0, 2, 2))


def test_large_float32_scores_do_not_overflow():
    score = torch.full((6, 6), 3e38)
    score[2:4, 3:5] = 3.3e38
    assert best_window(score, 2, 2) == Window(2, 3, 2, 2)


def test_random_windows_are_uniform_and_repeatable():
    draws = [random_window((5, 4), 3, 3, torch.Generator().manual_seed(seed)) for seed in range(600)]
    assert draws[:5] == [random_window((5, 4), 3, 3, torch.Generator().manual_seed(seed)) for seed in range(5)]
    counts = {(row, col): 0 for row in range(3) for col in range(2)}
    for window in draws:
        counts[window.row, window.col] += 1
    assert min(counts.values()) > 60  # 100 expected each, about 9 the standard deviation


@pytest.mark.gpu
def test_on_an_accelerator():
    score = torch.rand(70, 50)
    score[:, 10] = score[:, 20]
    assert best_window(score.cuda(), 30, 20) == best_window(score, 30, 20)
    assert best_window(torch.ones(70, 50, device="cuda"), 30, 20) == Window(0, 0, 30, 20)
