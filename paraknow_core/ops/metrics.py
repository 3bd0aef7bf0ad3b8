"""Numbers that compare or summarise matrices. All return float64 accuracy without float64 copies of large inputs."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.chunks import require_matrix, row_chunks

_STRIP, _STRIP_ON_GPU = 1 << 18, 1 << 24  # numbers converted to float64 at once


def row_sums(matrix: Tensor) -> Tensor:
    """Sum each row: (rows, cols) -> (rows,) float64."""
    matrix = require_matrix("row sums", matrix)
    return torch.cat([chunk.sum(dim=1) for _, chunk in row_chunks(matrix)])


def col_sums(matrix: Tensor) -> Tensor:
    """Sum each column: (rows, cols) -> (cols,) float64."""
    matrix = require_matrix("column sums", matrix)
    sums = torch.zeros(matrix.shape[1], dtype=torch.float64, device=matrix.device)
    for _, chunk in row_chunks(matrix):
        sums += chunk.sum(dim=0)
    return sums


def total(tensor: Tensor) -> float:
    """Sum a tensor of any shape in float64, without the float64 copy that torch's own `sum(dtype=...)` makes."""
    flat = tensor.detach()
    if flat.ndim == 2:
        return row_sums(flat).sum().item()
    return flat.reshape(-1).double().sum().item()


def profile(matrix: Tensor, size: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce a matrix to its row sums, its column sums and its block means, reading it once.

    Args:
        matrix: (rows, cols), any floating dtype and device.
        size: at most so many blocks along each side.

    Returns:
        (rows,), (cols,) and (min(rows, size), min(cols, size)), all float64. Of n blocks, block i covers the rows from
        i * rows // n to (i + 1) * rows // n, and the columns likewise: blocks differ by at most one row or column,
        each mean is over the block's true size, and every element belongs to exactly one block.
    """
    matrix = require_matrix("profile", matrix)
    row_edges, col_edges = (_edges(length, size) for length in matrix.shape)
    rows = torch.empty(len(matrix), dtype=torch.float64, device=matrix.device)
    lines = torch.empty(len(row_edges) - 1, matrix.shape[1], dtype=torch.float64, device=matrix.device)
    room = None  # for one strip after the other: fresh memory costs more than the conversion
    strip_size = _STRIP if matrix.device.type == "cpu" else _STRIP_ON_GPU
    for blocks in _runs(row_edges, matrix.shape[1], strip_size):
        start, stop = row_edges[blocks.start], row_edges[blocks.stop]
        if room is None or len(room) < stop - start:
            room = lines.new_empty(stop - start, matrix.shape[1])
        strip = room[: stop - start].copy_(matrix[start:stop])
        rows[start:stop] = strip.sum(dim=1)
        lines[blocks] = strip.view(blocks.stop - blocks.start, -1, matrix.shape[1]).sum(dim=1)
    heights, widths = (torch.tensor(edges, device=lines.device).diff() for edges in (row_edges, col_edges))
    block_of = torch.repeat_interleave(widths)  # of each column
    sums = lines.new_zeros(len(lines), len(widths)).index_add_(1, block_of, lines)
    return rows, lines.sum(dim=0), sums / torch.outer(heights, widths)


def sum_of_squares(matrix: Tensor) -> float:
    """Squared Frobenius norm of a (rows, cols) matrix, accumulated in float64."""
    matrix = require_matrix("sum of squares", matrix)
    return math.fsum(chunk.square_().sum().item() for _, chunk in row_chunks(matrix))


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the angle between two tensors of one shape, read as long vectors; -1 to 1, 0 if one is zero or empty.

    Raises:
        ShapeError: the shapes differ.
        NumericError: a value is NaN or infinite.
    """
    if a.shape != b.shape:
        raise ShapeError(
            f"cosine: shapes {tuple(a.shape)} and {tuple(b.shape)} differ; two tensors of one shape are needed; "
            "compare a block with the student weight it replaces"
        )
    if a.numel() == 0:
        return 0.0
    a, b = (require_matrix("cosine", t if t.ndim == 2 else t.reshape(1, -1)) for t in (a, b))
    sums = []
    for (_, x), (_, y) in zip(row_chunks(a), row_chunks(b), strict=True):
        x, y = x.flatten(), y.flatten()
        sums.append([torch.dot(*pair).item() for pair in ((x, y), (x, x), (y, y))])
    dot, *squares = (math.fsum(column) for column in zip(*sums, strict=True))
    norm = math.prod(math.sqrt(square) for square in squares)
    if not math.isfinite(dot + norm):
        raise NumericError(
            "cosine: the values contain NaN or infinity; finite values are needed; check where they were computed"
        )
    return max(-1.0, min(1.0, dot / norm)) if norm > 0 else 0.0


def retained_energy(singular_values: Tensor, total_squared: float) -> float:
    """Share of a matrix's squared Frobenius norm that the given singular values hold, 0 to 1 (1 for a zero matrix).

    Args:
        singular_values: (r,), the ones that are kept.
        total_squared: squared Frobenius norm of the whole matrix (`sum_of_squares`).
    """
    kept = singular_values.double().square().sum().item()
    return min(1.0, kept / total_squared) if total_squared > 0 else 1.0


def _edges(size: int, most: int) -> list[int]:
    blocks = min(size, most)
    return [i * size // blocks for i in range(blocks + 1)]


def _runs(edges: list[int], cols: int, strip_size: int) -> Iterator[slice]:
    """Yield runs of row blocks of one height, as many as are worth one operation."""
    most = max(1, strip_size // max(1, cols * (edges[1] - edges[0])))
    first = 0
    for block in range(1, len(edges)):
        same = block < len(edges) - 1 and edges[block + 1] - edges[block] == edges[first + 1] - edges[first]
        if not same or block - first >= most:
            yield slice(first, block)
            first = block
