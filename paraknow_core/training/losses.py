"""The training loss: cross-entropy of the supervised tokens, for which the output layer sees no other position."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paraknow_core.training.batches import supervised

if TYPE_CHECKING:
    from peft import PeftModel

    from paraknow_core.methods.base import LossTerm


class Losses:
    """What a model loses on batches.

    Only positions with a label go through the output layer, where the loss is the usual one: a model that adds to it
    what its router loses, or computes it in its own way, is asked for it with all its logits.
    """

    def __init__(self, model: torch.nn.Module, term: "LossTerm | None" = None) -> None:
        """Args: model, a causal language model, perhaps with an adapter; term, what a method adds to its loss."""
        self.model, self.term = model, term
        self._head = model.get_output_embeddings() if term is None and _is_usual(model) else None

    @property
    def usual(self) -> bool:
        """Whether the loss is the usual one, of the positions with a label alone."""
        return self._head is not None

    def share(self, batch: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
        """Return a pass's share in the mean loss of its step, nats per token, with a gradient.

        Args:
            batch: a pass, as `Collator` makes it.
            tokens: how many supervised tokens all passes of the step have.
        """
        if self._head is not None:
            return self.nats(batch) / tokens
        outputs = self.model(**batch, num_items_in_batch=tokens, use_cache=False)
        if self.term is None:
            return outputs.loss
        return outputs.loss + self.term(self.model, batch, outputs) * (supervised(batch).sum() / tokens)

    def nats(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the losses of a batch's supervised tokens, in nats."""
        chosen = supervised(batch)
        if self._head is None:
            return self.model(**batch, use_cache=False).loss * chosen.sum()
        targets = batch["labels"][:, 1:][chosen]
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}

        def select(_head: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            states, *others = args
            return (states[:, :-1][chosen][None], *others)

        selecting = self._head.register_forward_pre_hook(select)
        try:
            logits = self.model(**inputs, use_cache=False).logits
        finally:
            selecting.remove()
        return torch.nn.functional.cross_entropy(logits[0].float(), targets, reduction="sum")


def _is_usual(model: "torch.nn.Module | PeftModel") -> bool:
    """Tell whether a model's loss is the mean cross-entropy of what its output layer makes of the hidden states."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    routed = getattr(base.config.get_text_config(), "output_router_logits", False)
    return base.loss_function is ForCausalLMLoss and not routed and base.get_output_embeddings() is not None
