"""What other tools leave in a model's folder: read past it or say whose it is, the same in every way of reading."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from paraknow_core.errors import ModelError
from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.compat import compatibility
from paraknow_core.models.config import read_dimensions
from paraknow_core.models.load import load_model
from paraknow_core.models.modules import logical_modules, other_shapes, stored_shapes
from paraknow_core.models.shards import Shards
from paraknow_core.models.skeleton import Skeleton
from paraknow_core.models.source import resolve_model
from tests.tiny_models import FAMILIES, TINY, edit_config, edit_weights

IDS = torch.tensor([[1, 70, 80, 90]])


def inspected(folder):
    return read_anatomy(resolve_model(str(folder)))


def whole(folder):
    return load_model(resolve_model(str(folder)))


def layer_by_layer(folder):
    """Run a model with the weights of one layer in memory at a time."""
    source = resolve_model(str(folder))
    skeleton = Skeleton(source, read_anatomy(source), Shards(source, torch.float32))
    with torch.no_grad():
        hidden = skeleton.before_layers(skeleton.embedded(IDS[0])[0])
        skeleton.keep_arguments(IDS.shape[1])
        for index in range(len(skeleton.layers)):
            with skeleton.layer(index) as layer:
                hidden = layer(hidden[None] if hidden.ndim == 2 else hidden)
        return skeleton.after_layers(IDS[0], hidden[0])


def last_hidden_state(folder):
    with torch.no_grad():
        return whole(folder).model(IDS).last_hidden_state[0]


WAYS = {"inspected": inspected, "whole": whole, "layer by layer": layer_by_layer}


def beside(name, content="{}"):
    return lambda folder: (folder / name).write_text(content)


def with_adapter(folder, *, weights=True):
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "gone"})
    )
    if weights:
        shutil.copy(folder / "model.safetensors", folder / "adapter_model.safetensors")


def old_buffers(folder):
    extra = {
        f"model.layers.{i}.self_attn.{name}": torch.ones(4)
        for i in range(2)
        for name in ("rotary_emb.inv_freq", "attn.masked_bias", "rotary_emb.cos_cached")
    }
    extra["model.layers.0.attn.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    extra["model.rotary_emb.original_inv_freq"] = torch.ones(4)
    edit_weights(folder, lambda tensors: tensors | extra)


def beside_macos(folder):
    for path in list(folder.iterdir()):
        (folder / f"._{path.name}").write_bytes(b"\0\5\26\7 not what its name says")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")


def more_weights(folder):
    for name in (
        "consolidated.safetensors",
        "model-00007-of-00009.safetensors",
        "original/consolidated.00.pth",
        "pytorch_model.bin",
        "optimizer.pt",
        "checkpoint-5/model.safetensors",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"junk")


READABLE = {
    "an adapter that was merged": with_adapter,
    "an adapter's config": lambda folder: with_adapter(folder, weights=False),
    "old buffers": old_buffers,
    "flash attention": lambda folder: edit_config(folder, _attn_implementation="flash_attention_2"),
    "flash attention, public key": lambda folder: edit_config(folder, attn_implementation="flash_attention_2"),
    "a number format": lambda folder: edit_config(folder, dtype="float99", torch_dtype="int4"),
    "how it was run": lambda folder: edit_config(
        folder,
        use_cache=False,
        return_dict=False,
        output_attentions=True,
        output_hidden_states=True,
        gradient_checkpointing=True,
        torchscript=True,
        problem_type="single_label_classification",
        num_labels=1,
    ),
    "foreign code": lambda folder: edit_config(folder, auto_map={"AutoModelForCausalLM": "evil.Evil"}),
    "a quantiser's config": lambda folder: edit_config(
        folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
    ),
    "a damaged quantiser's config": lambda folder: edit_config(folder, quantization_config="x"),
    "files of macOS": beside_macos,
    "other weights": more_weights,
}


@pytest.mark.parametrize("name", READABLE)
def test_what_is_left_over_changes_nothing_in_any_way_of_reading(name, tiny, tiny_copy):
    folder = tiny_copy("llama")
    READABLE[name](folder)
    expected = last_hidden_state(tiny("llama"))
    assert torch.equal(last_hidden_state(folder), expected)
    torch.testing.assert_close(layer_by_layer(folder), expected)
    assert inspected(folder).modules == inspected(tiny("llama")).modules
    assert whole(folder).config._attn_implementation == "sdpa"


def drop(*names):
    return lambda folder: edit_weights(folder, lambda t: {k: v for k, v in t.items() if k not in names})


def rename(change):
    return lambda folder: edit_weights(folder, lambda t: {change(k): v for k, v in t.items()})


def add(**tensors):
    return lambda folder: edit_weights(folder, lambda t: t | {k.replace("__", "."): v for k, v in tensors.items()})


def index_of_missing_shards(folder):
    names = {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def quantised(folder, suffix, dtype):
    def change(tensors):
        return tensors | {f"model.layers.0.mlp.up_proj.{suffix}": torch.ones(4).to(dtype)}

    edit_weights(folder, change)


UNREADABLE = {
    "no norm": (drop("model.norm.weight"), r"lacks model\.norm\.weight; a llama with 2 layers has it"),
    "no norms": (drop("model.norm.weight", "model.layers.0.input_layernorm.weight"), r"lacks model\.\S+ and 1 more;"),
    "no bias": (drop("model.layers.1.mlp.down_proj.bias"), r"lacks model\.layers\.1\.mlp\.down_proj\.bias;"),
    "no head": (drop("lm_head.weight"), r"lacks lm_head\.weight"),
    "an unknown bias": (add(lm_head__bias=torch.ones(259)), r"holds unknown lm_head\.bias;"),
    "unknown ones": (add(model__a=torch.ones(3), model__b=torch.ones(3)), r"holds unknown model\.a and 1 more;"),
    "a norm of another size": (add(model__norm__weight=torch.ones(31)), r"norm\.weight has shape \(31,\), config"),
    "a shard that is not there": (index_of_missing_shards, r"names model-00001-of-00002\.safetensors, which is not in"),
    "compiled": (rename(lambda k: f"_orig_mod.{k}"), r"'_orig_mod\.', which torch\.compile leaves"),
    "compiled inside": (rename(lambda k: k.replace("model.", "model._orig_mod.")), "which torch.compile leaves"),
    "data parallel": (rename(lambda k: f"module.{k}"), r"'module\.', which DistributedDataParallel .* leaves"),
    "an adapter's model": (
        rename(lambda k: f"base_model.model.{k}"),
        r"'base_model\.model\.', which PEFT leaves; merge the adapter",
    ),
    "an adapter's layers": (
        rename(lambda k: k.replace("q_proj.", "q_proj.base_layer.")),
        r"'base_layer\.', which PEFT leaves; merge",
    ),
    "an unmerged adapter": (
        add(model__layers__0__self_attn__q_proj__lora_A__weight=torch.ones(2, 32)),
        "adapter that was not merged",
    ),
    "sharded data parallel": (
        rename(lambda k: k.replace("layers.0.", "layers.0._fsdp_wrapped_module.")),
        "which FSDP leaves",
    ),
    "doubled": (rename(lambda k: f"model.{k}"), r"a class around the model leaves 'model\.' before every name"),
    "a wrapper of one's own": (rename(lambda k: f"student.lm.{k}"), r"leaves 'student\.lm\.' before every name"),
    "the original format": (
        rename(lambda k: "tok_embeddings.weight" if "embed" in k else k.removeprefix("model.")),
        "original format",
    ),
    "packed in four bits": (lambda f: quantised(f, "weight", torch.uint8), r"quantised \(in \S+ \S+up_proj\.w.* U8\)"),
    "packed by GPTQ": (lambda f: quantised(f, "qweight", torch.int32), r"quantised \(in \S+ \S+qweight .* I32\)"),
    "scales": (lambda f: quantised(f, "weight_scale", torch.float32), r"quantised \(in \S+ \S+weight_scale .* F32\)"),
    "eight bits": (lambda f: quantised(f, "weight", torch.float8_e4m3fn), "is stored as F8_E4M3"),
    "generation config": (beside("generation_config.json", "{"), r"generation_config\.json is not a JSON object"),
    "end tokens": (beside("generation_config.json", '{"eos_token_id": ["a"]}'), r"eos_token_id is .* in generation"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_said_alike_in_every_way_of_reading(name, tiny_copy):
    folder = tiny_copy("llama")
    change, words = UNREADABLE[name]
    change(folder)
    said = set()
    for way in WAYS.values():
        with pytest.raises(ModelError, match=words) as caught:
            way(folder)
        said.add(str(caught.value))
    assert len(said) == 1 and "\n" not in said.pop()


def test_leftovers_that_are_not_followed_are_noted(tiny, tiny_copy):
    folder = tiny_copy("llama", dtype="bfloat16")
    edit_config(folder, quantization_config={"quant_method": "gptq"})
    with_adapter(folder)
    first, second = inspected(folder).notes
    assert "has quantization_config (method gptq), but the weights are plain bfloat16: they are read as they" in first
    assert "adapter_config.json lies beside the model's weights, which are read as they are" in second
    student = inspected(tiny("llama"))
    assert student.notes == ()
    assert {first, second} <= set(compatibility(inspected(folder), student).notes)


def test_truly_quantised_weights_name_the_method(tiny_copy):
    folder = tiny_copy("llama")
    edit_config(folder, quantization_config={"quant_method": "awq"})
    quantised(folder, "qzeros", torch.int32)
    with pytest.raises(ModelError, match=r"quantised \(quantization_config, method awq; in .*qzeros is stored as I32"):
        inspected(folder)


SWITCHES = [
    *((family, {}) for family in FAMILIES),
    *((family, {"tie_word_embeddings": True}) for family in ("llama", "phi", "gpt_neox")),
    ("llama", {"attention_bias": False, "mlp_bias": False}),
    *((family, {"attention_bias": True}) for family in ("qwen3", "gemma", "gemma2", "gemma3_text")),
    ("phi", {"qk_layernorm": True}),
    ("gpt_neox", {"attention_bias": False}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("opt", {"word_embed_proj_dim": 16}),
    ("opt", {"do_layer_norm_before": False}),
    ("opt", {"enable_bias": False}),
    ("opt", {"layer_norm_elementwise_affine": False}),
    ("opt", {"_remove_final_layer_norm": True}),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 8}),
]


@pytest.mark.parametrize(("family", "switches"), SWITCHES, ids=str)
def test_the_parameters_are_those_that_transformers_builds(family, switches):
    sizes, config_class = TINY[family]
    config = getattr(transformers, config_class)(**sizes | {"vocab_size": 259, "pad_token_id": None} | switches)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    size = read_dimensions(json.loads(json.dumps(config.to_dict())), "mine")
    modules = logical_modules(size)
    expected = stored_shapes(modules) | other_shapes(size, modules)
    built = {n: tuple(p.shape) for n, p in model.named_parameters() if not (size.tied and n == "lm_head.weight")}
    assert expected == built


def test_a_folder_with_files_of_macos_alone_is_no_model(tmp_path):
    for name in ("._model.safetensors", "._config.json"):
        Path(tmp_path, name).write_bytes(b"x")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        inspected(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match=r"has no weights \(model\.safetensors or"):
        inspected(tmp_path)


def test_a_config_with_more_layers_than_tensors_takes_no_time(tiny_copy):
    folder = tiny_copy("llama")
    edit_config(folder, num_hidden_layers=2_000_000_000)
    with pytest.raises(ModelError, match=r"says 2000000000 layers, the weights hold \d+ tensors"):
        inspected(folder)
