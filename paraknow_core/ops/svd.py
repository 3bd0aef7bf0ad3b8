"""Truncated singular value decomposition of one weight, and its split into LoRA factors.

Large weights are decomposed by a randomised block Krylov iteration: a random block of vectors is multiplied by the
matrix and its transpose, and every block met on the way is kept as a basis. Unlike plain power iteration it converges
on flat spectra too. Two checks end it: the energy it has captured, watched from step to step, and where the spectrum
has a gap at the rank, the residual of the triplets.

`torch.svd_lowrank` has no such check: of its settings, the first that is within 1e-4 of the best error on flat and on
decaying spectra alike (q 128, niter 8) takes 1.4 and 3.6 times as long (`python -m benchmarks.svd`).
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.chunks import require_matrix, row_chunks, value_range
from paraknow_core.ops.metrics import retained_energy, sum_of_squares
from paraknow_core.ops.products import StripProducts

EXACT_SIZE = 512  # up to here the exact decomposition takes well under a second
_MOST_STEPS = 60
_LEAST_BLOCK = 16  # vectors multiplied at a time: fewer take the matrix as long to read
_CLEAR_GAP, _SHARP = 1.1, 1e-4  # from this gap on the product is held to this relative error
_MOST_PASSES = 6
_ORTHONORMAL = 1e-3  # a basis this far from orthonormal is not trusted
_ORTHOGONAL = 1e-6  # how far new vectors may overlap with it


@dataclass(frozen=True)
class TruncatedSVD:
    """The leading singular triplets of a matrix M of shape (m, n): u @ diag(s) @ v.T is close to the best of its rank.

    Attributes:
        u: (m, r) orthonormal columns; the largest entry by absolute value of each is positive.
        s: (r,) singular values, descending.
        v: (n, r) orthonormal columns.
        excess_error: estimated excess of the Frobenius error over that of the best rank-r approximation, relative to
            the latter (or to the rounding of float32 for a matrix that has rank r already); 0 if exact. An estimate,
            not a proof: the energy still being gained, extrapolated and doubled, at most what is left.
        exact: True if a full decomposition was used.
        energy: squared Frobenius norm of the whole matrix.
    """

    u: Tensor
    s: Tensor
    v: Tensor
    excess_error: float
    exact: bool
    energy: float


@dataclass(frozen=True)
class Factors:
    """LoRA factors of one matrix: b @ a is its best rank-r approximation.

    Attributes:
        a: (r, in_features); b: (out_features, r), both float32 (float64 for a float64 matrix).
        singular_values: (r,), descending.
        retained_energy: share of the matrix's squared Frobenius norm that b @ a holds, 0 to 1.
    """

    a: Tensor
    b: Tensor
    singular_values: Tensor
    retained_energy: float


def truncated_svd(matrix: Tensor, rank: int, *, tolerance: float = 1e-4, seed: int = 0) -> TruncatedSVD:
    """Find the leading singular triplets of a matrix.

    Args:
        matrix: (m, n), any floating dtype and device; half precision is computed in float32.
        rank: number of triplets r, 1 to min(m, n).
        tolerance: largest accepted estimate of the excess Frobenius error, relative to the optimum.
        seed: of the random block; equal inputs and seeds give equal results on one machine.

    Returns:
        The triplets with what is known about their accuracy.

    Raises:
        ShapeError: the rank does not fit the shape.
        NumericError: a value is NaN or infinite.

    Note:
        What is held: the Frobenius error is within `tolerance` of the best, and where s_r is at least 1.1 times
        s_(r+1), so that there is a best subspace, the product u @ diag(s) @ v.T is within about 1e-4 of the best one,
        relative to its norm. On a spectrum that decays the error is some hundred times smaller than it has to be. On a
        flat one (noise: thousands of values within a few percent) no subspace is the best, and of the little energy
        that r directions can capture up to 2 * tolerance / (its share of the whole) is missing: at 4096 x 4096 and
        rank 16 about 0.5 % of the 1.5 %, so that singular values are 0.25 % low. A smaller tolerance costs steps.

        Small matrices (a side up to 512) and ranks near the full one are decomposed exactly, and so are large ones
        that do not settle within 60 steps (minutes at 4096 x 4096). Otherwise about 4 * m * n * max(r, 16) operations
        a step and (m + n) * max(r, 16) * steps numbers of memory.

    Source:
        Musco and Musco, Randomized block Krylov methods, NeurIPS 2015.
    """
    matrix = require_matrix("factorisation", matrix)
    _require_rank(matrix.shape, rank)
    if matrix.stride(0) < matrix.stride(1):  # stored transposed, as an embedding is: it is read along its own rows
        svd = truncated_svd(matrix.T, rank, tolerance=tolerance, seed=seed)
        return _signed(svd.v, svd.s, svd.u, svd.excess_error, svd.exact, svd.energy)
    low, high = value_range("factorisation", matrix)
    scale = max(-low, high)
    dtype = torch.float64 if matrix.dtype == torch.float64 else torch.float32
    if scale == 0:
        u, v = (torch.eye(size, rank, dtype=dtype, device=matrix.device) for size in matrix.shape)
        return TruncatedSVD(u, torch.zeros_like(u[0]), v, 0.0, True, 0.0)
    if not 1e-12 < scale < 1e12:  # squares and products must neither overflow nor vanish
        svd = truncated_svd(matrix.to(dtype) / scale, rank, tolerance=tolerance, seed=seed)
        return replace(svd, s=svd.s * scale, energy=svd.energy * scale * scale)  # inf rather than an error
    block = max(rank, _LEAST_BLOCK)
    svd = None
    if min(matrix.shape) > max(EXACT_SIZE, 4 * block):
        svd = _krylov(StripProducts(matrix, dtype), rank, block, tolerance, seed)
    return svd or _exact(matrix.to(dtype), rank)


def trailing_svd(matrix: Tensor, rank: int) -> TruncatedSVD:
    """Find the last singular triplets of a matrix: those of the smallest values, zeros among them.

    Args:
        matrix: (m, n), any floating dtype and device.
        rank: number of triplets r, 1 to min(m, n).

    Returns:
        The triplets in float64, values descending.

    Raises:
        ShapeError: the rank does not fit the shape.
        NumericError: a value is NaN or infinite.

    Note:
        With k = min(m, n): a k x k Gram matrix in float64, m * n * k operations, and r of its eigenvectors, 4/3 k^3; a
        full decomposition takes about three times as long at 2048 x 2048. Values below 1e-8 of the largest one are
        rounding, which for the product of the triplets is nothing.
    """
    from scipy.linalg import eigh

    matrix = require_matrix("factorisation", matrix)
    _require_rank(matrix.shape, rank)
    if len(matrix) < matrix.shape[1]:
        svd = trailing_svd(matrix.T, rank)
        return _signed(svd.v, svd.s, svd.u, svd.excess_error, svd.exact, svd.energy)
    value_range("factorisation", matrix)
    cols = matrix.shape[1]
    gram = torch.zeros(cols, cols, dtype=torch.float64, device=matrix.device)
    for _, rows in row_chunks(matrix):
        gram.addmm_(rows.T, rows)
    energy = gram.trace().item()
    if gram.device.type == "cpu":
        v = torch.from_numpy(eigh(gram.numpy(), subset_by_index=(0, rank - 1), overwrite_a=True)[1])
    else:  # an accelerator finds all eigenvectors in less time than a processor takes for a few
        v = torch.linalg.eigh(gram).eigenvectors[:, :rank].contiguous()
    image = torch.cat([rows @ v for _, rows in row_chunks(matrix)])
    # The vectors of close values may be mixed up, their span is right: the triplets are those of the matrix on it.
    u, s, turn = _thin_svd(image)
    return _signed(u, s, v @ turn.T, 0.0, True, energy)


def factorise(matrix: Tensor, rank: int, split: Literal["us_v", "sqrt"] = "us_v") -> Factors:
    """Split a matrix into LoRA factors whose product is its best rank-r approximation.

    Args:
        matrix: (out_features, in_features).
        rank: LoRA rank r.
        split: "us_v": b = U diag(s), a = V^T, as published; "sqrt": sqrt(s) on both sides, as in PiSSA. The product
            is the same, the training dynamics are not.

    Raises:
        ShapeError: the rank does not fit, or an unknown split; NumericError: a value is NaN or infinite.

    Source:
        Zhong et al., ICLR 2024, arXiv:2310.11451; Meng et al., PiSSA, NeurIPS 2024.
    """
    svd = truncated_svd(matrix, rank)
    a, b = split_factors(svd.u, svd.s, svd.v, split)
    return Factors(a, b, singular_values=svd.s, retained_energy=retained_energy(svd.s, svd.energy))


def split_factors(u: Tensor, s: Tensor, v: Tensor, split: Literal["us_v", "sqrt"]) -> tuple[Tensor, Tensor]:
    """Return A (r, n) and B (m, r) of singular triplets u (m, r), s (r,) and v (n, r); see `factorise`.

    Raises:
        ShapeError: an unknown split.
    """
    if split not in ("us_v", "sqrt"):
        raise ShapeError(f"factorisation: unknown split '{split}'; known splits are us_v, sqrt; choose one of them")
    left, right = (s, torch.ones_like(s)) if split == "us_v" else (s.sqrt(), s.sqrt())
    return (v * right).T.contiguous(), (u * left).contiguous()


def _require_rank(shape: tuple[int, int], rank: int) -> None:
    most = min(shape)
    if not 1 <= rank <= most:
        raise ShapeError(
            f"factorisation: rank {rank} does not fit a weight of shape ({shape[0]}, {shape[1]}); choose 1 to {most}"
        )


def _exact(matrix: Tensor, rank: int) -> TruncatedSVD:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    energy = s.double().square().sum().item()
    return _signed(u[:, :rank], s[:rank], vh[:rank].T, 0.0, True, energy)


def _thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose a tall matrix of a few columns: U, S, V^T."""
    return torch.linalg.svd(matrix, full_matrices=False) if matrix.device.type == "cpu" else _svd_of_triangle(matrix)


