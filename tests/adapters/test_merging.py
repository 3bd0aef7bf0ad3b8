"""A run's trained model as one whole folder: the logits of what was trained, for every family and number format."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open

from paraknow_core.adapters import merging
from paraknow_core.adapters.export import compare_logits, export_adapter
from paraknow_core.adapters.merging import write_merged
from paraknow_core.adapters.quantise import quantise
from paraknow_core.errors import NumericError, RunError
from paraknow_core.files.json_file import read_json
from paraknow_core.models.anatomy import read_anatomy
from paraknow_core.models.source import resolve_model
from tests.marking import mostly_slow
from tests.methods.test_start import STUDENTS, disturb, samples, start
from tests.tiny_models import build_tiny, edit_config


def trained(context, folder, *, bits=None):
    """Leave a run's files in `folder` as after training; return the trained model and what result.json would say."""
    started, modules = start(context, folder)
    if bits:
        quantise(started.peft_model)
    disturb(started.peft_model)
    export_adapter(
        started.peft_model,
        started.initial,
        context.student.anatomy,
        modules,
        context.spec.factorisation,
        folder / "adapter",
        "student",
    )
    result = {"fingerprints": {"student": context.student.fingerprint}, "machine": {"dtype": context.student.dtype}}
    return started.peft_model.eval(), result | ({"student_bits": {"bits": bits, "weights": 1}} if bits else {})


def loaded(folder, dtype="auto"):
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True, local_files_only=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    return model.eval()


@pytest.mark.parametrize(("family", "overrides"), mostly_slow(STUDENTS, *STUDENTS[:2]))
def test_merged_logits_are_the_trained_model_s(family, overrides, tiny, make_context, tmp_path):
    context = make_context(tiny(family, **overrides))
    model, result = trained(context, tmp_path / "run")
    facts = write_merged(context, tmp_path / "run", result, tmp_path / "merged")
    merged = loaded(tmp_path / "merged")
    assert merged.dtype == torch.float32
    check = compare_logits(model, merged, samples(context))
    assert check["passed"], check
    assert facts["rounding"]["max_abs"] == 0
    source = resolve_model(str(tmp_path / "merged"))
    assert read_anatomy(source).tied == context.student.anatomy.tied == facts["tied"]
    assert set(facts["files"]) >= {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "default_lora"},
        {"method": "pissa"},
        {"injection.mode": "additive"},
        {"injection.mode": "difference"},
        {"extraction.origin": ["embedding"]},
        {"extraction.origin": ["q", "up"]},
    ],
)
@pytest.mark.parametrize("family", ["gpt2", "phi3"])
def test_merged_logits_in_every_mode_and_origin(changes, family, tiny, make_context, tmp_path):
    context = make_context(tiny(family), changes)
    model, result = trained(context, tmp_path / "run")
    write_merged(context, tmp_path / "run", result, tmp_path / "merged")
    check = compare_logits(model, loaded(tmp_path / "merged"), samples(context))
    assert check["passed"], check


@pytest.mark.parametrize("changes", [{}, {"injection.mode": "additive"}, {"extraction.origin": ["attention"]}])
def test_a_student_trained_in_4_bits_is_merged_with_its_rounding(changes, tiny, make_context, tmp_path):
    context = make_context(tiny("llama", hidden_size=64, intermediate_size=128, tie_word_embeddings=True), changes)
    model, result = trained(context, tmp_path / "run", bits=4)
    write_merged(context, tmp_path / "run", result, tmp_path / "merged")
    check = compare_logits(model, loaded(tmp_path / "merged"), samples(context))
    assert check["passed"], check
    assert "in 4 bits" in (tmp_path / "merged" / "README.md").read_text()


