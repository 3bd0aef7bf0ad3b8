"""Config numbers and defaults against transformers' own config classes; values that no model can be built from."""

import json

import pytest
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from paraknow_core.errors import ModelError
from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.config import ACTIVATIONS, declared_ends, read_dimensions
from paraknow_core.models.families import FAMILIES, ROPE_KINDS
from paraknow_core.models.load import load_model
from paraknow_core.models.source import resolve_model
from paraknow_core.models.tokenizer import load_tokenizer
from tests.tiny_models import TINY, edit_config

LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}

REFUSED = {
    "the old name of longrope": (
        "phi3",
        {"rope_scaling": {**LONG, "rope_type": "su"}},
        r"rope_scaling\.rope_type is su .* write longrope",
    ),
    "the same under its old key": (
        "phi3",
        {"rope_scaling": {"type": "su", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}},
        r"rope_scaling\.type is su .* write longrope",
    ),
    "an unknown kind of positions": (
        "llama",
        {"rope_scaling": {"type": "ntk", "factor": 2.0}},
        r"rope_scaling\.type is 'ntk' .* one of default, l",
    ),
    "no factor": ("llama", {"rope_scaling": {"rope_type": "linear"}}, r"rope_scaling\.factor is missing or null"),
    "a factor that is text": (
        "llama",
        {"rope_parameters": {"rope_type": "yarn", "factor": "4"}},
        r"rope_parameters\.factor is '4'",
    ),
    "llama3 without its frequencies": (
        "llama",
        {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
        r"low_freq_factor is missing or null",
    ),
    "no short factors": (
        "phi3",
        {"rope_parameters": {**LONG, "short_factor": None}},
        r"rope_parameters\.short_factor is missing or null",
    ),
    "positions that are a list": ("llama", {"rope_scaling": [1]}, r"rope_scaling is \[1\] .* an object or null"),
    "positions of one kind of layer": (
        "gemma3_text",
        {"rope_parameters": {"full_attention": {"rope_type": "linear"}}},
        r"rope_parameters\.full_attention\.factor",
    ),
    "too many kinds of layers": (
        "qwen2",
        {"layer_types": ["full_attention"] * 5},
        r"layer_types has 5 entries in config\.json, for 2 layers",
    ),
    "an unknown kind of layer": (
        "qwen2",
        {"layer_types": ["full_attention", "mamba9"]},
        r"layer_types is 'mamba9' .* full_attention or sliding",
    ),
    "kinds of layers that are text": ("gemma2", {"layer_types": "full_attention"}, "layer_types is 'full_attention'"),
    "a number that is text": ("llama", {"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6' .* a number"),
    "a number that is a list": ("gpt2", {"layer_norm_epsilon": [1]}, r"layer_norm_epsilon is \[1\]"),
    "a number that is missing or null": ("llama", {"initializer_range": None}, "initializer_range is missing or null"),
    "a flag that is text": ("llama", {"attention_bias": "false"}, "attention_bias is 'false' .* true or false"),
    "an activation that is none": ("llama", {"hidden_act": "swoosh"}, "hidden_act is 'swoosh' .* e.g. silu"),
    "a padding token outside": ("llama", {"pad_token_id": 259}, "pad_token_id is 259 .* outside the vocabulary of 259"),
    "an end token that is text": ("llama", {"eos_token_id": "</s>"}, "eos_token_id is '</s>' .* a token's id"),
    "layers that differ": ("llama", {"per_layer_config": {"0": {"hidden_size": 3}}}, "per_layer_config"),
}


def ways():
    return read_anatomy, load_model, load_tokenizer


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_model_can_be_built_from_is_said_of_the_config(name, tiny_copy):
    family, values, words = REFUSED[name]
    folder = tiny_copy(family)
    removed = ("rope_parameters",) if "rope_scaling" in values else ()
    edit_config(folder, remove=removed, **values)
    said = set()
    for way in ways():
        with pytest.raises(ModelError, match=words) as caught:
            way(resolve_model(str(folder)))
        said.add(str(caught.value))
    [sentence] = said
    assert "config.json" in sentence and ";" in sentence and "tokenizer" not in sentence.removeprefix(str(folder))


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"])
def test_a_byte_order_mark_is_said_of_the_config(mark, tiny_copy):
    folder = tiny_copy("llama")
    path = folder / "config.json"
    text = path.read_text()
    path.write_bytes(mark + text.encode({0xEF: "utf-8", 0xFF: "utf-16-le", 0xFE: "utf-16-be"}[mark[0]]))
    for way in ways():
        with pytest.raises(ModelError, match=r"config\.json begins with a byte order mark"):
            way(resolve_model(str(folder)))


@pytest.mark.parametrize(
    ("family", "values"),
    [
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 4}}),
        (
            "llama",
            {
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}),
        ("phi3", {"rope_scaling": {**LONG, "type": "longrope"}, "original_max_position_embeddings": 64}),
        ("phi3", {"rope_scaling": None, "sliding_window": None}),
        ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("gemma2", {"layer_types": ["attention", "sliding_attention"]}),
        ("llama", {"pad_token_id": -1}),
        ("gpt2", {"pad_token_id": 50256}),
        ("llama", {"eos_token_id": [2, 5], "hidden_act": "swish", "attention_dropout": 0}),
    ],
    ids=str,
)
def test_what_transformers_takes_is_taken(family, values, tiny_copy):
    folder = tiny_copy(family)
    edit_config(folder, remove=("rope_parameters",) if "rope_scaling" in values else (), **values)
    for way in ways():
        way(resolve_model(str(folder)))


