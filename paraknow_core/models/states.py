"""Hidden states of a model, layer after layer, of which one is in memory at a time. Needs torch."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from paraknow_core.models.anatomy import Anatomy
from paraknow_core.models.shards import Shards
from paraknow_core.models.skeleton import Skeleton
from paraknow_core.models.source import ModelSource


def layer_states(
    source: ModelSource,
    anatomy: Anatomy,
    texts: Sequence[Sequence[int]],
    places: Sequence[Sequence[int]],
    *,
    dtype: str,
    device: str,
) -> Iterator[Tensor]:
    """Yield what each layer adds up to: the residual stream after it, before any last norm.

    Args:
        source, anatomy: the model.
        texts: token ids of each text.
        places: of each text, the positions whose states are wanted.
        dtype, device: to compute in, and on.

    Yields:
        (all places, hidden_size) float32 on the CPU, text after text; one a layer.

    Note:
        Every weight is read once. In memory: a layer, and the states of all tokens after it.
    """
    skeleton = Skeleton(source, anatomy, Shards(source, getattr(torch, dtype), device))
    hidden = []
    with torch.no_grad():
        for ids in texts:
            embedded = skeleton.embedded(torch.tensor(list(ids), device=device))[0]
            hidden.append(skeleton.before_layers(embedded)[None])
            skeleton.keep_arguments(len(ids))
    for index in range(len(skeleton.layers)):
        with skeleton.layer(index) as layer, torch.no_grad():
            skeleton.prefetch(index + 1)
            hidden = [layer(states) for states in hidden]
        yield torch.cat([s[0, list(at)].float().cpu() for s, at in zip(hidden, places, strict=True)])