def test_a_16_bit_student_is_exact_by_default_and_rounded_on_request(make_context, tmp_path):
    context = make_context(str(build_tiny("qwen2", tmp_path / "half", dtype="bfloat16", tie_word_embeddings=True)))
    model, result = trained(context, tmp_path / "run")
    facts = write_merged(context, tmp_path / "run", result, tmp_path / "exact")
    assert facts["dtype"] == "float32"
    assert compare_logits(model, loaded(tmp_path / "exact"), samples(context))["passed"]
    facts = write_merged(context, tmp_path / "run", result, tmp_path / "rounded", "bfloat16")
    merged = loaded(tmp_path / "rounded")
    assert merged.dtype == torch.bfloat16
    exact = dict(loaded(tmp_path / "exact").named_parameters())
    worst = max((p.float() - exact[name]).abs().max().item() for name, p in merged.named_parameters())
    assert facts["rounding"]["max_abs"] == pytest.approx(worst)
    assert 0 < facts["rounding"]["max_relative"] < 2**-8
    assert "Rounding to bfloat16" in (tmp_path / "rounded" / "README.md").read_text()
    assert 0 < compare_logits(model, loaded(tmp_path / "rounded", torch.float32), samples(context))["max_abs"] < 0.1


def test_weights_are_written_in_shards_with_an_index(tiny, make_context, tmp_path, monkeypatch):
    context = make_context(tiny("llama", tie_word_embeddings=True))
    model, result = trained(context, tmp_path / "run")
    monkeypatch.setattr(merging, "SHARD_BYTES", 30_000)
    facts = write_merged(context, tmp_path / "run", result, tmp_path / "merged")
    shards = [name for name in facts["files"] if name.startswith("model-")]
    assert len(shards) > 2
    index = read_json(tmp_path / "merged" / "model.safetensors.index.json")
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == facts["bytes"]
    with safe_open(tmp_path / "merged" / shards[0], framework="pt") as first:
        assert first.metadata() == {"format": "pt"}
    assert compare_logits(model, loaded(tmp_path / "merged"), samples(context))["passed"]


def test_nothing_of_this_machine_and_no_foreign_state_goes_along(make_context, tmp_path):
    student = build_tiny("llama", tmp_path / "secret place")
    edit_config(student, _name_or_path="/home/me/models", auto_map={"AutoModel": "code.Class"}, torch_dtype="float16")
    edited = json.loads((student / "tokenizer_config.json").read_text())
    edited |= {"name_or_path": "/home/me/tokenizer", "special_tokens_map_file": "/home/me/special.json"}
    (student / "tokenizer_config.json").write_text(json.dumps(edited))
    (student / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (student / "LICENSE").write_text("Some licence")
    (student / "notes.txt").write_text("private")
    context = make_context(str(student), {"method": "default_lora"})
    _, result = trained(context, tmp_path / "run")
    facts = write_merged(context, tmp_path / "run", result, tmp_path / "merged")
    assert {"LICENSE", "chat_template.jinja"} <= set(facts["files"])
    assert "notes.txt" not in facts["files"]
    text = "".join(
        (tmp_path / "merged" / name).read_text() for name in facts["files"] if not name.endswith(".safetensors")
    )
    assert "/home/me" not in text
    assert str(tmp_path) not in text
    assert "auto_map" not in text
    assert read_json(tmp_path / "merged" / "config.json")["dtype"] == "float32"
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "LICENSE came with it" in card
    assert "secret place" in card


def test_what_cannot_be_merged_is_one_sentence_and_leaves_nothing(tiny, make_context, tmp_path, monkeypatch):
    context = make_context(tiny("llama"), {"method": "default_lora"})
    _, result = trained(context, tmp_path / "run")

    def refused(match, kind=RunError, result=result, dtype=None, context=context):
        with pytest.raises(kind, match=match):
            write_merged(context, tmp_path / "run", result, tmp_path / "merged", dtype)
        assert not (tmp_path / "merged").exists()

    refused("not the model that this run was made with", result={"fingerprints": {"student": "0" * 64}})
    refused("lacks its fingerprint", result={})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    refused(r"needs 0\.\d+ GB of disk, more than is free")
    monkeypatch.undo()
    config = tmp_path / "run" / "adapter" / "adapter_config.json"
    before = config.read_text()
    config.write_text(json.dumps({**json.loads(before), "use_rslora": True}))
    refused("adapter_config.json was changed")
    config.write_text(before)
    monkeypatch.setattr(merging, "add_product_", lambda weight, *_: weight.fill_(1e5))
    refused("a weight is not finite as float16; choose --dtype float32", NumericError, dtype="float16")
    monkeypatch.undo()
    (tmp_path / "run" / "extraction.json").unlink()
    refused("extraction.json is missing")
