"""Loading: exact weights or a sentence; never random weights, foreign code or another vocabulary size."""

import json

import pytest
import torch
from safetensors.torch import load_file

from paraknow_core.errors import ModelError
from paraknow_core.models import tokenizer
from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.load import load_model, parameters_of, pick_device
from paraknow_core.models.modules import logical_weight
from paraknow_core.models.shards import Shards
from paraknow_core.models.source import bundled_names, resolve_model
from paraknow_core.models.tokenizer import load_tokenizer, vocabulary
from tests.tiny_models import FAMILIES, build_tokenizer, edit_config, edit_weights


def test_the_weights_are_those_on_disk(tiny, capfd):
    source = resolve_model(str(tiny("llama")))
    capfd.readouterr()  # building the model may have said something
    model = load_model(source)
    stored = load_file(source.folder / "model.safetensors")
    assert not model.training and model.dtype == torch.float32
    assert {n for n, _ in model.named_parameters()} == set(stored)
    assert all(torch.equal(parameter, stored[name]) for name, parameter in model.named_parameters())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_and_generates(family, tiny):
    source = resolve_model(str(tiny(family)))
    model, tokenizer = load_model(source), load_tokenizer(source)
    inputs = tokenizer(["Hello", "Hi, you"], return_tensors="pt", padding=True, return_token_type_ids=False)
    assert int(inputs["input_ids"].max()) < read_anatomy(source).vocab_size
    output = model.generate(**inputs, max_new_tokens=3, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    assert output.shape[0] == 2


def test_the_number_format_in_memory_is_the_one_asked_for(tiny):
    source = resolve_model(str(tiny("llama", dtype="bfloat16")))
    assert load_model(source).dtype == torch.float32
    assert load_model(source, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ModelError, match="dtype int8 is not supported"):
        load_model(source, dtype="int8")


def test_gemma2_needs_the_step_that_fused_kernels_leave_out(tiny):
    assert load_model(resolve_model(str(tiny("gemma2")))).config._attn_implementation == "eager"
    assert load_model(resolve_model(str(tiny("gemma3_text")))).config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: {n: x for n, x in t.items() if n != "model.norm.weight"}, r"lacks model\.norm\.weight"),
        (
            lambda t: {n: x for n, x in t.items() if ".layers.1." not in n},
            r"lacks model\.layers\.1\.self_attn\.q_proj\.weight and 15 more",
        ),
        (lambda t: {n: x for n, x in t.items() if "norm" not in n}, r"lacks model\.layers\.0.* and 4 more"),
        (lambda t: t | {"model.layers.0.self_attn.q_norm.weight": torch.ones(8)}, "holds unknown .*q_norm"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(tiny_copy, change, words):
    folder = tiny_copy("llama")
    edit_weights(folder, change)
    with pytest.raises(ModelError, match=words):
        load_model(resolve_model(str(folder)))


def test_a_config_value_transformers_refuses(tiny_copy):
    folder = tiny_copy("llama")
    edit_config(folder, initializer_range=7.5)
    for read in (load_model, load_tokenizer):  # the tokenizer's loader reads config.json too
        with pytest.raises(ModelError, match=r"config\.json has a value that transformers refuses \(.*7\.5") as caught:
            read(resolve_model(str(folder)))
        assert "\n" not in str(caught.value) and "tokenizer" not in str(caught.value)


def test_a_device_without_room(tiny, monkeypatch):
    def full(self, name, device):
        assert device == "cuda"
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Shards, "copied", full)
    with pytest.raises(ModelError, match="does not fit into cuda's memory as float32"):
        load_model(resolve_model(str(tiny("llama"))), device="cuda")


