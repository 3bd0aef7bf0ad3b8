"""Values of a config.json that transformers, or the model it builds, would stumble over: said before, with their key.

Only what is wrong for certain is refused here; transformers itself checks the rest when a model is built.
"""

from collections.abc import Mapping
from typing import Any

from paraknow_core.errors import ModelError
from paraknow_core.models.source import ModelSource, read_json_object

GENERATION_CONFIG = "generation_config.json"
_FLAGS = (
    "attention_bias", "mlp_bias", "use_sliding_window", "qk_layernorm", "use_parallel_residual", "enable_bias",
    "do_layer_norm_before", "layer_norm_elementwise_affine", "_remove_final_layer_norm", "add_cross_attention",
    "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn",
)  # fmt: skip
_NUMBERS = (
    "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "initializer_range", "init_std", "rope_theta",
    "rope_local_base_freq", "rotary_emb_base", "rotary_pct", "partial_rotary_factor", "query_pre_attn_scalar",
    "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout",
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
LAYER_TYPES = ("full_attention", "sliding_attention")
_OLD_LAYER_TYPES = ("attention",)  # transformers reads it as full_attention
# Kind of rotary positions -> keys that it needs (besides those with a default).
ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (), "linear": ("factor",), "dynamic": ("factor",), "yarn": ("factor",), "proportional": (),
    "longrope": ("short_factor", "long_factor"), "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}  # fmt: skip
_OLD_ROPE_TYPES = {"su": "longrope"}
_NO_PADDING_ROW = ("gpt2", "gpt_neox")  # families whose embedding does not know the padding token


def check_values(config: Mapping[str, Any], model_type: str, layers: int, vocabulary: int, where: str) -> None:
    """Refuse values of a config that no model can be built from.

    Args:
        config: the content of config.json.
        model_type: a supported family.
        layers, vocabulary: numbers of them that the config gives.
        where: the model's name for messages.

    Raises:
        ModelError: names the key, its value, and what would be right.
    """
    for key in _FLAGS:
        if not isinstance(config.get(key, False), bool):
            raise _wrong(where, key, config[key], "true or false")
    for key in {*_NUMBERS, *_NUMBERS_OR_NULL} & config.keys():
        if not _is_number(config[key]) and not (config[key] is None and key in _NUMBERS_OR_NULL):
            raise _wrong(where, key, config[key], "a number")
    if config.get("per_layer_config"):
        raise ModelError(f"{where}: config.json has per_layer_config, which is not supported; use another checkpoint")
    _check_activation(config, where)
    _check_layer_types(config.get("layer_types"), layers, where)
    padding = config.get("pad_token_id")
    if model_type not in _NO_PADDING_ROW and isinstance(padding, int) and not -vocabulary <= padding < vocabulary:
        raise ModelError(
            f"{where}: pad_token_id is {padding} in config.json, outside the vocabulary of {vocabulary}; "
            "set it to null or to a token of the vocabulary"
        )
    _check_tokens(config, where)
    for key in ("rope_scaling", "rope_parameters"):
        if config.get(key) is not None:
            _check_rope(config[key], key, config.get("layer_types"), model_type, where)


def declared_ends(source: ModelSource) -> list[int]:
    """Return the tokens that config.json and generation_config.json say end a text; ascending.

    Raises:
        ModelError: one of the files is damaged, or these are no token ids.
    """
    given = {"config.json": source.config()}
    if (source.folder / GENERATION_CONFIG).is_file():
        given[GENERATION_CONFIG] = read_json_object(source.folder / GENERATION_CONFIG, source.label)
    found: set[int] = set()
    for file, content in given.items():
        _check_tokens(content, source.label, file)
        ends = content.get("eos_token_id")
        found |= set(ends if isinstance(ends, list) else [] if ends is None else [ends])
    return sorted(found)


def _check_tokens(config: Mapping[str, Any], where: str, file: str = "config.json") -> None:
    given = config.get("eos_token_id")
    listed = given if isinstance(given, list) else [given]
    if given is not None and not all(type(token) is int for token in listed):
        raise _wrong(where, "eos_token_id", given, "a token's id, a list of them, or null", file)


def _check_activation(config: Mapping[str, Any], where: str) -> None:
    for key in ("hidden_act", "hidden_activation", "activation_function"):
        given = config.get(key)
        if isinstance(given, str) and given not in ACTIVATIONS:
            raise _wrong(where, key, given, "an activation that transformers has, e.g. silu or gelu_new")


def _check_layer_types(given: object, layers: int, where: str) -> None:
    if given is None:
        return
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise _wrong(where, "layer_types", given, "a list with one word a layer")
    if len(given) != layers:
        raise ModelError(
            f"{where}: layer_types has {len(given)} entries in config.json, for {layers} layers; give one a layer, or "
            "remove the key"
        )
    unknown = next((one for one in given if one not in (*LAYER_TYPES, *_OLD_LAYER_TYPES)), None)
    if unknown is not None:
        raise _wrong(where, "layer_types", unknown, f"{' or '.join(LAYER_TYPES)} for every layer")


def _check_rope(given: object, key: str, layer_types: object, model_type: str, where: str) -> None:
    """Check rotary positions, which may be given once or for each kind of layer."""
    if not isinstance(given, dict):
        raise _wrong(where, key, given, "an object or null")
    kinds = [kind for kind in given if kind in LAYER_TYPES or (isinstance(layer_types, list) and kind in layer_types)]
    for part, path in [(given[kind], f"{key}.{kind}") for kind in kinds] or [(given, key)]:
        if part is not None and not isinstance(part, dict):
            raise _wrong(where, path, part, "an object or null")
        if part:
            _check_one_rope(part, path, model_type, where)


def _check_one_rope(rope: Mapping[str, Any], path: str, model_type: str, where: str) -> None:
    named = "rope_type" if "rope_type" in rope else "type"
    kind = rope.get(named, "default")
    kinds = ("default", "longrope", "yarn") if model_type == "phi3" else tuple(ROPE_TYPES)
    if kind in _OLD_ROPE_TYPES:
        raise ModelError(
            f"{where}: {path}.{named} is {kind} in config.json, the old name of {_OLD_ROPE_TYPES[kind]}, which "
            f"transformers does not read any more; write {_OLD_ROPE_TYPES[kind]} there"
        )
    if kind not in kinds:
        raise _wrong(where, f"{path}.{named}", kind, f"one of {', '.join(kinds)}")
    needed = ROPE_TYPES["longrope" if model_type == "phi3" and kind == "yarn" else kind]
    for name in needed:
        value = rope.get(name)
        if name.endswith(("short_factor", "long_factor")):
            if not isinstance(value, list) or not value or not all(map(_is_number, value)):
                raise _wrong(where, f"{path}.{name}", value, "a list of numbers")
        elif not _is_number(value) or value <= 0:
            raise _wrong(where, f"{path}.{name}", value, f"a positive number, which {kind} needs")
    for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings", "attention_factor"):
        if rope.get(name) is not None and not _is_number(rope[name]):
            raise _wrong(where, f"{path}.{name}", rope[name], "a number")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(where: str, key: str, value: object, right: str, file: str = "config.json") -> ModelError:
    text = "missing or null" if value is None else repr(value) if not isinstance(value, str) else f"'{value}'"
    text = text if len(text) <= 60 else text[:57] + "..."
    return ModelError(f"{where}: {key} is {text} in {file}; it must be {right}")
