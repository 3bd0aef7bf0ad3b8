"""Grow a Llama model without changing what it computes.

Every new residual channel starts at zero and nothing writes into it; new heads and neurons write nothing; new layers
add nothing. Whatever READS the new parts starts small and random, so that training can put them to use. The original
weights stay where they were: block (0, 0) of every grown matrix is the small model's matrix, to the last bit.

The idea follows Net2Net (Chen et al., 2016, arXiv:1511.05641).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from paraknow_core.errors import ShapeError

_WRITERS = ("o_proj", "down_proj")  # these write into the residual stream


def widened_config(
    config: LlamaConfig, hidden_size: int, intermediate_size: int, num_heads: int, num_layers: int
) -> LlamaConfig:
    """The configuration of the grown model.

    Args:
        config: the small model's configuration.
        hidden_size, intermediate_size, num_heads, num_layers: the grown sizes; the size of a head is kept.

    Returns:
        A new configuration. Its `rms_norm_eps` is smaller by the same factor as the mean square of a hidden state that
        has new zero channels, which keeps the norms exact.
    """
    grown = LlamaConfig(**config.to_dict())
    grown.rms_norm_eps = config.rms_norm_eps * config.hidden_size / hidden_size
    grown.hidden_size, grown.intermediate_size = hidden_size, intermediate_size
    grown.num_attention_heads = grown.num_key_value_heads = num_heads
    grown.num_hidden_layers, grown.head_dim = num_layers, config.head_dim
    return grown


def _grow_matrix(small: Tensor, shape: torch.Size, writes: bool, scale: float, generator: torch.Generator) -> Tensor:
    """Put a matrix into the corner of a larger one; new rows and columns are random where they only read."""
    rows, cols = small.shape
    grown = torch.randn(shape, generator=generator) * scale
    if writes:
        grown[rows:] = 0  # would write into new residual channels
        grown[:, cols:] = 0  # would write what new heads or neurons say
    grown[:rows, :cols] = small
    return grown


def widen(
    student: LlamaForCausalLM,
    hidden_size: int,
    intermediate_size: int,
    num_heads: int,
    num_layers: int,
    positions: Sequence[int],
    seed: int = 0,
    scale: float = 0.02,
) -> LlamaForCausalLM:
    """Make a larger model that computes the same function.

    Args:
        student: the small model; tied embeddings, as many key-value heads as heads, no biases.
        hidden_size, intermediate_size, num_heads, num_layers: sizes of the grown model.
        positions: layer `positions[i]` of the grown model is layer i of the student, increasing.
        seed: for the new reading weights.
        scale: standard deviation of the new reading weights.

    Returns:
        The grown model, float32, in training mode as the student was.

    Raises:
        ShapeError: the positions do not fit the two depths.
    """
    old = student.config
    if len(positions) != old.num_hidden_layers or list(positions) != sorted({p for p in positions if p < num_layers}):
        raise ShapeError(
            f"widening: positions {list(positions)} do not place {old.num_hidden_layers} layers into {num_layers}; "
            "give one increasing index for each student layer"
        )
    generator = torch.Generator().manual_seed(seed)
    teacher = LlamaForCausalLM(widened_config(old, hidden_size, intermediate_size, num_heads, num_layers))
    norm_scale = math.sqrt(old.hidden_size / hidden_size)
    source = student.state_dict()
    student_layer = {p: i for i, p in enumerate(positions)}
    with torch.no_grad():
        for name, weight in teacher.named_parameters():
            parts = name.split(".")
            if parts[1] == "layers":
                origin = student_layer.get(int(parts[2]))
                twin = None if origin is None else source[".".join([*parts[:2], str(origin), *parts[3:]])].float()
            else:
                twin = source[name].float()
            writes = parts[-2] in _WRITERS
            if weight.dim() == 1:
                # The mean square is taken over more channels, the new ones zero: the norms carry the factor.
                weight.fill_(norm_scale)
                if twin is not None:
                    weight[: twin.numel()] = twin * norm_scale
            elif parts[-2] == "embed_tokens":
                weight.zero_()
                weight[:, : twin.shape[1]] = twin
            elif twin is not None:
                weight.copy_(_grow_matrix(twin, weight.shape, writes, scale, generator))
            elif writes:
                weight.zero_()
            else:
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    teacher.train(student.training)
    return teacher
