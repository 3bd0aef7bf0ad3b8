"""What a config.json says: its numbers with the defaults transformers would use, and whatever is wrong with it.

Values that transformers, or the model it builds, would stumble over are refused here with their key. Only what is
wrong for certain: transformers itself checks the rest when a model is built.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paraknow_core.errors import ModelError
from paraknow_core.models.families import ALWAYS, FAMILIES, Family
from paraknow_core.models.source import ModelSource, read_json_object

GENERATION_CONFIG = "generation_config.json"
MAX_SIZE = 2**31  # more than any real dimension; keeps products of nonsense values out of messages
_EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size", "moe_num_experts")
_OTHER_INPUT_KEYS = ("vision_config", "audio_config", "text_config", "speech_config")
_FLAGS = (
    "attention_bias", "mlp_bias", "use_sliding_window", "qk_layernorm", "use_parallel_residual", "enable_bias",
    "do_layer_norm_before", "layer_norm_elementwise_affine", "_remove_final_layer_norm", "add_cross_attention",
    "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn",
)  # fmt: skip
_NUMBERS = (
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "initializer_range", "init_std", "rope_theta",
    "rope_local_base_freq", "rotary_emb_base", "rotary_pct", "query_pre_attn_scalar", "hidden_dropout", "resid_pdrop",
    "embd_pdrop", "attn_pdrop", "dropout",
)  # fmt: skip
_NUMBERS_OR_NULL = (
    "final_logit_softcapping", "attn_logit_softcapping", "sliding_window", "max_window_layers", "partial_rotary_factor",
    "attention_dropout", "pad_token_id", "bos_token_id",
)  # fmt: skip
# Those of transformers; a test compares.
ACTIVATIONS = frozenset({
    "gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "gelu_python_tanh",
    "gelu_accurate", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2", "relu6",
    "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "prelu", "xielu",
})  # fmt: skip
_LAYER_TYPES = ("full_attention", "sliding_attention")
_OLD_LAYER_TYPES = ("attention",)  # transformers reads it as full_attention
_OLD_ROPE_KINDS = {"su": "longrope"}


@dataclass(frozen=True)
class Dimensions:
    """What a config says about a model's shape. Names are those of transformers' configs.

    Attributes:
        flags: keys of the config that are true, as far as a model's parameters depend on them.
    """

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
    flags: frozenset[str]


def read_dimensions(config: dict, label: str) -> Dimensions:
    """Read and check the numbers of a config.

    Args:
        config: the content of config.json.
        label: the model's name for messages.

    Raises:
        ModelError: the model is of a kind that is not supported, or a value cannot be right.
    """
    family = _family(config, label)
    derived = ("num_key_value_heads", "head_dim")
    sizes = dict.fromkeys(derived) | {name: _size(config, family, name, label) for name in family.fields}
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
    _check_values(config, family, sizes["num_hidden_layers"], sizes["vocab_size"], label)
    architecture = _architecture(config, family, label)
    tied = config.get("tie_word_embeddings", family.tied)
    if not isinstance(tied, bool):
        raise ModelError(f"{label}: tie_word_embeddings is {_short(tied)} in config.json; it must be true or false")
    flags = frozenset(key for key in _FLAGS if config.get(key, family.defaults.get(key, False)))
    return Dimensions(family, architecture, **sizes, tied=tied, flags=flags | {ALWAYS})


def expert_key(config: dict) -> str | None:
    """Return the config key that makes a model a mixture of experts, if there is one."""
    return next((key for key in _EXPERT_KEYS if isinstance(config.get(key), int) and config[key] > 1), None)


def rotated_share(config: dict) -> float:
    """Return the share of a head's features that rotary positions rotate: the smallest, if layers differ."""
    ropes = config.get("rope_parameters") or {}
    places = [config, ropes, *(part for part in ropes.values() if isinstance(part, dict))]
    given = [place.get(key) for place in places for key in ("partial_rotary_factor", "rotary_pct")]
    return min((share for share in given if share is not None), default=FAMILIES[config["model_type"]].rotated)


def declared_ends(source: ModelSource) -> list[int]:
    """Return the tokens that config.json and generation_config.json say end a text; ascending.

    Raises:
        ModelError: one of the files is damaged, or these are no token ids.
    """
    contents = {"config.json": source.config()}
    if (source.folder / GENERATION_CONFIG).is_file():
        contents[GENERATION_CONFIG] = read_json_object(source.folder / GENERATION_CONFIG, source.label)
    return sorted({token for file, content in contents.items() for token in _ends(content, source.label, file)})


def _family(config: dict, label: str) -> Family:
    """Return the family of a config, or refuse it: several kinds of input, an encoder, an unknown model_type."""
    supported = ", ".join(FAMILIES)
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise ModelError(f"{label}: config.json has no model_type; use a model saved by transformers ({supported})")
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
        raise ModelError(f"{label}: model_type {model_type}{kind} is not supported; supported are {supported}")
    return FAMILIES[model_type]


def _size(config: dict, family: Family, name: str, label: str) -> object:
    """Return one checked value: a positive int, text for the activation, or None where it is derived."""
    key, default = family.fields[name], family.defaults[name]
    value = config.get(key, config.get(name, default))
    if name == "activation":
        return value if isinstance(value, str) else "unknown"
    if value is None and (default is None or name == "num_key_value_heads"):
        return None
    if type(value) is not int or not 1 <= value <= MAX_SIZE:
        raise ModelError(f"{label}: {key} is {_short(value)} in config.json; it must be a positive whole number")
    return value


