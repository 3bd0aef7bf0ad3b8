"""Structures: ways to pick a block of the student's shape from a larger teacher weight.

A structure is a function that returns a `Selection`, which takes the same entries from any matrix of the teacher's
shape: the weight, its sensitivity, a gradient. To add one, write its row in `catalogue.STRUCTURES` and its function
here, with one of three signatures:

    structure(score, height, width)                    where the row needs the sensitivity; score: (rows, cols)
    structure(shape, height, width, generator)         where it reads `extraction.seed`: chance decides
    structure(shape, height, width)                    where it needs neither; shape: as above

All pick height * width entries, keep their order, and break ties towards the lowest index. A structure that decides for
all weights of a model together needs the reductions; see `coherent`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from paraknow_core.errors import ShapeError
from paraknow_core.ops.chunks import require_matrix, row_slices, value_range
from paraknow_core.ops.metrics import col_sums, profile, row_sums
from paraknow_core.ops.window import Window, best_window, random_window, window_sum


class Selection(ABC):
    """Which entries of a teacher weight form the block. It packs, describes and draws itself.

    Attributes:
        kind: its name in records.
        packed_as: what only a packed selection of this kind holds.
    """

    kind: ClassVar[str]
    packed_as: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """The block's (height, width)."""

    @abstractmethod
    def take(self, weight: Tensor) -> Tensor:
        """Return the selected entries, (height, width) in the weight's dtype; maybe a view: do not write to it."""

    def sum(self, score: Tensor) -> float:
        """Return the total score of the selected entries, in float64."""
        return row_sums(self.take(score)).sum().item()

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Say what was selected, as plain JSON values: `kind`, `shape`, and what this kind can say in short."""

    @abstractmethod
    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what `unpack` needs beside the shape: small tensors, and plain JSON values."""

    @classmethod
    @abstractmethod
    def from_packed(cls, packed: Mapping[str, Any]) -> Self:
        """Return the selection whose `shape`, tensors and values `pack` gave."""

    def outline(self, rows: int | None = None) -> dict[str, Any] | None:  # noqa: ARG002 - of those that have one
        """Say where a map of the whole weight shows the block; None if there is nothing to frame.

        Args:
            rows: of the whole weight, if the block takes part of all of them (an embedding, whose rows are tokens).
        """
        return None

    def marks(self, shape: tuple[int, int]) -> dict[str, Tensor]:  # noqa: ARG002 - of those that have some
        """Return what to draw into a weight of this shape: `kept_rows`, `kept_cols` (shares, 0 to 1), `density`."""
        return {}


@dataclass(frozen=True)
class WindowSelection(Selection):
    """A contiguous window."""

    window: Window
    kind, packed_as = "window", "top_left"

    @property
    def shape(self) -> tuple[int, int]:
        return self.window.height, self.window.width

    def take(self, weight: Tensor) -> Tensor:
        return weight[self.window.slices]

    def sum(self, score: Tensor) -> float:
        return window_sum(score, self.window)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "shape": list(self.shape), "top_left": [self.window.row, self.window.col]}

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"top_left": [self.window.row, self.window.col]}

    @classmethod
    def from_packed(cls, packed: Mapping[str, Any]) -> Self:
        return cls(Window(*packed["top_left"], *packed["shape"]))

    def outline(self, rows: int | None = None) -> dict[str, Any]:
        row, height = (self.window.row, self.window.height) if rows is None else (0, rows)
        return {"window": [row, self.window.col, height, self.window.width]}


@dataclass(frozen=True, eq=False)
class GridSelection(Selection):
    """Some rows and some columns, intersected. `rows` and `cols` are ascending int64 index vectors on the CPU."""

    rows: Tensor
    cols: Tensor
    kind, packed_as = "grid", "rows"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), len(self.cols)

    def take(self, weight: Tensor) -> Tensor:
        # Rows first: the intermediate is then at most as large as the weight's kept rows.
        return weight.index_select(0, self.rows.to(weight.device)).index_select(1, self.cols.to(weight.device))

    def describe(self) -> dict[str, Any]:
        """Rows and columns are lists of [first, last] ranges, both ends included."""
        return {"kind": self.kind, "shape": list(self.shape), **self.outline()}

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"rows": self.rows, "cols": self.cols}, {}

    @classmethod
    def from_packed(cls, packed: Mapping[str, Any]) -> Self:
        return cls(packed["rows"], packed["cols"])

    def outline(self, rows: int | None = None) -> dict[str, Any]:
        return {"rows": index_ranges(self.rows) if rows is None else [[0, rows - 1]], "cols": index_ranges(self.cols)}

    def marks(self, shape: tuple[int, int]) -> dict[str, Tensor]:
        return {
            "kept_rows": torch.zeros(shape[0]).index_fill_(0, self.rows, 1.0),
            "kept_cols": torch.zeros(shape[1]).index_fill_(0, self.cols, 1.0),
        }


