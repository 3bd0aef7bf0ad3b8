"""Low-rank changes B @ A of a weight: their size and where they lie, without ever forming the product.

That would take over ten times as long, and hundreds of megabytes (`python -m benchmarks.kernels`).
"""

import math

import torch
from torch import Tensor

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.haar import haar_columns
from paraknow_core.ops.metrics import sum_of_squares


def product_norm(b: Tensor, a: Tensor) -> float:
    """Frobenius norm of B @ A.

    Args:
        b: (out, r); a: (r, in).

    Raises:
        ShapeError: the ranks differ. NumericError: a value is NaN or infinite.

    Note:
        O((out + in) r^2) time. Through QR and not through traces of squares: B1 A1 - B0 A0 may nearly cancel.
    """
    b, a = _factors(b, a)
    if not min(*b.shape, *a.shape):
        return 0.0
    return torch.linalg.matrix_norm(torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T).item()


def product_cosine(b: Tensor, a: Tensor, weight: Tensor) -> float:
    """Cosine of the angle between B @ A and a weight, read as long vectors; 0 if one of them is zero.

    Args:
        b: (out, r); a: (r, in); weight: (out, in).

    Raises:
        ShapeError: the shapes do not fit. NumericError: a value is NaN or infinite.
    """
    norm = product_norm(b, a) * math.sqrt(sum_of_squares(weight)) if weight.numel() else 0.0
    if not norm:
        return 0.0
    dot = ((b.to(weight).T @ weight) * a.to(weight)).sum(dtype=torch.float64).item()
    return max(-1.0, min(1.0, dot / norm))


def column_basis(matrix: Tensor) -> Tensor:
    """Orthonormal basis of what the columns span: (n, k) -> (n, rank), float64; (n, 0) for a matrix of zeros.

    Raises:
        NumericError: a value is NaN or infinite.
    """
    matrix = _finite(matrix)
    if not matrix.numel():
        return matrix.new_zeros(matrix.shape[0], 0)
    u, s, _ = torch.linalg.svd(matrix, full_matrices=False)
    # float32 factors: directions below their rounding are noise
    return u[:, s > s.max() * 1e-6] if s.max() > 0 else u[:, :0]


def captured_share(b: Tensor, a: Tensor, basis: Tensor, side: str) -> float | None:
    """Share of the squared norm of B @ A that lies in a subspace of its outputs or inputs.

    Args:
        b: (out, r); a: (r, in).
        basis: orthonormal columns, (out, k) for side "out", (in, k) for side "in".
        side: "out": |P B A|^2 / |B A|^2; "in": |B A P|^2 / |B A|^2.

    Returns:
        0 to 1; None if the product or the basis is empty. A random k-dimensional subspace captures k / out or k / in.
    """
    b, a = _factors(b, a)
    whole = product_norm(b, a)
    if whole == 0 or basis.shape[1] == 0:
        return None
    inside = product_norm(basis.T @ b, a) if side == "out" else product_norm(b, a @ basis)
    return min(1.0, (inside / whole) ** 2)


def mean_cosine(x: Tensor, y: Tensor) -> float | None:
    """Mean cosine of the principal angles between the column spans of two matrices; None if one is zero.

    Args:
        x: (n, k); y: (n, l).

    Returns:
        1: the smaller span lies in the larger one; 0: orthogonal.
    """
    first, second = column_basis(x), column_basis(y)
    if not first.shape[1] or not second.shape[1]:
        return None
    return torch.linalg.svdvals(first.T @ second).clamp(max=1.0).mean().item()


def random_twin(b: Tensor, a: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return factors of a random product with the singular values of B @ A.

    Args:
        b: (out, r); a: (r, in).
        generator: of the CPU; the same state gives the same twin.

    Returns:
        (out, k) and (k, in), k the smallest of out, in and r, float64: U S and V^T, where U and V are drawn uniformly
        (Haar) from all matrices with orthonormal columns. As much is changed as by B @ A; where and to what is chance.

    Raises:
        ShapeError: the ranks differ. NumericError: a value is NaN or infinite.
    """
    b, a = _factors(b, a)
    values = torch.linalg.svdvals(torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T)
    u, v = (haar_columns(rows, len(values), generator).to(b.device) for rows in (b.shape[0], a.shape[1]))
    return u * values, v.T


def _factors(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    if b.ndim != 2 or a.ndim != 2 or b.shape[1] != a.shape[0]:
        raise ShapeError(
            f"low-rank change: B of shape {tuple(b.shape)} and A of shape {tuple(a.shape)}; (out, r) and (r, in) are "
            "needed; check that both come from one adapter"
        )
    return _finite(b), _finite(a)


def _finite(matrix: Tensor) -> Tensor:
    matrix = matrix.detach().double()
    if not torch.isfinite(matrix).all():
        raise NumericError("low-rank change: a value is NaN or infinite; the training diverged; look at its loss")
    return matrix
