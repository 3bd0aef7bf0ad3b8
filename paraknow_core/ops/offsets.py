"""How a block of given size would fare elsewhere: the sum over every offset of a window, reduced to a histogram."""

from dataclasses import dataclass

import torch
from torch import Tensor

from paraknow_core.errors import ShapeError
from paraknow_core.ops.chunks import require_matrix, value_range
from paraknow_core.ops.window import require_fit, sum_strips

_FINE = 4096  # bins the median is read from; the histogram for drawing merges them
_ROUNDING = 1e-9  # of the total: two ways of adding one window agree within this


@dataclass(frozen=True)
class OffsetDistribution:
    """The totals of a window at all its offsets.

    Attributes:
        positions: how many offsets there are.
        lowest, highest, mean: of the totals, in the score's unit.
        median: read from a histogram of 4096 bins, so within 1/4096 of the range.
        at_most: share of offsets whose total is at most the asked one, 0 to 1.
        counts: (bins,) int64, how many offsets fall into each of the equal bins from lowest to highest.
    """

    positions: int
    lowest: float
    highest: float
    mean: float
    median: float
    at_most: float
    counts: Tensor


def offset_distribution(score: Tensor, height: int, width: int, against: float, bins: int = 64) -> OffsetDistribution:
    """Reduce the totals of a window at every offset, and say where one total stands among them.

    Args:
        score: (rows, cols) non-negative sensitivity, any floating dtype and device.
        height, width: size of the window, at most (rows, cols).
        against: the total whose place is wanted.
        bins: of the histogram; a divisor of 4096.

    Returns:
        The distribution; nothing is drawn at random, every offset counts once.

    Raises:
        ShapeError: the window does not fit, or the bins do not divide 4096; NumericError: a score is NaN or infinite.

    Note:
        Two passes of sliding sums, O(rows * cols) time each; memory of a few MB whatever the number of offsets.
    """
    score = require_matrix("offset distribution", score)
    require_fit(score.shape, height, width)
    if bins < 1 or _FINE % bins:
        raise ShapeError(f"offset distribution: {bins} bins given; a divisor of {_FINE} is needed, for example 64")
    value_range("offset distribution", score)
    lowest, highest, added, positions = float("inf"), float("-inf"), 0.0, 0
    for strip in sum_strips(score, height, width):
        lowest, highest = min(lowest, strip.min().item()), max(highest, strip.max().item())
        added += strip.sum().item()
        positions += strip.numel()
    limit = against + _ROUNDING * max(abs(highest), abs(against))
    spread = highest - lowest
    fine = torch.zeros(_FINE, dtype=torch.int64)
    below = 0
    for strip in sum_strips(score, height, width):
        below += int((strip <= limit).sum())
        places = ((strip - lowest) * (_FINE / spread)).long().clamp_(0, _FINE - 1) if spread > 0 else strip.long() * 0
        fine += torch.bincount(places.flatten(), minlength=_FINE).cpu()
    middle = int((fine.cumsum(0) * 2 < positions).sum())
    return OffsetDistribution(
        positions,
        lowest,
        highest,
        added / positions,
        lowest + spread * (middle + 0.5) / _FINE if spread else lowest,
        below / positions,
        fine.view(bins, -1).sum(dim=1),
    )
