"""The lines on the cards are run as they stand, in a process that knows transformers and PEFT alone."""

import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from paraknow_core.adapters.cards import card, start_note
from paraknow_core.adapters.export import export_adapter
from paraknow_core.adapters.merging import write_merged
from paraknow_core.files.json_file import read_json
from paraknow_core.models.source import ModelSource, resolve_model
from paraknow_core.paths import PROJECT_ROOT
from paraknow_core.spec import RunSpec
from tests.methods.test_start import disturb, start

# Runs the blocks of each README.md one after the other and saves what the models on the way compute.
SCRIPT = """
import json, re, sys, warnings
warnings.simplefilter("ignore")
import torch
from safetensors.torch import save_file
found, ids = {}, torch.arange(5, 60)[None]
for name, folder in json.loads(sys.argv[1]).items():
    space = {}
    for block in re.findall(r"```python\\n(.*?)```", open(folder + "/README.md").read(), re.DOTALL):
        here = re.sub(r'(adapter_path|folder) = "[^"]*"', lambda m: f"{m[1]} = {folder!r}", block)
        exec(here, space)
        with torch.no_grad():
            model = space.get("merged", space["model"]).eval()
            found[name + (", merged" if "merged" in space else "")] = model(ids).logits
save_file(found, sys.argv[2])
assert not any(module.startswith("paraknow") for module in sys.modules)
"""


def ran(folders, tmp_path):
    out = tmp_path / "logits.safetensors"
    names = json.dumps({name: str(folder) for name, folder in folders.items()})
    subprocess.run([sys.executable, "-c", SCRIPT, names, out], cwd=PROJECT_ROOT, check=True, timeout=300)
    return load_file(out)


@pytest.mark.slow
def test_the_cards_lines_give_the_trained_model_and_the_start_of_training(make_context, tmp_path):
    """On a bundled student, whose embeddings are tied; PiSSA takes its product off the weights."""
    context = make_context("bundled:stranger", {"method": "pissa"})
    started, modules = start(context, tmp_path)
    disturb(started.peft_model)
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        trained = started.peft_model.eval()(ids).logits
        untouched = context.student.load()(ids).logits
    export_adapter(
        started.peft_model,
        started.initial,
        context.student.anatomy,
        modules,
        context.spec.factorisation,
        tmp_path / "adapter",
        "bundled:stranger",
        card("adapter", context.spec, context.student.source, head="lm_head"),
    )
    result = {"fingerprints": {"student": context.student.fingerprint}}
    write_merged(context, tmp_path, result, tmp_path / "whole")
    found = ran({name: tmp_path / name for name in ("adapter", "init_adapter", "whole")}, tmp_path)
    tolerance = 1e-5 * max(1.0, trained.abs().max().item())
    assert (trained - untouched).abs().max() > 1000 * tolerance
    for name in ("adapter", "adapter, merged", "whole"):
        torch.testing.assert_close(found[name], trained, rtol=0, atol=tolerance, msg=name)
    torch.testing.assert_close(found["init_adapter"], untouched, rtol=0, atol=tolerance)


@pytest.mark.parametrize("mode", ["residual", "additive", "difference"])
def test_the_initial_adapter_s_card_gives_the_start_in_every_mode(mode, tiny, make_context, tmp_path):
    context = make_context(tiny("gpt2"), {"injection.mode": mode})
    started, _ = start(context, tmp_path)
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        expected = started.peft_model.eval()(ids).logits
    note = read_json(tmp_path / "extraction.json")["init_adapter"]
    assert ("Subtract the product first" in note) == (mode == "residual")
    assert (f"In {mode} mode nothing is taken off" in note) == (mode != "residual")
    card = (tmp_path / "init_adapter" / "README.md").read_text()
    assert note in card
    [block] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    space: dict = {}
    exec(block.replace('"init_adapter"', repr(str(tmp_path / "init_adapter"))), space)
    with torch.no_grad():
        torch.testing.assert_close(space["model"].eval()(ids).logits, expected, rtol=0, atol=1e-5)


def test_default_lora_starts_as_the_student():
    assert start_note({"subtracted": [], "modules": {}}).startswith("Its product is zero")
    started = {"subtracted": [], "modules": {"q": {}}, "injection_mode": "residual"}
    assert start_note(started | {"method": "eva"}).startswith("Its product is zero")
    assert start_note(started | {"method": "lora_one"}).startswith("As LoRA-One starts, nothing is taken off")


def test_cards_name_the_base_and_never_where_it_lies():
    spec = RunSpec().with_changes({"teacher.source": "/home/me/the teacher", "student.source": "/home/me/student"})
    hub = ModelSource("owner/name", "hub", PROJECT_ROOT, "0123abcd")
    local = ModelSource("/home/me/student", "local", PROJECT_ROOT)
    initial = card("initial", spec, hub, record={"subtracted": ["q"]}, tied=True)
    for text in (card("adapter", spec, hub, head=None), initial):
        assert text.startswith("---\nbase_model: owner/name\nlibrary_name: peft\n")
        assert "- Student: owner/name, revision `0123abcd`" in text
        assert 'from_pretrained(student_path, revision="0123abcd", dtype="float32")' in text
        assert "teacher the teacher" in text
    assert "tied" not in card("adapter", spec, hub, head=None)
    assert "`lm_head` is here whole" in card("adapter", spec, hub, head="lm_head")
    rounding = {"max_abs": 0.001, "max_relative": 0.0001}
    text = card("merged", spec, local, dtype="float16", bits=4, rounding=rounding, files=["LICENSE"])
    assert "/home/me" not in text
    assert "- Student: student" in text
    assert "in 4 bits" in text
    assert "Rounding to float16 changed a weight by up to 0.001" in text
    assert "LICENSE came with it" in text
    assert resolve_model("bundled:kin").label in card("adapter", spec, resolve_model("bundled:kin"), head=None)
