"""Which tensor on disk is which parameter in memory, and what other tools leave among the names.

Names on disk may lack the base model's prefix; old checkpoints carry buffers that no model reads; wrappers and
quantisers leave names of their own, which are refused with the way to save the model without them.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from paraknow_core.errors import ModelError
from paraknow_core.models.config import Dimensions, read_dimensions
from paraknow_core.models.families import Family
from paraknow_core.models.headers import TensorHeader
from paraknow_core.models.source import ModelSource

# Names that only buffers have: causal masks and rotary tables, made anew whenever a model is built.
_OLD_BUFFER = re.compile(
    r"(^|\.)(masked_bias|position_ids|(original_|long_)?inv_freq|(cos|sin)_cached|embed_scale)$"
    r"|_attention_(original_)?inv_freq$|\.(attn|attention|crossattention)\.bias$"
)
# Names that only quantised weights, or what lies beside them, have.
_OF_QUANTISER = re.compile(
    r"(^|\.)(qweight|qzeros|scales|g_idx|SCB|(nested_)?(absmax|quant_map)|input_scale|W_q|Wf"
    r"|weight_(format|scale|scale_inv|scale_2|packed|zero_point|shape))$|\.quant_state\."
)
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


def parameter_headers(source: ModelSource) -> dict[str, TensorHeader]:
    """Return where each parameter of the loaded model is on disk, by its name in memory; a tied weight once.

    Raises:
        ModelError: not supported, or a file is damaged.
    """
    return held_parameters(source.headers(), read_dimensions(source.config(), source.label), source.label)


def held_parameters(headers: dict[str, TensorHeader], size: Dimensions, label: str) -> dict[str, TensorHeader]:
    """Return `memory_names` without the second listing of a tied weight; a checkpoint may also list only the head."""
    tensors = memory_names(headers, size.family, label)
    head = tensors.pop(f"{size.family.head}.weight", None) if size.tied else None
    if head is not None:
        tensors.setdefault(f"{size.family.embed}.weight", head)
    return tensors


def memory_names(headers: dict[str, TensorHeader], family: Family, label: str) -> dict[str, TensorHeader]:
    """Map the names a loaded model has to the headers on disk, whose names may lack the base model's prefix.

    Raises:
        ModelError: two tensors on disk stand for the same parameter.
    """
    named: dict[str, TensorHeader] = {}
    for disk_name, header in headers.items():
        if is_old_buffer(disk_name):
            continue
        name = disk_name
        for old, new in family.renames.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name
        if not name.startswith((f"{family.prefix}.", f"{family.head}.")):
            name = f"{family.prefix}.{name}"
        if name in named:
            raise ModelError(f"{label}: {disk_name} and {named[name].name} are both {name}; save the model again")
        named[name] = header
    return named


def check_names(expected: Mapping[str, tuple[int, ...]], held: Mapping[str, Any], size: Dimensions, label: str) -> None:
    """Refuse a checkpoint that lacks a parameter, holds one that nobody uses, or has one of another shape.

    Args:
        expected: name in memory -> shape of every parameter the model has.
        held: name in memory -> what is on disk, with a `shape`.
        size: the config's numbers.
        label: the model's name for messages.

    Raises:
        ModelError: names the first and says how many more there are.
    """
    missing = [name for name in expected if name not in held]
    if missing:
        raise ModelError(
            f"{label}: the checkpoint lacks {_first_of(missing)}; a {size.family.model_type} with "
            f"{size.num_hidden_layers} layers has {'it' if len(missing) == 1 else 'them'}; check config.json, or use "
            "the whole checkpoint"
        )
    unknown = [name for name in held if name not in expected]
    matrix = next((name for name in unknown if len(held[name].shape) != 1), None)
    if matrix:
        shape = tuple(held[matrix].shape)
        kind = "an expert weight" if "expert" in matrix or len(shape) == 3 else "an unknown weight"
        raise ModelError(
            f"{label}: {matrix} of shape {shape} is {kind} for a {size.family.model_type} model; only "
            f"{size.family.architectures[0]} as in transformers is supported"
        )
    if unknown:
        raise ModelError(
            f"{label}: the checkpoint holds unknown {_first_of(unknown)}; check config.json, or use a checkpoint of a "
            f"{size.family.architectures[0]} as transformers saves it"
        )
    other = [name for name, shape in expected.items() if tuple(held[name].shape) != tuple(shape)]
    if other:
        raise ModelError(
            f"{label}: {other[0]} has shape {tuple(held[other[0]].shape)}, config.json says {tuple(expected[other[0]])}"
            f"{f' ({len(other) - 1} more differ)' if len(other) > 1 else ''}; they must be of the same model"
        )


def is_old_buffer(name: str) -> bool:
    """Return whether a tensor's name is that of a buffer that old checkpoints carry and no model reads."""
    return bool(_OLD_BUFFER.search(name))


def is_quantisers(name: str) -> bool:
    """Return whether a tensor's name is one that a quantiser gives, beside or instead of a weight."""
    return bool(_OF_QUANTISER.search(name))


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


def _first_of(names: Collection[str]) -> str:
    return f"{next(iter(names))}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"
