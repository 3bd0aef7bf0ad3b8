"""How alike the hidden states of two models are, layer by layer, and which layers correspond in order.

All is computed from Gram matrices of tokens, n x n in float64: neither the widths of the models nor their products
matter. Of each student layer one is held, of the teacher's layers one at a time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paraknow_core.errors import NumericError, ShapeError

RIDGE = 0.1  # strength, relative to the mean eigenvalue of the kernel


@dataclass(frozen=True)
class _Fold:
    """A Gram matrix about the mean of one half of the tokens: of that half, of the other with it, of the other."""

    fitted: Tensor
    across: Tensor
    other_squared: float


class States:
    """The hidden states of one layer, as inner products of tokens."""

    def __init__(self, states: Tensor, half: Tensor) -> None:
        """Args: states: (n, width) of any floating dtype. half: (n,) bool: which tokens are the first half.

        Raises:
            NumericError: a state is NaN or infinite.
        """
        if not torch.isfinite(states).all():
            raise NumericError(
                "layer similarity: a hidden state is NaN or infinite; compute in float32, check the model's weights, "
                "or take another mapping.strategy"
            )
        states = states.double()
        states = states - states.mean(dim=0)  # nothing below depends on it, except for rounding
        self._gram, self._half = states @ states.T, half
        self.norm = self._gram.norm().item()

    def cka(self, other: "States") -> float:
        """Return linear CKA with the states of another layer on the same tokens; see `linear_cka`."""
        norms = self.norm * other.norm
        return (self._gram * other._gram).sum().item() / norms if norms else 0.0

    def folds(self) -> list[_Fold]:
        """Return both ways to fit on one half of the tokens and predict the other."""
        return [self._fold(half) for half in (self._half, ~self._half)]

    def _fold(self, half: Tensor) -> _Fold:
        fitted, across = self._gram[half][:, half], self._gram[~half][:, half]
        to_mean, mean = fitted.mean(dim=1), fitted.mean()
        of_other = across.mean(dim=1)
        squares = self._gram.diagonal()[~half] - 2 * of_other + mean
        return _Fold(
            fitted - to_mean[:, None] - to_mean + mean,
            across - of_other[:, None] - to_mean + mean,
            squares.sum().item(),
        )


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Return linear CKA: ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), Frobenius norms, columns centred; 0 if one is constant.

    Args:
        first, second: (n, width) hidden states of the same tokens; widths may differ.

    Source:
        Kornblith et al., ICML 2019, arXiv:1905.00414. Not corrected for few tokens: it is too large where there are
        not many more tokens than channels.
    """
    half = torch.ones(len(first), dtype=torch.bool)
    return States(first, half).cka(States(second, half))


def stitch_r2(source: Tensor, target: Tensor, half: Tensor, ridge: float = RIDGE) -> float:
    """Return how much of one layer's hidden states an affine ridge map from another's predicts on unseen tokens.

    Fitted on each half of the tokens and judged on the other: R² = 1 - sum of squared errors / sum of squared
    distances to the mean that was fitted with, over both. At most 1, below 0 where the mean predicts better.

    Args:
        source: (n, width) hidden states to predict from; target: (n, width) to be predicted.
        half: (n,) bool; no half is empty. Tokens of one text belong into one half.
        ridge: strength, relative to the mean eigenvalue of the fitted half's kernel.

    Note:
        The dual form: O(n^3) whatever the widths. It equals the primal ridge with the same strength.
    """
    return _r2(_maps(States(source, half), ridge), States(target, half).folds())


def layer_similarities(
    teacher: Iterable[Tensor], student: Iterable[Tensor], half: Tensor, ridge: float = RIDGE
) -> dict[str, Tensor]:
    """Compare every layer of a student with every layer of a teacher.

    Args:
        teacher, student: the hidden states of their layers, (n, width) each; the student's are read first.
        half, ridge: as in `stitch_r2`.

    Returns:
        `cka` and `stitch` (R² of the student's states from the teacher's), each (student layers, teacher layers).

    Note:
        Memory: 8 n^2 bytes a student layer. Time: O(n^2) a pair, O(n^3 + n^2 width) a layer.
    """
    own = [States(states, half) for states in student]
    cka, stitch = [], []
    for states in teacher:
        theirs = States(states, half)
        maps = _maps(theirs, ridge)
        cka.append([mine.cka(theirs) for mine in own])
        stitch.append([_r2(maps, mine.folds()) for mine in own])
    return {"cka": torch.tensor(cka).T, "stitch": torch.tensor(stitch).T}


def _maps(source: States, ridge: float) -> list[tuple[Tensor, Tensor]]:
    """Return of each fold the matrix W that predicts the other half from the fitted one, and WᵀW."""
    maps = []
    for fold in source.folds():
        kernel, across = fold.fitted, fold.across
        strength = ridge * kernel.diagonal().mean().item() or 1.0  # of a constant layer, whose W is 0
        kernel = kernel + strength * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
        weights = torch.cholesky_solve(across.T, torch.linalg.cholesky(kernel)).T
        maps.append((weights, weights.T @ weights))
    return maps


def _r2(maps: Sequence[tuple[Tensor, Tensor]], target: Sequence[_Fold]) -> float:
    """Return 1 - errors / squares: ‖Y - W F‖² from inner products of Y (the other half) and F (the fitted one)."""
    errors, squares = 0.0, 0.0
    for (weights, products), fold in zip(maps, target, strict=True):
        cross, fitted = (weights * fold.across).sum().item(), (products * fold.fitted).sum().item()
        errors += fold.other_squared - 2 * cross + fitted
        squares += fold.other_squared
    return 1 - errors / squares if squares > 0 else 0.0


def ordered_assignment(similarity: Tensor) -> list[int | None]:
    """Match layers in order, so that the sum of their similarities is as large as can be.

    As many pairs as the smaller model has layers; no two cross, and none shares a layer. Of equal sums, the one with
    the lowest teacher layers.

    Args:
        similarity: (student layers, teacher layers), finite.

    Returns:
        For each student layer its teacher layer; None where the teacher has fewer layers and it got none.

    Raises:
        ShapeError: there is no layer.

    Note:
        Dynamic programming, O(student layers * teacher layers): best[i][j] is the largest sum of i pairs of the first
        i layers of the smaller model with some of the first j of the larger one.
    """
    if similarity.ndim != 2 or not similarity.numel():
        raise ShapeError(f"layer matching: similarities of shape {tuple(similarity.shape)}; give one for each pair")
    table, turned = similarity.tolist(), similarity.shape[0] > similarity.shape[1]
    if turned:
        table = [list(column) for column in zip(*table, strict=True)]
    few, many = len(table), len(table[0])
    best = [[0.0] * (many + 1)] + [[float("-inf")] * (many + 1) for _ in range(few)]
    for i in range(1, few + 1):
        for j in range(i, many + 1):
            best[i][j] = max(best[i][j - 1], best[i - 1][j - 1] + table[i - 1][j - 1])
    pairs, j = [0] * few, many
    for i in range(few, 0, -1):
        while best[i][j] == best[i][j - 1]:
            j -= 1
        j -= 1
        pairs[i - 1] = j
    if not turned:
        return list(pairs)
    mapping: list[int | None] = [None] * similarity.shape[0]
    for teacher_layer, student_layer in enumerate(pairs):
        mapping[student_layer] = teacher_layer
    return mapping
