"""Ways to pick a block of the student's shape from a larger teacher weight.

Every way returns a `Selection`, which takes the same entries from any matrix of the teacher's shape: the weight, its
sensitivity, a gradient. Order is always kept, and ties go to the lowest index.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from paraknow_core.errors import ShapeError
from paraknow_core.ops.chunks import require_matrix, row_slices, value_range
from paraknow_core.ops.metrics import col_sums, row_sums
from paraknow_core.ops.window import Window, best_window, window_sum


class Selection(Protocol):
    """Which entries of a teacher weight form the block; `shape` is the block's (height, width)."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def take(self, weight: Tensor) -> Tensor:
        """Return the selected entries, (height, width) in the weight's dtype; maybe a view: do not write to it."""

    def sum(self, score: Tensor) -> float:
        """Total score of the selected entries, in float64."""

    def describe(self) -> dict[str, Any]:
        """Say what was selected, as plain JSON values."""


@dataclass(frozen=True)
class WindowSelection:
    """A contiguous window."""

    window: Window

    @property
    def shape(self) -> tuple[int, int]:
        return self.window.height, self.window.width

    def take(self, weight: Tensor) -> Tensor:
        return weight[self.window.slices]

    def sum(self, score: Tensor) -> float:
        return window_sum(score, self.window)

    def describe(self) -> dict[str, Any]:
        return {"kind": "window", "shape": list(self.shape), "top_left": [self.window.row, self.window.col]}


@dataclass(frozen=True, eq=False)
class GridSelection:
    """Some rows and some columns, intersected. `rows` and `cols` are ascending int64 index vectors on the CPU."""

    rows: Tensor
    cols: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.cols)

    def take(self, weight: Tensor) -> Tensor:
        # Rows first: the intermediate is then at most as large as the weight's kept rows.
        return weight.index_select(0, self.rows.to(weight.device)).index_select(1, self.cols.to(weight.device))

    def sum(self, score: Tensor) -> float:
        return row_sums(self.take(score)).sum().item()

    def describe(self) -> dict[str, Any]:
        """Rows and columns are lists of [first, last] ranges, both ends included."""
        return {
            "kind": "grid",
            "shape": list(self.shape),
            "rows": index_ranges(self.rows),
            "cols": index_ranges(self.cols),
        }


@dataclass(frozen=True, eq=False)
class WeightsSelection:
    """Single weights, laid out row by row in the block in the order in which they stand in the teacher.

    `mask` is a bool matrix of the teacher's shape: one byte a weight, an eighth of a list of indices.
    """

    mask: Tensor
    block_shape: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.block_shape

    @property
    def flat(self) -> Tensor:
        """(height * width,) int64: the row-major positions of the selected weights, ascending."""
        return self.mask.flatten().nonzero().flatten()

    def take(self, weight: Tensor) -> Tensor:
        return weight[self.mask.to(weight.device)].reshape(self.block_shape)

    def sum(self, score: Tensor) -> float:
        return row_sums(self.take(score)).sum().item()

    def describe(self) -> dict[str, Any]:
        """Only counts: the positions themselves are as large as the block."""
        per_row, per_col = self.mask.sum(dim=1), self.mask.sum(dim=0)
        return {
            "kind": "weights",
            "shape": list(self.shape),
            "count": int(per_row.sum()),
            "rows_touched": int((per_row > 0).sum()),
            "cols_touched": int((per_col > 0).sum()),
            "largest_row_count": int(per_row.max()),
            "largest_col_count": int(per_col.max()),
        }


def submatrix(score: Tensor, height: int, width: int) -> WindowSelection:
    """Pick the contiguous window with the largest total score (the paper's choice, see `best_window`).

    Args:
        score: (rows, cols) sensitivity of the teacher weight.
        height, width: the student's shape.

    Raises:
        ShapeError: the window does not fit; NumericError: a score is NaN or infinite.
    """
    return WindowSelection(best_window(score, height, width))


