"""Singular values of one block, for looking at: all of them where that is quick, else the leading ones and the rest."""

from dataclasses import dataclass

import torch
from torch import Tensor

from paraknow_core.ops.chunks import require_matrix
from paraknow_core.ops.metrics import sum_of_squares
from paraknow_core.ops.svd import EXACT_SIZE, truncated_svd


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a matrix.

    Attributes:
        values: (k,) descending, float64; all of them if `whole`, else the leading ones.
        total_squared: squared Frobenius norm: what all singular values squared add up to.
        whole: True if no value is missing.
    """

    values: Tensor
    total_squared: float
    whole: bool

    @property
    def retained(self) -> Tensor:
        """(k,) share of the squared norm that the first 1, 2, ... values hold, 0 to 1 (1 for a zero matrix)."""
        if self.total_squared == 0:
            return torch.ones_like(self.values)
        return (self.values.square().cumsum(0) / self.total_squared).clamp(max=1.0)


def spectrum(matrix: Tensor, rank: int) -> Spectrum:
    """Find at least the leading singular values of a matrix.

    Args:
        matrix: (m, n), any floating dtype and device.
        rank: how many are needed at least, 1 to min(m, n); smaller matrices give all.

    Raises:
        ShapeError: the rank does not fit the shape; NumericError: a value is NaN or infinite.

    Note:
        Exact up to a smaller side of 512. Above, the randomised iteration of `truncated_svd`; what is left out then
        follows from the Frobenius norm, which is exact.
    """
    matrix = require_matrix("spectrum", matrix)
    smaller = min(matrix.shape)
    values = truncated_svd(matrix, smaller if rank <= smaller <= EXACT_SIZE else rank).s
    whole = len(values) == smaller
    return Spectrum(values.double().cpu(), sum_of_squares(matrix), whole)
