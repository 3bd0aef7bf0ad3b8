"""A model without weights, of which one layer at a time is brought to life: the ground under layer streaming.

The architecture is transformers' own, built on the meta device, so that every family computes exactly as it does when
it is loaded whole. The base model runs with stand-ins for its layers: they note what each layer is called with (masks,
rotary tables) and hand a hidden state through. So what comes before the layers and after them runs by itself too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from paraknow_core.models.anatomy import Anatomy
from paraknow_core.models.families import FAMILIES
from paraknow_core.models.load import build_checked
from paraknow_core.models.shards import Shards
from paraknow_core.models.source import ModelSource
from paraknow_core.ops.folding import batchable


class _StandIn(nn.Module):
    """Takes a layer's place: notes its input and arguments, returns its input, or `replacement` once that is set."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # not a child: the stand-in has no weights
        self.seen: Tensor | None = None
        self.arguments: tuple[tuple, dict[str, Any]] = ((), {})
        self.replacement: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)  # the kind of attention, which some models look up

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.seen, self.arguments = hidden, (args, kwargs)
        return hidden if self.replacement is None else self.replacement


@dataclass(frozen=True)
class Layer:
    """One decoder layer with its weights in memory; `parameters` by their names in the whole model."""

    module: nn.Module
    parameters: dict[str, nn.Parameter]
    arguments: dict[int, tuple[tuple, dict[str, Any]]]

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map hidden states (samples, tokens, hidden_size) to the next."""
        args, kwargs = self.arguments[hidden.shape[1]]
        out = self.module(hidden, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out


class Skeleton:
    """A causal language model whose layers' weights are read when they are needed, and let go of again."""

    def __init__(self, source: ModelSource, anatomy: Anatomy, shards: Shards) -> None:
        """Build the architecture and load what is neither a layer nor an embedding: the last norm, position tables."""
        self.anatomy, self.shards = anatomy, shards
        family = FAMILIES[anatomy.family]
        self.model = build_checked(source, anatomy, shards)
        self.base = self.model.get_submodule(family.prefix)
        self.layers = list(self.model.get_submodule(family.layers))
        self.stand_ins = [_StandIn(layer) for layer in self.layers]
        owner, _, attribute = family.layers.rpartition(".")
        setattr(self.model.get_submodule(owner), attribute, nn.ModuleList(self.stand_ins))
        self.embed_name, self.head_name = f"{family.embed}.weight", f"{family.head}.weight"
        self.embed = self.model.get_input_embeddings()
        self.padding, self.embed.padding_idx = self.embed.padding_idx, None  # rows are renumbered; see `embedded`
        self.head_bias = f"{family.head}.bias" if f"{family.head}.bias" in shards else None
        self.softcap: float | None = getattr(self.model.config, "final_logit_softcapping", None)
        self._prefix = f"{family.layers}."
        self._room: dict[str, Tensor] = {}  # memory of the last layer's converted weights, for the next one's
        self._arguments: list[dict[int, tuple]] = [{} for _ in self.layers]
        large = (self._prefix, f"{family.embed}.", f"{family.head}.")
        self.outside = {name: nn.Parameter(shards[name]) for name in shards if not name.startswith(large)}
        self.model.load_state_dict(self.outside, strict=False, assign=True)

    @cached_property
    def batchable(self) -> bool:
        """Whether several samples may go through a layer together: later tokens change nothing, see `ops.folding`."""
        causal = all(getattr(part, "is_causal", True) for layer in self.layers for part in layer.modules())
        return causal and all(batchable(layer) for layer in self.layers)

    def layer_parameters(self, index: int) -> list[str]:
        """Return the full names of a layer's parameters."""
        return [name for name in self.shards if name.startswith(f"{self._prefix}{index}.")]

    @contextmanager
    def layer(self, index: int) -> Iterator[Layer]:
        """Bring one layer to life; its weights are gone again afterwards: the next layer's take their place."""
        module, prefix = self.layers[index], f"{self._prefix}{index}."
        names = {name.removeprefix(prefix): name for name in self.layer_parameters(index)}
        weights = {own: self.shards.read(name, self._room.pop(own, None)) for own, name in names.items()}
        self._room = {own: weights[own] for own, name in names.items() if self.shards.converts(name)}
        module.load_state_dict(weights, strict=True, assign=True)
        del weights
        parameters = {f"{prefix}{name}": parameter for name, parameter in module.named_parameters()}
        try:
            yield Layer(module, parameters, self._arguments[index])
        finally:
            parameters.clear()  # whoever still holds the layer must not hold its weights
            for owner in module.modules():
                for name, parameter in list(owner._parameters.items()):  # noqa: SLF001 - no public way keeps buffers
                    if parameter is not None:
                        owner._parameters[name] = nn.Parameter(torch.empty_like(parameter, device="meta"))  # noqa: SLF001

    def leave(self) -> None:
        """Give back the memory that waits for another layer: there is none for a while."""
        self._room = {}

    def prefetch(self, index: int) -> None:
        """Have a layer's weights read from disk while another is computed."""
        if 0 <= index < len(self.layers):
            self.shards.prefetch(self.layer_parameters(index))

    def embedded(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Look tokens up in the embedding, reading only their rows.

        Args:
            ids: (tokens,) token ids.

        Returns:
            The embedding module's output (tokens, width), with gradient to the rows; the rows (distinct, width); and
            their token ids (distinct,), ascending.
        """
        tokens, places = torch.unique(ids, return_inverse=True)
        rows = self.shards.rows(self.embed_name, tokens.cpu()).requires_grad_(True)
        out = torch.func.functional_call(self.embed, {"weight": rows}, (places[None],))
        return out, rows, tokens

    def before_layers(self, embedded: Tensor) -> Tensor:
        """Return the first layer's input (tokens, hidden_size)."""
        self.base(inputs_embeds=embedded, use_cache=False)
        return self.stand_ins[0].seen[0]

    def keep_arguments(self, tokens: int) -> None:
        """Keep what `before_layers` called the layers with, for so many tokens (masks, rotary tables)."""
        for known, stand_in in zip(self._arguments, self.stand_ins, strict=True):
            known.setdefault(tokens, _detached(stand_in.arguments))

    def arguments_begin(self, tokens: int) -> bool:
        """Return whether what `before_layers` called the layers with is the beginning of what is kept for more tokens.

        Not so where a rotary table is scaled by the number of tokens: those must not be filled up.
        """
        pairs = zip(self._arguments, self.stand_ins, strict=True)
        return all(_begins(stand_in.arguments, known[tokens]) for known, stand_in in pairs)

    def embedding_gradient(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Return the gradient that reached the rows of `embedded`, (distinct, width); a padding token has none."""
        gradient = rows.grad.float()
        if self.padding is not None:
            gradient[tokens == self.padding] = 0
        return gradient

    def after_layers(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """Return what the output layer sees (tokens, width), given the last layer's output (tokens, hidden_size)."""
        embedded = self.embedded(ids)[0].detach()  # only the number of tokens matters, and the kind of the numbers
        self.stand_ins[-1].replacement = hidden[None]
        try:
            return self.base(inputs_embeds=embedded, use_cache=False).last_hidden_state[0]
        finally:
            self.stand_ins[-1].replacement = None


def _begins(fewer: Any, more: Any) -> bool:
    """Return whether every tensor in some arguments is the beginning, in every dimension, of the one in others."""
    if isinstance(fewer, Tensor) and isinstance(more, Tensor):
        return fewer.ndim == more.ndim and fewer.equal(more[tuple(map(slice, fewer.shape))])
    if isinstance(fewer, tuple) and isinstance(more, tuple):
        return len(fewer) == len(more) and all(map(_begins, fewer, more))
    if isinstance(fewer, dict) and isinstance(more, dict):
        return fewer.keys() == more.keys() and all(_begins(value, more[key]) for key, value in fewer.items())
    return type(fewer) is type(more)


def _detached(value: Any) -> Any:
    """Cut tensors inside arguments off the graph that made them."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, tuple):
        return tuple(_detached(part) for part in value)
    return {key: _detached(part) for key, part in value.items()} if isinstance(value, dict) else value