def _architecture(config: dict, family: Family, label: str) -> str:
    names = config.get("architectures") or family.architectures
    first = names[0] if isinstance(names, list | tuple) else names
    if first not in family.architectures:
        raise ModelError(
            f"{label}: is a {_short(first)}; only causal language models are supported; "
            f"use a {family.architectures[0]} checkpoint"
        )
    return family.architectures[0]


def _check_values(config: Mapping[str, Any], family: Family, layers: int, vocabulary: int, label: str) -> None:
    """Refuse values that no model can be built from."""
    for key in _FLAGS:
        if not isinstance(config.get(key, False), bool):
            raise _wrong(label, key, config[key], "true or false")
    for key in {*_NUMBERS, *_NUMBERS_OR_NULL} & config.keys():
        if not _is_number(config[key]) and not (config[key] is None and key in _NUMBERS_OR_NULL):
            raise _wrong(label, key, config[key], "a number")
    if config.get("per_layer_config"):
        raise ModelError(f"{label}: config.json has per_layer_config, which is not supported; use another checkpoint")
    for key in ("hidden_act", "hidden_activation", "activation_function"):
        if isinstance(config.get(key), str) and config[key] not in ACTIVATIONS:
            raise _wrong(label, key, config[key], "an activation that transformers has, e.g. silu or gelu_new")
    _check_layer_types(config.get("layer_types"), layers, label)
    padding = config.get("pad_token_id")
    if family.padding_row and isinstance(padding, int) and not -vocabulary <= padding < vocabulary:
        raise ModelError(
            f"{label}: pad_token_id is {padding} in config.json, outside the vocabulary of {vocabulary}; "
            "set it to null or to a token of the vocabulary"
        )
    _ends(config, label)
    for key in ("rope_scaling", "rope_parameters"):
        if config.get(key) is not None:
            _check_ropes(config[key], key, config.get("layer_types"), family, label)


def _ends(config: Mapping[str, Any], label: str, file: str = "config.json") -> list[int]:
    """Return a config's end-of-text tokens, which may be given as one, as a list or not at all."""
    value = config.get("eos_token_id")
    tokens = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token) is int for token in tokens):
        raise _wrong(label, "eos_token_id", value, "a token's id, a list of them, or null", file)
    return tokens


def _check_layer_types(types: object, layers: int, label: str) -> None:
    if types is None:
        return
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        raise _wrong(label, "layer_types", types, "a list with one word a layer")
    if len(types) != layers:
        raise ModelError(
            f"{label}: layer_types has {len(types)} entries in config.json, for {layers} layers; give one a layer, or "
            "remove the key"
        )
    unknown = next((name for name in types if name not in (*_LAYER_TYPES, *_OLD_LAYER_TYPES)), None)
    if unknown is not None:
        raise _wrong(label, "layer_types", unknown, f"{' or '.join(_LAYER_TYPES)} for every layer")


def _check_ropes(ropes: object, key: str, layer_types: object, family: Family, label: str) -> None:
    """Check rotary positions, which may be given once or for each kind of layer."""
    if not isinstance(ropes, dict):
        raise _wrong(label, key, ropes, "an object or null")
    types = [name for name in ropes if name in _LAYER_TYPES or (isinstance(layer_types, list) and name in layer_types)]
    for rope, path in [(ropes[name], f"{key}.{name}") for name in types] or [(ropes, key)]:
        if rope is not None and not isinstance(rope, dict):
            raise _wrong(label, path, rope, "an object or null")
        if rope:
            _check_rope(rope, path, family, label)


def _check_rope(rope: Mapping[str, Any], path: str, family: Family, label: str) -> None:
    key = "rope_type" if "rope_type" in rope else "type"
    kind = rope.get(key, "default")
    if isinstance(kind, str) and kind in _OLD_ROPE_KINDS:
        raise ModelError(
            f"{label}: {path}.{key} is {kind} in config.json, the old name of {_OLD_ROPE_KINDS[kind]}, which "
            f"transformers does not read any more; write {_OLD_ROPE_KINDS[kind]} there"
        )
    if not isinstance(kind, str) or kind not in family.ropes:
        raise _wrong(label, f"{path}.{key}", kind, f"one of {', '.join(family.ropes)}")
    for name in family.ropes[kind]:
        value = rope.get(name)
        if name in ("short_factor", "long_factor"):
            if not isinstance(value, list) or not value or not all(map(_is_number, value)):
                raise _wrong(label, f"{path}.{name}", value, "a list of numbers")
        elif not _is_number(value) or value <= 0:
            raise _wrong(label, f"{path}.{name}", value, f"a positive number, which {kind} needs")
    for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings", "attention_factor"):
        if rope.get(name) is not None and not _is_number(rope[name]):
            raise _wrong(label, f"{path}.{name}", rope[name], "a number")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(label: str, key: str, value: object, right: str, file: str = "config.json") -> ModelError:
    text = "missing or null" if value is None else _short(value)
    return ModelError(f"{label}: {key} is {text} in {file}; it must be {right}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
