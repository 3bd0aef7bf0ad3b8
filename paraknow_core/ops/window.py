"""Find the contiguous block of a teacher matrix that carries the most sensitivity.

The sums of neighbouring windows differ by one entering and one leaving strip, along either axis. So a window sum is
slid, first down and then across, instead of being looked up in a summed-area table: every element is read about once,
and nothing as large as the matrix is allocated. It takes a twelfth of the time of a float64 table, or less, and a
twentieth of its memory. Windows that are equally good are told apart exactly: where rows repeat, a float64 table finds
the first of them in 2 % of cases (`python -m benchmarks.window`).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.chunks import require_matrix, row_chunks, row_slices, value_range

_UNIT_ROUNDOFF = 2.0**-53
_SMALLEST_EXPONENT = -1022  # processors may flush what is below this (float64 subnormals) to zero
_LARGEST_SUM = 2.0**900  # leaves room for the constants used when splitting values exactly


@dataclass(frozen=True)
class Window:
    """A contiguous block of a matrix: top-left corner (row, col) and size (height, width)."""

    row: int
    col: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index a (rows, cols) matrix with this to get the block, as a view."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    @property
    def area(self) -> int:
        """Number of elements in the block."""
        return self.height * self.width


def best_window(score: Tensor, height: int, width: int) -> Window:
    """Find the block of the given size with the largest total score.

    Args:
        score: (rows, cols), any floating dtype and device; usually the non-negative sensitivity of one teacher
            weight, but negative values are allowed (the least sensitive block is the best one of -score).
        height, width: size of the student weight, at most (rows, cols).

    Returns:
        The window; on ties, the first in row-major order.

    Raises:
        ShapeError: the window does not fit the matrix.
        NumericError: a score is NaN or infinite, or so large that totals would overflow.

    Note:
        Exact: the answer is that of real arithmetic, not of one particular order of float64 additions. A float64
        pass with a rigorous error bound leaves almost always one candidate; otherwise the few remaining ones are
        compared by splitting every score into pieces that float64 adds without rounding. Subnormal scores may count
        as zero, as the processor is set.
        O(rows * cols) time; extra memory a few MB plus one float64 per row offset (per offset in the rare tie).

    Source:
        Zhong et al., ICLR 2024, arXiv:2310.11451.
    """
    score = require_matrix("window search", score)
    require_fit(score.shape, height, width)
    largest, mass = _magnitudes(score)
    if mass == 0:
        return Window(0, 0, height, width)
    rows, cols = score.shape
    # Every addition rounds a partial sum of at most 2 * mass, and no element passes through more than about
    # rows + cols additions; the factor 4 leaves another factor 2 of slack.
    error = 4.01 * (rows + cols + 8) * _UNIT_ROUNDOFF * mass
    top, bottom, left, right = _candidates(score, height, width, 2 * error)
    if (top, left) == (bottom, right):
        return Window(top, left, height, width)
    region = score[top : bottom + height, left : right + width]
    row, col = _first_exact_best(region, height, width, largest)
    return Window(top + row, left + col, height, width)


def window_sum(score: Tensor, window: Window) -> float:
    """Sum the score inside one window, in float64.

    Raises:
        ShapeError: the window reaches outside the matrix.
    """
    score = require_matrix("window sum", score)
    _require_inside(score.shape, window)
    return math.fsum(chunk.sum().item() for _, chunk in row_chunks(score[window.slices]))


def random_window(shape: tuple[int, int], height: int, width: int, generator: torch.Generator) -> Window:
    """Draw a window uniformly from all positions inside a (rows, cols) shape.

    Raises:
        ShapeError: the window does not fit the shape.
    """
    require_fit(shape, height, width)
    row, col = (
        int(torch.randint(size - length + 1, (), generator=generator, device=generator.device))
        for size, length in zip(shape, (height, width), strict=True)
    )
    return Window(row, col, height, width)


def require_fit(shape: tuple[int, int], height: int, width: int) -> None:
    """Refuse a window that does not fit a (rows, cols) shape.

    Raises:
        ShapeError: says what would fit.
    """
    rows, cols = shape
    if not (1 <= height <= rows and 1 <= width <= cols):
        raise ShapeError(
            f"window search: a window of shape ({height}, {width}) does not fit a matrix of shape ({rows}, {cols}); "
            f"choose a height of 1 to {rows} and a width of 1 to {cols}"
        )


def _require_inside(shape: tuple[int, int], window: Window) -> None:
    require_fit(shape, window.height, window.width)
    last_row, last_col = shape[0] - window.height, shape[1] - window.width
    if not (0 <= window.row <= last_row and 0 <= window.col <= last_col):
        raise ShapeError(
            f"window: the corner ({window.row}, {window.col}) puts a window of shape ({window.height}, "
            f"{window.width}) outside a matrix of shape {tuple(shape)}; choose a row of 0 to {last_row} and a column "
            f"of 0 to {last_col}"
        )


def _magnitudes(score: Tensor) -> tuple[float, float]:
    """Return the largest |value| and an upper bound of the sum of |values|; refuse what cannot be added up."""
    low, high = value_range("window search", score)
    largest = max(-low, high)
    mass = largest * score.numel()
    if mass > _LARGEST_SUM:
        raise NumericError(
            f"window search: scores reach {largest:.3g}, too large to add up; scale them so that their total stays "
            "below 1e270"
        )
    if low >= 0:  # the plain sum is a much tighter bound than the largest value times the number of elements
        accumulate = torch.float64 if score.dtype == torch.float64 else torch.float32
        parts = [score[rows].sum(dtype=accumulate) for rows in row_slices(*score.shape, score.device)]
        total = 1.01 * torch.stack(parts).double().sum().item()
        mass = total if 0 < total < mass else mass
    return largest, mass


def _candidates(score: Tensor, height: int, width: int, tolerance: float) -> tuple[int, int, int, int]:
    """Bound the offsets whose float64 sum is within the tolerance of the largest: (top, bottom, left, right)."""
    best, best_sums, row_maxima = -math.inf, None, []
    for sums in sum_strips(score, height, width):
        row_maxima.append(sums.amax(dim=1))
        strip_best, row = row_maxima[-1].max(dim=0)
        if strip_best.item() > best:
            best, best_sums = strip_best.item(), sums[row].clone()
    near_rows = (torch.cat(row_maxima) >= best - tolerance).nonzero().flatten()
    top, bottom = near_rows[0].item(), near_rows[-1].item()
    if top != bottom:
        return top, bottom, 0, score.shape[1] - width
    near_cols = (best_sums >= best - tolerance).nonzero().flatten()
    return top, bottom, near_cols[0].item(), near_cols[-1].item()


def sum_strips(
    score: Tensor, height: int, width: int, values_of: Callable[[Tensor], Tensor] = Tensor.double
) -> Iterator[Tensor]:
    """Yield the window sums strip by strip: (1, cols - width + 1) for the first row offset, then several at a time.

    Args:
        score: (rows, cols), any floating dtype and device.
        height, width: size of the window, at most (rows, cols).
        values_of: turns some rows of the score into the float64 values that are added.

    Yields:
        Together (rows - height + 1, cols - width + 1) float64: entry [i, j] is the total of the window whose top-left
        corner is (i, j), within about (rows + cols) * 1e-16 of the matrix total.
    """
    rows, cols = score.shape
    column_sums = torch.zeros(cols, dtype=torch.float64, device=score.device)
    for part in row_slices(height, cols, score.device):
        column_sums += values_of(score[part]).sum(dim=0)
    last = _slide(column_sums[None, :], width)
    yield last
    for part in row_slices(rows - height, cols, score.device):
        entering = score[part.start + height : part.stop + height]
        strip = _slide(values_of(entering) - values_of(score[part]), width).cumsum(dim=0).add_(last)
        last = strip[-1:]
        yield strip


def _slide(values: Tensor, width: int) -> Tensor:
    """Sum each row over every window of the given width: (n, cols) -> (n, cols - width + 1)."""
    sums = torch.empty(len(values), values.shape[1] - width + 1, dtype=values.dtype, device=values.device)
    torch.sum(values[:, :width], dim=1, out=sums[:, 0])
    torch.sub(values[:, width:], values[:, :-width], out=sums[:, 1:])
    return sums.cumsum(dim=1)


def _first_exact_best(score: Tensor, height: int, width: int, largest: float) -> tuple[int, int]:
    """Find the first offset with the largest sum in exact arithmetic.

    Scores are split into pieces that are multiples of a quantum so coarse that float64 adds a whole matrix of them
    without rounding. Pieces are added from coarse to fine; `lead` is each offset's exact distance to the best one so
    far, and offsets that the rest cannot lift to the top are dropped (-inf), which keeps the distances small enough
    to stay exact.
    """
    span = score.numel().bit_length()
    constants: list[float] = []  # adding one and taking it away again rounds to multiples of a quantum
    lead, rest = torch.zeros((), dtype=torch.float64, device=score.device), largest
    while True:
        step = max(math.frexp(rest)[1] + span - 51, _SMALLEST_EXPONENT)
        constants.append(1.5 * 2.0**52 * math.ldexp(1.0, step))
        pieces = sum_strips(score, height, width, lambda values: _piece_and_rest(values, constants)[0])
        lead = lead + torch.cat(list(pieces))
        lead -= lead.max()
        parts = row_slices(*score.shape, score.device)
        rest = max(_piece_and_rest(score[part], constants)[1].abs().max().item() for part in parts)
        lead[lead < -2.0001 * height * width * rest] = -math.inf
        alive = (lead > -math.inf).flatten()
        if rest == 0 or step == _SMALLEST_EXPONENT or alive.sum() == 1:
            return divmod(alive.to(torch.uint8).argmax().item(), lead.shape[1])


def _piece_and_rest(values: Tensor, constants: list[float]) -> tuple[Tensor, Tensor]:
    """Split float64 values at every quantum in turn; return the piece at the last one and what is left."""
    rest = values.double()
    for constant in constants:
        piece = (rest + constant).sub_(constant)
        rest = rest - piece
    return piece, rest
