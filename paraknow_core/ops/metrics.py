"""Numbers that compare or summarise matrices. All return float64 accuracy without float64 copies of large inputs."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.chunks import require_matrix, row_chunks

_STRIP = 1 << 18  # numbers converted to float64 at once
_NARROW = 8  # fewer numbers than this are added one after the other: a reduction over so few is slow


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
        matrix: (rows, cols), any floating dtype.
        size: the block means are at most (size, size); see `block_reduce`.

    Returns:
        (rows,), (cols,) and the block means, all float64.
    """
    matrix = require_matrix("profile", matrix)
    row_edges, col_edges = (_edges(length, size) for length in matrix.shape)
    rows = torch.empty(len(matrix), dtype=torch.float64, device=matrix.device)
    lines = torch.empty(len(row_edges) - 1, matrix.shape[1], dtype=torch.float64, device=matrix.device)
    room = None  # for one strip after the other: fresh memory costs more than the conversion
    for blocks in _runs(row_edges, matrix.shape[1]):
        start, stop = row_edges[blocks.start], row_edges[blocks.stop]
        if room is None or len(room) < stop - start:
            room = lines.new_empty(stop - start, matrix.shape[1])
        strip = room[: stop - start].copy_(matrix[start:stop])
        rows[start:stop] = strip.sum(dim=1)
        lines[blocks] = strip.view(blocks.stop - blocks.start, -1, matrix.shape[1]).sum(dim=1)
    means = _means(_reduce_columns(lines, col_edges, "sum"), row_edges, col_edges)
    return rows, lines.sum(dim=0), means


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
    if a.shape == b.shape and a.numel() == 0:
        return 0.0
    a, b = _paired("cosine", a, b)
    sums = []
    for (_, x), (_, y) in zip(row_chunks(a), row_chunks(b), strict=True):
        x, y = x.flatten(), y.flatten()
        sums.append([torch.dot(*pair).item() for pair in ((x, y), (x, x), (y, y))])
    dot, *squares = (math.fsum(column) for column in zip(*sums, strict=True))
    norm = math.prod(math.sqrt(square) for square in squares)
    _require_finite("cosine", dot, norm)
    return max(-1.0, min(1.0, dot / norm)) if norm > 0 else 0.0


def relative_error(a: Tensor, b: Tensor) -> float:
    """Distance of a from the reference b: Frobenius norm of (a - b) over that of b (inf if only b is zero).

    Raises:
        ShapeError: the shapes differ.
        NumericError: a value is NaN or infinite.
    """
    a, b = _paired("relative error", a, b)
    squared = math.fsum(
        x.sub_(y).square_().sum().item() for (_, x), (_, y) in zip(row_chunks(a), row_chunks(b), strict=True)
    )
    reference = sum_of_squares(b)
    _require_finite("relative error", squared, reference)
    if reference == 0:
        return 0.0 if squared == 0 else math.inf
    return math.sqrt(squared / reference)


def retained_energy(singular_values: Tensor, total_squared: float) -> float:
    """Share of a matrix's squared Frobenius norm that the given singular values hold, 0 to 1 (1 for a zero matrix).

    Args:
        singular_values: (r,), the ones that are kept.
        total_squared: squared Frobenius norm of the whole matrix (`sum_of_squares`).
    """
    kept = singular_values.double().square().sum().item()
    return min(1.0, kept / total_squared) if total_squared > 0 else 1.0


def subspace_overlap(a: Tensor, b: Tensor) -> float:
    """How far two row spaces coincide: mean squared cosine of their principal angles, 0 (orthogonal) to 1.

    Args:
        a: (r1, n) and b: (r2, n), for example two LoRA A factors. The mean is over the smaller of the two dimensions,
            so a space inside a larger one has overlap 1. Rows that depend on others do not count.

    Raises:
        ShapeError: the rows live in spaces of different dimension.
        NumericError: a value is NaN or infinite.
    """
    a, b = require_matrix("subspace overlap", a), require_matrix("subspace overlap", b)
    if a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"subspace overlap: rows of {a.shape[1]} and of {b.shape[1]} numbers; both need the same number of "
            "columns; compare factors of the same student module"
        )
    bases = [_row_basis(matrix) for matrix in (a, b)]
    smaller = min(len(basis) for basis in bases)
    if smaller == 0:
        return 0.0
    squared = (bases[0] @ bases[1].T).square().sum().item()
    return min(1.0, squared / smaller)