def row_column(score: Tensor, height: int, width: int) -> GridSelection:
    """Pick the rows and, independently, the columns with the highest mean score; keep their order and intersect them.

    Args:
        score: (rows, cols) sensitivity; a row's mean is over all teacher columns, a column's over all teacher rows.
        height, width: how many rows and columns.

    Raises:
        ShapeError: more rows or columns than there are; NumericError: a score is NaN or infinite.

    Source:
        "Row/Column" in Figure 5 of Zhong et al., ICLR 2024, arXiv:2310.11451.
    """
    score = _require(score, height, width)
    value_range("row/column selection", score)
    return GridSelection(_highest(row_sums(score), height), _highest(col_sums(score), width))


def neuron(score: Tensor, height: int, width: int) -> WeightsSelection:
    """Pick the height * width single weights with the highest score, in row-major order.

    Args:
        score: (rows, cols) sensitivity, any floating dtype.
        height, width: the student's shape; weights fill it row by row.

    Raises:
        ShapeError: more weights than there are; NumericError: a score is NaN or infinite.

    Note:
        O(rows * cols) time: the lowest score that is taken is found by partial sorting, in a copy of the scores.
        Exact, ties by position.

    Source:
        Our definition of "Neuron" in Figure 5 of arXiv:2310.11451, for which no code was released.
    """
    score = _require(score, height, width)
    value_range("neuron selection", score)
    count = height * width
    values = score.to("cpu", torch.promote_types(score.dtype, torch.float32), copy=True).flatten().numpy()
    values.partition(-count)
    lowest = values[-count].item()
    del values
    mask = (score > lowest).flatten()
    ties = (score == lowest).flatten().nonzero().flatten()
    mask[ties[: count - int(mask.sum())]] = True
    return WeightsSelection(mask.view(score.shape), (height, width))


def random_weights(shape: tuple[int, int], height: int, width: int, generator: torch.Generator) -> WeightsSelection:
    """Pick height * width single weights uniformly without replacement, in row-major order.

    Args:
        shape: (rows, cols) of the teacher weight.
        height, width: the student's shape; weights fill it row by row.
        generator: decides the draw; the same state gives the same weights.

    Raises:
        ShapeError: more weights than there are.

    Note:
        One byte a teacher weight: each weight is taken with the right probability, then the small excess or shortage
        is made good at random positions. No position is favoured at any step, so every subset is equally likely.

    Source:
        Our definition of "Random" in Figure 5 of arXiv:2310.11451, for which no code was released.
    """
    _require_size(shape, height, width)
    rows, cols = shape
    wanted = height * width
    mask = torch.empty(shape, dtype=torch.bool)
    for part in row_slices(rows, cols, torch.device("cpu")):
        size = (part.stop - part.start, cols)
        mask[part] = torch.rand(size, generator=generator, device=generator.device).cpu() < wanted / (rows * cols)
    excess = int(mask.sum()) - wanted
    flat, state = mask.view(-1), excess > 0
    missing = abs(excess)
    while missing:
        drawn = torch.randint(rows * cols, (2 * missing + 16,), generator=generator, device=generator.device).cpu()
        usable = drawn[flat[drawn] == state].unique()
        usable = usable[torch.randperm(len(usable), generator=generator, device=generator.device)[:missing].cpu()]
        flat[usable] = not state
        missing -= len(usable)
    return WeightsSelection(mask, (height, width))


def index_ranges(indices: Tensor) -> list[list[int]]:
    """Compress ascending indices to [first, last] ranges: 0, 1, 2, 7 -> [[0, 2], [7, 7]]."""
    ranges: list[list[int]] = []
    for index in indices.tolist():
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ranges


def _require(score: Tensor, height: int, width: int) -> Tensor:
    score = require_matrix("selection", score)
    _require_size(tuple(score.shape), height, width)
    return score


def _require_size(shape: tuple[int, int], height: int, width: int) -> None:
    rows, cols = shape
    if not (1 <= height <= rows and 1 <= width <= cols):
        raise ShapeError(
            f"selection: a block of shape ({height}, {width}) does not fit a weight of shape ({rows}, {cols}); choose "
            f"1 to {rows} rows and 1 to {cols} columns"
        )


def _highest(sums: Tensor, count: int) -> Tensor:
    order = torch.sort(sums, descending=True, stable=True).indices
    return order[:count].sort().values.cpu()