def test_activations_and_positions_are_those_of_transformers():
    from transformers.activations import ACT2FN
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert set(ACT2FN) == ACTIVATIONS
    assert set(ROPE_INIT_FUNCTIONS) | {"default"} == set(ROPE_KINDS)


def test_end_tokens_of_both_files(tiny_copy):
    folder = tiny_copy("llama")
    assert declared_ends(resolve_model(str(folder))) == [2]
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 3], "temperature": 9}')
    assert declared_ends(resolve_model(str(folder))) == [2, 3, 7]
    edit_config(folder, eos_token_id=None)
    assert declared_ends(resolve_model(str(folder))) == [3, 7]


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family):
    own = FAMILIES[family]
    config = getattr(transformers, TINY[family][1])()
    found = read_dimensions({"model_type": family}, "mine")
    full = read_dimensions(json.loads(json.dumps(config.to_dict())), "mine")
    assert full.num_hidden_layers == found.num_hidden_layers
    for name, key in own.fields.items():
        default = getattr(config, key, None)
        if default is not None:
            assert getattr(found, name) == default, name
    assert found.tied == config.tie_word_embeddings
    assert own.architectures[0] == MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]


def tiny_config(family):
    sizes, name = TINY[family]
    return getattr(transformers, name)(**sizes, vocab_size=259, pad_token_id=None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_config_reads_as_the_model_has_it(family):
    config = tiny_config(family)
    found = read_dimensions(json.loads(json.dumps(config.to_dict())), "mine")
    assert found.hidden_size == config.hidden_size and found.num_attention_heads == config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert found.head_dim == head_dim
    assert found.num_key_value_heads == getattr(config, "num_key_value_heads", config.num_attention_heads)
    assert found.intermediate_size == 56


def test_gpt2_derives_its_inner_size():
    assert read_dimensions({"model_type": "gpt2", "n_embd": 24, "n_head": 3}, "mine").intermediate_size == 96


@pytest.mark.parametrize(
    "change, words",
    [
        ({"model_type": None}, "no model_type"),
        ({"model_type": "mamba"}, "model_type mamba is not supported; supported are llama, mistral"),
        ({"model_type": "mixtral", "num_local_experts": 8}, r"mixtral \(a mixture of experts\) is not supported"),
        ({"model_type": "gemma3", "vision_config": {}, "text_config": {}}, "multimodal"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": -4}, "hidden_size is -4"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"hidden_size": 64.0}, r"hidden_size is 64\.0"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"hidden_size": 10**40}, "hidden_size is 1000"),
        ({"hidden_size": 65}, "hidden_size 65 is not a multiple of num_attention_heads 4"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"vocab_size": "x" * 500}, "positive whole number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    ],
)
def test_numbers_that_cannot_be_right_are_refused(change, words):
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4} | change
    with pytest.raises(ModelError, match=words) as caught:
        read_dimensions(config, "mine")
    assert str(caught.value).startswith("mine: ") and ";" in str(caught.value) and len(str(caught.value)) < 300
