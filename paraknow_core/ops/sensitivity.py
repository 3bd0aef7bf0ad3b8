"""Sensitivity of parameters: S = sum over seed samples j of |theta * dL_j/dtheta|."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from paraknow_core.errors import NumericError
from paraknow_core.ops.folding import folding, weigh_

Sample = TypeVar("Sample")


def accumulate_sensitivity(
    parameters: Mapping[str, Parameter],
    samples: Iterable[Sample],
    loss_of: Callable[[Sample], Tensor],
    on_sample: Callable[[int, float], None] | None = None,
    module: nn.Module | None = None,
) -> tuple[dict[str, Tensor], list[float]]:
    """Sum |theta * gradient| over samples, one backward pass per sample.

    The absolute value is taken per sample: the gradient of a batch would let samples cancel. A gradient is folded
    into its sum and dropped as soon as autograd has finished it, so at most a few live at once. A parameter used
    twice (tied embeddings) gets both gradients added before the absolute value, because autograd hands over their sum.

    Args:
        parameters: name to parameter, any shapes; each parameter once.
        samples: whatever `loss_of` takes.
        loss_of: returns the scalar mean loss of one sample, in nats per supervised token.
        on_sample: called after each sample with its index and loss.
        module: what holds the parameters; see `folding`.

    Returns:
        Name to S in float32, of the parameter's shape (zero where no gradient arrived), and the loss of each sample.

    Raises:
        NumericError: a loss is not finite, or there is no sample.

    Note:
        Memory beyond the weights: 4 bytes a parameter plus the activations of one sample.
        |theta| is multiplied once at the end: sum_j |theta g_j| = |theta| sum_j |g_j|.

    Source:
        Zhong et al., ICLR 2024, arXiv:2310.11451.
    """
    losses = []
    with folding(parameters, module) as sums:
        for index, sample in enumerate(samples):
            with torch.enable_grad():
                loss = loss_of(sample)
                losses.append(finite_loss(index, loss.item()))
                loss.backward()
            if on_sample:
                on_sample(index, losses[-1])
    if not losses:
        raise NumericError("seed samples: none given; sensitivity needs at least one")
    for name, total in sums.items():
        weigh_(total, parameters[name])
    return sums, losses


def finite_loss(index: int, loss: float, who: str = "teacher") -> float:
    """Return the loss of a seed sample; `who` has read it.

    Raises:
        NumericError: it is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise NumericError(
            f"seed sample {index}: its loss is {loss}; check that its answer is not cut off and that the {who}'s "
            "weights are sound"
        )
    return loss