def test_weights_go_straight_from_their_file_to_the_device(tiny, monkeypatch):
    moved, there = [], torch.nn.Module.to

    def to(self, device):
        moved.extend(p.device.type for p in self.parameters())
        return there(self, device)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    model = load_model(resolve_model(str(tiny("llama"))), device="meta", dtype="bfloat16")
    assert set(moved) == {"meta"}  # each was there already: none was copied in this process's memory before
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_another_shape_is_refused(tiny_copy):
    folder = tiny_copy("llama")
    edit_config(folder, intermediate_size=57)
    with pytest.raises(ModelError, match=r"gate_proj\.weight has shape \(56, 32\), config\.json says \(57, 32\)"):
        load_model(resolve_model(str(folder)))


def test_a_tied_config_with_a_different_head_is_refused(tiny_copy):
    folder = tiny_copy("llama", tie_word_embeddings=True)
    edit_weights(folder, lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"] + 1})
    with pytest.raises(ModelError, match="set tie_word_embeddings to false"):
        load_model(resolve_model(str(folder)))


@pytest.mark.parametrize("keep", ["both", "head"])
def test_a_tied_checkpoint_that_lists_the_head_loads(tiny_copy, keep):
    folder = tiny_copy("llama", tie_word_embeddings=True)

    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        return {n: t for n, t in tensors.items() if keep == "both" or n != "model.embed_tokens.weight"}

    edit_weights(folder, change)
    source = resolve_model(str(folder))
    parameters_of(load_model(source), read_anatomy(source))


@pytest.mark.parametrize(
    "family, prefix", [("llama", "model"), ("gpt2", "transformer"), ("opt", "model"), ("gpt_neox", "gpt_neox")]
)
def test_names_without_the_base_models_prefix_load(family, prefix, tiny, tiny_copy):
    folder = tiny_copy(family)
    edit_weights(folder, lambda t: {name.removeprefix(f"{prefix}."): tensor for name, tensor in t.items()})
    ids = torch.tensor([[1, 70, 80]])
    with torch.no_grad():
        found, expected = (load_model(resolve_model(str(f)))(input_ids=ids).logits for f in (folder, tiny(family)))
    assert torch.equal(found, expected)


def test_shards_load(tiny):
    ids = torch.tensor([[1, 70, 80]])
    with torch.no_grad():
        logits = [
            load_model(resolve_model(str(f)))(input_ids=ids).logits
            for f in (tiny("llama"), tiny("llama", shard_size="20KB"))
        ]
    assert torch.equal(*logits)


def test_pickles_and_foreign_code_are_never_run(tiny_copy, tmp_path):
    folder, witness = tiny_copy("llama"), tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(witness)!r}).touch()\n"
    (folder / "evil.py").write_text(code + "class Evil: pass\n")
    edit_config(folder, auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})
    load_model(resolve_model(str(folder)))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only safetensors are read"):
        load_model(resolve_model(str(folder)))
    assert not witness.exists()


def test_a_torn_file_is_refused(tiny_copy):
    folder = tiny_copy("llama")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match="is cut off"):
        load_model(resolve_model(str(folder)))


def test_padding_is_end_of_text_if_there_is_none(tiny, tiny_copy):
    tokenizer = load_tokenizer(resolve_model(str(tiny("llama"))))
    assert (tokenizer.pad_token, len(tokenizer)) == ("</s>", 259)
    folder = tiny_copy("llama")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "<unk>"}))
    assert load_tokenizer(resolve_model(str(folder))).pad_token == "<unk>"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k == "tokenizer_class"}))
    with pytest.raises(ModelError, match="add eos_token"):
        load_tokenizer(resolve_model(str(folder)))


def test_a_missing_or_damaged_tokenizer(tiny_copy):
    folder = tiny_copy("llama")
    (folder / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ModelError, match="the tokenizer cannot be loaded") as caught:
        load_tokenizer(resolve_model(str(folder)))
    assert "\n" not in str(caught.value)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_tokenizer(resolve_model(str(folder)))


@pytest.fixture
def sentencepiece_folder(tiny_copy):
    """A model whose tokenizer is only in tokenizer.model."""
    folder = tiny_copy("llama")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    return folder