@dataclass(frozen=True, eq=False)
class WeightsSelection(Selection):
    """Single weights, laid out row by row in the block in the order in which they stand in the teacher.

    `mask` is a bool matrix of the teacher's shape: one byte a weight, an eighth of a list of indices.
    """

    mask: Tensor
    block_shape: tuple[int, int]
    kind, packed_as = "weights", "bits"

    @property
    def shape(self) -> tuple[int, int]:
        return self.block_shape

    @property
    def flat(self) -> Tensor:
        """(height * width,) int64: the row-major positions of the selected weights, ascending."""
        return self.mask.flatten().nonzero().flatten()

    def take(self, weight: Tensor) -> Tensor:
        return weight[self.mask.to(weight.device)].reshape(self.block_shape)

    def describe(self) -> dict[str, Any]:
        """Only counts: the positions themselves are as large as the block."""
        per_row, per_col = self.mask.sum(dim=1), self.mask.sum(dim=0)
        return {
            "kind": self.kind,
            "shape": list(self.shape),
            "count": int(per_row.sum()),
            "rows_touched": int((per_row > 0).sum()),
            "cols_touched": int((per_col > 0).sum()),
            "largest_row_count": int(per_row.max()),
            "largest_col_count": int(per_col.max()),
        }

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """One bit a teacher weight."""
        import numpy

        return {"bits": torch.from_numpy(numpy.packbits(self.mask.cpu().numpy()))}, {"of": list(self.mask.shape)}

    @classmethod
    def from_packed(cls, packed: Mapping[str, Any]) -> Self:
        import numpy

        rows, cols = packed["of"]
        mask = numpy.unpackbits(packed["bits"].numpy(), count=rows * cols).astype(bool).reshape(rows, cols)
        return cls(torch.from_numpy(mask), tuple(packed["shape"]))

    def marks(self, shape: tuple[int, int]) -> dict[str, Tensor]:  # noqa: ARG002 - the mask has it
        mask = self.mask.float()
        return {"density": profile(mask)[2], "kept_rows": mask.mean(dim=1), "kept_cols": mask.mean(dim=0)}


def crossing(rows: Tensor, cols: Tensor) -> Selection:
    """Return the selection of some rows and columns, ascending indices each: a window where both are ranges."""
    if all(len(line) == line[-1] - line[0] + 1 for line in (rows, cols)):
        return WindowSelection(Window(int(rows[0]), int(cols[0]), len(rows), len(cols)))
    return GridSelection(rows, cols)


def unpack(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Selection:
    """Return the selection of which `pack` gave these tensors and values, `shape` added to them."""
    packed = {**record, **tensors}
    kinds = (WindowSelection, GridSelection, WeightsSelection)
    return next(kind for kind in kinds if kind.packed_as in packed).from_packed(packed)


def submatrix(score: Tensor, height: int, width: int) -> WindowSelection:
    """Pick the contiguous window with the largest total score (the paper's choice, see `best_window`).

    Args:
        score: (rows, cols) sensitivity of the teacher weight.
        height, width: the student's shape.

    Raises:
        ShapeError: the window does not fit; NumericError: a score is NaN or infinite.
    """
    return WindowSelection(best_window(score, height, width))


def least_sensitive(score: Tensor, height: int, width: int) -> WindowSelection:
    """Pick the contiguous window with the smallest total score: what the method would least want.

    Args:
        score: (rows, cols) sensitivity of the teacher weight.
        height, width: the student's shape.

    Raises:
        ShapeError: the window does not fit; NumericError: a score is NaN or infinite.

    Note:
        `best_window` of the negative scores, of which a copy is made; ties as there.
    """
    return WindowSelection(best_window(-score, height, width))


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
    return GridSelection(highest(row_sums(score), height), highest(col_sums(score), width))


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
    lowest = _by_partition(score, count) if score.device.type == "cpu" else _by_sorting(score, count)
    mask = (score > lowest).flatten()
    ties = (score == lowest).flatten().nonzero().flatten()
    mask[ties[: count - int(mask.sum())]] = True
    return WeightsSelection(mask.view(score.shape), (height, width))


def _by_partition(score: Tensor, count: int) -> float:
    """Return the lowest of the `count` highest scores."""
    values = score.to(torch.promote_types(score.dtype, torch.float32), copy=True).flatten().numpy()
    values.partition(-count)
    return values[-count].item()


def _by_sorting(score: Tensor, count: int) -> float:
    """Return the same where sorting all takes less time than a copy to the processor: on an accelerator."""
    return score.flatten().sort().values[-count].item()


def random_offset(shape: tuple[int, int], height: int, width: int, generator: torch.Generator) -> WindowSelection:
    """Pick a contiguous window at a random place: the control of `submatrix` (see `random_window`).

    Raises:
        ShapeError: the window does not fit.
    """
    return WindowSelection(random_window(shape, height, width, generator))


def even_slice(shape: tuple[int, int], height: int, width: int) -> GridSelection:
    """Pick evenly spaced rows and columns, the first and the last among them.

    What is picked depends on the sizes alone, so that weights which share a dimension are cut alike along it.

    Args:
        shape: (rows, cols) of the teacher weight.
        height, width: how many rows and columns.

    Raises:
        ShapeError: more rows or columns than there are.

    Source:
        Uniform element selection of weight selection, Xu et al., ICLR 2024: indices round(linspace(0, n - 1, k)).
    """
    _require_size(shape, height, width)
    return GridSelection(_evenly(shape[0], height), _evenly(shape[1], width))


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
    count = height * width
    mask = torch.empty(shape, dtype=torch.bool)
    for part in row_slices(rows, cols, torch.device("cpu")):
        size = (part.stop - part.start, cols)
        mask[part] = torch.rand(size, generator=generator, device=generator.device).cpu() < count / (rows * cols)
    excess = int(mask.sum()) - count
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


def _evenly(size: int, count: int) -> Tensor:
    return torch.tensor([round(i * (size - 1) / max(count - 1, 1)) for i in range(count)])


def highest(sums: Tensor, count: int) -> Tensor:
    """Return the ascending indices of the largest sums, (count,) int64 on the CPU; of equal ones the first."""
    order = torch.sort(sums, descending=True, stable=True).indices
    return order[:count].sort().values.cpu()
