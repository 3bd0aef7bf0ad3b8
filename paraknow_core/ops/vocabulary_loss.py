"""Cross-entropy of a language model in slices of its vocabulary, with the gradients of each sample on the way.

The output layer is never in memory as a whole: its rows are asked for a slice at a time, and so are its gradients.
Whole logits through autograd take 1.5 times as long, six times the extra memory (`python -m benchmarks.kernels`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paraknow_core.errors import NumericError

IGNORED = -100
_ROWS, _ROWS_ON_GPU = 1024, 4096  # in a slice: products of fewer are slow, and more leave the cache in between
_LOGITS = 1 << 21  # in work while they become gradients: 8 MB in float32


@dataclass(frozen=True)
class OutputLayer:
    """What turns hidden states into logits.

    Attributes:
        rows: slice of the vocabulary -> (rows, width) weights.
        size: number of rows.
        bias: (size,) or None.
        softcap: logits become softcap * tanh(logits / softcap); None: they stay.
    """

    rows: Callable[[slice], Tensor]
    size: int
    bias: Tensor | None = None
    softcap: float | None = None


@dataclass(frozen=True)
class SlicedLoss:
    """Losses (nats a supervised token, the mean of each sample) and their gradients to the hidden states."""

    losses: list[float]
    gradients: list[Tensor]


def supervised(labels: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the positions that predict a supervised token (labels shifted by one), and those tokens."""
    shifted = torch.as_tensor(labels)[1:]
    positions = (shifted != IGNORED).nonzero().flatten()
    return positions, shifted[positions]


def sliced_cross_entropy(
    hidden: Sequence[Tensor],
    labels: Sequence[Sequence[int]],
    layer: OutputLayer,
    fold: Callable[[slice, Sequence[Tensor], Sequence[Tensor]], None],
) -> SlicedLoss:
    """Compute every sample's mean cross-entropy and its gradients.

    Args:
        hidden: one (tokens, width) hidden state a sample, any floating dtype.
        labels: one list of tokens a sample; -100 where a token is not supervised.
        layer: the output layer.
        fold: called for every slice of the vocabulary with the slice, and for each sample its errors (supervised,
            rows), the gradient to the logits, and its states (supervised, width). A sample's gradient to the weights
            is errors.T @ states, and to the bias the sum of its errors over the tokens. It may change the errors in
            place.

    Returns:
        The losses, and for each sample the gradient to its hidden state, (tokens, width).

    Raises:
        NumericError: a sample supervises no token.

    Note:
        The output layer is read twice: for the logits of the supervised tokens, (supervised, vocabulary) a sample, and
        for the gradients. 2 + 4 operations a weight and supervised token. The loss itself is torch's own, because
        where a model is certain its gradient is the rounding of one minus a probability.
    """
    targets = [supervised(tokens) for tokens in labels]
    for index, (positions, _) in enumerate(targets):
        if len(positions) == 0:
            raise NumericError(f"seed sample {index}: no token of it is supervised; check that its answer is not cut")
    counts = [len(positions) for positions, _ in targets]
    state = torch.cat([h.detach()[positions.to(h.device)] for h, (positions, _) in zip(hidden, targets, strict=True)])
    logits = torch.empty(len(state), layer.size, dtype=state.dtype, device=state.device)
    for rows, weights in _slices(layer, state.device):
        bias = None if layer.bias is None else layer.bias[rows]
        logits[:, rows] = torch.nn.functional.linear(state, weights, bias)
    losses = [
        _loss_to_gradient_(of_sample, tokens, layer.softcap)
        for of_sample, (_, tokens) in zip(logits.split(counts), targets, strict=True)
    ]
    inner, states = torch.zeros(state.shape, dtype=torch.float32, device=state.device), state.split(counts)
    for rows, weights in _slices(layer, state.device):
        errors = logits[:, rows]
        inner += errors @ weights
        fold(rows, errors.split(counts), states)
    gradients = []
    for h, (positions, _), gradient in zip(hidden, targets, inner.split(counts), strict=True):
        whole = torch.zeros_like(h)
        whole[positions.to(h.device)] = gradient.to(h.dtype)
        gradients.append(whole)
    return SlicedLoss(losses, gradients)


def _loss_to_gradient_(logits: Tensor, tokens: Tensor, softcap: float | None) -> float:
    """Return the mean loss of a sample's logits, and put its gradient to them in their place, some tokens at a time."""
    total, step = 0.0, max(1, _LOGITS // logits.shape[1])
    weight = torch.ones((), device=logits.device) / len(logits)  # of each token in the mean
    for rows, targets in zip(logits.split(step), tokens.to(logits.device).split(step), strict=True):
        leaf = rows.detach().requires_grad_(True)
        with torch.enable_grad():
            capped = softcap * torch.tanh(leaf / softcap) if softcap else leaf
            loss = torch.nn.functional.cross_entropy(capped.float(), targets, reduction="sum")
            loss.backward(weight)
        rows.copy_(leaf.grad)
        total += loss.item()
    return total / len(logits)


def _slices(layer: OutputLayer, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    step = _ROWS if device.type == "cpu" else _ROWS_ON_GPU
    for start in range(0, layer.size, step):
        rows = slice(start, min(start + step, layer.size))
        yield rows, layer.rows(rows)
