"""Anatomies of every family, and what is said when config and weights disagree."""

import json
import math
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paraknow_core.errors import ModelError
from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.compat import compatibility
from paraknow_core.models.source import bundled_names, resolve_model
from tests.tiny_models import FAMILIES, edit_config, edit_weights


def anatomy_of(folder):
    return read_anatomy(resolve_model(str(folder)))


def test_a_llama_by_hand(tiny):
    anatomy = anatomy_of(tiny("llama"))
    assert [m.name for m in anatomy.layer(1)] == [
        f"model.layers.1.{path}"
        for path in (
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        )
    ]
    assert [m.shape for m in anatomy.layer(0)] == [(32, 32), (16, 32), (16, 32), (32, 32), (56, 32), (56, 32), (32, 56)]
    key = anatomy.module("model.layers.1.self_attn.k_proj")
    assert (key.role, key.group, key.layer, key.heads, key.head_size) == ("k", "attention", 1, 2, 8)
    assert [m.heads for m in anatomy.layer(1)] == [4, 2, 2, 4, None, None, None]
    assert (key.host, key.parameter) == (key.name, f"{key.name}.weight")
    assert (anatomy.dtype, anatomy.tied, anatomy.vocab_size) == ("float32", False, 259)
    assert anatomy.bytes == 4 * anatomy.parameters
    assert anatomy.tokenizer.size == 259
    assert json.loads(json.dumps(anatomy.to_dict()))["modules"][0]["shape"] == [259, 32]
    with pytest.raises(ModelError, match="has no module lm_heat"):
        anatomy.module("lm_heat")


