"""The truncated decomposition against the full one in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops import svd
from paraknow_core.ops.low_rank import mean_cosine
from paraknow_core.ops.svd import factorise, trailing_svd, truncated_svd
from tests.marking import mostly_slow
from tests.ops.matrices import matrices, orthonormal, relative_error

ROWS, COLS = 700, 600


def with_spectrum(values: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (orthonormal(ROWS, len(values), generator) * values) @ orthonormal(COLS, len(values), generator).T


def _spectra() -> dict[str, Tensor]:
    k = torch.arange(1.0, 601.0)
    noise = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(1))
    return {
        "noise": noise,
        "heavy tails": noise**5,
        "one spike in noise": noise + with_spectrum(torch.tensor([200.0])),
        "slow decay": with_spectrum(k**-0.3),
        "decay": with_spectrum(1 / k),
        "fast decay": with_spectrum((-k / 10).exp()),
        "a step at the rank": with_spectrum(torch.where(k <= 16, 10.0, 1.0)),
        "a step above the rank": with_spectrum(torch.where(k <= 20, 10.0, 1.0)),
        "flat": with_spectrum(torch.ones(600)),
        "rank 5": with_spectrum(torch.ones(5)),
    }


SPECTRA = _spectra()


def excess_of(found, matrix: Tensor) -> float:
    """Relative excess of the Frobenius error over the optimum, from a full float64 decomposition."""
    exact = torch.linalg.svdvals(matrix.double())
    best = max(exact[len(found.s) :].square().sum().sqrt().item(), 2e-6 * exact.norm().item())
    product = (found.u.double() * found.s.double()) @ found.v.double().T
    return (matrix.double() - product).norm().item() / best - 1


def check_form(found, matrix: Tensor, rank: int) -> None:
    assert (found.u.shape, found.s.shape, found.v.shape) == ((len(matrix), rank), (rank,), (matrix.shape[1], rank))
    for basis in (found.u, found.v):
        torch.testing.assert_close(basis.T @ basis, torch.eye(rank, dtype=basis.dtype), atol=2e-5, rtol=0)
    assert (found.s.diff() <= 0).all()
    assert (found.u.gather(0, found.u.abs().argmax(0, keepdim=True)) > 0).all()
    assert found.energy == pytest.approx(matrix.double().square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("rank", mostly_slow([1, 16, 64], 16))
@pytest.mark.parametrize("name", SPECTRA)
def test_the_iteration_is_as_good_as_it_says(name, rank):
    matrix = SPECTRA[name]
    found = truncated_svd(matrix, rank)
    check_form(found, matrix, rank)
    assert not found.exact or rank == 64  # a basis for rank 64 may outgrow a matrix this small
    true = excess_of(found, matrix)
    assert true <= found.excess_error + 1e-6
    assert found.excess_error <= 1e-4
    captured = (found.u.double().T @ matrix.double()).square().sum()
    best = torch.linalg.svdvals(matrix.double())[:rank].square().sum()
    left = matrix.double().square().sum() - best
    assert captured / best > 1 - 2.1e-4 * left / best - 1e-6  # what the error's tolerance leaves: 3 % of rank-1 noise
    assert captured / best > 1 - 1e-4 or name == "noise"


def test_singular_values_and_subspace_where_there_is_a_gap():
    matrix = SPECTRA["a step at the rank"]
    found, exact = truncated_svd(matrix, 16), torch.linalg.svd(matrix.double(), full_matrices=False)
    torch.testing.assert_close(found.s.double(), exact.S[:16], rtol=1e-5, atol=0)
    assert mean_cosine(found.v, exact.Vh[:16].T) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("name", "rank"), [("slow decay", 1), ("heavy tails", 4), ("fast decay", 16), ("decay", 4)])
def test_where_there_is_a_gap_the_product_is_that_of_the_full_decomposition(name, rank):
    found = truncated_svd(SPECTRA[name], rank)
    u, s, vh = torch.linalg.svd(SPECTRA[name].double(), full_matrices=False)
    assert not found.exact
    assert s[rank - 1] / s[rank] > 1.1
    best = (u[:, :rank] * s[:rank]) @ vh[:rank]
    assert relative_error((found.u * found.s) @ found.v.T, best) < 2e-5  # without the residual's check 1e-3


def test_what_is_small_beside_one_large_value_is_found_too():
    matrix = SPECTRA["noise"] + with_spectrum(torch.tensor([2e5]))
    found = truncated_svd(matrix, 16)
    assert not found.exact
    assert excess_of(found, matrix) < 1e-4


def test_a_matrix_of_lower_rank_is_restored():
    matrix = SPECTRA["rank 5"]
    for rank in (5, 16):
        factors = factorise(matrix, rank)
        assert relative_error(factors.b @ factors.a, matrix) < 2e-6
        assert factors.retained_energy == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("rank", [1, 5, 16, 40])
def test_a_matrix_of_lower_rank_needs_no_full_decomposition_whatever_the_start(rank):
    for seed in range(8):
        found = truncated_svd(SPECTRA["rank 5"], rank, seed=seed)
        check_form(found, SPECTRA["rank 5"], rank)
        assert not found.exact


def test_equal_seeds_give_equal_bits_and_other_seeds_the_same_answer():
    matrix = SPECTRA["decay"]
    first, again, other = (truncated_svd(matrix, 8, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.u, again.u)
    assert torch.equal(first.v, again.v)
    torch.testing.assert_close(first.u, other.u, atol=1e-3, rtol=0)
    torch.testing.assert_close(first.s, other.s, rtol=1e-5, atol=0)


def test_what_does_not_settle_is_decomposed_in_full(monkeypatch):
    monkeypatch.setattr(svd, "_MOST_STEPS", 4)
    found = truncated_svd(SPECTRA["noise"], 16)
    assert found.exact
    assert found.excess_error == 0
    assert excess_of(found, SPECTRA["noise"]) == pytest.approx(0, abs=1e-6)


def test_a_broken_basis_is_not_trusted(monkeypatch):
    monkeypatch.setattr(svd, "_orthonormal_to", lambda basis, vectors: basis[: len(vectors)].clone())
    found = truncated_svd(SPECTRA["fast decay"], 16)
    assert excess_of(found, SPECTRA["fast decay"]) < 1e-4


@given(matrices(most=6), st.data())
def test_small_matrices_equal_the_full_decomposition(matrix, data):
    rank = data.draw(st.integers(1, min(matrix.shape)))
    found = truncated_svd(matrix, rank)
    assert found.exact
    work = matrix if matrix.dtype == torch.float64 else matrix.float()
    scale = max(work.abs().max().item(), 1e-30)
    exact = torch.linalg.svd(work.double(), full_matrices=False)
    best = (exact.U[:, :rank] * exact.S[:rank]) @ exact.Vh[:rank]
    product = (found.u * found.s) @ found.v.T
    torch.testing.assert_close(found.s.double(), exact.S[:rank], atol=1e-5 * scale, rtol=1e-5)
    error, optimum = (work.double() - product.double()).norm(), (work.double() - best).norm()
    assert error <= optimum + 2e-5 * scale
    identity = torch.eye(rank, dtype=work.dtype)
    torch.testing.assert_close(found.u.T @ found.u, identity, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.v.T @ found.v, identity, atol=1e-5, rtol=0)


@pytest.mark.parametrize("split", ["us_v", "sqrt"])
def test_factors_multiply_to_the_best_approximation(split):
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    factors = factorise(matrix, 7, split)
    assert (factors.a.shape, factors.b.shape) == ((7, 30), (20, 7))
    exact = torch.linalg.svd(matrix, full_matrices=False)
    best = (exact.U[:, :7] * exact.S[:7]) @ exact.Vh[:7]
    assert relative_error(factors.b @ factors.a, best) < 1e-5
    kept = exact.S[:7].square().sum() / matrix.square().sum()
    assert factors.retained_energy == pytest.approx(kept.item(), rel=1e-5)
    columns, rows = factors.b.norm(dim=0), factors.a.norm(dim=1)
    expected = (exact.S[:7], torch.ones(7)) if split == "us_v" else (exact.S[:7].sqrt(), exact.S[:7].sqrt())
    torch.testing.assert_close(columns, expected[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(rows, expected[1], rtol=1e-4, atol=0)


def test_by_hand():
    factors = factorise(torch.tensor([[0.0, -3.0], [2.0, 0.0]]), 1)
    assert factors.singular_values.tolist() == pytest.approx([3.0])
    assert factors.b.tolist() == [[pytest.approx(3.0)], [pytest.approx(0.0)]]
    assert factors.a.tolist() == [[pytest.approx(0.0), pytest.approx(-1.0)]]
    assert factors.retained_energy == pytest.approx(9 / 13)


@pytest.mark.parametrize("size", [20, 600])
def test_a_zero_matrix_has_zero_factors(size):
    found = truncated_svd(torch.zeros(size, size + 1), 3)
    assert found.s.eq(0).all()
    assert found.u.T.matmul(found.u).equal(torch.eye(3))
    assert factorise(torch.zeros(size, size + 1), 3).b.eq(0).all()


@pytest.mark.parametrize("scale", [1e-35, 1e30])
@pytest.mark.parametrize("shape", [(40, 30), (ROWS, COLS)])
def test_very_small_and_very_large_values(scale, shape):
    matrix = SPECTRA["decay"][: shape[0], : shape[1]]
    plain, scaled = truncated_svd(matrix, 4), truncated_svd(matrix * scale, 4)
    torch.testing.assert_close(scaled.s / scale, plain.s, rtol=1e-4, atol=0)


def test_precisions():
    matrix = torch.randn(9, 8, dtype=torch.float64)
    assert truncated_svd(matrix, 2).u.dtype == torch.float64
    for dtype in (torch.float16, torch.bfloat16):
        half = matrix.to(dtype)
        found = truncated_svd(half, 8)
        assert found.u.dtype == torch.float32
        assert relative_error((found.u * found.s) @ found.v.T, half.float()) < 1e-5
    large = SPECTRA["fast decay"].double()
    exact = torch.linalg.svdvals(large)[:16]
    torch.testing.assert_close(truncated_svd(large, 16).s, exact, rtol=1e-6, atol=0)


def test_inputs_are_left_as_they_were():
    for matrix in (SPECTRA["decay"].clone(), torch.randn(5, 4, dtype=torch.float64)):
        before = matrix.clone()
        factorise(matrix, 3)
        assert torch.equal(matrix, before)


@pytest.mark.parametrize("rank", [0, -1, 33])
def test_a_rank_that_does_not_fit_is_refused(rank):
    with pytest.raises(ShapeError) as raised:
        factorise(torch.rand(32, 128), rank)
    assert str(raised.value) == f"factorisation: rank {rank} does not fit a weight of shape (32, 128); choose 1 to 32"


def test_other_inputs_are_refused():
    with pytest.raises(NumericError, match="NaN or infinity"):
        factorise(torch.tensor([[1.0, math.nan]]), 1)
    with pytest.raises(ShapeError, match="at least one row"):
        factorise(torch.rand(0, 3), 1)
    with pytest.raises(ShapeError, match="us_v, sqrt"):
        factorise(torch.rand(3, 3), 1, "half")


@pytest.mark.parametrize("name", ["noise", "decay", "rank 5", "a step at the rank"])
def test_the_way_of_an_accelerator_gives_the_same(name, monkeypatch):
    matrix = SPECTRA[name]
    plain = truncated_svd(matrix, 16)
    monkeypatch.setattr(svd, "_thin_svd", svd._svd_of_triangle)
    found = truncated_svd(matrix, 16)
    check_form(found, matrix, 16)
    torch.testing.assert_close(found.s, plain.s, rtol=1e-5, atol=1e-5 * plain.s[0].item())
    assert found.excess_error == pytest.approx(plain.excess_error, abs=1e-5)
    tall = matrix[:, :20]
    u, s, vh = svd._svd_of_triangle(tall)
    torch.testing.assert_close((u * s) @ vh, tall, rtol=0, atol=1e-5 * s[0].item())
    torch.testing.assert_close(s, torch.linalg.svdvals(tall), rtol=1e-4, atol=1e-5 * s[0].item())


@pytest.mark.gpu
def test_on_an_accelerator():
    matrix = SPECTRA["decay"]
    found = truncated_svd(matrix.cuda(), 8)
    torch.testing.assert_close(found.s.cpu(), truncated_svd(matrix, 8).s, rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(700, 600), (60, 50)])
def test_a_weight_that_is_stored_transposed_is_the_same_weight(shape):
    stored = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    plain, found = truncated_svd(stored, 4), truncated_svd(stored.T, 4)
    torch.testing.assert_close((found.u * found.s) @ found.v.T, ((plain.u * plain.s) @ plain.v.T).T)
    assert found.u.gather(0, found.u.abs().argmax(dim=0, keepdim=True)).gt(0).all()


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("turned", [False, True])
def test_the_last_triplets_are_those_of_the_full_decomposition(name, turned):
    matrix = SPECTRA[name].T if turned else SPECTRA[name]
    rank = 5
    found, exact = trailing_svd(matrix, rank), torch.linalg.svd(matrix.double(), full_matrices=False)
    largest = exact.S[0].item()
    torch.testing.assert_close(found.s, exact.S[-rank:], rtol=1e-6, atol=3e-8 * largest)
    for basis in (found.u, found.v):
        torch.testing.assert_close(basis.T @ basis, torch.eye(rank).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(matrix.double() @ found.v, found.u * found.s, rtol=0, atol=3e-8 * largest)
    assert found.energy == pytest.approx(exact.S.square().sum().item())
    if exact.S[-rank - 1] - exact.S[-rank] > 1e-5 * largest:  # there is one last subspace
        expected = (exact.U[:, -rank:] * exact.S[-rank:]) @ exact.Vh[-rank:]
        assert relative_error((found.u * found.s) @ found.v.T, expected) < 1e-4


@given(matrices(), st.integers(1, 7))
def test_first_and_last_triplets_together_are_the_matrix(matrix, rank):
    least = min(matrix.shape)
    if rank >= least:
        assert relative_to(matrix, trailing_svd(matrix, least)) < 1e-5
        return
    first, last = truncated_svd(matrix.double(), least - rank), trailing_svd(matrix, rank)
    assert last.s.max() <= first.s.min() + 1e-6 * first.s.max()
    joined = (first.u * first.s) @ first.v.T + (last.u * last.s) @ last.v.T
    repeated = first.s.min() - last.s.max() < 1e-3 * first.s.max()  # then either may hold a mixture of both
    assert repeated or (joined - matrix.double()).abs().max() <= 1e-5 * max(first.s.max().item(), 1e-30)


def relative_to(matrix, found) -> float:
    product = (found.u * found.s) @ found.v.T
    return (product - matrix.double()).norm().item() / max(matrix.double().norm().item(), 1e-30)


def test_what_has_no_last_triplets_is_refused():
    with pytest.raises(ShapeError, match="choose 1 to 3"):
        trailing_svd(torch.ones(3, 5), 4)
    with pytest.raises(NumericError, match="NaN"):
        trailing_svd(torch.full((3, 5), torch.nan), 1)
