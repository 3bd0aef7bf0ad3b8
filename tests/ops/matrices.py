"""Matrices for property tests, and exact sums in plain Python."""

from fractions import Fraction

import torch
from hypothesis import strategies as st
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@st.composite
def matrices(draw, most: int = 7, tied: bool = False) -> Tensor:
    """Draw a small matrix; `tied` ones hold few distinct values, so that sums are often equal."""
    rows, cols = draw(st.integers(1, most)), draw(st.integers(1, most))
    dtype = draw(st.sampled_from(FLOATS))
    few = st.sampled_from([-1.0, 0.0, 1.0, 2.0, 0.1, 0.3, 1e-3])
    any_value = st.floats(-1e4, 1e4, allow_subnormal=False, width=16)
    values = draw(st.lists(few if tied else any_value, min_size=rows * cols, max_size=rows * cols))
    return torch.tensor(values, dtype=torch.float64).reshape(rows, cols).to(dtype)


@st.composite
def with_size(draw, matrix_strategy) -> tuple[Tensor, int, int]:
    """Draw a matrix and a size that fits it."""
    matrix = draw(matrix_strategy)
    return matrix, draw(st.integers(1, matrix.shape[0])), draw(st.integers(1, matrix.shape[1]))


def exact_sum(values: Tensor) -> Fraction:
    """Sum in exact arithmetic, one element after the other."""
    return sum((Fraction(v) for v in values.flatten().tolist()), Fraction(0))


def relative_error(a: Tensor, reference: Tensor) -> float:
    """Frobenius norm of the difference over that of the reference."""
    return ((a.double() - reference.double()).norm() / reference.double().norm()).item()


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Draw (rows, columns) orthonormal columns."""
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator)).Q
