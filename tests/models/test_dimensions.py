"""Config numbers and defaults, against transformers' own config classes, and configs that are refused."""

import json

import pytest
import transformers

from paraknow_core.errors import ModelError
from paraknow_core.models.dimensions import read_dimensions
from paraknow_core.models.families import FAMILIES
from tests.tiny_models import TINY


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family):
    own = FAMILIES[family]
    config = getattr(transformers, TINY[family][1])()
    found = read_dimensions({"model_type": family}, "mine")
    for name, key in own.fields.items():
        default = getattr(config, key, None)
        if default is not None:
            assert getattr(found, name) == default, name
    assert found.tied == config.tie_word_embeddings
    assert own.architectures[0] == type(transformers.AutoModelForCausalLM.from_config(tiny_config(family))).__name__


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
def test_what_is_refused(change, words):
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4} | change
    with pytest.raises(ModelError, match=words) as caught:
        read_dimensions(config, "mine")
    assert str(caught.value).startswith("mine: ") and ";" in str(caught.value) and len(str(caught.value)) < 300
