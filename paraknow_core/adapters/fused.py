"""While an adapter is trained: each of its plain linear layers as one operation (`ops.adapted`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from paraknow_core.adapters.inject import ADAPTER
from paraknow_core.ops.adapted import adapted_linear

if TYPE_CHECKING:
    from peft import PeftModel


@contextmanager
def fused(model: "PeftModel") -> Iterator[None]:
    """Let the adapter's plain linear layers compute in one operation each; all others stay as they are."""
    layers = [module for module in model.modules() if _is_plain(module)]
    for layer in layers:
        layer.forward = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_plain(layer: nn.Module) -> bool:
    """Tell whether a module is LoRA on a frozen linear layer, and nothing more, in one number format."""
    from peft.tuners.lora import Linear

    if type(layer) is not Linear or set(layer.lora_A) != {ADAPTER} or layer.merged or layer.lora_variant:
        return False
    base, down, up = layer.get_base_layer(), layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return (
        type(base) is nn.Linear
        and isinstance(layer.lora_dropout[ADAPTER], nn.Identity)
        and up.bias is None
        and not any("forward" in vars(part) for part in (layer, base, down, up))
        and not base.weight.requires_grad
        and base.weight.dtype == down.weight.dtype == up.weight.dtype
    )


def _forward(layer: nn.Module, x: Tensor, *_: object, **__: object) -> Tensor:
    base, down, up = layer.get_base_layer(), layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return adapted_linear(x, base.weight, base.bias, down.weight, up.weight, layer.scaling[ADAPTER])
