"""The supported model families, a row each: where a family keeps its weights and what its config calls things.

To add a family, add its row here; everything else reads it. What a row says is checked by a test that builds a small
model of every family with transformers and compares. Config defaults are those of transformers' own config classes,
because a config.json may leave a default out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from paraknow_core.spec import ROLES

ALWAYS = ""  # instead of a config key: whatever the config says

_ATTENTION = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj"}
_SWIGLU = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
_FFN = ("gate", "up", "down")
_ATTENTION_BIAS = dict.fromkeys("qkvo", "attention_bias")
_EVERY_BIAS = dict.fromkeys(ROLES, ALWAYS)
_FOUR_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")

# Canonical name -> key in config.json, where they are the same.
_SAME_NAME = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "vocab_size", "max_position_embeddings",
)  # fmt: skip
_FIELDS = {name: name for name in _SAME_NAME} | {"activation": "hidden_act"}
_GEMMA_FIELDS = _FIELDS | {"activation": "hidden_activation"}
_DERIVED_HEADS = {name: key for name, key in _FIELDS.items() if name not in ("num_key_value_heads", "head_dim")}

# Kind of rotary positions -> keys that it needs (besides those with a default).
ROPE_KINDS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "proportional": (),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
_PHI3_ROPES = {"default": (), "longrope": ROPE_KINDS["longrope"], "yarn": ROPE_KINDS["longrope"]}


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
        norm: "RMS norm" (a weight each) or "layer norm" (a weight and a bias each).
        norms, head_norms: paths inside a layer of norms over the hidden state and over one head.
        last_norm: path inside the base model of the norm after the layers.
        needs: "norms", "head_norms" or "last_norm" -> config keys that must be true for them to have parameters; a
            key after "!" must be false.
        biased: role -> config key that gives its linear layer a bias.
        head_bias: the output layer has a bias.
        position_table: path of the table of learned positions; None: positions are rotary.
        extra_positions: rows of that table beyond max_position_embeddings.
        projections: paths of matrices outside the layers -> the two config sizes between which they lead; they are
            there where the sizes differ. Never transferred, as the position table.
        renames: beginnings of disk names -> beginnings of in-memory names.
        fields: canonical name -> key in config.json; an absent canonical name is derived.
        defaults: config values transformers assumes when the key is absent (None: derived from others).
        tied: the default of tie_word_embeddings.
        padding_row: the embedding is told of pad_token_id, which then has to lie inside of it.
        ropes: kind of rotary positions -> config keys that it needs.
        rotated: the default share of a head's features that is rotated.
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
    norm: str = "RMS norm"
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    head_norms: tuple[str, ...] = ()
    last_norm: str = "norm"
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    biased: Mapping[str, str] = field(default_factory=dict)
    head_bias: bool = False
    position_table: str | None = None
    extra_positions: int = 0
    projections: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=lambda: _FIELDS)
    defaults: Mapping[str, object] = field(default_factory=dict)
    tied: bool = False
    padding_row: bool = True
    ropes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: ROPE_KINDS)
    rotated: float = 1.0
    attention: str = "sdpa"

    @property
    def positions(self) -> str:
        """The kind of positions, in words."""
        return "learned positions" if self.position_table else "rotary positions"


def _names(stem: str) -> tuple[str, ...]:
    return (f"{stem}ForCausalLM", f"{stem}Model")


def _defaults(
    hidden: int, inner: int | None, layers: int, heads: int, kv: int | None, vocab: int, positions: int, **more: object
) -> dict[str, object]:
    numbers = (hidden, inner, layers, heads, kv, None, vocab, positions)
    return dict(zip(_SAME_NAME, numbers, strict=True)) | {"activation": "silu"} | more


_GELU_TANH = {"head_dim": 256, "activation": "gelu_pytorch_tanh"}

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "llama", _names("Llama"), biased=_ATTENTION_BIAS | dict.fromkeys(_FFN, "mlp_bias"),
            defaults=_defaults(4096, 11008, 32, 32, None, 32000, 2048),
        ),
        Family("mistral", _names("Mistral"), defaults=_defaults(4096, 14336, 32, 32, 8, 32000, 131072)),
        Family(
            "qwen2", _names("Qwen2"), biased=dict.fromkeys("qkv", ALWAYS),
            defaults=_defaults(4096, 22016, 32, 32, 32, 151936, 32768),
        ),
        Family(
            "qwen3", _names("Qwen3"), head_norms=_HEAD_NORMS, biased=_ATTENTION_BIAS,
            defaults=_defaults(4096, 22016, 32, 32, 32, 151936, 32768, head_dim=128),
        ),
        Family(
            "gemma", _names("Gemma"), tied=True, biased=_ATTENTION_BIAS,
            defaults=_defaults(3072, 24576, 28, 16, 16, 256000, 8192, **_GELU_TANH),
        ),
        Family(
            "gemma2", _names("Gemma2"), tied=True, norms=_FOUR_NORMS, biased=_ATTENTION_BIAS, attention="eager",
            fields=_GEMMA_FIELDS, defaults=_defaults(2304, 9216, 26, 8, 4, 256000, 8192, **_GELU_TANH),
        ),
        Family(
            "gemma3_text", ("Gemma3ForCausalLM", "Gemma3TextModel"), tied=True, norms=_FOUR_NORMS,
            head_norms=_HEAD_NORMS, biased=_ATTENTION_BIAS,
            fields=_GEMMA_FIELDS, defaults=_defaults(2304, 9216, 26, 8, 4, 262208, 131072, **_GELU_TANH),
        ),
        Family(
            "phi", _names("Phi"),
            separate={**_ATTENTION, "o": "self_attn.dense", "up": "mlp.fc1", "down": "mlp.fc2"},
            norm="layer norm", norms=("input_layernorm",), last_norm="final_layernorm",
            head_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"), needs={"head_norms": ("qk_layernorm",)},
            biased=_EVERY_BIAS, head_bias=True, rotated=0.5,
            defaults=_defaults(2048, 8192, 24, 32, None, 51200, 2048, activation="gelu_new"),
        ),
        Family(
            "phi3", _names("Phi3"), ropes=_PHI3_ROPES,
            separate={"o": "self_attn.o_proj", "down": "mlp.down_proj"},
            fused={"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")},
            defaults=_defaults(3072, 8192, 32, 32, None, 32064, 4096),
        ),
        Family(
            "gpt_neox", _names("GPTNeoX"), padding_row=False, rotated=0.25,
            prefix="gpt_neox", layers="gpt_neox.layers", embed="gpt_neox.embed_in",
            separate={"o": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
            fused={"attention.query_key_value": ("q", "k", "v")}, interleaved=True,
            norm="layer norm", last_norm="final_layer_norm", biased=_EVERY_BIAS | _ATTENTION_BIAS,
            renames={"embed_out.": "lm_head."}, fields=_DERIVED_HEADS,
            defaults=_defaults(6144, 24576, 44, 64, None, 50432, 2048, activation="gelu", attention_bias=True),
        ),
        Family(
            "gpt2", ("GPT2LMHeadModel", "GPT2Model"), tied=True, padding_row=False,
            prefix="transformer", layers="transformer.h", embed="transformer.wte",
            separate={"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"},
            fused={"attn.c_attn": ("q", "k", "v")}, transposed=True,
            norm="layer norm", norms=("ln_1", "ln_2"), last_norm="ln_f", biased=_EVERY_BIAS,
            position_table="transformer.wpe",
            fields={
                "hidden_size": "n_embd", "intermediate_size": "n_inner", "num_hidden_layers": "n_layer",
                "num_attention_heads": "n_head", "vocab_size": "vocab_size",
                "max_position_embeddings": "n_positions", "activation": "activation_function",
            },
            defaults=_defaults(768, None, 12, 12, None, 50257, 1024, activation="gelu_new"),
        ),
        Family(
            "opt", _names("OPT"), tied=True,
            layers="model.decoder.layers", embed="model.decoder.embed_tokens",
            separate={**_ATTENTION, "o": "self_attn.out_proj", "up": "fc1", "down": "fc2"},
            norm="layer norm", norms=("self_attn_layer_norm", "final_layer_norm"), last_norm="decoder.final_layer_norm",
            needs={
                "norms": ("layer_norm_elementwise_affine",),
                "last_norm": (
                    "layer_norm_elementwise_affine", "do_layer_norm_before", "!_remove_final_layer_norm",
                ),
            },
            biased=dict.fromkeys(ROLES, "enable_bias"),
            position_table="model.decoder.embed_positions", extra_positions=2,
            projections={
                "model.decoder.project_in": ("hidden_size", "embedding_size"),
                "model.decoder.project_out": ("embedding_size", "hidden_size"),
            },
            fields={name: name for name in _DERIVED_HEADS} | {
                "intermediate_size": "ffn_dim", "activation": "activation_function",
                "embedding_size": "word_embed_proj_dim",
            },
            defaults=_defaults(
                768, 3072, 12, 12, None, 50272, 2048, activation="relu", embedding_size=None, enable_bias=True,
                layer_norm_elementwise_affine=True, do_layer_norm_before=True,
            ),
        ),
    )
}  # fmt: skip
