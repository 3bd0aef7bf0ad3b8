"""Where LoRA factors start in published methods that use no teacher, beside PiSSA: formulas of one weight each.

W is (out, in), LoRA adds s * B @ A with s = lora_alpha / r. What a start needs to know of data is the mean gradient of
the loss to W, or the second moments of the inputs: C = mean of X^T X with X (tokens, in), or its diagonal where the
inputs are tokens (one-hot vectors) themselves.
"""

import torch
from torch import Tensor

from paraknow_core.errors import NumericError, ShapeError
from paraknow_core.ops.svd import trailing_svd, truncated_svd

LORA_GA_GAMMA, LORA_ONE_GAMMA = 16, 128  # of the papers
CORDA_DAMPING = 0.01  # of the mean of the diagonal

Pair = tuple[Tensor, Tensor]  # A (r, in) and B (out, r)


def minor_factors(weight: Tensor, rank: int, scaling: float) -> Pair:
    """Return factors with scaling * B @ A = the part of W in its r smallest singular values, their root on both sides.

    Source:
        MiLoRA, Wang et al., arXiv:2406.09044.
    """
    svd = trailing_svd(weight, rank)
    root = (svd.s / scaling).sqrt()
    return (svd.v * root).T, svd.u * root


def uniform_factors(out_features: int, in_features: int, rank: int, generator: torch.Generator) -> Pair:
    """Return A of U(-c / sqrt(in), c / sqrt(in)) and B of U(-c / sqrt(r), c / sqrt(r)) with c = 1.

    c = 1 is how default LoRA draws its A (Kaiming uniform with a = sqrt(5)), here for both: each factor is drawn as a
    linear layer of its fan-in is. The expected squared Frobenius norm of B @ A is then out / 9.

    Source:
        Init[AB] of arXiv:2602.04998.
    """
    a = torch.rand(rank, in_features, generator=generator).mul_(2).sub_(1).div_(in_features**0.5)
    b = torch.rand(out_features, rank, generator=generator).mul_(2).sub_(1).div_(rank**0.5)
    return a, b


def gradient_factors(gradient: Tensor, rank: int, gamma: float = LORA_GA_GAMMA) -> Pair:
    """Return A = V[:, :r]^T * out^(1/4) / sqrt(gamma), B = U[:, r:2r] * out^(1/4) / sqrt(gamma) of G = U S V^T.

    The singular values themselves do not enter. PEFT's `init_lora_weights="lora_ga"` is another formula: there they
    multiply B, A is not scaled at all, and B @ A is as large as the gradient happens to be.

    Args:
        gradient: (out, in), the mean of the loss's gradient to W.
        rank: r; 2 r directions are used.
        gamma: the larger, the smaller the start.

    Raises:
        ShapeError: the matrix has no 2 r directions. NumericError: it is zero, or not finite.

    Source:
        LoRA-GA, Wang et al., arXiv:2407.05000, and its authors' adapter code.
    """
    if 2 * rank > min(gradient.shape):
        raise ShapeError(
            f"factorisation: rank {rank} takes {2 * rank} directions of a gradient of shape {tuple(gradient.shape)}; "
            f"choose 1 to {min(gradient.shape) // 2}"
        )
    svd = truncated_svd(_some("gradient", gradient), 2 * rank)
    size = gradient.shape[0] ** 0.25 / gamma**0.5
    return svd.v[:, :rank].T * size, svd.u[:, rank:] * size


def descent_factors(gradient: Tensor, rank: int, gamma: float = LORA_ONE_GAMMA) -> Pair:
    """Return A = sqrt(S_r) V_r^T / sqrt(S_1 gamma), B = U_r sqrt(S_r) / sqrt(S_1 gamma) of -G = U S V^T.

    B @ A is one step of gradient descent, of its best rank-r approximation, whose largest singular value is 1 / gamma.

    Args:
        gradient: (out, in), the mean of the loss's gradient to W.
        rank: r.
        gamma: the larger, the shorter the step.

    Raises:
        ShapeError: the rank does not fit. NumericError: the gradient is zero, or not finite.

    Source:
        LoRA-One, Zhang et al., arXiv:2502.01235.
    """
    svd = truncated_svd(-_some("gradient", gradient), rank)
    root = (svd.s / (svd.s[0] * gamma)).sqrt()
    return (svd.v * root).T, svd.u * root


def weighted_factors(weight: Tensor, moments: Tensor, rank: int, scaling: float) -> Pair:
    """Return factors with scaling * B @ A = U_r S_r V_r^T C^-1, of the first r triplets of W C; sqrt(S / s) in both.

    That is CorDA's instruction-previewed start (PEFT's `ipm`): it adapts the directions that matter most to these
    inputs. Its other one (`kpm`) takes the last r triplets, so as to keep what the inputs stand for.

    The inverse is of C with 0.01 of the mean of its diagonal added to it. The authors double this until their inverse,
    in float32, is accurate; C's condition number is then below 100 * in, so that in float64 it is at once.

    Args:
        weight: (out, in).
        moments: C (in, in), or its diagonal (in,). A factor of C does not change B @ A; it moves size from A to B.
        rank: r.
        scaling: s.

    Raises:
        ShapeError: the rank does not fit. NumericError: C is zero, or a value is not finite.

    Source:
        CorDA, Yang et al., arXiv:2406.05223.
    """
    moments = _some("inputs", moments).double()
    if moments.ndim == 1:
        damped = moments + CORDA_DAMPING * moments.mean()
        svd = truncated_svd(weight.double() * damped, rank)
        back = svd.v / damped[:, None]
    else:
        damped = moments.clone()
        damped.diagonal().add_(CORDA_DAMPING * moments.diagonal().mean())
        svd = truncated_svd(weight.double() @ damped, rank)
        back = torch.cholesky_solve(svd.v, torch.linalg.cholesky(damped))
    root = (svd.s / scaling).sqrt()
    return (back * root).T, svd.u * root


def input_directions(moments: Tensor, rank: int) -> tuple[Tensor, float]:
    """Return the first r right singular vectors of all inputs below one another, (r, in), and their share of C's trace.

    They are eigenvectors of C. Where it is diagonal they are unit vectors of the commonest tokens, on ties the first.
    PEFT's `init_lora_weights="eva"` takes the inputs' mean off first.

    Args:
        moments: C (in, in), or its diagonal (in,).
        rank: r.

    Raises:
        ShapeError: the rank does not fit. NumericError: C is zero, or not finite.

    Source:
        EVA, Paischer et al., arXiv:2410.07170.
    """
    moments = _some("inputs", moments)
    if moments.ndim == 1:
        first = moments.argsort(descending=True, stable=True)[:rank]
        directions = torch.zeros(rank, len(moments), dtype=moments.dtype, device=moments.device)
        directions[torch.arange(rank, device=first.device), first] = 1
        return directions, (moments[first].sum() / moments.sum()).item()
    svd = truncated_svd(moments, rank)
    return svd.v.T.contiguous(), (svd.s.sum() / moments.trace()).item()


def _some(what: str, data: Tensor) -> Tensor:
    """Return data of which something is not zero.

    Raises:
        NumericError: all of it is.
    """
    if not data.any():
        raise NumericError(f"factorisation: the {what} are zero, so that they have no direction; give other samples")
    return data
