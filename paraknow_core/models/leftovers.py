"""What other tools leave in a model's weights: names of old buffers, of wrappers and of quantisers."""

from collections.abc import Iterable

# The last part of a name that only a buffer has: causal masks and rotary tables, made anew whenever a model is built.
_BUFFERS = frozenset(
    {
        "masked_bias",
        "position_ids",
        "inv_freq",
        "original_inv_freq",
        "long_inv_freq",
        "cos_cached",
        "sin_cached",
        "embed_scale",
    }
)
_MASKS = (".attn.bias", ".attention.bias", ".crossattention.bias")
_OF_LAYER_TYPES = ("_attention_inv_freq", "_attention_original_inv_freq")

# Part of a name -> who leaves it there, and how the model is saved without it.
_WRAPPERS = {
    "_orig_mod": ("torch.compile", "save the model that was compiled (`model._orig_mod`)"),
    "module": ("DistributedDataParallel or DataParallel", "save the model inside (`model.module`)"),
    "_fsdp_wrapped_module": ("FSDP", "save its full state dict with the model's own names"),
    "_checkpoint_wrapped_module": ("a wrapper for activation checkpointing", "save the model inside it"),
    "_forward_module": ("Lightning Fabric", "save the model inside it"),
    "base_layer": ("PEFT", "merge the adapter (`merge_and_unload()`) and save the model that this returns"),
    "base_model": ("PEFT", "merge the adapter (`merge_and_unload()`) and save the model that this returns"),
}
# The last part of a name that only quantised weights have.
_QUANTISERS = frozenset(
    {
        "qweight",
        "qzeros",
        "scales",
        "g_idx",
        "SCB",
        "absmax",
        "nested_absmax",
        "quant_map",
        "nested_quant_map",
        "weight_format",
        "weight_scale",
        "weight_scale_inv",
        "weight_scale_2",
        "input_scale",
        "weight_packed",
        "weight_zero_point",
        "weight_shape",
        "W_q",
        "Wf",
    }
)


def is_old_buffer(name: str) -> bool:
    """Return whether a tensor's name is that of a buffer that old checkpoints carry and no model reads."""
    return name.rpartition(".")[2] in _BUFFERS or name.endswith(_MASKS) or name.endswith(_OF_LAYER_TYPES)


def is_quantisers(name: str) -> bool:
    """Return whether a tensor's name is one that a quantiser gives, beside or instead of a weight."""
    return name.rpartition(".")[2] in _QUANTISERS or ".quant_state." in name


def wrapper_sentence(names: Iterable[str], embed: str) -> str | None:
    """Say who put something in front of (or into) a checkpoint's names, and what to do; None if nobody did.

    Args:
        names: of the tensors on disk.
        embed: name in memory of the input embedding's weight, which every checkpoint has.
    """
    names = list(names)
    for name in names:
        parts = name.split(".")[:-1]
        if any(part.startswith("lora_") for part in parts):
            tool, remedy = _WRAPPERS["base_model"]
            return f"{name} is a part of an adapter that was not merged, which {tool} leaves; {remedy}"
        part = next((part for part in parts if part in _WRAPPERS), None)
        if part:
            tool, remedy = _WRAPPERS[part]
            prefix = "base_model.model." if name.startswith("base_model.model.") else f"{part}."
            return f"the name {name} has '{prefix}', which {tool} leaves; {remedy}, or take it out of every name"
    if embed in names or embed.partition(".")[2] in names:
        return None
    name = next((name for name in names if name.endswith((f".{embed}", ".embed_tokens.weight"))), None)
    if name and name.endswith(f".{embed}"):
        prefix = name.removesuffix(embed)
        return (
            f"{name} should be called {embed}: a class around the model leaves '{prefix}' before every name; "
            f"save the model inside it, or take '{prefix}' out of the names"
        )
    if any(name.endswith("tok_embeddings.weight") for name in names):
        return (
            "tok_embeddings.weight is a name of the model's original format, not of transformers; "
            "use the checkpoint in transformers' format, or convert it with transformers' script for this family"
        )
    return None
