"""What a model holds besides its modules: norms, biases and tables, by family and config, as transformers builds them.

With it the headers of a checkpoint tell what is missing or too much, without torch. A test builds every family and
compares.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from paraknow_core.models.dimensions import Dimensions
from paraknow_core.models.modules import LogicalModule

_ATTENTION = ("q", "k", "v", "o")
_FFN = ("gate", "up", "down")
_ALWAYS = ""  # instead of a config key: whatever the config says


@dataclass(frozen=True)
class _Others:
    """Paths inside a layer, or inside the base model.

    Attributes:
        norms, last: norms of a layer and after the layers; head_norms: those over one head.
        norm_bias: norms have a bias too.
        biased: role -> config key that gives its linear layer a bias; head: the output layer has one.
    """

    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    last: str = "norm"
    head_norms: tuple[str, ...] = ()
    norm_bias: bool = False
    biased: Mapping[str, str] = field(default_factory=dict)
    head: bool = False


_FOUR_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
_ATTENTION_BIAS = dict.fromkeys(_ATTENTION, "attention_bias")
_DEFAULT_SWITCHES = {  # those of transformers' config classes that are not false
    "gpt_neox": {"attention_bias": True},
    "opt": {"enable_bias": True, "layer_norm_elementwise_affine": True, "do_layer_norm_before": True},
}
_OTHERS = {
    "llama": _Others(biased=_ATTENTION_BIAS | dict.fromkeys(_FFN, "mlp_bias")),
    "mistral": _Others(),
    "qwen2": _Others(biased=dict.fromkeys("qkv", _ALWAYS)),
    "qwen3": _Others(head_norms=_HEAD_NORMS, biased=_ATTENTION_BIAS),
    "gemma": _Others(biased=_ATTENTION_BIAS),
    "gemma2": _Others(_FOUR_NORMS, biased=_ATTENTION_BIAS),
    "gemma3_text": _Others(_FOUR_NORMS, head_norms=_HEAD_NORMS, biased=_ATTENTION_BIAS),
    "phi": _Others(
        ("input_layernorm",),
        "final_layernorm",
        ("self_attn.q_layernorm", "self_attn.k_layernorm"),
        norm_bias=True,
        biased=dict.fromkeys((*_ATTENTION, *_FFN), _ALWAYS),
        head=True,
    ),
    "phi3": _Others(),
    "gpt_neox": _Others(last="final_layer_norm", norm_bias=True, biased=_ATTENTION_BIAS | dict.fromkeys(_FFN, _ALWAYS)),
    "gpt2": _Others(("ln_1", "ln_2"), "ln_f", norm_bias=True, biased=dict.fromkeys((*_ATTENTION, *_FFN), _ALWAYS)),
    "opt": _Others(
        ("self_attn_layer_norm", "final_layer_norm"),
        "decoder.final_layer_norm",
        norm_bias=True,
        biased=dict.fromkeys((*_ATTENTION, *_FFN), "enable_bias"),
    ),
}


def other_shapes(config: Mapping, size: Dimensions, modules: Iterable[LogicalModule]) -> dict[str, tuple[int, ...]]:
    """Return name in memory -> shape of every parameter that is no module's weight.

    Args:
        config: the content of config.json, its values checked.
        size: the same as numbers.
        modules: all logical modules of the model.
    """
    family, others = size.family, _OTHERS[size.family.model_type]
    defaults = _DEFAULT_SWITCHES.get(family.model_type, {})

    def on(key: str) -> bool:
        return key == _ALWAYS or bool(config.get(key, defaults.get(key, False)))

    shapes: dict[str, tuple[int, ...]] = {}

    def norm(path: str, width: int) -> None:
        if family.model_type != "opt" or on("layer_norm_elementwise_affine"):
            shapes[f"{path}.weight"] = (width,)
            if others.norm_bias:
                shapes[f"{path}.bias"] = (width,)

    for index in range(size.num_hidden_layers):
        for path in others.norms:
            norm(f"{family.layers}.{index}.{path}", size.hidden_size)
        for path in others.head_norms if family.model_type != "phi" or on("qk_layernorm") else ():
            norm(f"{family.layers}.{index}.{path}", size.head_dim)
    rows: dict[str, int] = {}
    for module in modules:
        if module.layer is not None and module.role in others.biased and on(others.biased[module.role]):
            rows[f"{module.host}.bias"] = rows.get(f"{module.host}.bias", 0) + module.shape[0]
    shapes |= {name: (count,) for name, count in rows.items()}
    if family.model_type != "opt" or (on("do_layer_norm_before") and not on("_remove_final_layer_norm")):
        norm(f"{family.prefix}.{others.last}", size.hidden_size)
    if others.head:
        shapes[f"{family.head}.bias"] = (size.vocab_size,)
    return shapes | _tables(size)


def _tables(size: Dimensions) -> dict[str, tuple[int, ...]]:
    """Return the matrices outside the layers that are never transferred."""
    hidden, embedding, positions = size.hidden_size, size.embedding_size, size.max_position_embeddings
    if size.family.model_type == "gpt2":
        return {"transformer.wpe.weight": (positions, hidden)}
    if size.family.model_type != "opt":
        return {}
    tables = {"model.decoder.embed_positions.weight": (positions + 2, hidden)}  # OPT's positions begin at 2
    if embedding != hidden:
        tables |= {
            "model.decoder.project_in.weight": (hidden, embedding),
            "model.decoder.project_out.weight": (embedding, hidden),
        }
    return tables