@pytest.mark.parametrize(
    "content, missing",
    [(None, {"sentencepiece"}), (None, {"sentencepiece", "google.protobuf"}), (b"IQ== 0\nIg== 1\n", {"tiktoken"})],
)
def test_a_tokenizer_in_one_file_says_what_to_install(content, missing, sentencepiece_folder, monkeypatch):
    source = resolve_model(str(sentencepiece_folder))
    if content:
        (sentencepiece_folder / "tokenizer.model").write_bytes(content)
    monkeypatch.setattr(tokenizer, "find_spec", lambda name: None if name in missing else object())
    packages = " ".join(name.replace("google.", "") for name in sorted(missing, reverse=True))
    for read in (load_tokenizer, vocabulary):
        with pytest.raises(
            ModelError, match=rf"only in tokenizer\.model, .* not installed; pip install {packages}, or"
        ):
            read(source)
    assert read_anatomy(source).tokenizer.kind == "sentencepiece"  # the weights can be looked at all the same


def test_a_tokenizer_in_one_file_is_transformers_to_read_where_its_reader_is_installed(
    sentencepiece_folder, monkeypatch
):
    source = resolve_model(str(sentencepiece_folder))
    monkeypatch.setattr(tokenizer, "find_spec", lambda _: object())
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: build_tokenizer())
    assert load_tokenizer(source).pad_token == "</s>"
    assert vocabulary(source) == build_tokenizer().get_vocab()


def test_a_tokenizer_that_is_damaged_is_not_said_of_the_config_nor_the_config_of_it(tiny_copy):
    folder = tiny_copy("llama")
    for file, content, words in (
        ("tokenizer_config.json", "{", "the tokenizer cannot be loaded"),
        ("config.json", "{", r"config\.json is not a JSON object"),
    ):
        (folder / file).write_text(content)
        with pytest.raises(ModelError, match=words):
            load_tokenizer(resolve_model(str(folder)))


def test_a_chat_template_of_macos_is_named(tiny_copy):
    folder = tiny_copy("llama")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "._tools.jinja").write_bytes(b"\0\5\26\7\xff")
    with pytest.raises(ModelError, match=r"\._tools\.jinja is a leftover of macOS"):
        load_tokenizer(resolve_model(str(folder)))


def test_sampling_settings_stay_the_models_own_and_its_end_tokens_count(tiny_copy):
    folder = tiny_copy("llama")
    for content, kept in (
        ({"eos_token_id": [2, 70], "do_sample": True, "temperature": 0.3}, 0.3),
        ({"eos_token_id": [2, 70], "do_sample": False, "temperature": 0.3}, None),  # transformers would not save it
        (
            {"eos_token_id": [2, 70], "forced_eos_token_id": 70, "suppress_tokens": [70], "cache_implementation": 3},
            None,
        ),
    ):
        (folder / "generation_config.json").write_text(json.dumps(content))
        model = load_model(resolve_model(str(folder)))
        assert (model.generation_config.eos_token_id, model.generation_config.temperature) == ([2, 70], kept)
        model.save_pretrained(folder / "again")


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    with pytest.raises(ModelError, match="cuda is not available on this machine; choose auto or cpu"):
        pick_device("cuda")
    with pytest.raises(ModelError, match="tpu is not available"):
        pick_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == "cuda"


@pytest.mark.skipif(not bundled_names(), reason="no bundled models")
def test_bundled_models_load():
    for name in bundled_names():
        check_loads(resolve_model(f"bundled:{name}"))


def check_loads(source) -> None:
    anatomy, model, tokenizer = read_anatomy(source), load_model(source), load_tokenizer(source)
    parameters = parameters_of(model, anatomy)
    assert all(tuple(logical_weight(parameters[m.parameter], m).shape) == m.shape for m in anatomy.modules)
    with torch.no_grad():
        logits = model(**tokenizer("A story", return_tensors="pt", return_token_type_ids=False)).logits
    assert logits.isfinite().all() and logits.shape[-1] == anatomy.vocab_size