def _svd_of_triangle(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose a tall matrix by way of its QR, whose small triangle a processor decomposes faster than a GPU would."""
    q, r = torch.linalg.qr(matrix)
    u, s, vh = (part.to(matrix.device) for part in torch.linalg.svd(r.cpu(), full_matrices=False))
    return q @ u, s, vh


def _krylov(products: StripProducts, rank: int, block: int, tolerance: float, seed: int) -> TruncatedSVD | None:
    """Build the basis block by block until the check holds; None if it does not.

    What is kept lies in rows, in room for all that may come: growing a tensor would copy it at every step. Unused room
    of the CPU is never touched, so it costs none.
    """
    rows, cols = products.shape
    total = sum_of_squares(products.matrix)
    generator = torch.Generator().manual_seed(seed)
    empty = partial(products.matrix.new_empty, dtype=products.dtype)
    most = min(_MOST_STEPS, min(rows, cols) // block) * block
    basis, images, image = empty(most, cols), empty(most, rows), empty(rows, block)
    gram = torch.zeros(most, most, dtype=torch.float64, device="cpu")  # a GPU is slower at decomposing what is small
    start = torch.randn(block, rows, generator=generator).to(basis)
    fresh = torch.linalg.qr(products.back(start.T.contiguous())).Q.T
    energies: list[float] = []
    for size in range(block, most + 1, block):
        basis[size - block : size] = fresh
        onwards = products.there_and_back(fresh.T.contiguous(), image).T
        images[size - block : size] = image.T
        _extend_gram(gram, images, size, block)
        energies.append(torch.linalg.eigvalsh(gram[:size, :size])[-rank:].sum().item())
        loss = min(_expected_gain(energies), max(0.0, total - energies[-1]))  # in float64 it can be seen however small
        if _excess(loss, energies[-1], total) <= tolerance:
            svd = _from_basis(products, basis[:size], images[:size], gram[:size, :size], rank, loss, total)
            if svd:
                return svd
        fresh = _orthonormal_to(basis[:size], onwards / onwards.abs().max().clamp(min=1e-30))
    return None


def _extend_gram(gram: Tensor, images: Tensor, size: int, block: int) -> None:
    """Add the last block to the float64 Gram matrix of the images: all but its neighbours are orthogonal to it."""
    before, since = size - block, max(0, size - 2 * block)
    fresh = (images[before:size].double() @ images[since:size].double().T).to(gram.device)
    gram[before:size, since:size] = fresh
    gram[since:size, before:size] = fresh.T


def _expected_gain(energies: list[float]) -> float:
    """Energy the steps to come would still add, as this step sees it and as the one before did: one may be lucky."""
    if len(energies) < 4:
        return math.inf
    return max(_extrapolated(energies), _extrapolated(energies[:-1]) - (energies[-1] - energies[-2]))


def _extrapolated(energies: list[float]) -> float:
    """Return the last two gains continued as a geometric series, doubled for safety."""
    before, last = energies[-2] - energies[-3], energies[-1] - energies[-2]
    if last <= 0:
        return 0.0
    ratio = last / before if before > last else 0.95
    return 2 * last * min(ratio, 0.95) / (1 - min(ratio, 0.95))


def _excess(loss: float, energy: float, total: float) -> float:
    """Relative excess of the Frobenius error, given the energy lost against the best approximation."""
    remaining = max(total - energy, torch.finfo(torch.float32).eps * total)
    best = max(remaining - loss, torch.finfo(torch.float32).eps * total)
    return max(0.0, math.sqrt(remaining / best) - 1)


def _orthonormal_to(basis: Tensor, vectors: Tensor) -> Tensor:
    """Orthonormalise rows against the rows of a basis and each other, until it holds.

    Once loses what cancels, twice is enough for vectors that leave the basis; those of a matrix of low rank do not,
    and what rounding leaves of them takes a pass or two more.
    """
    overlap = vectors @ basis.T
    for _ in range(_MOST_PASSES):
        vectors = torch.linalg.qr((vectors - overlap @ basis).T).Q.T
        overlap = vectors @ basis.T
        if overlap.abs().max().item() <= _ORTHOGONAL:
            break
    return vectors


def _from_basis(
    products: StripProducts, basis: Tensor, images: Tensor, gram: Tensor, rank: int, loss: float, total: float
) -> TruncatedSVD | None:
    """Take the leading triplets from the basis, or None where it is no basis, or a gap shows them to be unfinished."""
    identity = torch.eye(len(basis), dtype=basis.dtype, device=basis.device)
    if (basis @ basis.T - identity).abs().max().item() > _ORTHONORMAL:
        return None
    turn = torch.linalg.eigh(gram).eigenvectors[:, -2 * rank :].flip(1).to(images)
    # Once more among the leading ones: the Gram matrix has lost what is small beside the largest value.
    within, turn_again = _thin_svd((turn.T @ images).T)[1:]
    turn = turn @ turn_again[:rank].T
    onwards = products.back(images.T @ turn)  # of exact triplets, the right-hand vectors times the squared values
    residual = (onwards - within[:rank].square() * (basis.T @ turn)).norm().item()
    if not _sharp(residual, within, rank):
        return None
    # Half a step more from the right-hand side: never loses energy, and mends what rounding did to the basis.
    v = torch.linalg.qr(onwards).Q.contiguous()
    u, s, turn = _thin_svd(products.there(v))
    excess = _excess(loss, s.double().square().sum().item(), total)
    return _signed(u, s, v @ turn.T, excess, False, total)


def _sharp(residual: float, s: Tensor, rank: int) -> bool:
    """Return whether a gap below the subspace, if any, bounds its error by the residual (Davis and Kahan)."""
    if rank < len(s) and s[rank - 1] < _CLEAR_GAP * s[rank]:
        return True
    squares = s[: rank + 1].double().square()
    room = (squares[rank - 1] - squares[rank:].sum()).item()
    rounding = 8 * torch.finfo(s.dtype).eps * math.sqrt(rank) * squares[0].item()
    return residual <= max(_SHARP * room * (s[:rank].norm() / s[0]).item(), rounding)


def _signed(u: Tensor, s: Tensor, v: Tensor, excess: float, exact: bool, energy: float) -> TruncatedSVD:
    if not (torch.isfinite(u).all() and torch.isfinite(v).all() and torch.isfinite(s).all()):
        raise NumericError(
            "factorisation: the decomposition of the weight is not finite; finite singular values are needed; check "
            "the weight for values of very different size"
        )
    signs = torch.where(u.gather(0, u.abs().argmax(dim=0, keepdim=True)) < 0, -1.0, 1.0).to(u.dtype)
    return TruncatedSVD((u * signs).contiguous(), s.clone(), (v * signs).contiguous(), excess, exact, energy)