def test_fused_rows_by_hand(tiny):
    part = {m.role: m for m in anatomy_of(tiny("phi3")).layer(0)}
    assert [(part[r].rows.offset, part[r].rows.block, part[r].rows.count) for r in "qkv"] == [
        (0, 32, 1),
        (32, 16, 1),
        (48, 16, 1),
    ]
    assert (part["up"].name, part["up"].rows.offset) == ("model.layers.0.mlp.gate_up_proj.up", 56)
    part = {m.role: m for m in anatomy_of(tiny("gpt_neox")).layer(0)}
    assert [tuple(vars(part[role].rows).values()) for role in "qkv"] == [(0, 8, 24, 4), (8, 8, 24, 4), (16, 8, 24, 4)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_a_fused_parameter_share_its_rows_without_gap_or_overlap(family, tiny):
    anatomy = anatomy_of(tiny(family))
    rows = Counter()
    for m in anatomy.modules:
        if m.rows:
            own = [m.rows.offset + i * m.rows.stride + j for i in range(m.rows.count) for j in range(m.rows.block)]
            rows.update((m.parameter, row) for row in own)
            assert len(own) == m.shape[0]
    for parameter in {parameter for parameter, _ in rows}:
        owned = sorted(row for name, row in rows.elements() if name == parameter)
        assert owned == list(range(sum(m.shape[0] for m in anatomy.modules if m.parameter == parameter)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_tying_is_followed_in_every_family(family, tied, tiny):
    anatomy = anatomy_of(tiny(family, tie_word_embeddings=tied))
    assert anatomy.tied == tied
    assert [m.role for m in anatomy.modules if m.layer is None] == (["embed"] if tied else ["embed", "head"])


def base_names(prefix):
    """Rename tensors as a checkpoint of the base model alone has them."""
    return lambda tensors: {name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "family, prefix",
    [("llama", "model"), ("gpt2", "transformer"), ("opt", "model"), ("gpt_neox", "gpt_neox"), ("gemma2", "model")],
)
def test_names_on_disk_may_lack_the_base_models_prefix(family, prefix, tiny, tiny_copy):
    folder = tiny_copy(family)
    edit_weights(folder, base_names(prefix))
    assert anatomy_of(folder).modules == anatomy_of(tiny(family)).modules


def test_masks_and_rotary_tables_of_old_checkpoints_are_ignored(tiny, tiny_copy):
    cases = (
        ("gpt2", "transformer.h", "attn.bias"),
        ("gpt_neox", "gpt_neox.layers", "attention.bias"),
        ("llama", "model.layers", "self_attn.rotary_emb.inv_freq"),
    )
    for family, layer, old in cases:
        folder = tiny_copy(family)
        extra = {f"{layer}.{i}.{old}": torch.ones(1, 1, 4, 4) for i in range(2)}
        edit_weights(folder, lambda tensors, extra=extra: tensors | extra)
        assert anatomy_of(folder).to_dict() | {"label": ""} == anatomy_of(tiny(family)).to_dict() | {"label": ""}


@pytest.mark.parametrize("keep", ["both", "head"])
def test_a_tied_checkpoint_may_list_the_head(tiny_copy, tiny, keep):
    folder = tiny_copy("llama", tie_word_embeddings=True)

    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        return {n: t for n, t in tensors.items() if keep == "both" or n != "model.embed_tokens.weight"}

    edit_weights(folder, change)
    found, expected = anatomy_of(folder), anatomy_of(tiny("llama", tie_word_embeddings=True))
    assert (found.modules, found.parameters, found.tied) == (expected.modules, expected.parameters, True)


def test_shards_and_number_formats(tiny):
    whole = anatomy_of(tiny("llama"))
    assert anatomy_of(tiny("llama", shard_size="20KB")).modules == whole.modules
    half = anatomy_of(tiny("llama", dtype="bfloat16"))
    assert (half.dtype, half.bytes) == ("bfloat16", whole.bytes // 2)


def test_opt_with_a_smaller_embedding(tiny):
    anatomy = anatomy_of(tiny("opt", word_embed_proj_dim=16))
    assert anatomy.modules[0].shape == (259, 16)
    assert {o.name for o in anatomy.other} >= {"model.decoder.project_in.weight", "model.decoder.project_out.weight"}


DAMAGES = {
    "a missing matrix": (
        lambda t: {n: x for n, x in t.items() if n != "model.layers.1.mlp.up_proj.weight"},
        r"the checkpoint lacks model\.layers\.1\.mlp\.up_proj\.weight; a llama with 2 layers has it",
    ),
    "a missing head": (lambda t: {n: x for n, x in t.items() if "lm_head" not in n}, r"lacks lm_head\.weight;"),
    "a missing layer": (
        lambda t: {n: x for n, x in t.items() if ".layers.1." not in n},
        r"lacks model\.layers\.1\.self_attn\.q_proj\.weight and 15 more; .* has them",
    ),
    "another shape": (
        lambda t: t | {"model.layers.0.mlp.down_proj.weight": torch.zeros(32, 57)},
        r"model\.layers\.0\.mlp\.down_proj\.weight has shape \(32, 57\), config\.json says \(32, 56\)",
    ),
    "a layer too many": (
        lambda t: t | {"model.layers.2.mlp.up_proj.weight": torch.zeros(56, 32)},
        r"model\.layers\.2\.mlp\.up_proj\.weight is outside the 2 layers",
    ),
    "a layer that is no number": (
        lambda t: t | {"model.layers.x.mlp.up_proj.weight": torch.zeros(56, 32)},
        r"model\.layers\.x\.mlp\.up_proj\.weight is outside",
    ),
    "an unknown matrix in a layer": (
        lambda t: t | {"model.layers.0.self_attn.extra.weight": torch.zeros(4, 4)},
        r"model\.layers\.0\.self_attn\.extra\.weight of shape \(4, 4\) is an unknown weight",
    ),
    "an unknown matrix elsewhere": (lambda t: t | {"score.weight": torch.zeros(2, 32)}, r"model\.score\.weight"),
    "an expert": (
        lambda t: t | {"model.layers.0.mlp.experts.0.up_proj.weight": torch.zeros(4, 4)},
        r"model\.layers\.0\.mlp\.experts\.0\.up_proj\.weight of shape \(4, 4\) is an expert weight",
    ),
    "stacked experts": (
        lambda t: t | {"model.layers.0.mlp.gate_up": torch.zeros(2, 4, 4)},
        r"model\.layers\.0\.mlp\.gate_up of shape \(2, 4, 4\) is an expert weight",
    ),
    "integers": (
        lambda t: t | {"model.layers.0.mlp.down_proj.weight": torch.zeros(32, 56, dtype=torch.int8)},
        r"model\.layers\.0\.mlp\.down_proj\.weight is stored as I8",
    ),
    "the same weight twice": (
        lambda t: t | {"embed_tokens.weight": torch.zeros(259, 32)},
        r"are both model\.embed_tokens\.weight",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_weights_that_do_not_fit_are_named(name, tiny_copy):
    change, words = DAMAGES[name]
    folder = tiny_copy("llama")
    edit_weights(folder, change)
    with pytest.raises(ModelError, match=words) as caught:
        anatomy_of(folder)
    assert str(caught.value).startswith(f"{folder}: ") and ";" in str(caught.value)


def test_a_mixture_of_experts_names_an_expert(tiny_copy):
    folder = tiny_copy("llama")
    edit_config(folder, num_local_experts=8)
    edit_weights(folder, lambda t: t | {"model.layers.0.block_sparse_moe.experts.0.w1.weight": torch.zeros(4, 4)})
    with pytest.raises(ModelError, match=r"mixture of experts \(num_local_experts; .*experts\.0\.w1\.weight\)"):
        anatomy_of(folder)


def test_a_model_without_a_tokenizer_still_has_an_anatomy(tiny_copy):
    folder = tiny_copy("llama")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert anatomy_of(folder).tokenizer is None


_CONFIG_VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(family=st.sampled_from(FAMILIES), data=st.data())
def test_any_config_value_gives_an_anatomy_or_a_sentence(family, data, tiny, tmp_path_factory):
    source = tiny(family)
    config = json.loads((source / "config.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        config[data.draw(st.sampled_from(sorted(config)))] = data.draw(_CONFIG_VALUES)
    folder = tmp_path_factory.mktemp("config")
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    try:
        anatomy_of(folder)
    except ModelError as error:
        assert str(error).startswith(f"{folder}: ") and ";" in str(error) and "\n" not in str(error)


def write_large_model(folder: Path, layers: int = 80) -> Path:
    """Write the header of a 70B llama with its weights as a hole in the file: nothing on disk."""
    h, inner, kv, vocabulary = 8192, 28672, 1024, 128256
    shapes = {"model.embed_tokens": (vocabulary, h), "lm_head": (vocabulary, h)}
    for i in range(layers):
        shapes |= {f"model.layers.{i}.self_attn.{n}_proj": (r, h) for n, r in zip("qkvo", (h, kv, kv, h), strict=True)}
        shapes |= {f"model.layers.{i}.mlp.{n}_proj": (inner, h) for n in ("gate", "up")}
        shapes[f"model.layers.{i}.mlp.down_proj"] = (h, inner)
        shapes |= {f"model.layers.{i}.{n}_layernorm": (h,) for n in ("input", "post_attention")}
    header, end = {}, 0
    for name, shape in (shapes | {"model.norm": (h,)}).items():
        size = 2 * math.prod(shape)
        header[f"{name}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    config = {
        "model_type": "llama",
        "hidden_size": h,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": vocabulary,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_70_billion_parameters_take_no_time(tmp_path):
    folder = write_large_model(tmp_path)
    started = time.perf_counter()
    anatomy = anatomy_of(folder)
    report = compatibility(anatomy, anatomy)
    assert time.perf_counter() - started < 2
    assert anatomy.parameters > 70e9 and len(report.pairings) == 562


@pytest.mark.skipif(not bundled_names(), reason="no bundled models")
def test_bundled_models_have_an_anatomy():
    for name in bundled_names():
        assert read_anatomy(resolve_model(f"bundled:{name}")).tokenizer.size
