"""Tiny models of every supported family, built from a config in memory, with a byte-level tokenizer. No network."""

import json
from pathlib import Path

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")

# The smallest sizes that still tell all dimensions apart, with grouped-query attention where a family has it.
_LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
TINY = {
    "llama": (_LLAMA_LIKE | {"attention_bias": True, "mlp_bias": True}, "LlamaConfig"),
    "mistral": (_LLAMA_LIKE, "MistralConfig"),
    "qwen2": (_LLAMA_LIKE, "Qwen2Config"),
    "qwen3": (_LLAMA_LIKE | {"head_dim": 12}, "Qwen3Config"),
    "gemma": (_LLAMA_LIKE | {"head_dim": 12}, "GemmaConfig"),
    "gemma2": (_LLAMA_LIKE | {"head_dim": 12}, "Gemma2Config"),
    "gemma3_text": (_LLAMA_LIKE | {"head_dim": 12}, "Gemma3TextConfig"),
    "phi": (_LLAMA_LIKE, "PhiConfig"),
    "phi3": (_LLAMA_LIKE, "Phi3Config"),
    "gpt_neox": ({k: v for k, v in _LLAMA_LIKE.items() if k != "num_key_value_heads"}, "GPTNeoXConfig"),
    "gpt2": ({"n_embd": 32, "n_inner": 56, "n_layer": 2, "n_head": 4, "n_positions": 128}, "GPT2Config"),
    "opt": (
        {
            "hidden_size": 32,
            "ffn_dim": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 32,
        },
        "OPTConfig",
    ),
}
FAMILIES = tuple(TINY)


def build_tiny(
    family: str,
    folder: Path,
    *,
    seed: int = 0,
    extra_tokens: tuple[str, ...] = (),
    shard_size: str = "1GB",
    dtype: str = "float32",
    **overrides: object,
) -> Path:
    """Save a tiny random causal language model and its tokenizer.

    Args:
        family: one of `FAMILIES` (the config's model_type).
        folder: where to save; created.
        seed: of the weights.
        extra_tokens: more tokens at the end of the vocabulary (3 special ones and 256 bytes are always there).
        shard_size: a small value such as "20KB" makes a sharded model with an index.
        dtype: of the weights on disk.
        overrides: config values, e.g. `hidden_size=64` or `tie_word_embeddings=True`.

    Returns:
        The folder.
    """
    import torch
    import transformers

    sizes, config_class = TINY[family]
    tokenizer = build_tokenizer(extra_tokens)
    options = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    config = getattr(transformers, config_class)(**{**sizes, **options, **overrides})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    with torch.no_grad():  # biases and norms start at 0 and 1, which would hide a bias left out
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape).to(parameter.dtype))
    model.save_pretrained(folder, max_shard_size=shard_size)
    tokenizer.save_pretrained(folder)
    return folder


def build_tokenizer(extra_tokens: tuple[str, ...] = ()):
    """Return a byte-level tokenizer: `<unk>`, `<s>`, `</s>`, 256 bytes, then the extra tokens; `<s>` is prepended."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *alphabet, *extra_tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=128
    )


def edit_config(folder: Path, *, remove: tuple[str, ...] = (), **values: object) -> None:
    """Change keys of a saved model's config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in remove}))


def edit_weights(folder: Path, change) -> None:
    """Rewrite a single-file model: `change` receives and returns a dict of tensors."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {name: tensor.clone().contiguous() for name, tensor in change(load_file(path)).items()}
    save_file(tensors, path, metadata={"format": "pt"})
