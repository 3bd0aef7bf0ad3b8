"""Sensitivity of parameters: S = sum over seed samples j of |theta * dL_j/dtheta|."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

from paraknow_core.errors import NumericError

Sample = TypeVar("Sample")


def accumulate_sensitivity(
    parameters: Mapping[str, Parameter],
    samples: Iterable[Sample],
    loss_of: Callable[[Sample], Tensor],
    on_sample: Callable[[int, float], None] | None = None,
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

    Returns:
        Name to S in float32, of the parameter's shape (zero where no gradient arrived), and the loss of each sample.

    Raises:
        NumericError: a loss or a sum is not finite, or there is no sample.

    Note:
        Memory beyond the weights: 4 bytes a parameter plus the activations of one sample.
        |theta| is multiplied once at the end: sum_j |theta g_j| = |theta| sum_j |g_j|.

    Source:
        Zhong et al., ICLR 2024, arXiv:2310.11451.
    """
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    required = {name: p.requires_grad for name, p in parameters.items()}
    hooks, losses = [], []

    def fold(total: Tensor) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            total.add_(parameter.grad.abs())
            parameter.grad = None

        return hook

    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(True)
            parameter.grad = None
            hooks.append(parameter.register_post_accumulate_grad_hook(fold(sums[name])))
        for index, sample in enumerate(samples):
            with torch.enable_grad():
                loss = loss_of(sample)
                if not torch.isfinite(loss):
                    raise NumericError(
                        f"seed sample {index}: its loss is {loss.item()}; check that its answer is not cut off "
                        "and that the teacher's weights are sound"
                    )
                loss.backward()
            losses.append(loss.item())
            if on_sample:
                on_sample(index, losses[-1])
    finally:
        for hook in hooks:
            hook.remove()
        for name, parameter in parameters.items():
            parameter.requires_grad_(required[name])
    if not losses:
        raise NumericError("seed samples: none given; sensitivity needs at least one")
    for name, total in sums.items():
        total.mul_(parameters[name].detach().abs())
        if not torch.isfinite(total.sum()):
            raise NumericError(f"sensitivity of {name}: not finite; compute in float32 or check the weights")
    return sums, losses
