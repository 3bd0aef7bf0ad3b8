"""The numbers of a config.json, checked, with the defaults transformers would use; and the configs that are refused."""

from dataclasses import dataclass

from paraknow_core.errors import ModelError
from paraknow_core.models.config_values import check_values
from paraknow_core.models.families import FAMILIES, Family

_EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size", "moe_num_experts")
_OTHER_INPUT_KEYS = ("vision_config", "audio_config", "text_config", "speech_config")
MAX_SIZE = 2**31  # more than any real dimension; keeps products of nonsense values out of messages


@dataclass(frozen=True)
class Dimensions:
    """What a config says about a model's shape. Names are those of transformers' configs."""

    family: Family
    architecture: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    embedding_size: int
    activation: str
    tied: bool


def read_dimensions(config: dict, label: str) -> Dimensions:
    """Read and check the numbers of a config.

    Args:
        config: the content of config.json.
        label: the model's name for messages.

    Raises:
        ModelError: the model is of a kind that is not supported, or a value cannot be right.
    """
    family = find_family(config, label)
    sizes = {name: _size(config, family, name, label) for name in (*family.fields, *_derived(family))}
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if sizes["head_dim"] is None:
        if hidden % heads:
            raise ModelError(
                f"{label}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}; correct config.json"
            )
        sizes["head_dim"] = hidden // heads
    sizes["num_key_value_heads"] = sizes["num_key_value_heads"] or heads
    if heads % sizes["num_key_value_heads"]:
        raise ModelError(
            f"{label}: num_attention_heads {heads} is not a multiple of num_key_value_heads "
            f"{sizes['num_key_value_heads']}; correct config.json"
        )
    sizes["intermediate_size"] = sizes["intermediate_size"] or 4 * hidden  # as GPT-2 derives it
    sizes["embedding_size"] = sizes.get("embedding_size") or hidden
    check_values(config, family.model_type, sizes["num_hidden_layers"], sizes["vocab_size"], label)
    return Dimensions(family, _architecture(config, family, label), **sizes, tied=_tied(config, family, label))


def find_family(config: dict, label: str) -> Family:
    """Return the family of a config, or refuse it with the reason.

    Raises:
        ModelError: several kinds of input, an encoder, or an unknown model_type.
    """
    known = ", ".join(FAMILIES)
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(f"{label}: config.json has no model_type; use a model saved by transformers ({known})")
    for key in _OTHER_INPUT_KEYS:
        if key in config:
            raise ModelError(
                f"{label}: {model_type} is multimodal (config.json has {key}); only text models are supported; "
                "use its text-only checkpoint"
            )
    if config.get("is_encoder_decoder"):
        raise ModelError(f"{label}: {model_type} is an encoder-decoder; only decoder language models are supported")
    if model_type not in FAMILIES:
        kind = " (a mixture of experts)" if expert_key(config) else ""
        raise ModelError(f"{label}: model_type {model_type}{kind} is not supported; supported are {known}")
    return FAMILIES[model_type]


def expert_key(config: dict) -> str | None:
    """Return the config key that makes a model a mixture of experts, if there is one."""
    return next((key for key in _EXPERT_KEYS if isinstance(config.get(key), int) and config[key] > 1), None)


def _derived(family: Family) -> tuple[str, ...]:
    return tuple(name for name in ("num_key_value_heads", "head_dim") if name not in family.fields)


def _size(config: dict, family: Family, name: str, label: str) -> object:
    """Return one checked value: a positive int, text for the activation, or None where it is derived."""
    if name not in family.fields:
        return None
    key = family.fields[name]
    value = config.get(key, config.get(name, family.defaults[name]))
    if name == "activation":
        return value if isinstance(value, str) else "unknown"
    if value is None and (family.defaults[name] is None or name == "num_key_value_heads"):
        return None
    if type(value) is not int or not 1 <= value <= MAX_SIZE:
        raise ModelError(f"{label}: {key} is {_short(value)} in config.json; it must be a positive whole number")
    return value


def _architecture(config: dict, family: Family, label: str) -> str:
    named = config.get("architectures")
    if not named:
        return family.architectures[0]
    first = named[0] if isinstance(named, list) else named
    if first not in family.architectures:
        raise ModelError(
            f"{label}: is a {_short(first)}; only causal language models are supported; "
            f"use a {family.architectures[0]} checkpoint"
        )
    return family.architectures[0]


def _tied(config: dict, family: Family, label: str) -> bool:
    value = config.get("tie_word_embeddings", family.tied)
    if not isinstance(value, bool):
        raise ModelError(f"{label}: tie_word_embeddings is {_short(value)} in config.json; it must be true or false")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
