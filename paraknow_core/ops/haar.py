"""Random directions without a preference (Haar measure): what a matrix is when only its singular values are kept."""

import torch
from torch import Tensor

from paraknow_core.errors import ShapeError
from paraknow_core.ops.chunks import require_matrix


def haar_columns(rows: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw orthonormal columns, every such frame as likely as any other.

    Args:
        rows, count: of the result; at most as many columns as rows.
        generator: decides the draw; of the CPU.

    Returns:
        (rows, count) float64 on the CPU.

    Raises:
        ShapeError: more columns than rows.

    Note:
        O(rows * count^2) time. The factor Q of a Gaussian matrix's QR decomposition, each column with the sign that the
        diagonal of R has: without that the signs are the library's, and the frame is not uniform.

    Source:
        Mezzadri, How to generate random matrices from the classical compact groups, 2007, arXiv:math-ph/0609050.
    """
    if count > rows:
        raise ShapeError(f"random directions: {count} orthonormal columns do not fit {rows} rows; draw at most {rows}")
    q, r = torch.linalg.qr(torch.randn(rows, count, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def rotated(matrix: Tensor, generator: torch.Generator) -> Tensor:
    """Return a matrix of the same singular values whose singular vectors are drawn at random (Haar).

    Args:
        matrix: (m, n), any floating dtype and device.
        generator: decides the draw; of the CPU.

    Returns:
        (m, n) float32 on the matrix's device.

    Note:
        With k = min(m, n): O(m * n * k) time. M = Q R gives H R G^T with random frames H (m, k) and G (k, k): nothing
        is decomposed but for R, which has the singular values of M.
    """
    matrix = require_matrix("random directions", matrix)
    if len(matrix) < matrix.shape[1]:
        return rotated(matrix.T, generator).T
    r = torch.linalg.qr(matrix.float(), mode="r").R
    left, right = (haar_columns(size, len(r), generator).to(r) for size in matrix.shape)
    return left @ r @ right.T


def shuffled(matrix: Tensor, generator: torch.Generator) -> Tensor:
    """Return a matrix with its rows, and its columns, in random order: the same entries and singular values."""
    rows, cols = (torch.randperm(size, generator=generator).to(matrix.device) for size in matrix.shape)
    return matrix.index_select(0, rows).index_select(1, cols)
