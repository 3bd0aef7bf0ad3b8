"""The supported model families, as data: where each keeps its weights, what its config calls things, and its defaults.

Config defaults are those of transformers' own config classes, because a config.json may leave a default out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Canonical name -> key in config.json, where they are the same.
_FIELDS = {
    name: name
    for name in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "head_dim", "vocab_size", "max_position_embeddings", "activation",
    )
}  # fmt: skip
_SWIGLU = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
_ATTENTION = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj"}


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        model_type: as in config.json.
        architectures: class names a checkpoint may name; the first is the causal language model.
        prefix: name of the base model inside the causal language model; disk names may lack it.
        layers: path of the list of layers.
        embed, head: module paths of the input embedding and the output layer.
        separate: role -> module path inside a layer, one module a role.
        fused: module path inside a layer -> the roles whose rows it stacks, in order.
        interleaved: fused rows are grouped per head: (head, role, head_dim).
        transposed: linear weights are stored as (in, out).
        tables: matrices outside the layers that are never transferred.
        renames: beginnings of disk names -> beginnings of in-memory names.
        fields: canonical name -> key in config.json; an absent canonical name is derived.
        defaults: config values transformers assumes when the key is absent (None: derived from others).
        tied: the default of tie_word_embeddings.
        norm, positions: for the notes of a compatibility report.
        attention: the attention implementation to load with; eager where the fused kernels leave a step out.
    """

    model_type: str
    architectures: tuple[str, ...]
    prefix: str = "model"
    layers: str = "model.layers"
    embed: str = "model.embed_tokens"
    head: str = "lm_head"
    separate: Mapping[str, str] = field(default_factory=lambda: {**_ATTENTION, **_SWIGLU})
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    interleaved: bool = False
    transposed: bool = False
    tables: tuple[str, ...] = ()
    renames: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=lambda: _FIELDS | {"activation": "hidden_act"})
    defaults: Mapping[str, object] = field(default_factory=dict)
    tied: bool = False
    norm: str = "RMS norm"
    positions: str = "rotary positions"
    attention: str = "sdpa"


def _names(stem: str) -> tuple[str, ...]:
    return (f"{stem}ForCausalLM", f"{stem}Model")


def _sizes(hidden: int, inner: int, layers: int, heads: int, kv: int | None, vocab: int, positions: int) -> dict:
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "head_dim": None, "vocab_size": vocab, "max_position_embeddings": positions,
        "activation": "silu",
    }  # fmt: skip


_GEMMA_FIELDS = _FIELDS | {"activation": "hidden_activation"}
_GELU_TANH = {"head_dim": 256, "activation": "gelu_pytorch_tanh"}
_NO_HEAD_FIELDS = ("num_key_value_heads", "head_dim")  # families without these keys: derived from the heads

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("llama", _names("Llama"), defaults=_sizes(4096, 11008, 32, 32, None, 32000, 2048)),
        Family("mistral", _names("Mistral"), defaults=_sizes(4096, 14336, 32, 32, 8, 32000, 131072)),
        Family("qwen2", _names("Qwen2"), defaults=_sizes(4096, 22016, 32, 32, 32, 151936, 32768)),
        Family("qwen3", _names("Qwen3"), defaults=_sizes(4096, 22016, 32, 32, 32, 151936, 32768) | {"head_dim": 128}),
        Family(
            "gemma", _names("Gemma"), tied=True,
            defaults=_sizes(3072, 24576, 28, 16, 16, 256000, 8192) | _GELU_TANH,
        ),
        Family(
            "gemma2", _names("Gemma2"), tied=True, fields=_GEMMA_FIELDS, attention="eager",
            defaults=_sizes(2304, 9216, 26, 8, 4, 256000, 8192) | _GELU_TANH,
        ),
        Family(
            "gemma3_text", ("Gemma3ForCausalLM", "Gemma3TextModel"), tied=True, fields=_GEMMA_FIELDS,
            defaults=_sizes(2304, 9216, 26, 8, 4, 262208, 131072) | _GELU_TANH,
        ),
        Family(
            "phi", _names("Phi"), norm="layer norm",
            separate={**_ATTENTION, "o": "self_attn.dense", "up": "mlp.fc1", "down": "mlp.fc2"},
            defaults=_sizes(2048, 8192, 24, 32, None, 51200, 2048) | {"activation": "gelu_new"},
        ),
        Family(
            "phi3", _names("Phi3"),
            separate={"o": "self_attn.o_proj", "down": "mlp.down_proj"},
            fused={"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")},
            defaults=_sizes(3072, 8192, 32, 32, None, 32064, 4096),
        ),
        Family(
            "gpt_neox", _names("GPTNeoX"), norm="layer norm",
            prefix="gpt_neox", layers="gpt_neox.layers", embed="gpt_neox.embed_in",
            separate={"o": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
            fused={"attention.query_key_value": ("q", "k", "v")}, interleaved=True,
            renames={"embed_out.": "lm_head."},
            fields={k: v for k, v in (_FIELDS | {"activation": "hidden_act"}).items() if k not in _NO_HEAD_FIELDS},
            defaults=_sizes(6144, 24576, 44, 64, None, 50432, 2048) | {"activation": "gelu"},
        ),
        Family(
            "gpt2", ("GPT2LMHeadModel", "GPT2Model"), tied=True, norm="layer norm", positions="learned positions",
            prefix="transformer", layers="transformer.h", embed="transformer.wte",
            separate={"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
            fused={"attn.c_attn": ("q", "k", "v")}, transposed=True, tables=("transformer.wpe",),
            fields={
                "hidden_size": "n_embd", "intermediate_size": "n_inner", "num_hidden_layers": "n_layer",
                "num_attention_heads": "n_head", "vocab_size": "vocab_size",
                "max_position_embeddings": "n_positions", "activation": "activation_function",
            },
            defaults=_sizes(768, None, 12, 12, None, 50257, 1024) | {"activation": "gelu_new"},
        ),
        Family(
            "opt", _names("OPT"), tied=True, norm="layer norm", positions="learned positions",
            layers="model.decoder.layers", embed="model.decoder.embed_tokens",
            separate={**_ATTENTION, "o": "self_attn.out_proj", "up": "fc1", "down": "fc2"},
            tables=("model.decoder.embed_positions", "model.decoder.project_in", "model.decoder.project_out"),
            fields={
                "hidden_size": "hidden_size", "intermediate_size": "ffn_dim",
                "num_hidden_layers": "num_hidden_layers", "num_attention_heads": "num_attention_heads",
                "vocab_size": "vocab_size", "max_position_embeddings": "max_position_embeddings",
                "activation": "activation_function", "embedding_size": "word_embed_proj_dim",
            },
            defaults=_sizes(768, 3072, 12, 12, None, 50272, 2048) | {"activation": "relu", "embedding_size": None},
        ),
    )
}  # fmt: skip