def block_reduce(matrix: Tensor, max_rows: int = 256, max_cols: int = 256, how: str = "mean") -> Tensor:
    """Shrink a matrix for display: split it into blocks and reduce each block to one number.

    Args:
        matrix: (rows, cols), any floating dtype.
        max_rows, max_cols: the largest size of the result; a matrix within it is returned unreduced.
        how: "mean", "sum" or "max" of each block.

    Returns:
        (min(rows, max_rows), min(cols, max_cols)) float64 on the matrix's device. Block i covers the rows from
        i * rows // n to (i + 1) * rows // n: blocks differ by at most one row or column, each is reduced over its
        true size, and every element belongs to exactly one block.

    Raises:
        ShapeError: a maximum below 1, or an unknown reduction.
    """
    matrix = require_matrix("block reduction", matrix)
    if how not in ("mean", "sum", "max") or min(max_rows, max_cols) < 1:
        raise ShapeError(
            f"block reduction: asked for '{how}' within {max_rows} x {max_cols}; a reduction of mean, sum or max and "
            "sizes of at least 1 are needed; change the arguments"
        )
    rows, cols = matrix.shape
    row_edges, col_edges = _edges(rows, max_rows), _edges(cols, max_cols)
    lines = torch.empty(len(row_edges) - 1, cols, dtype=torch.float64, device=matrix.device)
    for line, start, stop in zip(lines, row_edges[:-1], row_edges[1:], strict=True):
        if how == "max":
            line.copy_(matrix[start:stop].amax(dim=0))
        else:
            torch.sum(matrix[start:stop], dim=0, dtype=torch.float64, out=line)
    reduced = _reduce_columns(lines, col_edges, "amax" if how == "max" else "sum")
    return _means(reduced, row_edges, col_edges) if how == "mean" else reduced


def _paired(where: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise ShapeError(
            f"{where}: shapes {tuple(a.shape)} and {tuple(b.shape)} differ; two tensors of one shape are needed; "
            "compare a block with the student weight it replaces"
        )
    if a.ndim != 2:
        a, b = a.reshape(1, -1), b.reshape(1, -1)
    return require_matrix(where, a), require_matrix(where, b)


def _require_finite(where: str, *values: float) -> None:
    if not all(math.isfinite(value) for value in values):
        raise NumericError(
            f"{where}: the values contain NaN or infinity; finite values are needed; check where they were computed"
        )


def _row_basis(matrix: Tensor) -> Tensor:
    """Orthonormal basis of the row space, as rows; directions below float32 accuracy of the largest do not count."""
    matrix = matrix.double()
    if not torch.isfinite(matrix).all():
        _require_finite("subspace overlap", math.nan)
    _, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return vh[s > s.max() * 1e-6]


def _edges(size: int, most: int) -> list[int]:
    blocks = min(size, most)
    return [i * size // blocks for i in range(blocks + 1)]


def _means(sums: Tensor, row_edges: list[int], col_edges: list[int]) -> Tensor:
    heights, widths = (torch.tensor(edges).diff().to(sums) for edges in (row_edges, col_edges))
    return sums / torch.outer(heights, widths)


def _runs(edges: list[int], cols: int) -> Iterator[slice]:
    """Yield runs of row blocks of one height, as many as are worth one operation."""
    most = max(1, _STRIP // max(1, cols * (edges[1] - edges[0])))
    first = 0
    for block in range(1, len(edges)):
        same = block < len(edges) - 1 and edges[block + 1] - edges[block] == edges[first + 1] - edges[first]
        if not same or block - first >= most:
            yield slice(first, block)
            first = block


def _reduce_columns(lines: Tensor, edges: list[int], combine: str) -> Tensor:
    """Reduce (rows, cols) to one number per row and column block."""
    if lines.shape[1] % (len(edges) - 1) == 0:  # blocks of one width: several times as fast
        blocks = lines.view(len(lines), len(edges) - 1, -1)
        narrow = combine == "sum" and blocks.shape[2] < _NARROW
        return sum(blocks.unbind(2)) if narrow else getattr(blocks, combine)(dim=2)
    widths = torch.tensor(edges, device=lines.device).diff()
    blocks = torch.repeat_interleave(torch.arange(len(widths), device=lines.device), widths)
    empty = torch.full(
        (len(lines), len(widths)), -math.inf if combine == "amax" else 0.0, dtype=lines.dtype, device=lines.device
    )
    return empty.scatter_reduce(1, blocks.expand(len(lines), -1), lines, reduce=combine)
